"""The shards of a run, watched over: calls in order, bounded, and what happens when a shard is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from retorq.distributed.peers import START_LIMIT, Call, Lost, Peer
from retorq.distributed.shard import Told
from retorq.types import Diverged

UNDERWAY = 8
"""Calls a shard may have unanswered before the run waits for it."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint holds of a shard: ``state`` as ``Shard.state_dict`` gives it, and the pieces of its rows."""

    step: int
    state: Mapping[str, Any]
    pieces: Iterable[tuple[str, Callable[[], Mapping[str, Tensor]]]]


@dataclass
class Held:
    """One shard as the run knows it. ``sent`` counts rows: each of them is received, passed over, or lost."""

    peer: Peer
    incarnation: int = 0
    told: Told = field(default_factory=Told)
    sent: int = 0
    calls: deque[Call] = field(default_factory=deque)
    heard: bool = False
    loading: Iterator[tuple[Any, ...]] | None = None
    """The calls that are left of those that give it its snapshot, one at a time; None: it holds what it should."""
    step: Call | None = None
    since: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether it has windows to draw."""
        return self.loading is None and self.told.ready


class Shards:
    """Starts shards, calls them, and starts those anew that are lost, from their last snapshots.

    While a shard is given its snapshot, rows for it are lost at once, and the others serve the run; it waits only where
    no other is ready.

    ``rows_lost`` is exact. ``windows_lost`` is a lower bound: what a lost shard had made since it was last heard, up to
    ``UNDERWAY`` calls, nobody knows.

    Args:
        start: ``(shard, incarnation) -> Peer``, of a :class:`retorq.distributed.shard.Shard`.
        count: How many.
        time_limit: Seconds a shard may take to answer.
        most_restarts: How often one shard is started anew before the run is given up.
        snapshot: What the last checkpoint holds of a shard, or None.
    """

    def __init__(
        self,
        start: Callable[[int, int], Peer],
        count: int,
        *,
        time_limit: float = 60.0,
        most_restarts: int = 10,
        snapshot: Callable[[int], Snapshot | None] = lambda shard: None,
    ) -> None:
        self.start, self.snapshot, self.time_limit, self.most_restarts = start, snapshot, time_limit, most_restarts
        self.rows_gone = self.windows_lost = self.replaced = 0
        self._faults: list[str] = []
        self._held = [Held(start(shard, 0)) for shard in range(count)]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        """All of them."""
        return iter(self._held)

    def __getitem__(self, shard: int) -> Held:
        """One of them."""
        return self._held[shard]

    @property
    def told(self) -> list[Told]:
        """The newest each has said."""
        return [held.told for held in self._held]

    @property
    def rows_lost(self) -> int:
        """Rows sent that no shard holds or ever will: gone with a process, or passed over after that."""
        return self.rows_gone + sum(told.passed for told in self.told)

    def note(self, shard: int, told: Mapping[str, Any]) -> None:
        """Take down what a shard says of itself, unless something newer is known."""
        held = self._held[shard]
        held.heard = True
        if told["number"] > held.told.number:
            held.told = Told(**told)

    def take(self, shard: int, call: Call) -> Any:
        """Wait for the answer to a call to a shard's present incarnation.

        Raises:
            Lost: the shard is gone; it is being started anew.
            Diverged: for too many times.
            HeadLost: it cannot be, since Ray is gone.
        """
        held = self._held[shard]
        try:
            return call.take(self.time_limit if held.heard else START_LIMIT)
        except Lost as lost:
            self._replace(shard, str(lost))
            raise

    def send(self, shard: int, method: str, *arguments: Any) -> bool:
        """Begin a call that is answered by what the shard says of itself; waits while too many are under way.

        Returns:
            Whether it was made: a shard that is given its snapshot takes nothing else.
        """
        self._load(shard, wait=not any(held.ready for held in self._held))
        if self._held[shard].loading is not None:
            return False
        while len(self._held[shard].calls) >= UNDERWAY:
            self._settle(shard)
        held = self._held[shard]
        if held.loading is not None:
            return False
        held.calls.append(held.peer.ask(method, *arguments))
        return True

    def hear(self) -> None:
        """Take down what has been answered."""
        for shard in range(len(self)):
            self._load(shard, wait=False)
            while self._held[shard].calls and self._held[shard].calls[0].done:
                self._settle(shard)

    def settle(self) -> None:
        """Wait until everything sent is answered, and every shard holds what it should."""
        for shard in range(len(self)):
            while self._held[shard].calls:
                self._settle(shard)
            self._load(shard, wait=True)

    def _settle(self, shard: int) -> None:
        call = self._held[shard].calls.popleft()
        try:
            self.note(shard, self.take(shard, call))
        except Lost:
            return  # its other calls went with it

    def get(self, shard: int, method: str, *arguments: Any) -> Any:
        """Call a shard and wait; of one that is lost meanwhile the next incarnation is asked."""
        while True:
            self._load(shard, wait=True)
            try:
                return self.take(shard, self._held[shard].peer.ask(method, *arguments))
            except Lost:
                continue

    def _replace(self, shard: int, reason: str) -> None:
        """End a shard, start its next incarnation, begin to give it its last snapshot, and count what is lost.

        Raises:
            Diverged: it has been started anew too often.
            HeadLost: nothing can be started any more.
        """
        old = self._held[shard]
        old.peer.close()
        if old.incarnation >= self.most_restarts:
            raise Diverged(
                f"replay shard {shard} {reason}, and had been started anew {self.most_restarts} times before; look at "
                "what ends it, then go on with the last checkpoint."
            )
        snapshot = self.snapshot(shard)
        held = self._held[shard] = Held(self.start(shard, old.incarnation + 1), old.incarnation + 1)
        held.loading = _loading(snapshot)
        made = 0
        if snapshot is not None:
            held.sent, made = snapshot.state["received"] + snapshot.state["passed"], snapshot.state["made"]
            held.told = replace(held.told, passed=snapshot.state["passed"], made=made)
        rows, windows = old.sent - held.sent, old.told.made - made
        self.replaced += 1
        self.rows_gone += rows
        self.windows_lost += windows
        source = "empty, since no checkpoint holds it" if snapshot is None else f"as of step {snapshot.step:,}"
        self._faults.append(
            f"replay shard {shard} {reason}; it is being started anew {source}: so far {rows:,} rows and at least "
            f"{windows:,} windows are lost, and what comes until it is up, and then each environment's rows until its "
            "next game, will be too"
        )

    def _load(self, shard: int, *, wait: bool) -> None:
        """Give a shard the next part of its snapshot if it has the last one; ``wait``: all parts."""
        while (held := self._held[shard]).loading is not None:
            late = held.step is not None and time.monotonic() - held.since > START_LIMIT
            if held.step is not None and not (wait or late or held.step.done):
                return
            try:
                if held.step is not None:
                    self.note(shard, held.step.take(max(0.0, held.since + START_LIMIT - time.monotonic())))
                part = next(held.loading, None)
            except Lost as lost:
                self._replace(shard, str(lost))
                continue
            held.step, held.since = None if part is None else held.peer.ask(*part), time.monotonic()
            if part is None:
                held.loading = None
                self._faults.append(
                    f"replay shard {shard} is up again; {self.rows_lost:,} rows are lost in this run so far"
                )

    def faults(self) -> list[str]:
        """What went wrong since the last call and what was done, a sentence each."""
        told, self._faults = self._faults, []
        return told

    def close(self) -> None:
        """End all shards; safe to call twice."""
        for held in self._held:
            held.peer.close()


def _loading(snapshot: Snapshot | None) -> Iterator[tuple[Any, ...]]:
    """The calls that make a new shard what the snapshot holds, with all its streams ended."""
    if snapshot is not None:
        yield "load", snapshot.state
        for name, tensors in snapshot.pieces:
            yield "restore", name, {field: tensor.numpy() for field, tensor in tensors().items()}
    yield ("begin_anew",)
