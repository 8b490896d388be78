"""Replay against a list of rows per column, under random operations and many laps of the ring."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.replay.model import SPEC, STATE, Model, check_saved, made

from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import UserError

ROW_FIELDS = ("action", "reward", "terminated", "truncated", "last")
INPUT_FIELDS = ("previous_action", "previous_reward", "elapsed", "first")


def build(columns=2, capacity=40, stack=1, priorities=None, states=STATE, seed=0, **window):
    return made(columns, capacity, stack, states=states, window=window, priorities=priorities, seed=seed)


def check_batch(replay, model, batch):
    """Every row of every window is the model's."""
    rows, seen = batch.trajectory, batch.trajectory.inputs
    for b, (column, start) in enumerate(batch.keys):
        for t in range(replay.window.rows):
            truth = model.rows[column][start + t]
            for name in ROW_FIELDS:
                assert getattr(rows, name)[t, b].item() == truth[name], name
            for name in INPUT_FIELDS:
                assert getattr(seen, name)[t, b].item() == truth[name], name
            np.testing.assert_array_equal(seen.observation["vector"][t, b], truth["vector"])
            assert int(seen.observation["number"][t, b]) == truth["number"]
            image = model.stacked(column, start + t, replay.stack)
            np.testing.assert_array_equal(seen.observation["image"][t, b], image)
        for name in STATE:
            stored = model.rows[column][start][f"state.{name}"].astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(batch.state[name][b], stored)


def leaf_of(replay, column, start):
    return column * replay.slots + start // replay.window.period % replay.slots


def check_starts(replay, model, known):
    """What can be sampled is what the model says, none missing, none too many; ``known`` priorities are kept."""
    wanted = model.starts(replay.window, replay.storage.rows)
    assert replay.ready == bool(wanted)
    if not wanted:
        return
    if replay.prioritized is not None:
        expected = np.zeros(replay.prioritized._tree.capacity)
        for column, start in wanted:
            expected[leaf_of(replay, column, start)] = known.get((column, start), 1.0) ** 0.6
        np.testing.assert_allclose(replay.prioritized._tree.leaves, expected, rtol=1e-12)
    batch = replay.sample(8 if known else 40 * len(wanted))
    found = {(int(column), int(start)) for column, start in batch.keys}
    assert found <= wanted
    if not known:  # all are equally likely, so each is drawn, but for one case in 10^15
        assert found == wanted


SHAPES = st.fixed_dictionaries(
    {
        "length": st.sampled_from([1, 1, 3, 4]),
        "ahead": st.integers(1, 3),
        "burn_in": st.integers(0, 2),
        "period": st.integers(1, 3),
        "stack": st.integers(1, 3),
    }
)


@settings(max_examples=20)
@given(shape=SHAPES, columns=st.integers(1, 3), seed=st.integers(0, 10**6), prioritized=st.booleans())
def test_every_sample_is_a_window_of_the_streams(shape, columns, seed, prioritized):
    if shape["length"] == 1:
        shape |= {"burn_in": 0, "period": 1}
    replay = build(columns, 16 * columns, priorities=Priorities() if prioritized else None, seed=seed, **shape)
    model, random = Model(columns, seed), np.random.default_rng(seed)
    for _ in range(14):
        who = np.flatnonzero(random.random(columns) < 0.8)
        if len(who):
            replay.extend(who, model.make(who, int(random.integers(1, 5))))
        check_starts(replay, model, {})
    if replay.ready:
        check_batch(replay, model, replay.sample(12))
    assert replay.size == sum(min(len(rows), replay.storage.rows) for rows in model.rows)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), stack=st.integers(1, 3))
