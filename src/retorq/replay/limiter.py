"""Limiter: how much is learned per step acted, and who has to wait for whom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Limiter:
    """Keeps rows trained at ``ratio`` times the steps inserted, as credits.

    Every step inserted earns ``ratio`` rows, every update spends ``cost`` rows, and updates happen while credits are
    left: the learner is never ahead by more than one update. Where acting and learning go on at the same time, inserts
    wait while more than ``slack`` credits are left, so that the learner is never behind by more than that. One of both
    may always go on: with credits the learner, without them the actors.

    Attributes:
        ratio: Rows trained per step inserted.
        cost: Rows an update trains on.
        slack: Credits above which inserts wait, at least 0.
        credits: What is left; negative after an update that was paid in part.
    """

    ratio: float
    cost: float
    slack: float = float("inf")
    credits: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would let both sides wait for ever."""
        if not (self.ratio >= 0 and self.cost > 0 and self.slack >= 0):
            raise ValueError(
                f"ratio is {self.ratio}, cost {self.cost} and slack {self.slack}: give a ratio of 0 or more, a cost "
                "above 0 and a slack of 0 or more"
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

    @property
    def may_insert(self) -> bool:
        """Whether actors may hand in more."""
        return self.credits <= self.slack
