"""Limiter: how much is learned per step acted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Limiter:
    """Keeps rows trained at ``ratio`` times the steps inserted, as credits.

    Every step inserted earns ``ratio`` rows, every update spends ``cost`` rows, and updates happen while credits are
    left: the learner is never ahead by more than one update. It is not behind either, since steps are only taken when
    no credits are left; actors that go on meanwhile wait when their bounded queues are full.

    Attributes:
        ratio: Rows trained per step inserted.
        cost: Rows an update trains on.
        credits: What is left; negative after an update that was paid in part.
    """

    ratio: float
    cost: float
    credits: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would never let anybody learn, or never stop."""
        if not (self.ratio >= 0 and self.cost > 0):
            raise ValueError(
                f"ratio is {self.ratio} and cost {self.cost}: give a ratio of 0 or more and a cost above 0"
            )

    def inserted(self, steps: int) -> None:
        """Count steps that have been acted and stored."""
        self.credits += steps * self.ratio

    def sampled(self) -> None:
        """Count an update."""
        self.credits -= self.cost

    @property
    def may_sample(self) -> bool:
        """Whether an update is paid for, at least in part."""
        return self.credits > 0
