"""Actors on Ray, on this machine or many.

Every actor always has a few calls of ``play`` ahead; each answers with one message, and the next is asked for when its
rows are taken, so the object store never holds more than what is under way. Weights lie in the store once per version,
and an actor fetches them if its own are older. Nothing is ever retried by Ray: an actor that fails is replaced by its
next incarnation, and its games are cut.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retorq.acting.actor import Chunk
from retorq.acting.cluster import LocalRay
from retorq.acting.hosted import Hosted
from retorq.acting.remote import Recipe
from retorq.acting.shared import tensors
from retorq.acting.supervised import PATIENCE, START_LIMIT, Supervised
from retorq.nn.network import Network
from retorq.types import Stopped, UserError

AHEAD = 2
"""Calls that every actor has in hand or done but not taken."""
PERIOD = 1.0
"""Seconds between looks at the actors and at Ray's head."""
HEAD_FAILURES = 4
"""How many looks in a row must fail before the head counts as lost."""


@dataclass
class _Remote:
    """One actor: its handle, and its calls with the time each was made, oldest first."""

    handle: Any
    calls: dict[Any, float] = field(default_factory=dict)
    heard: bool = False


class RayPool(Supervised):
    """Actors as Ray actors, supervised as those of :class:`retorq.acting.processes.ProcessPool`.

    Args:
        recipes: One per actor; together they cover the run's columns.
        network: The learner's.
        seed: One seed for all actors.
        time_limit: Seconds an actor may take for a message.
        most_restarts: How often one actor is started anew before the run is given up.
        cluster: Where to run; unset: Ray is started on this machine, and ended by ``close``.
    """

    def __init__(
        self,
        recipes: list[Recipe],
        network: Network,
        *,
        seed: int = 0,
        time_limit: float = 60.0,
        most_restarts: int = 10,
        cluster: LocalRay | None = None,
    ) -> None:
        super().__init__(recipes, seed=seed, time_limit=time_limit, most_restarts=most_restarts)
        self._owned = cluster is None
        self._cluster = LocalRay() if cluster is None else cluster
        self._ray = self._cluster.ray
        self._class = self._ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Hosted)
        self._actors: list[_Remote | None] = [None] * len(recipes)
        self._published: tuple[int, int, list[Any]] | None = None
        self._edition = 0
        self._looked, self._unseen = time.monotonic(), 0

    def publish(self, network: Network, version: int) -> None:
        """Put the weights into the object store."""
        arrays = [tensor.detach().cpu().numpy().copy() for tensor in tensors(network)]
        self._edition += 1
        self._published = (self._edition, version, [self._ray.put(arrays)])

    def _start(self, actor: int) -> None:
        incarnation, seed = self._incarnate(actor)
        handle = self._class.remote(self.recipes[actor].as_json(), sys.path, actor, incarnation, seed)
        self._actors[actor] = _Remote(handle)
        for _ in range(AHEAD):
            self._ask(actor)

    def _ask(self, actor: int) -> None:
        held = self._actors[actor]
        assert held is not None
        assert self._published is not None
        edition, version, where = self._published
        held.calls[held.handle.play.remote(edition, version, self.steps, where)] = time.monotonic()

    def _before(self) -> None:
        now = time.monotonic()
        if now - self._looked < PERIOD:
            return
        self._looked = now
        self._watch()
        for actor, held in enumerate(self._actors):
            if held is not None:
                limit = self.time_limit if held.heard else START_LIMIT
                call, made = next(iter(held.calls.items()))
                # An answer that waits to be taken is no silence.
                if now - made > limit and not self._ray.wait([call], timeout=0)[0]:
                    self._replace(actor, f"sent nothing for {limit:g} s")

    def _next(self) -> list[Chunk]:
        calls = {
            call: (made, actor) for actor, held in enumerate(self._actors) if held for call, made in held.calls.items()
        }
        by_age = sorted(calls, key=lambda call: calls[call][0])
        ready, _ = self._ray.wait(by_age, num_returns=1, timeout=PATIENCE)
        if not ready:
            return []
        actor = calls[ready[0]][1]
        held = self._actors[actor]
        assert held is not None
        try:
            text, memory = self._ray.get(ready[0], timeout=self.time_limit)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, _reason(error))
            return []
        del held.calls[ready[0]]
        held.calls = dict.fromkeys(held.calls, time.monotonic())  # calls behind this one begin only now
        held.heard = True
        told = json.loads(text)
        if told.get("fault") == "user":
            raise UserError(told["text"])
        if "fault" in told:
            self._replace(actor, told["text"])
            return []
        self._ask(actor)
        return self._accept(actor, told, np.array(memory))  # a copy: what lies in the store cannot be written to

    def _watch(self) -> None:
        """Notice that Ray's head is gone before Ray, which then ends this process without a word."""
        try:
            socket.create_connection(self._cluster.head, timeout=1.0).close()
            self._unseen = 0
        except OSError:
            self._unseen += 1
        if self._unseen >= HEAD_FAILURES:
            raise Stopped("Ray's head is gone; what was learned was saved. Start the cluster and go on with the run.")

    def _replace(self, actor: int, reason: str) -> None:
        # An actor cannot be started without a head, and waiting for one is what Ray would end this process for.
        self._watch()
        while self._unseen:
            time.sleep(PERIOD)
            self._watch()
        super()._replace(actor, reason)

    def _kill(self, actor: int) -> None:
        held, self._actors[actor] = self._actors[actor], None
        if held is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(held.handle, no_restart=True)

    def close(self) -> None:
        """End all actors, and Ray if it was started here; safe to call twice."""
        self._published = None
        for actor in range(len(self.recipes)):
            self._kill(actor)
        if self._owned:
            self._cluster.close()


def _reason(error: Exception) -> str:
    """What happened to an actor, in a few words."""
    if type(error).__name__ == "GetTimeoutError":
        return "lost its message on the way"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"died ({lines[0].rstrip('.')})"
