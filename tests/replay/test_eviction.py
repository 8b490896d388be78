"""A full replay lets go of windows drawn by their priority to a power: frequencies, bounds, and going on exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.replay.test_first_priorities import SPEC, stream

from retorq.losses.q_learning import QLearning
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities, Prioritized
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import UserError


@pytest.mark.parametrize("evict", [-0.4, -1.5, 0.0])
def test_what_is_evicted_is_drawn_by_priority_to_the_power(evict):
    """Frequencies of the first eviction against p^evict / sum p^evict, within four standard errors."""
    priorities = np.array([0.01, 0.1, 0.5, 1.0, 3.0, 20.0])
    chance, draws, count = np.random.default_rng(0), 6_000, np.zeros(6)
    for _ in range(draws):
        sampler = Prioritized(8, exponent=0.6, evict=evict)
        sampler.add([0, 1, 3, 4, 6, 7])
        sampler.update([0, 1, 3, 4, 6, 7], priorities)
        sampler.evict(1, chance)
        count += sampler._tree.get([0, 1, 3, 4, 6, 7]) == 0
    wanted = priorities**evict / (priorities**evict).sum()
    assert count.sum() == draws
    assert (np.abs(count / draws - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / draws)).all()


def test_evicted_items_are_gone_until_they_are_added_anew():
    sampler, chance = Prioritized(50, evict=-0.4), np.random.default_rng(1)
    sampler.add(np.arange(40))
    assert sampler.held == 40
    sampler.add(np.arange(30, 45))  # some anew
    assert sampler.held == 45
    sampler.remove([44, 49])  # one of them was never there
    sampler.evict(30, chance)
    left = np.flatnonzero(sampler._tree.leaves)
    assert sampler.held == len(left) == 14
    np.testing.assert_array_equal(left, np.flatnonzero(sampler._leaving.leaves))
    gone = np.setdiff1d(np.arange(50), left)
    sampler.update(gone, np.full(len(gone), 1e6))
    assert sampler.held == 14
    assert np.isin(sampler.sample(500, chance)[0], left).all()
    with pytest.raises(ValueError, match="15 items are to be evicted, but 14 are held"):
        sampler.evict(15, chance)
    plain = Prioritized(3)
    plain.add([0])
    with pytest.raises(ValueError, match="nothing draws them"):
        plain.evict(1, chance)
    with pytest.raises(UserError, match=r"evict of the prioritized replay is 0\.1; give 0 or less"):
        Prioritized(3, evict=0.1)


def test_a_saved_sampler_evicts_the_same():
    one, other = Prioritized(300, evict=-0.4), Prioritized(300, evict=-0.4)
    one.add(np.arange(250))
    one.update(np.arange(250), np.random.default_rng(0).lognormal(0, 3, 250))
    one.evict(40, np.random.default_rng(1))
    other.load_state_dict(one.state_dict())
    assert other.held == 210
    for sampler in (one, other):
        sampler.evict(100, np.random.default_rng(2))
    np.testing.assert_array_equal(one._tree.leaves, other._tree.leaves)
    np.testing.assert_array_equal(one._leaving.leaves, other._leaving.leaves)


def made(capacity=60, columns=2, n=3, surplus=3.0, evict=-0.4):
    return Replay(
        layout=Layout(spec=SPEC, state={}, values=True),
        window=Window(length=1, ahead=n),
        columns=columns,
        capacity=capacity,
        priorities=Priorities(eta=0.0, evict=evict),
        first_errors=QLearning(n=n, gamma=0.9, clip="none").first_errors,
        surplus=surplus,
    )


def held(replay):
    """Column and absolute row of all windows that can be drawn."""
    leaf = np.flatnonzero(replay.prioritized._tree.leaves)
    return set(zip((leaf // replay.slots).tolist(), replay._start_of(leaf).tolist(), strict=True))


def test_a_full_replay_holds_its_capacity_and_evicts_what_surprised_least():
    """Through five laps of the ring; what is left surprised more than what went, and some of it is old."""
    replay, ages, priorities = made(), [], {}
    weight, before = {"kept": [], "gone": []}, set()
    for number, row in zip(range(600), stream(np.random.default_rng(3), 2), strict=False):
        replay.extend(np.arange(2), row)
        now = held(replay)
        assert len(now) == replay.prioritized.held <= 60
        oldest = replay.storage.oldest
        assert all(start >= oldest[column] for column, start in now)
        if number > 150:
            assert len(now) >= 55  # the ring takes the very old
            weight["gone"] += [priorities[window] for window in before - now]
            weight["kept"] += [priorities[window] for window in before & now]
            ages += [replay.storage.written[column] - start for column, start in now]
        before = now
        for column, start in now:
            leaf = replay._leaf(np.array([column]), np.array([start]))
            priorities[column, start] = float(replay.prioritized._tree.get(leaf)[0])
    assert np.mean(weight["kept"]) > 1.1 * np.mean(weight["gone"])
    ages = np.array(ages)
    assert (ages > 40).any()  # a ring of the capacity would hold the last 30 rows of each column
    assert ages.max() <= replay.storage.rows == 120
    assert 20 < np.median(ages) < 40


def test_old_windows_come_out_as_they_went_in():
    replay, rows = made(), []
    for _, row in zip(range(500), stream(np.random.default_rng(4), 2), strict=False):
        rows.append(row)
        replay.extend(np.arange(2), row)
    batch = replay.sample(300)
    assert (replay.storage.written[0] - batch.keys[:, 1] > 34).any()
    for at, (column, start) in enumerate(batch.keys):
        for t in range(4):
            wanted = rows[start + t]
            assert batch.trajectory.reward[t, at].item() == wanted.reward[0, column]
            assert (
                batch.trajectory.inputs.observation["obs"][t, at].item() == wanted.inputs.observation["obs"][0, column]
            )


def test_late_priorities_of_evicted_windows_change_nothing():
    replay, chance = made(capacity=40), stream(np.random.default_rng(5), 2)
    for _, row in zip(range(100), chance, strict=False):
        replay.extend(np.arange(2), row)
    drawn = replay.sample(30).keys
    for _, row in zip(range(30), chance, strict=False):
        replay.extend(np.arange(2), row)
    now = held(replay)
    gone = np.array([key for key in drawn if tuple(key) not in now])
    assert len(gone) > 5
    before = replay.prioritized._tree.leaves
    replay.update(gone, torch.full((1, len(gone)), 1e9), torch.ones(1, len(gone), dtype=torch.bool))
    np.testing.assert_array_equal(replay.prioritized._tree.leaves, before)


def test_eviction_is_of_windows_that_may_begin_anywhere():
    with pytest.raises(ValueError, match="eviction are of windows that may begin anywhere"):
        Replay(
            layout=Layout(spec=SPEC, state={}),
            window=replace(Window(length=3, ahead=1), within=True),
            columns=1,
            capacity=90,
            priorities=Priorities(evict=-0.4),
            initial_state=lambda n, device: {},
        )
