"""Messages: what actors elsewhere send, how it is laid out as bytes, and how each row arrives once and in order.

A message is named by (actor, incarnation, number). Numbers count from 0 within an incarnation, and an actor that is
started anew gets the next incarnation, so whatever a lost or frozen predecessor still sends is known and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Chunk, kept
from retorq.types import Episode, Inputs, Trajectory

ALIGNED = 64  # bytes; every array begins at a multiple
_PLAIN = ("previous_action", "previous_reward", "elapsed", "first")
_ROWS = ("action", "reward", "terminated", "truncated", "last")


@dataclass(frozen=True, kw_only=True)
class Message:
    """Rows of one actor, with the games finished meanwhile.

    ``chunks`` name the columns of the whole run. ``version`` is that of the weights the rows were acted with.
    ``latencies`` are seconds from each observation to its action, where an actor plays by the clock. ``faults`` tell of
    environments that were replaced, by the columns of the run.
    """

    actor: int
    incarnation: int
    number: int
    chunks: list[Chunk]
    episodes: list[Episode] = field(default_factory=list)
    version: int = 0
    latencies: list[float] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)


def joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The same rows in fewer chunks: neighbors of the same columns become one."""
    groups: list[tuple[np.ndarray, list[Trajectory]]] = []
    for columns, rows in chunks:
        if groups and np.array_equal(groups[-1][0], columns):
            groups[-1][1].append(rows)
        else:
            groups.append((columns, [rows]))
    return [(columns, _concatenated(parts, 0)) for columns, parts in groups]


def _named(rows: Trajectory) -> dict[str, np.ndarray]:
    """The arrays of some rows by dotted name."""
    named: dict[str, Any] = {name: getattr(rows, name) for name in _ROWS}
    named |= {f"inputs.{name}": getattr(rows.inputs, name) for name in _PLAIN}
    named |= {f"observation.{name}": value for name, value in rows.inputs.observation.items()}
    named |= {f"extras.{name}": value for name, value in rows.extras.items()}
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in named.items()}


def _rows(named: Mapping[str, np.ndarray]) -> Trajectory:
    """Rows from their arrays; recurrent states are tensors, as the replay expects them."""

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}

    extras: dict[str, Any] = {
        name: torch.from_numpy(value) if name.startswith("state.") else value for name, value in part("extras.").items()
    }
    return Trajectory(
        inputs=Inputs(observation=part("observation."), **part("inputs.")),
        **{name: named[name] for name in _ROWS},
        extras=extras,
    )


def _concatenated(parts: list[Trajectory], axis: int) -> Trajectory:
    if len(parts) == 1:
        return parts[0]
    named = [_named(rows) for rows in parts]
    return _rows({name: np.concatenate([rows[name] for rows in named], axis) for name in named[0]})


