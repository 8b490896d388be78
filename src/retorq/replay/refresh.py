"""Stored recurrent states computed anew with the network of today (not in the papers; R2D2 uses them as they are)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from retorq.ops.states import choose
from retorq.replay.replay import Replay
from retorq.types import Inputs, Tree


class Refresh:
    """Sweeps over the ring, all columns at once, from the oldest stored state to the newest, and then again.

    A step takes the state stored on a row of the grid, unrolls the ``period`` rows from there, and stores the result as
    the state of the next row of the grid, from which the next step goes on. A state that belongs to a game's first row
    becomes the initial one. Columns that have nothing to refresh yet wait.

    Args:
        replay: Whose states to refresh; it must keep states and have ``initial_state``.
        unroll: ``(inputs [T, B], state [B]) -> state [B]`` with today's weights.

    Raises:
        ValueError: the replay keeps no states, or has no initial state.
    """

    def __init__(self, replay: Replay, unroll: Callable[[Inputs, Tree], Tree]) -> None:
        if not replay.storage.states or replay.initial_state is None:
            raise ValueError("only stored states can be refreshed, and they need initial_state")
        self.replay, self.unroll = replay, unroll
        self.initial_state = replay.initial_state
        self.position = np.zeros(replay.storage.columns, np.int64)
        """The row of the grid to go on from, per column: all there is to save."""

    @property
    def rows(self) -> int:
        """Rows a step runs through, all columns together."""
        return self.replay.window.period * self.replay.storage.columns

    def step(self) -> int:
        """One step in every column; returns how many states were replaced."""
        storage, window = self.replay.storage, self.replay.window
        period = window.period
        oldest = storage.oldest + np.where(storage.oldest > 0, window.margin, 0)
        begin = -(-oldest // period) * period  # the oldest state whose rows are all held
        self.position = np.maximum(self.position, begin)
        self.position = np.where(self.position + period < storage.written, self.position, begin)
        column = np.flatnonzero(self.position + period < storage.written)
        if not len(column):
            return 0
        row = self.position[column]
        # One row more than is unrolled: whether a game begins on the row whose state this becomes.
        inputs = storage.gather(column, row, period + 1, self.replay.stack).inputs
        with torch.no_grad():
            state = self.unroll(inputs.map(lambda a: a[:period]), storage.state(column, row))
        empty, first = self.initial_state(len(column), storage.device), inputs.first[period]
        storage.put_state(column, row + period, choose(first, empty, state))
        self.position[column] = row + period
        return len(column)
