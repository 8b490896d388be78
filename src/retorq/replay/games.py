"""Whole games: which ones are held, drawing one, and walking through them from their first row to their last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retorq.ops.states import choose
from retorq.replay.samplers import Ints, Uniform
from retorq.types import Tree

Flags = NDArray[np.bool_]


class Games:
    """The finished games of every column, each as its first and its last row (absolute numbers), oldest first.

    Args:
        columns: Number of columns.
        after: Rows that must be held after a game's last one, so that a window that begins in it is complete.
    """

    def __init__(self, columns: int, after: int) -> None:
        self.after = after
        self._begun = np.full(columns, -1, np.int64)  # first row of the game that is on; -1: none that we saw begin
        self._held: list[deque[tuple[int, int]]] = [deque() for _ in range(columns)]

    def note(self, column: Ints, row: Ints, begins: Flags, last: Flags) -> None:
        """A new row of each ``column [n]``: does a game begin with it, and is it a game's last? All ``[n]``."""
        self._begun[column[begins]] = row[begins]
        for c, r in zip(column[last], row[last], strict=True):
            if 0 <= self._begun[c] < r:
                self._held[c].append((int(self._begun[c]), int(r)))
            self._begun[c] = -1

    def available(self, oldest: Ints, written: Ints) -> Ints:
        """How many games per column can be drawn, ``[columns]``: held whole, and followed by enough rows."""
        count = np.zeros(len(self._held), np.int64)
        for column, games in enumerate(self._held):
            while games and games[0][0] < oldest[column]:
                games.popleft()
            fresh = 0
            while fresh < len(games) and games[-1 - fresh][1] + self.after >= written[column]:
                fresh += 1
            count[column] = len(games) - fresh
        return count

    def draw(self, count: Ints, size: int, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """``size`` of the ``count [columns]`` available games, each alike: column, first row, last row, ``[size]``."""
        column, offset = Uniform().sample(count, size, generator)
        games = np.array([self._held[c][o] for c, o in zip(column, offset, strict=True)], np.int64).reshape(-1, 2)
        return column, games[:, 0], games[:, 1]

    def state_dict(self) -> dict[str, np.ndarray]:
        """All games, ``[n, 3]`` as column, first and last row, and where the running ones began."""
        held = [(column, *game) for column, games in enumerate(self._held) for game in games]
        return {"games": np.array(held, np.int64).reshape(-1, 3), "begun": self._begun.copy()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave."""
        self._begun[:] = state["begun"]
        for games in self._held:
            games.clear()
        for column, first, last in state["games"].tolist():
            self._held[column].append((first, last))


class Walk:
    """Lanes that each walk through one game after another, a chunk of rows at a time, with the memory carried along.

    Hausknecht and Stone 2015, section 4.2 ("bootstrapped sequential updates"): the memory is empty at a game's start
    and goes on from chunk to chunk, while weights change. The online and the target network each have their own.

    Args:
        length: Rows of a chunk.
        margin: Rows before a chunk that must be held too (for stacked images), as far as the game has them.
        initial_state: ``(lanes, device) -> state`` at a game's start.
        device: Where the states live.
    """

    def __init__(
        self, length: int, margin: int, initial_state: Callable[[int, torch.device], Tree], device: torch.device
    ) -> None:
        self.length, self.margin, self.device = length, margin, device
        self._initial = initial_state
        self.lanes = np.zeros((0, 4), np.int64)  # column, first row, last row, next row
        self.state: Tree = {}

    def place(self, size: int, oldest: Ints, draw: Callable[[int], tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Tree]:
        """Where every lane stands: column and row ``[size]``, and both networks' states there.

        Lanes at the end of their game, or whose rows have been overwritten, first get a new game from ``draw(n)``.

        Raises:
            ValueError: ``size`` differs from that of the first call.
        """
        if not len(self.lanes):
            self.lanes = np.zeros((size, 4), np.int64)
            empty = self._initial(size, self.device)
            self.state = empty | {f"target.{name}": value.clone() for name, value in empty.items()}
        if len(self.lanes) != size:
            raise ValueError(f"size is {size}, but {len(self.lanes)} lanes walk: give always the same size")
        column, first, last, row = self.lanes.T
        done = (row >= last) | (np.maximum(row - self.margin, first) < oldest[column])
        if done.any():
            found = np.stack(draw(int(done.sum())))
            self.lanes[done, :3], self.lanes[done, 3] = found.T, found[1]
            self._empty(done)
        return self.lanes[:, 0].copy(), self.lanes[:, 3].copy(), dict(self.state)

    def _empty(self, lanes: Flags) -> None:
        """Clear the memory of some lanes."""
        empty = self._initial(len(lanes), self.device)
        empty |= {f"target.{name}": value for name, value in empty.items()}
        self.state = choose(torch.from_numpy(lanes).to(self.device), empty, self.state)

    def advance(self, state: Tree) -> None:
        """All lanes go on by a chunk, with the states after its learned rows.

        Raises:
            ValueError: the states are not those of both networks.
        """
        if state.keys() != self.state.keys():
            raise ValueError(f"walking needs the states {sorted(self.state)} after a chunk, and got {sorted(state)}")
        self.lanes[:, 3] += self.length
        self.state = {name: value.detach().float() for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Lanes and states."""
        of = {"online": False, "target": True}
        states = {
            part: {
                name.removeprefix("target."): value.cpu().numpy().copy()
                for name, value in self.state.items()
                if name.startswith("target.") == target
            }
            for part, target in of.items()
        }
        return {"lanes": self.lanes.copy()} | states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""

        def tensors(part: str, prefix: str) -> dict[str, Tensor]:
            return {prefix + name: torch.from_numpy(value.copy()).to(self.device) for name, value in part_of(part)}

        def part_of(part: str) -> list[tuple[str, np.ndarray]]:
            return list(state.get(part, {}).items())

        self.lanes = state["lanes"].copy()
        self.state = tensors("online", "") | tensors("target", "target.")
