"""One host's part in a cluster of several: Ray in the foreground, closed as far as Ray can be, ended with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from retorq.acting.cluster import CHECK, answers, is_head
from retorq.acting.private import PrivateFolder
from retorq.acting.ray_settings import ELSEWHERE, SAFE, SETTINGS, TOKEN_PATH
from retorq.types import Stopped, UserError

OF_NODES = SETTINGS | {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",  # a worker whose head is gone ends, and begins anew
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # whoever says end means now; actors are replaced elsewhere
}
BOOT = """
import os, signal, sys, threading, time
parent = int(sys.argv.pop(1))
def follow():
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=follow, daemon=True).start()
sys.argv[0] = "ray"
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "not wanted"  # else it opens a port for Ray Client
scripts.main()
"""
PORTS = 4
"""How many ports a node listens on one after the other, beside those of its processes."""
STARTED = "Ray runtime started."
UNAUTHENTICATED = "nauthenticated"
GRACE = 15.0
"""Seconds that Ray may take to end by itself."""
LOOK = 0.5
"""Seconds between looks at the node."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
HEALTHY = 60.0
"""Seconds a node must have lived for the next start to be tried without further delay."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What a node is.

    Attributes:
        address: This host's own, on which Ray listens.
        port: First of ``PORTS``: of the head (on other hosts unused), of objects, of the node and of its environments.
        head: Host and port of the head; None: this is the head.
        processors: How many count when actors are shared out.
        store: Bytes of the object store.
        token: File that holds the cluster's token.
    """

    address: str
    port: int
    head: tuple[str, int] | None
    processors: int
    store: int
    token: Path


def words(node: NodeSettings, folder: Path) -> list[str]:
    """What ``ray start`` is told."""
    if node.head is None:
        role = ["--head", f"--port={node.port}", "--include-dashboard=false"]
    else:
        role = [f"--address={node.head[0]}:{node.head[1]}"]
    return [
        "start",
        *role,
        f"--node-ip-address={node.address}",
        f"--object-manager-port={node.port + 1}",
        f"--node-manager-port={node.port + 2}",
        f"--runtime-env-agent-port={node.port + 3}",
        f"--num-cpus={node.processors}",
        f"--object-store-memory={node.store}",
        f"--temp-dir={folder / 'r'}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        "--block",
    ]