def test_priorities_follow_the_formula_and_old_keys_change_nothing(seed, stack):
    """Eta * max + (1 - eta) * mean over unmasked rows; keys of windows that are gone are dropped."""
    eta = 0.7
    replay = build(2, 40, stack, Priorities(eta=eta), length=3, seed=seed)
    model, random = Model(2, seed), np.random.default_rng(seed)
    known, old = {}, []
    highest = 1.0
    for turn in range(30):
        before = model.starts(replay.window, replay.storage.rows)
        who = np.arange(2)
        replay.extend(who, model.make(who, int(random.integers(1, 4))))
        now = model.starts(replay.window, replay.storage.rows)
        known = {key: value for key, value in known.items() if key in now} | dict.fromkeys(now - before, highest)
        check_starts(replay, model, known)
        if not replay.ready:
            continue
        batch = replay.sample(4)
        old.append(batch.keys)
        keys = old[0] if turn % 3 == 0 else batch.keys
        error = random.exponential(3.0, (3, 4)).astype(np.float32)
        mask = random.random((3, 4)) < 0.7
        replay.update(keys, torch.from_numpy(error), torch.from_numpy(mask))
        for b, key in enumerate(map(tuple, keys.tolist())):
            valid = error[:, b][mask[:, b]]
            if key in now:
                priority = eta * valid.max() + (1 - eta) * valid.mean() if len(valid) else 0.0
                known[key] = max(float(np.float32(priority)), 1e-6)
        highest = max([highest, *(known[key] for key in map(tuple, keys.tolist()) if key in now)])
        leaves = replay.prioritized._tree.leaves
        for (column, start), priority in known.items():
            assert leaves[leaf_of(replay, column, start)] == pytest.approx(priority**0.6, rel=1e-5)
        known = {k: float(leaves[leaf_of(replay, *k)] ** (1 / 0.6)) for k in known}
        highest = replay.prioritized.highest


def test_frequent_windows_weigh_less():
    replay = build(1, 60, priorities=Priorities(exponent=1.0, beta=0.5, beta_final=1.0))
    model = Model(1, 0)
    replay.extend(np.arange(1), model.make(np.arange(1), 30))
    first = np.array([[0, 0]])
    replay.update(first, torch.full((3, 1), 9.0), torch.ones(3, 1))
    batch = replay.sample(64, progress=1.0)
    heavy = batch.keys[:, 1] == 0
    np.testing.assert_allclose(batch.weight[heavy], 1 / 9, rtol=1e-6)
    np.testing.assert_allclose(batch.weight[~heavy], 1.0)
    np.testing.assert_allclose(replay.sample(64, progress=0.0).weight.min(), 9**-0.5, rtol=1e-6)


@pytest.mark.parametrize("priorities", [None, Priorities()])
def test_a_saved_replay_goes_on_exactly(priorities):
    check_saved(*(build(priorities=priorities, seed=seed, stack=2) for seed in (3, 99)), 50)


def test_zero_start_state_comes_from_the_network():
    replay = Replay(
        layout=Layout(spec=SPEC, state=STATE, period=1),
        window=Window(length=2, ahead=1),
        columns=1,
        capacity=20,
        initial_state=lambda columns, device: {"h": torch.full((columns, 3), 7.0, device=device)},
        start="zero",
    )
    replay.extend(np.arange(1), Model(1, 0).make(np.arange(1), 8))
    assert torch.equal(replay.sample(5).state["h"], torch.full((5, 3), 7.0))


def test_final_rows_alone_are_nothing_to_sample():
    """A stream that begins with the closing row of an older run has no transition yet: no endless draw."""
    replay = build(1, 20, length=1, ahead=1, period=1)
    rows = Model(1, 0).make(np.arange(1), 2)
    last = np.array([[True], [False]])
    replay.extend(np.arange(1), type(rows)(**{**vars(rows), "last": last}))
    assert not replay.ready
    replay.extend(np.arange(1), Model(1, 1).make(np.arange(1), 2))
    assert replay.ready
    assert 0 not in replay.sample(30).keys[:, 1]


def test_a_replay_too_small_for_its_windows_is_refused():
    with pytest.raises(UserError, match=r"replay_size is 12, .* give at least 14"):
        build(2, 12)
    build(2, 14)
