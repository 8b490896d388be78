"""Statistics of a few runs each on a few tasks: interquartile means, stratified bootstrap, probability of improvement.

After Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, "Deep reinforcement learning at the edge of the
statistical precipice". Scores come as one array ``[runs]`` per task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""``[R, n] -> [R]``: a statistic of each row."""

RESAMPLES, LEVEL = 2_000, 0.95


def iqm(scores: Floats) -> Floats:
    """Interquartile mean of each row: without its lowest and its highest ``floor(n / 4)`` scores, ``[R, n] -> [R]``."""
    cut = scores.shape[1] // 4
    middle: Floats = np.sort(scores, axis=1)[:, cut : scores.shape[1] - cut].mean(axis=1)
    return middle


def mean(scores: Floats) -> Floats:
    """Mean of each row, ``[R, n] -> [R]``."""
    found: Floats = scores.mean(axis=1)
    return found


def median(scores: Floats) -> Floats:
    """Median of each row, ``[R, n] -> [R]``."""
    found: Floats = np.median(scores, axis=1)
    return found


def value(statistic: Statistic, scores: Sequence[Floats]) -> float:
    """A statistic of all runs of all tasks together."""
    return float(statistic(np.concatenate(scores)[None])[0])


def interval(
    statistic: Statistic, scores: Sequence[Floats], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the stratified bootstrap: runs are drawn again, with replacement, within each task.

    It covers what other seeds would have given, not other tasks. With fewer than three runs per task it says little.
    The same seed gives the same interval.
    """
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([_again(task, resamples, generator) for task in scores], axis=1)
    return _middle(statistic(drawn), level)


def probability(ours: Sequence[Floats], theirs: Sequence[Floats]) -> float:
    """Probability of improvement: that a run of ours beats one of theirs on the same task; ties count half.

    The mean over tasks of the Mann-Whitney statistic over the number of pairs (Agarwal et al. 2021, section 4.3).
    """
    return float(np.mean([_beats(a[None], b[None])[0] for a, b in zip(ours, theirs, strict=True)]))


def probability_interval(
    ours: Sequence[Floats],
    theirs: Sequence[Floats],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The stratified bootstrap interval of ``probability``: both sides' runs are drawn again within each task."""
    generator = np.random.default_rng(seed)
    found = [
        _beats(_again(a, resamples, generator), _again(b, resamples, generator))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return _middle(np.mean(found, axis=0), level)


def _again(scores: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """``[n] -> [resamples, n]``."""
    return scores[generator.integers(scores.size, size=(resamples, scores.size))]


def _beats(ours: Floats, theirs: Floats) -> Floats:
    """Share of pairs that ours win, per row: ``[R, n], [R, m] -> [R]``."""
    difference = ours[:, :, None] - theirs[:, None, :]
    won: Floats = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
    return won


def _middle(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
