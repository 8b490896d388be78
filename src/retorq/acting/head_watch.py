"""Whether Ray's head still answers, which hosts there are, and whether Ray lives on this one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf

from retorq.acting.cluster import RayCluster, answers, hosts
from retorq.acting.placement import Host
from retorq.types import HeadLost

PERIOD = 1.0
"""Seconds between looks."""
FAILURES = 4
"""How many looks in a row must fail before the head counts as lost."""
ENDED, GONE = "Ray has ended on this host", "Ray's head is gone"
TOGETHER = 3.0
"""Seconds within which actors that die on one host are taken to have died together."""
NOTICED = 30.0
"""Seconds within which the head knows of a node that is gone."""


class Line:
    """An open connection to a process of Ray, which the kernel ends with that process, at once."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def holds(self) -> bool:
        """Whether the process lives; costs a microsecond."""
        while self._socket is not None:
            try:
                if not self._socket.recv(4096):
                    self.close()
            except BlockingIOError:
                return True
            except OSError:
                self.close()
        try:  # also where Ray has ended a connection on which nobody spoke
            self._socket = socket.create_connection(self._address, timeout=PERIOD)
        except OSError:
            return False
        self._socket.setblocking(False)
        return True

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class HeadWatch:
    """Looks at Ray's head once a second, so that also a learner that learns for long finds out at its next step.

    A run has one, with all that it runs on Ray.

    Args:
        cluster: Which one.
    """

    def __init__(self, cluster: RayCluster) -> None:
        self.cluster = cluster
        self.let_go: Callable[[], None] = lambda: None
        """Called, in a thread, when Ray has ended on this host: a few seconds later it ends whoever still holds an
        object there, who must set this."""
        self._known: Sequence[Host] = hosts(cluster.ray)
        self.here = str(cluster.ray.get_runtime_context().get_node_id())
        """Ray's id of the node that this program is connected to."""
        self._gone: dict[str, float] = {}  # by id: until when the head may not have noticed yet
        self._outlived: dict[str, float] = {}  # by id: when it was found to outlive an actor
        [own] = [host for host in self._known if host.id == self.here]
        self._line, self._line_of_thread = Line((own.address, own.port)), Line((own.address, own.port))
        self.failures = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._keep_looking, self._count)]
        for thread in self._threads:
            thread.start()

    @property
    def doubtful(self) -> bool:
        """Whether the last look failed: nothing should be asked of the head now."""
        return self.failures > 0

    @property
    def lost(self) -> bool:
        """Whether so many looks failed that the head counts as gone."""
        return self.failures >= FAILURES

    @property
    def hosts(self) -> list[Host]:
        """Those that are alive, as far as is known."""
        now = time.monotonic()
        return [host for host in self._known if self._gone.get(host.id, 0.0) < now]

    def lives(self, host: Host) -> bool:
        """Whether a host answers; if not, none of its actors will, and it is no host until the head has noticed."""
        if answers((host.address, host.port), seconds=PERIOD):
            return True
        self._gone[host.id] = time.monotonic() + NOTICED
        return False

    def outlives(self, host: Host) -> bool:
        """The same of a host on which somebody has just died, asked again after a moment: it may be about to end, too.

        That takes a second, but only once for all who die there in the next few.
        """
        if not self.lives(host):
            return False
        if time.monotonic() - self._outlived.get(host.id, -inf) < TOGETHER:
            return True
        time.sleep(PERIOD)
        if not self.lives(host):
            return False
        self._outlived[host.id] = time.monotonic()
        return True

    @property
    def cut_off(self) -> bool:
        """Whether Ray has ended on this host: whoever still asks it for an object is ended, too, without a word."""
        return not self._line.holds()

    def require_here(self) -> None:
        """End the run if Ray has ended on this host; nobody may be asked for anything without this first.

        Raises:
            HeadLost: it has.
        """
        if self.cut_off:
            raise HeadLost(ENDED)

    def require(self) -> None:
        """End the run if Ray is gone here or at its head.

        Raises:
            HeadLost: it is.
        """
        self.require_here()
        if self.lost:
            raise HeadLost(GONE)

    def require_to_start(self) -> None:
        """The same before a process is started, with a head that does not answer waited for until it counts as lost.

        Raises:
            HeadLost: it is gone.
        """
        self.look()
        while self.doubtful:
            self.require()
            time.sleep(PERIOD)
        self.require_here()

    def require_to_blame(self) -> None:
        """The same before a process of this host is said to have died by itself; takes a second or more.

        Whatever Ray takes along may be gone a moment before Ray is seen to be.

        Raises:
            HeadLost: it is gone.
        """
        self.require_to_start()
        time.sleep(PERIOD)
        self.require_to_start()

    def look(self) -> None:
        """Look now."""
        self.failures = 0 if answers(self.cluster.head, seconds=PERIOD) else self.failures + 1

    def close(self) -> None:
        """Look no more; safe to call twice."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PERIOD)
        self._line.close()
        self._line_of_thread.close()

    def _keep_looking(self) -> None:
        while not self._stop.wait(PERIOD):
            self.look()
            if not self._line_of_thread.holds():
                self.let_go()

    def _count(self) -> None:
        while not self._stop.wait(PERIOD):
            if not self.doubtful:
                # It may block where the head is gone, and has this thread for itself; what it said last stands then.
                with suppress(Exception):  # whatever Ray raises while its head comes and goes; ``look`` finds out
                    self._known = hosts(self.cluster.ray) or self._known
