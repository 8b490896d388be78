"""Scores of open games, added up from their rows: what is told of games whose actor was lost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from retorq.acting.actor import Chunk


class Tally:
    """The undiscounted raw return of every column's open game, of the rows that went into the replay.

    Args:
        columns: Of the whole run.
    """

    def __init__(self, columns: int) -> None:
        self.scores = np.zeros(columns)

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Count rows, oldest first; a column's score begins anew after a row that is the last of its game."""
        for columns, rows in chunks:
            last, reward = np.asarray(rows.last, bool), np.asarray(rows.reward, np.float64)
            of_open_game = np.cumsum(last[::-1], 0)[::-1] == 0
            carried = np.where(last.any(0), 0.0, self.scores[columns])
            self.scores[columns] = carried + (reward * of_open_game).sum(0)
