"""Exploration against the published table of epsilons."""

import numpy as np
import pytest
from tests.small import agent

from retorq.acting.explore import Fixed, Ladder, Linear

TOTAL = 1_000_000


@pytest.mark.parametrize(
    ("columns", "rungs"),
    [
        (32, {0: 0.40, 1: 0.325, 4: 0.175, 8: 0.076, 16: 0.015, 18: 0.01, 31: 0.01}),
        (8, {0: 0.40, 1: 0.16, 2: 0.064, 3: 0.026, 4: 0.01, 7: 0.01}),
        (4, {0: 0.40, 1: 0.047, 2: 0.01, 3: 0.01}),
        (2, {0: 0.40, 1: 0.01}),
    ],
)
def test_the_ladder_at_the_start(columns, rungs):
    epsilon = Ladder(columns=columns).epsilon(0, TOTAL)
    assert epsilon.shape == (columns,)
    for column, value in rungs.items():
        assert epsilon[column] == pytest.approx(value, abs=6e-4), column


def test_the_ladder_of_32_comes_down():
    ladder = Ladder(columns=32)
    start, halfway = ladder.epsilon(0, TOTAL), ladder.epsilon(TOTAL // 4, TOTAL)
    assert (start.mean(), (start == 0.01).sum()) == (pytest.approx(0.070, abs=5e-4), 14)
    assert (halfway.mean(), (halfway == 0.01).sum()) == (pytest.approx(0.028, abs=5e-4), 23)
    assert halfway[0] == pytest.approx(0.205)
    for step in (TOTAL // 2, TOTAL):
        np.testing.assert_allclose(ladder.epsilon(step, TOTAL), 0.01, rtol=1e-12)


def test_the_base_waits_for_the_end_of_the_warm_up_and_then_catches_up():
    ladder = Ladder(columns=2, warmup=100)
    assert ladder.epsilon(99, 400)[0] == 0.4
    assert ladder.epsilon(100, 400)[0] == pytest.approx(0.4 - 0.39 * 0.5)


def test_a_short_run_first_comes_down_from_one():
    ladder = Ladder(columns=4, uniform_steps=100)
    plain = Ladder(columns=4)
    np.testing.assert_array_equal(ladder.epsilon(0, TOTAL), 1.0)
    np.testing.assert_allclose(ladder.epsilon(50, TOTAL), (1 + plain.epsilon(50, TOTAL)) / 2)
    np.testing.assert_allclose(ladder.epsilon(100, TOTAL), plain.epsilon(100, TOTAL))


def test_linear_decay():
    linear = Linear(columns=1, warmup=50, fraction=0.2, final=0.02)
    assert [float(linear.epsilon(step, 1000)[0]) for step in (0, 50, 150, 250, 900)] == pytest.approx(
        [1.0, 1.0, 0.51, 0.02, 0.02]
    )


@pytest.mark.parametrize("total", [300, 10**6])
def test_linear_decay_over_steps_however_long_the_run_is(total):
    linear = Linear(columns=2, warmup=50, steps=200, final=0.02)
    assert [float(linear.epsilon(step, total)[0]) for step in (0, 50, 150, 250, 290)] == pytest.approx(
        [1.0, 1.0, 0.51, 0.02, 0.02]
    )
    assert linear.epsilon(0, total).shape == (2,)
    assert linear.sentence == "epsilon 1 to 0.02 over 200 steps after 50 steps of warm-up"


def test_linear_may_start_anywhere_and_end_at_once():
    flat = Linear(columns=1, start=0.0, final=0.0, steps=1)
    assert [float(flat.epsilon(step, 100)[0]) for step in (0, 1, 50)] == [0.0, 0.0, 0.0]
    sudden = Linear(columns=1, start=0.3, final=0.1, steps=0, warmup=10)
    assert [float(sudden.epsilon(step, 100)[0]) for step in (0, 10, 11)] == pytest.approx([0.3, 0.3, 0.1])


def test_one_decay_has_one_length():
    with pytest.raises(ValueError, match=r"fraction is 0\.1 and steps is 5: give one of them"):
        Linear(columns=1, fraction=0.1, steps=5)


def test_one_environment_gets_linear_decay_and_says_so():
    one = agent(num_envs=1)
    assert isinstance(one.explore, Linear)
    assert any("one environment has no epsilon ladder" in note for note in one.notes)
    two = agent(num_envs=2)
    assert isinstance(two.explore, Ladder)
    assert not any("ladder" in note for note in two.notes)


def test_each_says_what_it_does():
    assert "base 0.4 to 0.01 over 50% of the run" in Ladder(columns=8).sentence
    assert "epsilon 1 to 0.01 over 10% of the run" in Linear(columns=1).sentence
    assert Fixed(columns=2, value=0.001).sentence == "epsilon 0.001"
    np.testing.assert_array_equal(Fixed(columns=2, value=0.001).epsilon(7, 9), [0.001, 0.001])
