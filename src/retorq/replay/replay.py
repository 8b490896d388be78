"""Replay: storage, windows and a sampler behind one face: ``extend``, ``sample``, ``update``, ``ready``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retorq.replay.samplers import Prioritized, Uniform
from retorq.replay.storage import Layout, Storage
from retorq.replay.windows import Window
from retorq.types import Batch, Trajectory, Tree, UserError


@dataclass(frozen=True, kw_only=True)
class Priorities:
    """Prioritised replay (Schaul et al. 2016), of sequences as R2D2 does it.

    A sequence's priority is ``eta * max + (1 - eta) * mean`` of its absolute errors (R2D2, section 2.3).
    """

    exponent: float = 0.6
    beta: float = 0.4
    beta_final: float = 1.0
    eta: float = 0.9


def require_capacity(capacity: int, window: Window, columns: int) -> None:
    """Refuse a replay that cannot hold a window in every column.

    Raises:
        UserError: ``capacity`` is too small.
    """
    need = (window.rows + window.margin + window.period) * columns
    if capacity < need:
        raise UserError(
            f"replay_size is {capacity}, too small for windows of {window.rows} rows in {columns} environments; "
            f"give at least {need}."
        )


class Replay:
    """Rows go in by column, batches of windows come out.

    Args:
        layout: What a row consists of.
        window: What a sample consists of.
        columns: Number of streams.
        capacity: Steps to hold, all columns together.
        priorities: None for uniform sampling.
        stack: Images to stack on the channel axis when sampling.
        initial_state: ``(columns, device) -> state``, handed out where the layout stores no states (zero start state).
        device: Where the rows live.
        seed: Seed of the sampling generator.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        window: Window,
        columns: int,
        capacity: int,
        priorities: Priorities | None = None,
        stack: int = 1,
        initial_state: Callable[[int, torch.device], Tree] | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        require_capacity(capacity, window, columns)
        self.window, self.stack, self.priorities = window, stack, priorities
        self.initial_state = initial_state
        self.storage = Storage(layout, columns, capacity // columns, device)
        self.generator = np.random.default_rng(seed)
        self.uniform = Uniform()
        self.slots = self.storage.rows // window.period
        self.prioritized = (
            Prioritized(
                columns * self.slots,
                exponent=priorities.exponent,
                beta=priorities.beta,
                beta_final=priorities.beta_final,
            )
            if priorities
            else None
        )

    @property
    def size(self) -> int:
        """Rows held."""
        return int(np.minimum(self.storage.written, self.storage.rows).sum())

    @property
    def ready(self) -> bool:
        """Whether there is anything to sample."""
        if self.prioritized is not None:
            return self.prioritized.total > 0
        first, count = self._range()
        if self.window.length > 1 or count.sum() > 8 * len(count):
            return bool(count.sum() > 0)
        # Among so few starts all may be final rows, which no transition begins with.
        column = np.repeat(np.arange(len(count)), count)
        start = first[column] + np.concatenate([np.arange(n) for n in count]) * self.window.period
        return not self.storage.last(column, start).all()

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        return self.window.range(self.storage.written, self.storage.rows)

    def extend(self, columns: np.ndarray, trajectory: Trajectory) -> None:
        """Add rows ``[T, len(columns)]``; recurrent states come as ``extras["state.NAME"] [T, B, ...]``."""
        state = {k.removeprefix("state."): v for k, v in trajectory.extras.items() if k.startswith("state.")}
        if self.prioritized is None:
            self.storage.append(columns, trajectory, state)
            return
        for t in range(trajectory.rows):
            self._forget(columns)
            row = trajectory.part(t, t + 1)
            self.storage.append(columns, row, {name: value[t : t + 1] for name, value in state.items()})
            self._admit(columns)

    def _leaf(self, column: np.ndarray, start: np.ndarray) -> np.ndarray:
        return column * self.slots + start // self.window.period % self.slots

    def _forget(self, columns: np.ndarray) -> None:
        """Drop the window whose first row (or the margin before it) is about to be overwritten."""
        assert self.prioritized is not None
        written, margin = self.storage.written[columns], self.window.margin
        start = written - self.storage.rows + margin
        gone = (written >= self.storage.rows) & (start % self.window.period == 0)
        if gone.any():
            self.prioritized.remove(self._leaf(columns[gone], start[gone]))
        # A stream's first rows need no margin, until the first row of all is overwritten.
        if margin and (lapped := columns[written == self.storage.rows]).size:
            for early in range(0, margin, self.window.period):
                self.prioritized.remove(self._leaf(lapped, np.full(len(lapped), early)))

    def _admit(self, columns: np.ndarray) -> None:
        """Admit the window that has just become complete."""
        assert self.prioritized is not None
        start = self.storage.written[columns] - self.window.rows
        new = (start >= 0) & (start % self.window.period == 0)
        if self.window.length == 1 and new.any():
            new[new] = ~self.storage.last(columns[new], start[new])
        if new.any():
            self.prioritized.add(self._leaf(columns[new], start[new]))

    def sample(self, size: int, progress: float = 0.0) -> Batch:
        """``size`` windows, with replacement. ``progress`` in [0, 1] moves the importance exponent."""
        if self.prioritized is None:
            column, start = self._draw(size)
            weight = np.ones(size, dtype=np.float32)
        else:
            leaf, probability = self.prioritized.sample(size, self.generator, progress)
            column, start = leaf // self.slots, self._start_of(leaf)
            weight = self.prioritized.weights(probability, progress).astype(np.float32)
        device = self.storage.device
        trajectory = self.storage.gather(column, start, self.window.rows, self.stack)
        return Batch(
            trajectory=trajectory,
            state=self._state(column, start),
            weight=torch.from_numpy(weight).to(device),
            keys=np.stack([column, start], axis=1),
        )

    def _draw(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Uniform over all starts; a transition never starts at a game's final row, which leads nowhere."""
        first, count = self._range()
        column, offset = self.uniform.sample(count, size, self.generator)
        start = first[column] + offset * self.window.period
        while self.window.length == 1 and (final := self.storage.last(column, start)).any():
            column[final], offset = self.uniform.sample(count, int(final.sum()), self.generator)
            start[final] = first[column[final]] + offset * self.window.period
        return column, start

    def _start_of(self, leaf: np.ndarray) -> np.ndarray:
        """Absolute row of the window a leaf stands for: the newest complete one in its slot."""
        column, slot = np.divmod(leaf, self.slots)
        newest = self.storage.written[column] - self.window.rows
        row = slot * self.window.period
        return row + (newest - row) // self.storage.rows * self.storage.rows

    def _state(self, column: np.ndarray, start: np.ndarray) -> Tree:
        if self.storage.states or self.initial_state is None:
            return self.storage.state(column, start)
        return self.initial_state(len(column), self.storage.device)

    def update(self, keys: np.ndarray, error: Tensor, mask: Tensor) -> None:
        """Write the priorities of sampled windows from their errors ``[T, B]``; masked rows do not count."""
        if self.prioritized is None or self.priorities is None:
            return
        error, valid = error.float() * mask, mask.float()
        highest, mean = error.amax(0), error.sum(0) / valid.sum(0).clamp(min=1)
        priority = (self.priorities.eta * highest + (1 - self.priorities.eta) * mean).cpu().numpy()
        column, start = keys[:, 0], keys[:, 1]
        held = start >= self._range()[0][column]  # another window may have taken the place of one that is gone
        self.prioritized.update(self._leaf(column[held], start[held]), priority[held])

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rows: counters, priorities and the generator."""
        state: dict[str, Any] = {
            "written": self.storage.written.copy(),
            "generator": self.generator.bit_generator.state,
        }
        if self.prioritized is not None:
            state["priorities"] = self.prioritized.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back ``state_dict``; the rows come by ``storage.restore``."""
        self.storage.written[:] = state["written"]
        self.generator.bit_generator.state = state["generator"]
        if self.prioritized is not None:
            self.prioritized.load_state_dict(state["priorities"])

    def chunks(self) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The rows, in pieces for a checkpoint; see :meth:`Storage.chunks`."""
        return self.storage.chunks()
