"""A replay in shards, as the training loop sees it: the face of ``Replay``, with the rows elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retorq.distributed.peers import Call, Lost
from retorq.distributed.shard import laid_out, unpacked, unpacked_rows
from retorq.distributed.shards import Shards
from retorq.types import Batch, Trajectory, Tree

AHEAD = 3
"""Batches that are asked for before they are needed."""


class ShardedReplay:
    """The columns of a run divided over shards: column ``c`` is column ``c // shards`` of shard ``c % shards``.

    **What is drawn.** A batch comes whole from one shard, drawn in proportion to what all its windows weigh together,
    ``mass_s``. Within it window ``i`` is drawn with probability ``p_i / mass_s``, so that each place of a batch holds
    window ``i`` with probability ``p_i / sum_s mass_s``, as if one replay held everything. Importance weights
    ``(p_i / min p)^-beta`` depend on the priorities of the batch alone, and are those of one replay, too. What differs
    is that all windows of one batch are of the same columns.

    **In order.** A shard hears rows, priorities and requests in the order in which they were sent. Batches are asked
    for ``AHEAD`` of their use, so priorities are up to that many updates old.

    **A shard that is lost** is started anew from its last snapshot. Rows sent to it since then are lost, and so is what
    arrives before the next game of each column; both are counted in ``rows_lost``.

    Args:
        shards: Who holds the rows.
        batch_size: Windows of every batch.
        seed: Of the generator that draws shards.
        device: Where batches go.
    """

    def __init__(self, shards: Shards, *, batch_size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.shards, self.batch_size, self.device = shards, batch_size, torch.device(device)
        self.generator = np.random.default_rng(seed)
        self._ahead: deque[tuple[int, int, Call]] = deque()
        self._next: tuple[int, int, Batch] | None = None
        self._drawn = (0, -1)  # shard and incarnation of the batch handed out last
        self._progress = 0.0
        self._counted = np.zeros((2, len(shards)), np.int64)  # rows inserted and windows drawn since ``metrics``
        self._since = time.monotonic()

    @property
    def size(self) -> int:
        """Rows held, as far as told."""
        return sum(told.rows for told in self.shards.told)

    @property
    def clamped(self) -> int:
        """How many priorities were not finite and changed nothing."""
        return sum(told.clamped for told in self.shards.told)

    def extend(self, columns: np.ndarray, trajectory: Trajectory) -> None:
        """Send rows ``[T, len(columns)]`` to the shards that hold these columns."""
        columns, count = np.asarray(columns), len(self.shards)
        for shard in range(count):
            mine = np.flatnonzero(columns % count == shard)
            if len(mine):
                [told], memory = laid_out(trajectory.map(lambda a, mine=mine: a[:, mine]))  # type: ignore[misc]
                told["columns"] = (columns[mine] // count).tolist()
                highest = max(told.highest for told in self.shards.told)
                rows = trajectory.rows * len(mine)
                if self.shards.send(shard, "extend", [told], memory, highest):
                    self.shards[shard].sent += rows
                    self._counted[0, shard] += rows
                else:
                    self.shards.rows_gone += rows

    def trim(self) -> None:
        """Let all shards cut back to their capacity."""
        for shard in range(len(self.shards)):
            self.shards.send(shard, "trim")

    @property
    def ready(self) -> bool:
        """Whether there is a batch; waits for one that is under way.

        Raises:
            Diverged: a shard has been started anew too often.
        """
        self.shards.hear()
        while self._next is None and self._ask_ahead():
            shard, incarnation, call = self._ahead.popleft()
            if incarnation != self.shards[shard].incarnation:
                continue  # it went with its shard
            try:
                told, described, memory = self.shards.take(shard, call)
            except Lost:
                continue
            self.shards.note(shard, told)
            if described:
                batch = unpacked(described, memory, self.device)
                batch.keys[:, 0] = batch.keys[:, 0] * len(self.shards) + shard
                self._next = shard, incarnation, batch
        return self._next is not None

    def sample(self, size: int, progress: float = 0.0) -> Batch:
        """The next batch; ``progress`` in [0, 1] moves the importance exponent of those asked for from now on.

        Raises:
            ValueError: ``size`` is not ``batch_size``, or nothing is ready.
        """
        if size != self.batch_size or not self.ready:
            raise ValueError(f"batches have {self.batch_size} windows, not {size}, and come while ``ready``")
        assert self._next is not None
        shard, incarnation, batch = self._next
        self._next, self._drawn, self._progress = None, (shard, incarnation), progress
        self._counted[1, shard] += size
        self._ask_ahead()
        return batch

    def look(self, size: int) -> Trajectory:
        """``size`` windows to look at, all from one shard."""
        described, memory = self.shards.get(self._draw(), "look", size)
        return unpacked_rows(described, memory, self.device)

    def _draw(self) -> int:
        """A shard, drawn in proportion to what its windows weigh together."""
        mass = np.cumsum([held.told.mass * held.ready for held in self.shards])
        return int(np.searchsorted(mass, self.generator.random() * mass[-1], side="right"))

    def _ask_ahead(self) -> bool:
        """Keep batches under way while there is anything to draw; whether any are."""
        if any(held.ready for held in self.shards):
            while len(self._ahead) < AHEAD:
                shard = self._draw()
                held = self.shards[shard]
                call = held.peer.ask("sample", self.batch_size, self._progress)
                self._ahead.append((shard, held.incarnation, call))
        return bool(self._ahead)

    def update(self, keys: np.ndarray, error: Tensor, mask: Tensor, state: Tree | None = None) -> None:
        """Priorities of the windows handed out last; dropped where their shard was lost since then."""
        shard, incarnation = self._drawn
        if self.shards[shard].incarnation == incarnation:
            there = np.stack([keys[:, 0] // len(self.shards), keys[:, 1]], axis=1)
            self.shards.send(shard, "update", there, error.detach().cpu().numpy(), mask.detach().cpu().numpy())

    def metrics(self) -> dict[str, float]:
        """Rates of every shard since the last call, per second; and what was lost since the run began, if anything."""
        seconds, now = max(1e-9, time.monotonic() - self._since), time.monotonic()
        rates = {
            f"shard{shard}_{name}_per_second": round(float(count) / seconds, 1)
            for name, counts in zip(("inserts", "samples"), self._counted, strict=True)
            for shard, count in enumerate(counts)
        }
        self._counted[:], self._since = 0, now
        lost = {name: float(getattr(self.shards, name)) for name in ("rows_lost", "windows_lost")}
        return rates | ({"shards_replaced": float(self.shards.replaced), **lost} if self.shards.replaced else {})

    def faults(self) -> list[str]:
        """What went wrong since the last call and what was done, a sentence each."""
        return self.shards.faults()

    def close(self) -> None:
        """End all shards; safe to call twice."""
        self.shards.close()

    @property
    def lives(self) -> tuple[int, ...]:
        """Which incarnation of each shard is called now."""
        return tuple(held.incarnation for held in self.shards)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rows, of all shards."""
        self.shards.settle()
        names = ("rows_gone", "windows_lost", "replaced")
        return {
            "shards": {str(shard): _owned(self.shards.get(shard, "state_dict")) for shard in range(len(self.shards))},
            "lost": {name: getattr(self.shards, name) for name in names},
            "generator": self.generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back ``state_dict``; the rows come by ``restore``. Batches under way are forgotten."""
        self._ahead.clear()
        self._next = None
        self.generator.bit_generator.state = state["generator"]
        for name, value in state["lost"].items():
            setattr(self.shards, name, value)
        for shard in range(len(self.shards)):
            told = self.shards.get(shard, "load", state["shards"][str(shard)])
            self.shards.note(shard, told)
            self.shards[shard].sent = told["received"] + told["passed"]

    def chunks(self) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The rows of all shards in pieces for a checkpoint; a piece travels when it is called for, one at a time."""
        pieces = {}
        for shard in range(len(self.shards)):
            for name, fingerprint in self.shards.get(shard, "chunks"):
                pieces[f"replay-{shard}-{name.rsplit('-', 1)[1]}"] = (fingerprint, self._piece(shard, name))
        return pieces

    def _piece(self, shard: int, name: str) -> Callable[[], dict[str, Tensor]]:
        incarnation = self.shards[shard].incarnation

        def tensors() -> dict[str, Tensor]:
            held = self.shards[shard]
            if held.incarnation != incarnation:
                raise Lost(f"replay shard {shard} was lost while it was saved")
            arrays = self.shards.take(shard, held.peer.ask("piece", name))
            return {field: torch.from_numpy(np.array(value)) for field, value in arrays.items()}

        return tensors

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put back one piece of ``chunks`` by its name."""
        _, shard, start = name.split("-")
        arrays = {field: tensor.numpy() for field, tensor in tensors.items()}
        self.shards.note(int(shard), self.shards.get(int(shard), "restore", f"replay-{start}", arrays))


def _owned(state: Mapping[str, Any]) -> dict[str, Any]:
    """A nested state with arrays that can be written to, which those in Ray's object store cannot."""
    return {
        name: _owned(value)
        if isinstance(value, Mapping)
        else np.array(value)
        if isinstance(value, np.ndarray)
        else value
        for name, value in state.items()
    }
