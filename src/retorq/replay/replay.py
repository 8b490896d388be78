"""Replay: storage, windows and a sampler behind one face: ``extend``, ``sample``, ``update``, ``ready``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retorq.ops.states import choose
from retorq.replay.games import Games, Walk
from retorq.replay.samplers import Ints, Priorities, Prioritized, Uniform
from retorq.replay.storage import Layout, Storage
from retorq.replay.windows import Window, require_capacity
from retorq.replay.within import Within
from retorq.types import Batch, Trajectory, Tree, UserError


class Replay:
    """Rows go in by column, batches of windows come out.

    What is drawn (``draw``):

    - ``"row"``: windows, all alike or by priority. Without ``window.within`` they begin on the grid of states; with it
      also at every game's first row, and are named by their first learned row (``replay.within``).
    - ``"episode"``: a finished game, each alike, then a start in it such that ``length`` rows are learned from, each
      alike; of shorter games the first row (Hausknecht and Stone 2015, "bootstrapped random updates").
    - ``"walk"``: each of the batch's lanes walks through finished games from their first row to their last, the memory
      carried along by ``update`` (the same paper, "bootstrapped sequential updates").

    Args:
        layout: What a row consists of.
        window: What a sample consists of.
        columns: Number of streams.
        capacity: Steps to hold, all columns together.
        priorities: None for uniform sampling; only with ``draw="row"``.
        stack: Images to stack on the channel axis when sampling.
        initial_state: ``(columns, device) -> state`` at the start of an episode.
        device: Where the rows live.
        seed: Seed of the sampling generator.
        start: What ``Batch.state`` is: the stored state, or the initial one (zeros).
        first_errors: Makes errors and mask ``[length, B]`` of what actors thought of new windows (``Storage.told``);
            their priorities come of these instead of the highest priority so far. Needs ``layout.values``.
        surplus: Share of ``capacity`` that may be held beyond it until ``trim`` is called (Ape-X's soft cap). With
            ``priorities.evict`` never more than ``capacity`` windows are held, and these are rows beside them: windows
            that are not evicted grow old, and go with the rows that are overwritten.
        draw: See above; whole games need ``window.within``, no burn-in, and ``start="zero"``.

    Raises:
        UserError: ``capacity`` is too small.
        ValueError: arguments that do not go together.
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
        start: Literal["stored", "zero"] = "stored",
        first_errors: Callable[[Tree], tuple[Tensor, Tensor]] | None = None,
        surplus: float = 0.0,
        draw: Literal["row", "episode", "walk"] = "row",
    ) -> None:
        require_capacity(capacity, window, columns)
        if draw != "row" and (priorities is not None or not window.within or window.burn_in or start != "zero"):
            raise ValueError(f"draw is {draw!r}: give a window within games, no burn-in, start zero and no priorities")
        if initial_state is None and (start == "zero" or window.within):
            raise ValueError("windows that begin with an empty memory need initial_state")
        if (first_errors is not None or surplus) and priorities is None:
            raise ValueError("first_errors and surplus are of a prioritized replay: give priorities")
        if (surplus or (priorities is not None and priorities.evict is not None)) and window.within:
            raise ValueError("surplus and eviction are of windows that may begin anywhere, and these lie within games")
        self.window, self.stack, self.priorities, self.draw = window, stack, priorities, draw
        self.first_errors, self.cap = first_errors, capacity // columns
        self.initial_state, self.start = initial_state, start
        self.storage = Storage(layout, columns, int(self.cap * (1 + surplus)), device)
        self.generator = np.random.default_rng(seed)
        self.uniform = Uniform()
        self._trimmed = np.zeros(columns, np.int64)  # rows below this begin no window any more
        self.slots = self.storage.rows // window.period
        self.prioritized: Prioritized | None = None
        self.within: Within | None = None
        self.games: Games | None = None
        self.walk: Walk | None = None
        if draw == "walk":
            assert initial_state is not None
            self.walk = Walk(window.length, window.margin, initial_state, self.storage.device)
        if draw != "row":
            self.games = Games(columns, window.length + window.ahead - 2)
        elif window.within:
            sampler = (priorities or Priorities(exponent=0.0)).sampler(columns * self.storage.rows)
            self.prioritized = sampler
            self.within = Within(window, self.storage.rows, columns, sampler)
        elif priorities is not None:
            self.prioritized = priorities.sampler(columns * self.slots)

    @property
    def size(self) -> int:
        """Rows held."""
        return int(np.minimum(self.storage.written, self.storage.rows).sum())

    @property
    def ready(self) -> bool:
        """Whether there is anything to sample.

        Raises:
            UserError: Whole games are asked for, and none has been held for two rounds of the ring.
        """
        if self.games is not None:
            return self._whole_games()
        if self.prioritized is not None:
            return self.prioritized.total > 0
        first, count = self._range()
        if self.window.length > 1 or count.sum() > 8 * len(count):
            return bool(count.sum() > 0)
        # Among so few starts all may be final rows, which no transition begins with.
        column = np.repeat(np.arange(len(count)), count)
        start = first[column] + np.concatenate([np.arange(n) for n in count]) * self.window.period
        return not self.storage.last(column, start).all()

    @property
    def mass(self) -> float:
        """What all windows (or games) that can be drawn weigh together: a shard is drawn from in proportion to it."""
        if self.games is not None:
            return float(self.games.available(self.storage.oldest, self.storage.written).sum())
        if self.prioritized is not None:
            return self.prioritized.total
        first, count = self._range()
        if self.window.length > 1:
            return float(count.sum())
        return float(count.sum() - self.storage.finals(first, count))  # which begin no transition

    @property
    def windows(self) -> int:
        """How many windows (or games) can be drawn."""
        return self.prioritized.held if self.prioritized is not None else int(self.mass)

    def _whole_games(self) -> bool:
        assert self.games is not None
        storage = self.storage
        if self.games.available(storage.oldest, storage.written).any():
            return True
        if (storage.written >= 2 * storage.rows).all():
            raise UserError(
                f"replay_size is {storage.rows * storage.columns}, {storage.rows} rows of each environment, less than "
                "one whole game; give more, or draw sequences instead of games."
            )
        return False

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        return self.window.range(self.storage.written, self.storage.rows)

    def extend(self, columns: np.ndarray, trajectory: Trajectory) -> None:
        """Add rows ``[T, len(columns)]``; recurrent states come as ``extras["state.NAME"] [T, B, ...]``."""
        state = {k.removeprefix("state."): v for k, v in trajectory.extras.items() if k.startswith("state.")}
        if self.prioritized is None and self.games is None:
            self.storage.append(columns, trajectory, state)
            return
        written, columns = self.storage.written, np.asarray(columns)
        last = np.asarray(trajectory.last, bool)
        begins = np.asarray(trajectory.inputs.first, bool) & (np.asarray(trajectory.inputs.elapsed) == 0) & ~last
        for t in range(trajectory.rows):
            if self.within is not None:
                self.within.forget(columns, written[columns])
            elif self.games is None:
                self._forget(columns)
            row = trajectory.part(t, t + 1)
            self.storage.append(columns, row, {name: value[t : t + 1] for name, value in state.items()})
            if self.within is not None:
                self._prioritize(*self.within.admit(columns, written[columns], begins[t], last[t]))
            elif self.games is not None:
                self.games.note(columns, written[columns] - 1, begins[t], last[t])
            else:
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
        """Admit the window that has just become complete, after making room for it where windows are evicted."""
        assert self.prioritized is not None
        start = self.storage.written[columns] - self.window.rows
        new = (start >= 0) & (start % self.window.period == 0)
        if self.window.length == 1 and new.any():
            new[new] = ~self.storage.last(columns[new], start[new])
        if new.any():
            if self.priorities is not None and self.priorities.evict is not None:
                surplus = self.prioritized.held + int(new.sum()) - self.cap * self.storage.columns
                self.prioritized.evict(max(0, surplus), self.generator)
            self.prioritized.add(self._leaf(columns[new], start[new]))
            self._prioritize(columns[new], start[new])

    def _prioritize(self, column: Ints, row: Ints) -> None:
        """Give windows that are new the priorities their actors' thoughts make; those nobody thought of keep theirs."""
        if self.first_errors is None or not len(row):
            return
        told = self.storage.told(column, self._learned(row), self.window.length + self.window.ahead)
        priority = self._priority(*self.first_errors(told))
        known = np.isfinite(priority)
        self._reprioritize(column[known], row[known], priority[known])

    def _learned(self, row: Ints) -> Ints:
        """First learned row of the windows that are named by ``row [n]``."""
        return row if self.window.within else row + self.window.burn_in

    def trim(self) -> None:
        """Let go of the windows that begin in the oldest rows of each column, beyond the capacity."""
        assert self.prioritized is not None
        stop = self.storage.written - self.cap
        start = np.maximum(self.storage.oldest, self._trimmed)
        for column in np.flatnonzero(stop > start):
            first = -(-start[column] // self.window.period) * self.window.period
            rows = np.arange(first, stop[column], self.window.period)
            self.prioritized.remove(self._leaf(np.full(len(rows), column), rows))
        self._trimmed = np.maximum(stop, 0)

    def sample(self, size: int, progress: float = 0.0) -> Batch:
        """``size`` windows, with replacement. ``progress`` in [0, 1] moves the importance exponent."""
        weight, state = np.ones(size, dtype=np.float32), None
        if self.walk is not None:
            column, row, state = self.walk.place(size, self.storage.oldest, self._games)
        else:
            column, row, probability = self._draw(size)
            if self.prioritized is not None and self.priorities is not None:
                weight = self.prioritized.weights(probability, progress).astype(np.float32)
        return Batch(
            trajectory=self._gather(column, row),
            state=self._state(column, row) if state is None else state,
            weight=torch.from_numpy(weight).to(self.storage.device),
            keys=np.stack([column, row], axis=1),
        )

    def look(self, size: int) -> Trajectory:
        """``size`` windows to look at, not to learn from: no lane walks on."""
        column, row, _ = self._draw(size)
        return self._gather(column, row)

    def _draw(self, size: int) -> tuple[Ints, Ints, np.ndarray]:
        """Column and row that name each window, and the probability it was drawn with where that matters."""
        if self.games is not None:
            column, first, last = self._games(size)
            places = np.maximum(last - first - self.window.length, 0) + 1
            return column, first + self.generator.integers(places), np.ones(size)
        if self.within is not None:
            return self.within.sample(size, self.generator, self.storage.written)
        if self.prioritized is not None:
            leaf, probability = self.prioritized.sample(size, self.generator)
            return leaf // self.slots, self._start_of(leaf), probability
        return *self._any(size), np.ones(size)

    def _games(self, size: int) -> tuple[Ints, Ints, Ints]:
        assert self.games is not None
        count = self.games.available(self.storage.oldest, self.storage.written)
        return self.games.draw(count, size, self.generator)

    def _any(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Uniform over all starts; a transition never starts at a game's final row, which leads nowhere."""
        first, count = self._range()
        column = start = np.empty(0, np.int64)
        while len(column) < size:
            # Some more than are asked for, since some are final rows: to draw again takes as long as to draw.
            drawn, offset = self.uniform.sample(count, size + size // 4 + 4, self.generator)
            begin = first[drawn] + offset * self.window.period
            good = ~self.storage.last(drawn, begin) if self.window.length == 1 else slice(None)
            column, start = np.append(column, drawn[good]), np.append(start, begin[good])
        return column[:size], start[:size]

    def _start_of(self, leaf: np.ndarray) -> np.ndarray:
        """Absolute row of the window a leaf stands for: the newest complete one in its slot."""
        column, slot = np.divmod(leaf, self.slots)
        newest = self.storage.written[column] - self.window.rows
        row = slot * self.window.period
        return row + (newest - row) // self.storage.rows * self.storage.rows

    def first_row(self, keys: np.ndarray) -> np.ndarray:
        """Absolute number of row 0 of the windows ``keys [B, 2]``, ``[B]``; perhaps not held, see :meth:`_gather`."""
        return keys[:, 1] - (self.window.burn_in if self.window.within else 0)

    def _gather(self, column: Ints, row: Ints) -> Trajectory:
        if not self.window.within:
            return self.storage.gather(column, row, self.window.rows, self.stack)
        # The burn-in rows before a game's first row may be gone. What stands for them is forgotten at the reset.
        oldest = self.storage.oldest[column]
        return self.storage.gather(column, row - self.window.burn_in, self.window.rows, self.stack, oldest)

    def _state(self, column: np.ndarray, row: np.ndarray) -> Tree:
        if self.start == "zero":
            assert self.initial_state is not None
            return self.initial_state(len(column), self.storage.device)
        if self.within is None:
            return self.storage.state(column, row)
        assert self.initial_state is not None
        begins = self.within.empty(column, row)
        state = self.storage.state(column, np.where(begins, 0, row - self.window.burn_in))
        empty = self.initial_state(len(column), self.storage.device)
        return choose(torch.from_numpy(begins).to(self.storage.device), empty, state)

    def states_at(self, keys: np.ndarray, offset: np.ndarray) -> Tree:
        """States stored before row ``offset [B]`` of the windows ``keys [B, 2]`` just drawn: float32 ``[B, ...]``.

        Raises:
            ValueError: such a row is not on the grid of stored states.
        """
        row = self.first_row(keys) + offset
        if (row % self.window.period).any():
            raise ValueError(f"states are stored every {self.window.period} rows, and not before all of rows {row}")
        return self.storage.state(keys[:, 0], row)

    def update(self, keys: np.ndarray, error: Tensor, mask: Tensor, state: Tree | None = None) -> None:
        """After an update on the windows ``keys [B, 2]``: their priorities, or where the walk goes on.

        Priorities are made of the errors ``[T, B]``; masked rows do not count. ``state`` are the recurrent states after
        the learned rows (``LossOutput.state``), which a walk needs and nothing else does.
        """
        if self.walk is not None:
            self.walk.advance(state or {})
            return
        if self.prioritized is None or self.priorities is None:
            return
        self._reprioritize(keys[:, 0], keys[:, 1], self._priority(error, mask))

    def _priority(self, error: Tensor, mask: Tensor) -> np.ndarray:
        """Priorities ``[B]`` of windows with the errors ``[T, B]``."""
        assert self.priorities is not None
        valid = mask.float()
        error = torch.where(valid > 0, error.float(), 0.0)
        highest, mean = error.amax(0), error.sum(0) / valid.sum(0).clamp(min=1)
        priority: np.ndarray = (self.priorities.eta * highest + (1 - self.priorities.eta) * mean).cpu().numpy()
        return priority

    def _reprioritize(self, column: Ints, row: Ints, priority: np.ndarray) -> None:
        """Give windows new priorities ``[n]``; those no longer held change nothing."""
        if self.within is not None:
            self.within.update(column, row, priority, self.storage.written)
            return
        assert self.prioritized is not None
        held = row >= self._range()[0][column]  # another window may have taken the place of one that is gone
        self.prioritized.update(self._leaf(column[held], row[held]), priority[held])

    @property
    def clamped(self) -> int:
        """How many priorities were not finite and changed nothing."""
        return self.prioritized.clamped if self.prioritized is not None else 0

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rows: counters, priorities, games and the generator."""
        state: dict[str, Any] = {
            "written": self.storage.written.copy(),
            "generator": self.generator.bit_generator.state,
        }
        if (sampler := self.within or self.prioritized) is not None:
            state["priorities"] = sampler.state_dict()
        if self.games is not None:
            state["games"] = self.games.state_dict()
        if self.walk is not None:
            state["walk"] = self.walk.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back ``state_dict``; the rows come by ``storage.restore``."""
        self.storage.written[:] = state["written"]
        self.generator.bit_generator.state = state["generator"]
        if (sampler := self.within or self.prioritized) is not None:
            sampler.load_state_dict(state["priorities"])
        if self.games is not None:
            self.games.load_state_dict(state["games"])
        if self.walk is not None:
            self.walk.load_state_dict(state["walk"])

    def chunks(self) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The rows, in pieces for a checkpoint; see :meth:`Storage.chunks`."""
        return self.storage.chunks()

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put back one piece of ``chunks`` by its name."""
        self.storage.restore(name, tensors)