class Node:
    """Ray's processes of one host, in a process group of their own, from construction to ``close``."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._folder = PrivateFolder()
        self._log = self._folder.write("log", "")
        kept = {name: value for name, value in os.environ.items() if name not in (*ELSEWHERE, *SAFE)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(os.getpid()), *words(settings, self._folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=kept | OF_NODES | {TOKEN_PATH: str(settings.token)},
            )
        self._seen: dict[int, psutil.Process] = {}
        self.ready = False
        """Whether it has started."""

    @property
    def alive(self) -> bool:
        """Whether Ray runs, or is about to."""
        if self._process.poll() is not None:
            return False
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._seen |= {child.pid: child for child in children}
        said = "" if self.ready else self._log.read_text(errors="replace")
        self.ready = self.ready or STARTED in said
        if not self.ready and UNAUTHENTICATED in said:
            return False  # it would try the same token for half a minute
        # It blocks for ever where its raylet has ended in peace, as one does that was cut off.
        return not self.ready or any(_is_raylet(child) for child in children)

    @property
    def why(self) -> str:
        """What ended it, as far as it said.

        Raises:
            UserError: A mistake that another start would repeat.
        """
        said = self._log.read_text(errors="replace")
        if UNAUTHENTICATED in said:
            raise UserError("token is not that of the head; copy the head's token file to this host.")
        mismatch = next((line.strip() for line in said.splitlines() if "ersion mismatch" in line), "")
        if mismatch:
            raise UserError(f"Ray or Python differ from the head's ({mismatch}); install the same versions.")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if self.ready:
            return "Ray has ended, as it does where it is cut off from the head"
        said = lines[-1].rstrip(".") if lines else "it said nothing"
        if self._settings.head is None:
            return f"Ray did not start ({said})"
        head = ":".join(map(str, self._settings.head))
        return f"Ray did not start ({said}); check that what answers at {head} is a head with the same versions"

    def close(self) -> None:
        """End all its processes and remove its files; safe to call twice."""
        with suppress(psutil.Error):
            if self.alive and (self._settings.head is None or self._has_learner()):
                self._kill_the_raylet()
        with suppress(ProcessLookupError):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for child in self._seen.values():  # psutil knows a number that was given to another process
            with suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(list(self._seen.values()), 5.0)
        self._folder.close()

    def _has_learner(self) -> bool:
        """Whether another program of this host, which can only be a learner, is connected to the node."""
        own = {self._process.pid, *self._seen}
        raylet = (self._settings.address, self._settings.port + 2)
        return any(found.raddr == raylet and found.pid not in own for found in psutil.net_connections("tcp4"))

    def _kill_the_raylet(self) -> None:
        """Before it can say that it ends: Ray then ends every program here that still holds an object, without a word.

        A learner notices within a second that it is gone, and saves. Other hosts notice later.
        """
        raylets = [child for child in self._seen.values() if _is_raylet(child)]
        for raylet in raylets:
            raylet.kill()
        psutil.wait_procs(raylets, 5.0)


def _is_raylet(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    return False


Say = Callable[[str], None]
Asked = Callable[[], bool]


def _watched(node: Node, told: str, say: Say, stopped: Asked) -> None:
    """Until the node ends, or that is asked for."""
    ready = False
    while not stopped() and node.alive:
        if node.ready and not ready:
            ready = True
            say(told)
        time.sleep(LOOK)


def lead(settings: NodeSettings, *, told: str, say: Say, stopped: Asked) -> None:
    """Be the head until that is to end; ``told`` is said when it is there.

    Raises:
        Stopped: Ray ended by itself. It is not started anew: what the learners knew of it is gone with it.
        UserError: It did not start.
    """
    node = Node(settings)
    try:
        _watched(node, told, say, stopped)
        if stopped():
            return
        why = node.why
    finally:
        node.close()
    if not node.ready:
        raise UserError(f"{why}; mend that and try again.")
    raise Stopped("Ray's head has ended by itself; start it again with the same command.")


def follow(
    settings: NodeSettings, *, told: str, say: Say, stopped: Asked, start: Callable[[NodeSettings], Node] = Node
) -> None:
    """Be a node of a cluster until that is to end; whenever it was lost, wait for the head and join anew.

    Raises:
        UserError: A mistake that another try would repeat.
    """
    assert settings.head is not None
    delay, waiting = FIRST_DELAY, ""
    while not stopped():
        if missing := _missing(settings.head):
            if waiting != missing:
                say(f"{missing}; trying again")
            waiting = missing
            delay = _pause(delay, stopped)
            continue
        delay, waiting = FIRST_DELAY if waiting else delay, ""
        node, begun = start(settings), time.monotonic()
        try:
            _watched(node, told, say, stopped)
            why = "" if stopped() else node.why
        finally:
            node.close()
        if why:
            delay = FIRST_DELAY if time.monotonic() - begun > HEALTHY else delay
            say(f"{why}; joining anew in {delay:g} s")
            delay = _pause(delay, stopped)


def _missing(head: tuple[str, int]) -> str:
    """What is wrong where the head should be, if no node could join there."""
    where = f"{head[0]}:{head[1]}"
    if not answers(head):
        return f"no head answers at {where}"
    if not is_head(head):
        return f"what answers at {where} is no head; {CHECK}, or start one there"
    return ""


def _pause(delay: float, stopped: Asked) -> float:
    """Wait; returns how long to wait the next time."""
    end = time.monotonic() + delay
    while time.monotonic() < end and not stopped():
        time.sleep(min(LOOK, delay))
    return min(2 * delay, LONGEST_DELAY)
