"""Windows: which rows one sample consists of, and where it may start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retorq.types import UserError


@dataclass(frozen=True, kw_only=True)
class Window:
    """``burn_in`` rows that only warm up the memory, ``length`` rows to learn from, ``ahead`` rows for their targets.

    Starts lie on a grid of ``period`` rows: 1 for transitions; for sequences the grid on which states are stored. A
    window may cross the end of an episode: memory resets inside it. ``margin`` is how many rows before the start must
    still be held (for stacked images).

    ``within``: only the learned rows up to the end of one game count (the loss masks the others), and every row of
    every game is learned from nevertheless: windows also begin to learn at the first row of each game, wherever the
    grid is (``replay.within``). Such windows are named by their first learned row.
    """

    length: int
    ahead: int
    burn_in: int = 0
    period: int = 1
    margin: int = 0
    within: bool = False

    @property
    def rows(self) -> int:
        """Rows of one sample."""
        return self.burn_in + self.length + self.ahead

    def range(self, written: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
        """First start and number of starts per column, given the rows ever written and the rows a column can hold."""
        oldest = np.maximum(written - capacity, 0)
        oldest = oldest + np.where(oldest > 0, self.margin, 0)
        first = -(-oldest // self.period) * self.period
        count = np.maximum((written - self.rows - first) // self.period + 1, 0)
        return first, np.where(written >= self.rows, count, 0)


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
