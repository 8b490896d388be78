"""Actors on Ray, on this host or several.

Every actor always has a few calls of ``play`` ahead; each answers with one message, and the next is asked for when its
rows are taken, so the object store never holds more than what is under way. Weights lie in the store once per version.
Actors are told of them beside their play, one offer at a time, and fetch them before their next message. Nothing is
ever retried by Ray: an actor that fails is replaced by its next incarnation, and its games are cut.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retorq.acting.actor import Chunk
from retorq.acting.cluster import LocalRay
from retorq.acting.head_watch import ENDED, PERIOD, HeadWatch
from retorq.acting.hosted import Hosted
from retorq.acting.pace import ahead
from retorq.acting.placement import Host, move, place
from retorq.acting.remote import Recipe
from retorq.acting.shared import tensors
from retorq.acting.supervised import START_LIMIT, Supervised, message_bytes
from retorq.nn.network import Network
from retorq.types import HeadLost, UserError

AHEAD = 2
"""Calls that every actor has in hand or done but not taken, if it does not play by the clock."""
NEWS = "news"
"""Concurrency group of Ray in which an actor hears of weights while it plays."""
SPARE = 32 << 20
"""Bytes of the object store beside weights and messages."""


@dataclass
class _Remote:
    """One actor: its handle, its host, its calls with the time each was made, oldest first, and the last offer."""

    handle: Any
    host: Host
    edition: int
    calls: dict[Any, float] = field(default_factory=dict)
    heard: bool = False
    offer: Any = None  # of ``edition``, not yet taken note of


class RayPool(Supervised):
    """Actors as Ray actors, supervised as those of :class:`retorq.acting.processes.ProcessPool`.

    Args:
        recipes: One per actor; together they cover the run's columns.
        network: The learner's.
        bytes_per_row: Upper bound of what a row of one column takes in a message.
        seed: One seed for all actors.
        time_limit: Seconds an actor may take for a message.
        most_restarts: How often one actor is started anew before the run is given up.
        watch: Over the cluster to run on, which others may use too; unset: Ray is started on this host for this pool.

    Raises:
        UserError: Ray cannot be started.
    """

    def __init__(
        self,
        recipes: list[Recipe],
        network: Network,
        *,
        bytes_per_row: int,
        seed: int = 0,
        time_limit: float = 60.0,
        most_restarts: int = 10,
        watch: HeadWatch | None = None,
    ) -> None:
        super().__init__(recipes, seed=seed, time_limit=time_limit, most_restarts=most_restarts)
        self._own: LocalRay | None = None
        if watch is None:
            self._own = LocalRay(store=store_bytes(recipes, network, bytes_per_row))
            try:
                watch = HeadWatch(self._own)
            except BaseException:
                self._own.close()
                raise
        self._watch, self._ray = watch, watch.cluster.ray
        watch.let_go = self._let_go
        # Ray places an actor that asks for nothing at random, wherever it is meant to play: it asks for one byte.
        self._class = self._ray.remote(
            num_cpus=0, memory=1, max_restarts=0, max_task_retries=0, concurrency_groups={NEWS: 1}
        )(Hosted)
        self._actors: list[_Remote | None] = [None] * len(recipes)
        self._published: tuple[int, int, list[Any]] | None = None
        self._edition = 0
        self._looked = time.monotonic()

    def publish(self, network: Network, version: int) -> None:
        """Put the weights into the object store and offer them to the actors."""
        arrays = [tensor.detach().cpu().numpy().copy() for tensor in tensors(network)]
        self._edition += 1
        self._watch.require()  # before anything is put or fetched
        with self._trouble():
            self._published = (self._edition, version, [self._ray.put(arrays)])
            self._offer()

    def _offer(self) -> None:
        """Tell actors of newer weights, each once it has taken note of the last: so few versions are ever held."""
        edition, version, where = self._newest()
        playing = [held for held in self._actors if held is not None and held.heard]
        if waiting := [held.offer for held in playing if held.offer is not None]:
            noted, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
            for held in playing:
                held.offer = None if held.offer in noted else held.offer
        for held in playing:
            if held.offer is None and held.edition < edition:
                call = held.handle.offer.options(concurrency_group=NEWS)
                held.offer, held.edition = call.remote(edition, version, where), edition

    def _start(self, actor: int) -> None:
        where = [held.host.id if held else None for held in self._actors]
        self._start_on(actor, place(self._watch.hosts, where))

    def _start_on(self, actor: int, host: Host) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        newest = self._newest()
        incarnation, seed = self._incarnate(actor)
        placed = self._class.options(scheduling_strategy=NodeAffinitySchedulingStrategy(host.id, soft=True))
        recipe = self.recipes[actor].as_json()
        handle = placed.remote(recipe, sys.path, actor, incarnation, seed, list(newest))
        self._actors[actor] = _Remote(handle, host, newest[0])
        share = self.recipes[actor]
        for _ in range(ahead(AHEAD, share.hz, share.rows)):
            self._ask(actor)

    def _ask(self, actor: int) -> None:
        held = self._actors[actor]
        assert held is not None
        held.calls[held.handle.play.remote(self.steps, held.edition)] = time.monotonic()

    def _before(self) -> None:
        self._watch.require()
        with self._trouble():
            self._offer()
        now = time.monotonic()
        if now - self._looked < PERIOD:
            return
        self._looked = now
        for actor, held in enumerate(self._actors):
            if held is not None:
                limit = self.time_limit if held.heard else START_LIMIT
                call, made = next(iter(held.calls.items()))
                # An answer that waits to be taken, on whatever host, is no silence.
                if now - made > limit and not self._is_done(call):
                    self._replace(actor, f"sent nothing for {limit:g} s")
        self._even_out()

    def _is_done(self, call: Any) -> bool:
        with self._trouble():
            return bool(self._ray.wait([call], timeout=0, fetch_local=False)[0])

    def _even_out(self) -> None:
        """Move one actor to a host that has more room: one that joined, or came back."""
        playing = [held for held in self._actors if held is not None and held.heard]
        if self._watch.doubtful or len(playing) < len(self._actors):
            return
        found = move(self._watch.hosts, [held.host.id for held in playing])
        if found is not None:
            actor, host = found
            cut = self._end(actor)
            self._faults.append(
                f"actor {actor} was moved to {host.address}, which has more room{'; its games were cut' * cut}"
            )
            self._start_on(actor, host)

    def _next(self, patience: float) -> list[Chunk]:
        calls = {
            call: (made, actor) for actor, held in enumerate(self._actors) if held for call, made in held.calls.items()
        }
        by_age = sorted(calls, key=lambda call: calls[call][0])
        with self._trouble():
            ready, _ = self._ray.wait(by_age, num_returns=1, timeout=patience)
        if not ready:
            return []
        actor = calls[ready[0]][1]
        held = self._actors[actor]
        assert held is not None
        self._watch.require()  # before anything is put or fetched
        try:
            text, memory = self._ray.get(ready[0], timeout=self.time_limit)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, _reason(error))
            return []
        del held.calls[ready[0]]
        held.calls = dict.fromkeys(held.calls, time.monotonic())  # calls behind this one begin only now
        told = json.loads(text)
        held.heard = True
        if told.get("fault") == "user":
            raise UserError(told["text"])
        if "fault" in told:
            self._replace(actor, told["text"])
            return []
        if told["host"] != held.host.id:  # Ray may have placed it elsewhere
            held.host = next((host for host in self._watch.hosts if host.id == told["host"]), held.host)
        self._ask(actor)
        return self._accept(actor, told, np.array(memory))  # a copy: what lies in the store cannot be written to

    def _newest(self) -> tuple[int, int, list[Any]]:
        """The weights last published: edition, version and reference."""
        published = self._published
        if published is None:  # let go of, since ``publish`` comes before all else
            raise HeadLost(ENDED)
        return published

    def _let_go(self) -> None:
        """Drop the weights in the object store, which is gone: Ray would end this program for trying to save them."""
        self._published = None

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Whatever fails in Ray and is no single actor's failure ends the run."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            raise HeadLost(f"Ray failed ({_first(error)})") from error

    def _replace(self, actor: int, reason: str, *, blamed: bool = True) -> None:
        held = self._actors[actor]
        if held is not None and not self._watch.outlives(held.host):
            reason, blamed = f"was lost with host {held.host.address}", False
        # An actor cannot be started without a head, and what it died of may be that the head is gone.
        self._watch.require_to_start()
        with self._trouble():
            super()._replace(actor, reason, blamed=blamed)

    def _kill(self, actor: int) -> None:
        held, self._actors[actor] = self._actors[actor], None
        if held is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(held.handle, no_restart=True)

    def close(self) -> None:
        """End all actors, and leave Ray unless others use it too; safe to call twice."""
        self._published = None
        for actor in range(len(self.recipes)):
            self._kill(actor)
        if self._own is not None:
            self._watch.close()
            self._own.close()


def store_bytes(recipes: list[Recipe], network: Network, bytes_per_row: int) -> int:
    """Room that the object store of a host needs if all actors play there.

    Messages: as many calls as actors have ahead. Weights: the newest version; and of each actor one that it reads and
    one that was offered since.
    """
    weights = sum(tensor.nbytes for tensor in tensors(network)) * (1 + 2 * len(recipes))
    messages = sum(ahead(AHEAD, r.hz, r.rows) * message_bytes(r, bytes_per_row) for r in recipes)
    return weights + messages + SPARE


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _reason(error: Exception) -> str:
    """What happened to an actor, in a few words."""
    if type(error).__name__ == "GetTimeoutError":
        return "lost its message on the way"
    return f"died ({_first(error)})"
