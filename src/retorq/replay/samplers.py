"""Which items of a replay a batch is made of: uniformly drawn, or in proportion to a priority. numpy only.

Everything is deterministic given the generator handed in, and continues bit for bit after ``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retorq.types import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class SumTree:
    """Non-negative weights with fast sums: change some of them, or find where the cumulative sum passes a value.

    Sixteen children per node, float64. A node is always recomputed as the sum of its children, never corrected by a
    difference, so that it depends on the leaves alone: nothing drifts, and the leaves are the whole state. The top
    level is a row of up to ``TOP`` nodes, searched by its cumulative sum. Setting and sampling take time proportional
    to the number of indices, nearly independent of the capacity.

    Args:
        capacity: number of leaves, at least 1; all start at 0.

    Raises:
        ValueError: ``capacity`` is below 1.
    """

    WIDTH = 16
    TOP = 4096
    _MANY = 1024  # from here on it pays to find the distinct parents before summing their children

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: give 1 or more")
        self.capacity = capacity
        self._limit = np.finfo(np.float64).max / capacity  # so that no sum overflows
        size = capacity
        self._levels: list[Floats] = []
        while size > self.TOP:
            self._levels.append(np.zeros(-(-size // self.WIDTH) * self.WIDTH))
            size = len(self._levels[-1]) // self.WIDTH
        self._levels.append(np.zeros(size))
        self._children = [level.reshape(-1, self.WIDTH) for level in self._levels[:-1]]
        self._cumulative: Floats | None = None  # of the top level, made when asked for

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._top()[-1])

    @property
    def leaves(self) -> Floats:
        """A copy of all weights, ``[capacity]``: the whole state."""
        return self._levels[0][: self.capacity].copy()

    def load(self, leaves: ArrayLike) -> None:
        """Replace all weights by ``leaves [capacity]``.

        Raises:
            ValueError: wrong shape, or values ``set`` would refuse.
        """
        values = np.asarray(leaves, np.float64)
        if values.shape != (self.capacity,):
            raise ValueError(f"leaves have shape {values.shape}, this tree needs ({self.capacity},)")
        self.set(np.arange(self.capacity), values)

    def get(self, indices: ArrayLike) -> Floats:
        """Weights ``[n]`` of the leaves ``indices [n]``."""
        return self._levels[0][self._checked(indices)]

    def set(self, indices: ArrayLike, values: ArrayLike) -> None:
        """Give the leaves ``indices [n]`` the weights ``values`` (``[n]`` or one number); of duplicates the last wins.

        Raises:
            ValueError: a value is negative, not finite, or so large that the total could overflow; or an index lies
                outside the tree. Nothing has changed then.
        """
        index = self._checked(indices)
        weight = np.asarray(values, np.float64)
        if index.size == 0:
            return
        if not (weight.min() >= 0 and weight.max() <= self._limit):
            wrong = weight[~((weight >= 0) & (weight <= self._limit))].flat[0]
            raise ValueError(f"a weight is {wrong}: give finite numbers from 0 to {self._limit:.3g}")
        self._levels[0][index] = weight
        for children, parents in zip(self._children, self._levels[1:], strict=True):
            index = index // self.WIDTH
            if index.size >= self._MANY:
                index = np.unique(index)
            parents[index] = children.take(index, axis=0).sum(axis=1)
        self._cumulative = None

    def sample(self, u: ArrayLike) -> Ints:
        """For each ``u [n]`` in [0, 1) the smallest index whose cumulative sum is greater than ``u * total``.

        A leaf of weight 0 is never returned, whatever the rounding.

        Raises:
            ValueError: every weight is 0.
        """
        top = self._top()
        if top[-1] == 0:
            raise ValueError("nothing to sample: every weight is 0")
        target = np.minimum(np.asarray(u, np.float64) * top[-1], np.nextafter(top[-1], 0))
        index = np.searchsorted(top, target, side="right")
        target = target - np.where(index > 0, top[index - 1], 0)
        row = np.arange(len(index))
        for children in reversed(self._children):
            cumulative = children.take(index, axis=0).cumsum(axis=1)
            # Sums in another order may round to less than the parent; staying below the last cumulative sum means
            # that the first one above the target has grown there, so that its child is not 0.
            np.minimum(target, np.nextafter(cumulative[:, -1], 0), out=target)
            child = (cumulative > target[:, None]).argmax(axis=1)
            target = target - np.where(child > 0, cumulative[row, child - 1], 0)
            index = index * self.WIDTH + child
        return index

    def _top(self) -> Floats:
        if self._cumulative is None:
            self._cumulative = np.cumsum(self._levels[-1])
        return self._cumulative

    def _checked(self, indices: ArrayLike) -> Ints:
        index = np.asarray(indices, np.int64)
        if index.size and not (index.min() >= 0 and index.max() < self.capacity):
            raise ValueError(f"indices from {index.min()} to {index.max()} do not fit into 0..{self.capacity - 1}")
        return index


class Prioritized:
    """Proportional prioritized sampling (Schaul et al. 2016, "Prioritized Experience Replay", sections 3.3 and 3.4).

    Item ``i`` is drawn with probability ``P(i) = p_i^exponent / sum_k p_k^exponent``, and its loss is weighted by
    ``(count * P(i))^-beta``, divided by the largest such weight *of the batch* (some implementations take the
    largest of the memory). New items enter with the highest priority seen so far (at the start 1), so that each is
    likely to be seen soon. Where the paper adds a small constant to every priority, here ``FLOOR`` bounds it from
    below: an item that is held can always be drawn, and priorities that matter stay as they are.

    Args:
        capacity: number of slots; items are named by their slot, ``0..capacity-1``.
        exponent: 0 is uniform, 1 fully proportional (the paper's alpha: 0.6).
        beta: importance exponent at the start of training (the paper: 0.4).
        beta_final: importance exponent at its end (the paper: 1).
        evict: exponent, at most 0, of the priorities by which ``evict`` draws what to let go (Ape-X DPG: -0.4); None:
            nothing is ever evicted.

    Raises:
        UserError: an exponent lies outside 0..1, or ``evict`` is above 0.
    """

    FLOOR = 1e-6

    def __init__(
        self,
        capacity: int,
        *,
        exponent: float = 0.6,
        beta: float = 0.4,
        beta_final: float = 1.0,
        evict: float | None = None,
    ) -> None:
        for name, value in (("exponent", exponent), ("beta", beta), ("beta_final", beta_final)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} of the prioritized replay is {value}; give a number from 0 to 1.")
        self.exponent, self.beta, self.beta_final = exponent, beta, beta_final
        self.highest = 1.0
        """The highest priority seen so far, which new items get."""
        self.clamped = 0
        """How many priorities were not finite and changed nothing."""
        if evict is not None and evict > 0:
            raise UserError(
                f"evict of the prioritized replay is {evict}; give 0 or less, so that low priorities go first."
            )
        self._tree = SumTree(capacity)
        self._evict = evict
        self._leaving = SumTree(capacity) if evict is not None else None
        self._held = 0

    @property
    def total(self) -> float:
        """Sum of all ``p^exponent``; 0 exactly when no item is held."""
        return self._tree.total

    @property
    def held(self) -> int:
        """How many items are held."""
        return self._held

    def add(self, indices: ArrayLike) -> None:
        """Hold the items ``indices [n]``, all different, new ones or anew, with the highest priority seen so far."""
        self._held += int(np.count_nonzero(self._tree.get(indices) == 0))
        self._set(np.asarray(indices, np.int64), self.highest)

    def remove(self, indices: ArrayLike) -> None:
        """Hold the items ``indices [n]``, all different, no longer."""
        self._held -= int(np.count_nonzero(self._tree.get(indices)))
        self._tree.set(indices, 0.0)
        if self._leaving is not None:
            self._leaving.set(indices, 0.0)

    def evict(self, count: int, generator: np.random.Generator) -> None:
        """Let go of ``count`` items, one after the other, each drawn with probability ``p_i^evict / sum_k p_k^evict``.

        Raises:
            ValueError: fewer are held, or this sampler was made without ``evict``.
        """
        if self._leaving is None or count > self._held:
            raise ValueError(f"{count} items are to be evicted, but {self._held} are held, or nothing draws them")
        for _ in range(count):
            self.remove(self._leaving.sample(generator.random(1)))

    def _set(self, index: Ints, priority: ArrayLike) -> None:
        """Give the items ``index [n]`` priorities above 0, ``[n]`` or one for all."""
        self._tree.set(index, np.asarray(priority) ** self.exponent)
        if self._leaving is not None:
            assert self._evict is not None
            self._leaving.set(index, np.asarray(priority) ** self._evict)

    def update(self, indices: ArrayLike, priorities: ArrayLike) -> None:
        """Give the items ``indices [n]`` the ``priorities [n]``, absolute errors; of duplicates the last wins.

        A priority that is not finite leaves the item's as it was and is counted in ``clamped``. Items that are not held
        (any more) stay out.

        Raises:
            ValueError: a priority is negative.
        """
        index, priority = np.asarray(indices, np.int64), np.asarray(priorities, np.float64)
        if index.size == 0:
            return
        finite = np.isfinite(priority)
        if (priority[finite] < 0).any():
            raise ValueError(f"a priority is {priority[finite].min()}: give absolute errors, 0 or above")
        self.clamped += int(index.size - np.count_nonzero(finite))
        index, priority = index[finite], np.maximum(priority[finite], self.FLOOR)
        held = self._tree.get(index) > 0
        self._set(index[held], priority[held])
        self.highest = max(self.highest, float(priority.max(initial=0.0)))

    def sample(self, size: int, generator: np.random.Generator) -> tuple[Ints, Floats]:
        """Draw ``size`` items, with replacement, one from each of ``size`` equal strata of the total.

        Returns:
            Indices ``[size]`` in ascending order and each item's probability ``P(i)`` of a single draw, ``[size]``.

        Raises:
            ValueError: no item is held.
        """
        indices = self._tree.sample((np.arange(size) + generator.random(size)) / size)
        return indices, self._tree.get(indices) / self._tree.total

    def weights(self, probabilities: Floats, progress: float) -> Floats:
        """Importance weights ``[n]`` in (0, 1] of items drawn with ``probabilities [n]``.

        ``(count * P)^-beta`` over its maximum is ``(P / min P)^-beta``: the number of items cancels. ``progress`` in
        [0, 1] is the part of training that is done, over which the exponent goes from ``beta`` to ``beta_final``.
        """
        beta = self.beta + (self.beta_final - self.beta) * min(max(progress, 0.0), 1.0)
        return (probabilities / probabilities.min()) ** -beta

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that sampling depends on but the generator, as arrays."""
        return {
            "leaves": self._tree.leaves,
            "highest": np.array(self.highest),
            "clamped": np.array(self.clamped),
            **({} if self._leaving is None else {"leaving": self._leaving.leaves}),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another capacity, or holds weights that cannot be.
        """
        self._tree.load(state["leaves"])
        self._held = int(np.count_nonzero(state["leaves"]))
        if self._leaving is not None:
            self._leaving.load(state["leaving"])
        self.highest, self.clamped = float(state["highest"]), int(state["clamped"])


@dataclass(frozen=True, kw_only=True)
class Priorities:
    """Prioritized replay (Schaul et al. 2016), of sequences as R2D2 does it.

    A sequence's priority is ``eta * max + (1 - eta) * mean`` of its absolute errors (R2D2, section 2.3). ``evict``:
    what a full replay lets go is drawn in proportion to ``priority^evict`` (Ape-X DPG); None: the oldest goes.
    """

    exponent: float = 0.6
    beta: float = 0.4
    beta_final: float = 1.0
    eta: float = 0.9
    evict: float | None = None

    def sampler(self, capacity: int) -> Prioritized:
        """A sampler of ``capacity`` slots."""
        return Prioritized(
            capacity, exponent=self.exponent, beta=self.beta, beta_final=self.beta_final, evict=self.evict
        )


class Uniform:
    """Uniform sampling over everything held, without any state."""

    def sample(self, count: Ints, size: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Draw ``size`` items, independently and with replacement, out of ``count [columns]`` items per column.

        Returns:
            Column ``[size]`` and offset ``[size]`` in ``0..count[column]-1``, int64.

        Raises:
            ValueError: a count is negative, or all are 0.
        """
        cumulative = np.cumsum(count, dtype=np.int64)
        if np.min(count) < 0 or cumulative[-1] == 0:
            raise ValueError(f"nothing to sample: the columns have {count} items")
        flat = generator.integers(cumulative[-1], size=size)
        column = np.searchsorted(cumulative, flat, side="right")
        return column, flat - cumulative[column] + np.asarray(count, np.int64)[column]
