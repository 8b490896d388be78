"""Statistics against loops in the paper's notation, scipy, and numbers worked by hand."""

import numpy as np
import pytest
import scipy.stats

from retorq.study import statistics


def arrays(*tasks):
    return [np.array(task, np.float64) for task in tasks]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 20])
def test_interquartile_mean_against_scipy_and_by_hand(count):
    scores = np.random.default_rng(count).normal(size=(6, count))
    np.testing.assert_allclose(statistics.iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=1))
    slow = []
    for row in scores:
        kept = sorted(row)[count // 4 : count - count // 4]
        slow.append(sum(kept) / len(kept))
    np.testing.assert_allclose(statistics.iqm(scores), slow)


def test_tasks_are_put_together_before_the_quarters_are_cut():
    tasks = arrays([0, 0, 100, 100], [1, 1, 1, 1])
    assert statistics.value(statistics.iqm, tasks) == 1.0  # sorted: 0 0 1 1 1 1 100 100, the middle four
    assert statistics.value(statistics.mean, tasks) == 25.5
    assert statistics.value(statistics.median, tasks) == 1.0


def test_runs_are_drawn_again_within_their_task():
    """With equal scores within each task nothing can vary; without strata it would."""
    tasks = arrays([0.0] * 5, [10.0] * 5)
    for statistic in (statistics.iqm, statistics.mean):
        assert statistics.interval(statistic, tasks) == (5.0, 5.0)


def test_the_interval_is_the_percentiles_of_the_loops():
    tasks = arrays([3.0, 1.0, 4.0, 1.5, 9.0], [2.0, 6.0, 5.0])
    generator = np.random.default_rng(7)
    indices = [generator.integers(len(task), size=(200, len(task))) for task in tasks]
    means = []
    for b in range(200):
        drawn = [task[i] for task, index in zip(tasks, indices, strict=True) for i in index[b]]
        kept = sorted(drawn)[2:6]
        means.append(sum(kept) / 4)
    means.sort()
    low, high = statistics.interval(statistics.iqm, tasks, level=0.8, resamples=200, seed=7)
    assert low == pytest.approx(np.interp(0.1 * 199, range(200), means))
    assert high == pytest.approx(np.interp(0.9 * 199, range(200), means))


def test_the_interval_agrees_with_scipys_bootstrap():
    scores = np.random.default_rng(0).normal(size=30)
    ours = statistics.interval(statistics.mean, [scores], resamples=20_000)
    theirs = scipy.stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.02)


def test_probability_of_improvement_by_pairs_and_by_mann_whitney():
    ours, theirs = arrays([3, 5, 5], [1, 2]), arrays([4, 5], [7, 8, 9])
    pairs = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in one for b in other])
        for one, other in zip(ours, theirs, strict=True)
    ]
    assert statistics.probability(ours, theirs) == pytest.approx(np.mean(pairs))
    assert pairs == [pytest.approx(0.5), 0.0]
    assert statistics.probability(theirs, ours) == pytest.approx(1 - np.mean(pairs))
    a, b = np.random.default_rng(1).normal(size=(2, 12))
    u = scipy.stats.mannwhitneyu(a, b).statistic
    assert statistics.probability([a], [b]) == pytest.approx(u / 144)


def test_the_interval_of_a_probability():
    ours, theirs = arrays([5.0, 6.0, 7.0]), arrays([1.0, 2.0])
    assert statistics.probability_interval(ours, theirs) == (1.0, 1.0)
    low, high = statistics.probability_interval(arrays([1.0, 2.0, 3.0, 8.0]), arrays([2.5, 2.6, 2.7]))
    assert 0.0 <= low < 0.5 < high <= 1.0
    again = statistics.probability_interval(arrays([1.0, 2.0, 3.0, 8.0]), arrays([2.5, 2.6, 2.7]))
    assert (low, high) == again
