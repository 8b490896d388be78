"""Exploration: with what probability each column acts at random, or with how much noise, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Explore(Protocol):
    """Gives how much each column explores: the probability of a uniformly random action.

    Where actions are continuous, it is the standard deviation of the noise added to them.
    """

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[B]``, at least 0, at agent step ``step`` (all columns together) of ``total``."""

    @property
    def sentence(self) -> str:
        """What it does, for the start of a run."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """A different epsilon per column: ``max(floor, base ** (1 + exponent * i / (B - 1)))`` (Ape-X, section 4; R2D2).

    ``base`` falls linearly from ``start`` to ``final`` over the first ``fraction`` of the run and stays at ``start``
    during the first ``warmup`` steps. ``uniform_steps`` (not in the papers) first brings every column down from 1 to
    its rung over that many steps, which short runs need.
    """

    columns: int
    start: float = 0.4
    final: float = 0.01
    floor: float = 0.01
    exponent: float = 7.0
    fraction: float = 0.5
    warmup: int = 0
    uniform_steps: int = 0

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[B]``."""
        progress = step / total if step >= self.warmup else 0.0
        share = min(1.0, progress / self.fraction) if self.fraction > 0 else 1.0
        base = self.start + (self.final - self.start) * share
        rung = np.arange(self.columns) / max(1, self.columns - 1)
        ladder = np.maximum(self.floor, base ** (1 + self.exponent * rung))
        if step >= self.uniform_steps:
            return ladder
        done = step / self.uniform_steps
        return 1.0 + (ladder - 1.0) * done

    @property
    def sentence(self) -> str:
        """One line for the start of a run."""
        first = f"from 1 over {self.uniform_steps:,} steps, then " if self.uniform_steps else ""
        return (
            f"epsilon {first}max({self.floor:g}, base^(1+{self.exponent:g}*i/{self.columns - 1})) per environment i, "
            f"base {self.start:g} to {self.final:g} over {self.fraction:.0%} of the run"
        )


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One epsilon for all columns, going linearly from ``start`` to ``final`` once ``warmup`` steps are done.

    It takes ``fraction`` of the run (a tenth if nothing is said), or ``steps`` agent steps however long the run is.
    Epsilons lie in [0, 1].

    Raises:
        ValueError: both ``fraction`` and ``steps`` are given.
    """

    columns: int
    start: float = 1.0
    final: float = 0.01
    fraction: float | None = None
    warmup: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse two lengths for one decay."""
        if self.fraction is not None and self.steps is not None:
            raise ValueError(f"fraction is {self.fraction} and steps is {self.steps}: give one of them")

    @property
    def _share(self) -> float:
        return 0.1 if self.fraction is None else self.fraction

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[B]``."""
        over = max(1.0, self._share * total if self.steps is None else float(self.steps))
        share = min(1.0, max(0, step - self.warmup) / over)
        return np.full(self.columns, self.start + (self.final - self.start) * share)

    @property
    def sentence(self) -> str:
        """One line for the start of a run."""
        over = f"{self._share:.0%} of the run" if self.steps is None else f"{self.steps:,} steps"
        after = f" after {self.warmup:,} steps of warm-up" if self.warmup else ""
        return f"epsilon {self.start:g} to {self.final:g} over {over}{after}"


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Normal noise on continuous actions in [-1, 1], of one standard deviation always and everywhere (Ape-X DPG)."""

    columns: int
    deviation: float

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[B]``."""
        return np.full(self.columns, self.deviation)

    @property
    def sentence(self) -> str:
        """One line for the start of a run."""
        return f"normal noise of standard deviation {self.deviation:g} on actions in [-1, 1]"


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same epsilon always: evaluation."""

    columns: int
    value: float

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[B]``."""
        return np.full(self.columns, self.value)

    @property
    def sentence(self) -> str:
        """One line."""
        return f"epsilon {self.value:g}"
