"""Where sequences within games begin: at the first row of every game, and on the grid of stored states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from retorq.replay.samplers import Floats, Ints, Prioritized
from retorq.replay.windows import Window

Flags = NDArray[np.bool_]
BEGINS, LAST = 1, 2  # bits of a row's mark


class Within:
    """The starts of windows with ``within``, each named by ``u``, the absolute number of its first learned row.

    A row is a start if it is the first of a game, or if its burn-in begins on the grid: ``u - burn_in`` is a multiple
    of the period. A game's last row, where nothing is done, is none. Where the period is at most the window's length,
    every other row of every game is among the learned rows of some start. A game's first row needs no burn-in, since
    the memory is empty there: whatever rows take its place are forgotten at the reset. Where a stream begins with a
    game, burn-in that would begin before the stream is that first row, as often as needed.

    Every row of the ring is a leaf of the sampler, 8 bytes, and has a mark, 1 byte.

    Args:
        window: What a sample consists of.
        rows: Rows the ring holds per column.
        columns: Number of columns.
        sampler: Of ``columns * rows`` items; with exponent 0 for uniform draws.
    """

    def __init__(self, window: Window, rows: int, columns: int, sampler: Prioritized) -> None:
        self.window, self.rows, self.sampler = window, rows, sampler
        self._needs = window.length + window.ahead
        self._marks = np.zeros((rows, columns), np.uint8)

    def _leaf(self, column: Ints, row: Ints) -> Ints:
        return column * self.rows + row % self.rows

    def begins(self, column: Ints, row: Ints) -> Flags:
        """Whether held rows are the first of a game, ``[n]``."""
        return (self._marks[row % self.rows, column] & BEGINS).astype(bool)

    def empty(self, column: Ints, row: Ints) -> Flags:
        """Whether starts begin with an empty memory: at a game's first row, or with the stream."""
        return self.begins(column, row) | (row < self.window.burn_in)

    def forget(self, column: Ints, written: Ints) -> None:
        """Before row ``written [n]`` of each ``column [n]`` takes the place of an older one: drop what needs that."""
        full = written >= self.rows
        if not full.any():
            return
        column, written = column[full], written[full]
        oldest = written - self.rows
        self.sampler.remove(self._leaf(column, oldest))
        self._drop(column, oldest + self.window.margin)
        # A stream's first rows need neither margin nor all their burn-in, until the first row of all is overwritten.
        if (lapped := column[oldest == 0]).size:
            for early in range(-self.window.burn_in, self.window.margin):
                self._drop(lapped, np.full(len(lapped), early))

    def _drop(self, column: Ints, grid: Ints) -> None:
        """Drop the starts whose burn-in begins on the row ``grid``; a game's first row does without its burn-in."""
        row = grid + self.window.burn_in
        gone = (grid % self.window.period == 0) & ~self.begins(column, row)
        self.sampler.remove(self._leaf(column[gone], row[gone]))

    def admit(self, column: Ints, written: Ints, begins: Flags, last: Flags) -> tuple[Ints, Ints]:
        """After the row ``written - 1`` of each ``column``: mark it, and admit the start whose window is complete.

        Returns:
            Column and row of the starts that are new.
        """
        newest = written - 1
        self._marks[newest % self.rows, column] = begins * BEGINS + last * LAST
        row = written - self._needs
        column, row = column[row >= 0], row[row >= 0]
        mark, grid = self._marks[row % self.rows, column], row - self.window.burn_in
        reached = (grid >= 0) | (self._marks[0, column] & BEGINS > 0)
        new = (mark & LAST == 0) & ((mark & BEGINS > 0) | reached & (grid % self.window.period == 0))
        if new.any():
            self.sampler.add(self._leaf(column[new], row[new]))
        return column[new], row[new]

    def sample(self, size: int, generator: np.random.Generator, written: Ints) -> tuple[Ints, Ints, Floats]:
        """Column, first learned row and probability of ``size`` starts, ``[size]`` each."""
        leaf, probability = self.sampler.sample(size, generator)
        column, slot = np.divmod(leaf, self.rows)
        newest = written[column] - self._needs
        return column, slot + (newest - slot) // self.rows * self.rows, probability

    def update(self, column: Ints, row: Ints, priority: Floats, written: Ints) -> None:
        """Priorities of starts drawn earlier; those no longer held change nothing."""
        held = row >= written[column] - self.rows  # another row may have taken the place of one that is gone
        self.sampler.update(self._leaf(column[held], row[held]), priority[held])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Marks and leaves."""
        return {"marks": self._marks.copy()} | self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave."""
        self._marks[:] = state["marks"]
        self.sampler.load_state_dict(state)
