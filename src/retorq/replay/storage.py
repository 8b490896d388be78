"""Rows of experience in preallocated arrays, each observation once, on the device the learner uses.

Memory layout: one array per field, ``[rows, columns, ...]``, written as a ring. A window is one index gather, so its
cost does not depend on how much is stored. Recurrent states are kept every ``period`` rows in half precision.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from retorq.types import EnvSpec, Inputs, Trajectory, Tree

PIECE = 32 << 20
"""Bytes of a piece of a checkpoint at most: from a shard elsewhere it travels in one go."""
TOLD = ("value", "highest")
FLAGS = ("first", "terminated", "truncated", "last")  # bit 0..3 of the flags byte
LAST = 1 << FLAGS.index("last")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a row consists of. ``state`` gives the shape of one recurrent state per name (no batch axis)."""

    spec: EnvSpec
    state: Mapping[str, tuple[int, ...]]
    period: int = 1
    state_dtype: torch.dtype = torch.float16
    values: bool = False
    """Keep what the actor thought of each row: the value of its action and of the best one."""

    def fields(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and data type of every field of a row."""
        action: tuple[tuple[int, ...], torch.dtype] = ((), torch.uint8 if self.spec.actions <= 256 else torch.int32)
        if self.spec.continuous:
            action = ((self.spec.actions,), torch.float32)
        fields: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            f"observation.{name}": (leaf.shape, getattr(torch, leaf.dtype))
            for name, leaf in self.spec.observation.items()
        }
        return fields | {
            "action": action,
            "previous_action": action,
            "reward": ((), torch.float32),
            "previous_reward": ((), torch.float32),
            "elapsed": ((), torch.int32),
            "flags": ((), torch.uint8),
            **(dict.fromkeys(TOLD, ((), torch.float32)) if self.values else {}),
        }

    def bytes_per_row(self) -> float:
        """Bytes one stored step takes, its share of the recurrent state included."""
        row = sum(prod(shape) * dtype.itemsize for shape, dtype in self.fields().values())
        return row + sum(prod(shape) for shape in self.state.values()) * self.state_dtype.itemsize / self.period

    def piece_rows(self, columns: int) -> int:
        """Rows of a piece of a checkpoint: at most 1000 and ``PIECE`` bytes, at least as many as between states."""
        fit = int(min(1000, PIECE / (self.bytes_per_row() * columns)))
        return max(1, fit // self.period) * self.period


class Storage:
    """A ring of ``rows`` rows for each of ``columns`` columns; ``written [columns]`` counts all rows ever appended.

    Rows are named by (column, absolute row number); a row is held while ``written - rows <= row < written``.
    """

    def __init__(self, layout: Layout, columns: int, rows: int, device: torch.device | str = "cpu") -> None:
        self.layout, self.columns = layout, columns
        self.rows = -(-rows // layout.period) * layout.period  # the grid of states must close over the ring
        self.device = torch.device(device)
        self.lineage = uuid.uuid4().hex
        self.written = np.zeros(columns, dtype=np.int64)
        self.rewritten = np.zeros(self.rows // layout.period, dtype=np.int64)  # how often states were replaced
        self.arrays: dict[str, Tensor] = {
            name: _zeros((self.rows, columns, *shape), dtype, self.device)
            for name, (shape, dtype) in layout.fields().items()
        }
        self._flat = {name: array.flatten(0, 1) for name, array in self.arrays.items()}  # the same memory
        # Where the arrays are on a GPU, what every draw asks for is here, too: else it would wait for the device.
        self._ends = None if self.device.type == "cpu" else np.zeros((self.rows, columns), bool)
        self.states: dict[str, Tensor] = {
            name: _zeros((self.rows // layout.period, columns, *shape), layout.state_dtype, self.device)
            for name, shape in layout.state.items()
        }

    def append(self, columns: np.ndarray, trajectory: Trajectory, state: Tree | None = None) -> None:
        """Add rows ``[T, len(columns)]``; ``state`` is the recurrent state before each of them, ``[T, B, ...]``."""
        for t in range(trajectory.rows):
            self._append_row(columns, trajectory.map(lambda a, t=t: a[t]), state, t)  # type: ignore[misc]
            self.written[columns] += 1

    def _append_row(self, columns: np.ndarray, row: Trajectory, state: Tree | None, t: int) -> None:
        position = self.written[columns] % self.rows
        everyone = np.array_equal(columns, np.arange(self.columns)) and bool((position == position[0]).all())
        at = (
            (int(position[0]), slice(None))
            if everyone
            else (torch.from_numpy(position).to(self.device), torch.from_numpy(np.asarray(columns)).to(self.device))
        )
        inputs = row.inputs
        flags = sum(
            _tensor(value).to(torch.uint8) << bit
            for bit, value in enumerate((inputs.first, row.terminated, row.truncated, row.last))
        )
        values = {
            "action": row.action,
            "previous_action": inputs.previous_action,
            "reward": row.reward,
            "previous_reward": inputs.previous_reward,
            "elapsed": inputs.elapsed,
            "flags": flags,
        } | {f"observation.{name}": value for name, value in inputs.observation.items()}
        if self.layout.values:
            values |= {name: row.extras[name] for name in TOLD}
        for name, value in values.items():
            self.arrays[name][at] = _tensor(value).to(self.device, self.arrays[name].dtype)
        if self._ends is not None:
            self._ends[position, columns] = _tensor(row.last).cpu().numpy()
        on_grid = position % self.layout.period == 0
        if self.states and on_grid.any():
            if state is None:
                raise ValueError("this storage keeps recurrent states, and the rows came without them")
            chosen = torch.from_numpy(np.flatnonzero(on_grid))
            slots = torch.from_numpy(position[on_grid] // self.layout.period)
            where = torch.from_numpy(np.asarray(columns)[on_grid])
            for name, kept in self.states.items():
                source = state[name][t]
                kept[slots, where] = source[chosen.to(source.device)].to(self.device, kept.dtype)

    def gather(
        self, column: np.ndarray, start: np.ndarray, rows: int, stack: int = 1, least: np.ndarray | None = None
    ) -> Trajectory:
        """Windows of ``rows`` rows from absolute row ``start [n]`` of ``column [n]``: a trajectory ``[rows, n]``.

        ``stack > 1`` stacks that many images on the channel axis, oldest first; before a game's first row are zeros.
        Where a window has rows before ``least [n]``, that row takes their place.
        """
        row = start[None, :] + np.arange(rows)[:, None]
        if least is not None:
            row = np.maximum(row, least)
        flat = (row % self.rows) * self.columns + column[None, :]
        index = torch.from_numpy(flat.reshape(-1)).to(self.device)
        shape = (rows, len(column))

        def take(name: str, index: Tensor = index) -> Tensor:
            return self._flat[name].index_select(0, index).unflatten(0, shape)

        def act(name: str) -> Tensor:
            return take(name) if self.layout.spec.continuous else take(name).long()

        flags = take("flags")
        first, terminated, truncated, last = ((flags & 1 << bit).bool() for bit in range(len(FLAGS)))
        elapsed = take("elapsed")
        observation = {name: take(f"observation.{name}") for name in self.layout.spec.observation}
        if stack > 1:
            for name, leaf in self.layout.spec.observation.items():
                if leaf.kind == "image":
                    observation[name] = self._stacked(name, observation[name], elapsed, flat, stack, take)
        return Trajectory(
            inputs=Inputs(
                observation=observation,
                previous_action=act("previous_action"),
                previous_reward=take("previous_reward"),
                elapsed=elapsed,
                first=first,
            ),
            action=act("action"),
            reward=take("reward"),
            terminated=terminated,
            truncated=truncated,
            last=last,
        )

    def _stacked(
        self, name: str, newest: Tensor, elapsed: Tensor, flat: np.ndarray, stack: int, take: Callable[..., Tensor]
    ) -> Tensor:
        """The ``stack`` images up to each row; those from before the game began are zeros (dqn_zoo's convention)."""
        images = [newest]
        for back in range(1, stack):
            index = torch.from_numpy((flat - back * self.columns).reshape(-1) % (self.rows * self.columns))
            older = take(f"observation.{name}", index.to(self.device))
            known = (elapsed >= back).reshape(*elapsed.shape, *([1] * (older.dim() - 2)))
            images.append(older * known)
        return torch.cat(images[::-1], dim=2)

    def told(self, column: np.ndarray, start: np.ndarray, rows: int) -> Tree:
        """What first priorities are made of, of ``rows`` rows from absolute row ``start [n]`` of ``column [n]``.

        Returns:
            ``reward``, ``terminated``, ``last``, ``value`` and ``highest``, each ``[rows, n]``.
        """
        flat = (start[None, :] + np.arange(rows)[:, None]) % self.rows * self.columns + column[None, :]
        index = torch.from_numpy(flat.reshape(-1)).to(self.device)
        taken = {
            name: self._flat[name].index_select(0, index).unflatten(0, flat.shape)
            for name in ("reward", "flags", *TOLD)
        }
        flags = taken.pop("flags")
        return taken | {name: (flags >> FLAGS.index(name) & 1).bool() for name in ("terminated", "last")}

    def state(self, column: np.ndarray, start: np.ndarray) -> Tree:
        """Recurrent state before absolute row ``start [n]`` (on the grid) of ``column [n]``, float32 ``[n, ...]``."""
        slots = torch.from_numpy(start % self.rows // self.layout.period).to(self.device)
        where = torch.from_numpy(np.asarray(column)).to(self.device)
        return {name: kept[slots, where].float() for name, kept in self.states.items()}

    def put_state(self, column: np.ndarray, start: np.ndarray, state: Tree) -> None:
        """Replace the recurrent state before absolute row ``start [n]`` (on the grid) of ``column [n]``."""
        slot = start % self.rows // self.layout.period
        slots = torch.from_numpy(slot).to(self.device)
        where = torch.from_numpy(np.asarray(column)).to(self.device)
        for name, kept in self.states.items():
            kept[slots, where] = state[name].to(self.device, kept.dtype)
        np.add.at(self.rewritten, slot, 1)

    @property
    def oldest(self) -> np.ndarray:
        """Absolute number of the oldest row held, per column."""
        return np.maximum(self.written - self.rows, 0)

    def last(self, column: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Whether those rows are final observations, ``[n]``."""
        if self._ends is not None:
            noted: np.ndarray = self._ends[start % self.rows, column]
            return noted
        flags = self._flat["flags"].numpy()[start % self.rows * self.columns + column]
        found: np.ndarray = (flags & LAST) != 0
        return found

    def finals(self, first: np.ndarray, count: np.ndarray) -> int:
        """How many of ``count [columns]`` rows from ``first [columns]`` on are final observations."""
        held = int((self.arrays["flags"] & LAST).count_nonzero())
        # Of the few rows before and after these, each is looked at.
        outside = [
            np.r_[oldest:start, start + n : end].astype(np.int64)
            for oldest, start, n, end in zip(self.oldest, first, count, self.written, strict=True)
        ]
        column = np.repeat(np.arange(self.columns), [len(rows) for rows in outside])
        return held - int(self.last(column, np.concatenate(outside)).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, used or not."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.states.values()))

    def chunks(self, rows: int = 0) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The used part of the ring in pieces for a checkpoint: name -> (fingerprint, tensors).

        A piece's fingerprint changes whenever a row in it does, so unchanged pieces need not be written again. It holds
        for this object only: after a resume other rows may take the same numbers. ``rows`` 0: as many as the layout
        says.
        """
        rows = -(-rows // self.layout.period) * self.layout.period or self.layout.piece_rows(self.columns)
        used = min(self.rows, int(self.written.max(initial=0)))
        pieces = {}
        for start in range(0, used, rows):
            stop = min(start + rows, used)
            # absolute number of the newest write inside [start, stop), per column
            laps, position = np.divmod(self.written, self.rows)
            newest = np.where(
                position > start, laps * self.rows + np.minimum(position, stop), (laps - 1) * self.rows + stop
            )
            replaced = self.rewritten[start // self.layout.period : -(-stop // self.layout.period)].sum()
            fingerprint = f"{self.lineage}:{'-'.join(map(str, newest))}:{replaced}"
            pieces[f"replay-{start:08d}"] = (fingerprint, self._piece(start, stop))
        return pieces

    def _piece(self, start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
        def tensors() -> dict[str, Tensor]:  # views, also on a GPU: all of them at once would not fit into memory
            period = self.layout.period
            rows = {name: array[start:stop] for name, array in self.arrays.items()}
            return rows | {
                f"state.{name}": kept[start // period : -(-stop // period)] for name, kept in self.states.items()
            }

        return tensors

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put back one piece of ``chunks`` by its name."""
        start = int(name.rsplit("-", 1)[1])
        for field, value in tensors.items():
            if field.startswith("state."):
                slot = start // self.layout.period
                self.states[field[len("state.") :]][slot : slot + len(value)] = value.to(self.device)
            else:
                self.arrays[field][start : start + len(value)] = value.to(self.device)
        if self._ends is not None and "flags" in tensors:
            flags = tensors["flags"].cpu().numpy()
            self._ends[start : start + len(flags)] = (flags & LAST) != 0


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on the CPU their memory is only taken as it is written to, which ``torch.zeros`` does at once."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, dtype=torch.empty(0, dtype=dtype).numpy().dtype))


def _tensor(value: object) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
