"""One shard of a replay: a plain replay of its columns, and what is told of it with every answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Chunk
from retorq.acting.messages import Streams, pack, unpack, write
from retorq.replay.replay import Replay
from retorq.types import Batch, Trajectory


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a shard says of itself. ``number`` counts its answers; for ``received``, ``passed``, ``made`` see Shard."""

    number: int = 0
    mass: float = 0.0
    windows: int = 0
    made: int = 0
    rows: int = 0
    received: int = 0
    passed: int = 0
    highest: float = 1.0
    clamped: int = 0
    ready: bool = False


class Shard:
    """A replay of some columns, numbered from 0, in a process of its own.

    The newest row of each column is held back until the next one comes, so that after a loss, when newer rows are gone
    with the process, the stream can be ended with the newest row there is (``begin_anew``). What arrives then of a game
    that is on belongs to nothing that is held, and is passed over until the next game begins.

    Every row sent is counted once: in ``received`` or in ``passed``. ``made`` counts the windows (or games) that have
    become complete, whether they are still held or not.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay, self.streams = replay, Streams()
        self.waiting: set[int] = set()
        self.received = self.passed = self.made = self.answers = 0

    def told(self) -> dict[str, Any]:
        """A :class:`Told`, as plain data."""
        self.answers += 1
        sampler = self.replay.prioritized
        return asdict(
            Told(
                number=self.answers,
                mass=self.replay.mass,
                windows=self.replay.windows,
                made=self.made,
                rows=self.replay.size,
                received=self.received,
                passed=self.passed,
                highest=1.0 if sampler is None else sampler.highest,
                clamped=self.replay.clamped,
                ready=self.replay.ready,
            )
        )

    def extend(self, told: list[dict[str, Any]], memory: np.ndarray, highest: float) -> dict[str, Any]:
        """Add the rows of a message; ``highest`` is the highest priority seen in any shard, which new windows get."""
        if self.replay.prioritized is not None:
            self.replay.prioritized.highest = max(self.replay.prioritized.highest, highest)
        for columns, rows in unpack(told, np.array(memory)):
            for begun in self._begun(columns, rows):
                self.received += begun[1].rows * begun[1].columns
                for chunk in self.streams.push([begun]):
                    self._store(*chunk)
        return self.told()

    def _store(self, columns: np.ndarray, rows: Trajectory) -> None:
        """Add rows to the replay, and count the windows that they complete."""
        self.replay.extend(columns, rows)
        if self.replay.games is not None:
            self.made += int(np.asarray(rows.last).sum())
            return
        window, storage = self.replay.window, self.replay.storage
        stop = storage.written[columns] - window.rows + 1  # of the row 0 of windows that are complete
        column = np.repeat(columns, rows.rows)
        start = (stop[:, None] - 1 - np.arange(rows.rows)).reshape(-1)
        named = start + window.burn_in if self.replay.within is not None else start
        new = start % window.period == 0
        if self.replay.within is not None:
            new |= self.replay.within.begins(column, named)
        if self.replay.within is not None or window.length == 1:
            new &= ~storage.last(column, named)
        self.made += int((new & (named >= 0)).sum())

    def _begun(self, columns: np.ndarray, rows: Trajectory) -> Iterator[Chunk]:
        """The rows without those before the next game of columns that wait for one."""
        waits = np.isin(columns, list(self.waiting))
        known = np.flatnonzero(~waits)
        if known.size:
            yield columns[known], rows.map(lambda a: a[:, known])
        begins = rows.inputs.first & (rows.inputs.elapsed == 0) & ~rows.last
        for at in np.flatnonzero(waits):
            start = int(begins[:, at].argmax()) if begins[:, at].any() else rows.rows
            self.passed += start
            if start < rows.rows:
                self.waiting.remove(int(columns[at]))
                yield columns[at : at + 1], rows.map(lambda a, start=start, at=at: a[start:, at : at + 1])  # type: ignore[misc]

    def sample(self, size: int, progress: float) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
        """What is told, and a batch as one block of bytes with its description; an empty one if there is none."""
        if not self.replay.ready:
            return self.told(), [], np.empty(0, np.uint8)
        return self.told(), *packed(self.replay.sample(size, progress))

    def look(self, size: int) -> tuple[list[dict[str, Any]], np.ndarray]:
        """``size`` windows to look at, as bytes with their description."""
        return laid_out(self.replay.look(size))

    def update(self, keys: np.ndarray, error: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """New priorities of windows drawn here."""
        self.replay.update(keys, torch.from_numpy(np.array(error)), torch.from_numpy(np.array(mask)))
        return self.told()

    def trim(self) -> dict[str, Any]:
        """Cut back to the capacity."""
        self.replay.trim()
        return self.told()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay's rows."""
        held = {name.replace(".", "/"): value.numpy() for name, value in self.streams.state_dict().items()}
        counts = {"received": self.received, "passed": self.passed, "made": self.made}
        return {"replay": self.replay.state_dict(), "streams": held, "waiting": sorted(self.waiting), **counts}

    def load(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Put back ``state_dict``; the rows come by ``restore``."""
        self.replay.load_state_dict(state["replay"])
        held = {name.replace("/", "."): torch.from_numpy(np.array(v)) for name, v in state["streams"].items()}
        self.streams.load_state_dict(held)
        self.received, self.passed, self.made = (int(state[name]) for name in ("received", "passed", "made"))
        self.waiting = set(state["waiting"])
        return self.told()

    def restore(self, name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Put back one piece of the rows."""
        self.replay.restore(name, {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        return self.told()

    def begin_anew(self) -> dict[str, Any]:
        """After a loss: end all streams where they are, and wait for the next game in each."""
        columns = range(self.replay.storage.columns)
        for ended in self.streams.cut(columns):
            self._store(*ended)
        self.waiting = set(columns)
        return self.told()

    def chunks(self) -> list[tuple[str, str]]:
        """Name and fingerprint of each piece of the rows."""
        return [(name, fingerprint) for name, (fingerprint, _) in self.replay.chunks().items()]

    def piece(self, name: str) -> dict[str, np.ndarray]:
        """One piece of the rows."""
        return {name: tensor.numpy() for name, tensor in self.replay.chunks()[name][1]().items()}


def laid_out(rows: Trajectory) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows as one contiguous block of bytes, with its description."""
    told, placed, size = pack([(np.arange(rows.columns), rows)])
    memory = np.empty(size, np.uint8)
    write(memory, placed)
    return told, memory


def packed(batch: Batch) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A batch in the same way: what belongs to whole windows travels as rows of one."""
    extras = {"keys": batch.keys[None], "weight": batch.weight[None]}
    extras |= {f"state.{name}": value[None] for name, value in batch.state.items()}
    return laid_out(replace(batch.trajectory, extras=extras))


def unpacked_rows(told: list[dict[str, Any]], memory: np.ndarray, device: torch.device) -> Trajectory:
    """Rows, copied out of ``memory`` and onto ``device``."""
    [(_, rows)] = unpack(told, np.array(memory))
    return rows.map(lambda a: torch.as_tensor(a).to(device))


def unpacked(told: list[dict[str, Any]], memory: np.ndarray, device: torch.device) -> Batch:
    """The batch in the same way."""
    rows = unpacked_rows(told, memory, device)
    extras = {name: value[0] for name, value in rows.extras.items()}
    state = {name.removeprefix("state."): value for name, value in extras.items() if name.startswith("state.")}
    keys = extras["keys"].cpu().numpy()
    return Batch(trajectory=replace(rows, extras={}), state=state, weight=extras["weight"], keys=keys)