def pack(chunks: list[Chunk]) -> tuple[list[dict[str, Any]], list[tuple[int, np.ndarray]], int]:
    """Lay rows out as bytes.

    Returns:
        A JSON description of each chunk, every array with its offset in bytes, and the bytes needed in all.
    """
    told, placed, offset = [], [], 0
    for columns, rows in chunks:
        arrays = {}
        for name, value in _named(rows).items():
            array = np.ascontiguousarray(value)
            placed.append((offset, array))
            arrays[name] = [array.dtype.str, array.shape, offset]
            offset += -(-array.nbytes // ALIGNED) * ALIGNED
        told.append({"columns": np.asarray(columns).tolist(), "arrays": arrays})
    return told, placed, offset


def write(memory: memoryview | np.ndarray, placed: list[tuple[int, np.ndarray]], start: int = 0) -> None:
    """Copy packed arrays into ``memory`` from byte ``start`` on."""
    for offset, array in placed:
        np.ndarray(array.shape, array.dtype, buffer=memory, offset=start + offset)[...] = array


def unpack(told: list[dict[str, Any]], memory: memoryview | np.ndarray, start: int = 0) -> list[Chunk]:
    """Views of rows that ``pack`` laid out, valid as long as the memory is.

    Raises:
        ValueError: an array would lie outside the memory.
    """
    return [
        (
            np.array(chunk["columns"], np.int64),
            _rows(
                {
                    name: np.ndarray(tuple(shape), np.dtype(kind), buffer=memory, offset=start + offset)
                    for name, (kind, shape, offset) in chunk["arrays"].items()
                }
            ),
        )
        for chunk in told
    ]


def description(message: Message, told: list[dict[str, Any]]) -> dict[str, Any]:
    """All of a message but its bytes, as plain JSON; ``told`` describes these."""
    return {
        "incarnation": message.incarnation,
        "number": message.number,
        "version": message.version,
        "chunks": told,
        "episodes": [asdict(episode) for episode in message.episodes],
        "latencies": [round(latency, 6) for latency in message.latencies],
        "faults": message.faults,
    }


def episodes_from_json(told: list[dict[str, Any]]) -> list[Episode]:
    """Games from JSON; names that are no field of a game are an error."""
    known = {f.name for f in fields(Episode)}
    if strange := {name for episode in told for name in episode} - known:
        raise ValueError(f"an episode has the fields {sorted(strange)}, which this version does not know")
    return [Episode(**episode) for episode in told]


class Inbox:
    """Hands on every message once and in order, whatever is repeated, late, early or from a past incarnation."""

    def __init__(self, actors: int) -> None:
        self.incarnations = [-1] * actors
        self.repeated = 0
        """Messages that had already arrived."""
        self.fenced = 0
        """Messages of a past incarnation."""
        self._next = [0] * actors
        self._early: list[dict[int, Message]] = [{} for _ in range(actors)]

    def begin(self, actor: int) -> int:
        """A new incarnation of ``actor``; returns its number. What the last one sent out of order is dropped."""
        self.incarnations[actor] += 1
        self._next[actor] = 0
        self._early[actor].clear()
        return self.incarnations[actor]

    def accept(self, message: Message) -> list[Message]:
        """The messages that are now next in order: perhaps none, perhaps also some that had come too early."""
        actor = message.actor
        if message.incarnation != self.incarnations[actor]:
            self.fenced += 1
            return []
        early = self._early[actor]
        if message.number < self._next[actor] or message.number in early:
            self.repeated += 1
            return []
        early[message.number] = message
        ordered = []
        while self._next[actor] in early:
            ordered.append(early.pop(self._next[actor]))
            self._next[actor] += 1
        return ordered


class Streams:
    """The columns' streams as they go into the replay, each one row behind what has arrived.

    The newest row of a column is held back until the next one comes. If its actor dies first, ``cut`` makes the row
    the last of its game, a truncation, so that no game is ever spliced to another one.
    """

    def __init__(self) -> None:
        self._held: dict[int, Trajectory] = {}

    def push(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Rows that may now be stored; the newest row of every column stays."""
        out: list[Chunk] = []
        for columns, rows in chunks:
            known = [int(column) for column in columns if int(column) in self._held]
            if known:
                out.append(self._released(known))
            if rows.rows > 1:
                out.append((columns, rows.part(0, rows.rows - 1)))
            newest = _rows({name: np.array(value[-1:]) for name, value in _named(rows).items()})
            for at, column in enumerate(columns):
                self._held[int(column)] = newest.map(lambda a, at=at: a[:, at : at + 1])  # type: ignore[misc]
        return out

    def open(self, columns: Iterable[int]) -> list[tuple[int, int]]:
        """Those of ``columns`` whose game is not over, with the agent steps done in it."""
        held = [(column, self._held[column]) for column in columns if column in self._held]
        return [(column, int(rows.inputs.elapsed[0, 0])) for column, rows in held if not bool(rows.last[0, 0])]

    def cut(self, columns: Iterable[int]) -> list[Chunk]:
        """End the streams of ``columns`` with the rows held back."""
        held = [column for column in columns if column in self._held]
        if not held:
            return []
        _, rows = self._released(held)
        last = np.asarray(rows.last, bool)
        ended = replace(
            rows,
            action=kept(last, np.asarray(rows.action)),
            reward=np.where(last, rows.reward, 0).astype(np.float32),
            terminated=np.asarray(rows.terminated, bool) & last,
            truncated=np.asarray(rows.truncated, bool) | ~last,
            last=np.ones_like(last),
        )
        return [(np.array(held, np.int64), ended)]

    def _released(self, columns: list[int]) -> Chunk:
        rows = _concatenated([self._held.pop(column) for column in columns], 1)
        return np.array(columns, np.int64), rows

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The rows held back, by ``COLUMN.NAME``."""
        return {
            f"{column}.{name}": torch.from_numpy(np.array(value))
            for column, rows in self._held.items()
            for name, value in _named(rows).items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        named: dict[int, dict[str, np.ndarray]] = {}
        for name, value in state.items():
            column, field_name = name.split(".", 1)
            named.setdefault(int(column), {})[field_name] = value.numpy()
        self._held = {column: _rows(arrays) for column, arrays in named.items()}
