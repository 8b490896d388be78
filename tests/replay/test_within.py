"""Sequences within games against the list of rows per column: which there are, what they hold, no row left out."""

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

FIELDS = ("action", "reward", "terminated", "truncated", "last")


def nothing(columns, device):
    return {name: torch.full((columns, *shape), 0.25, device=device) for name, shape in STATE.items()}


def build(columns=2, capacity=80, stack=1, priorities=None, seed=0, start="stored", **window):
    window |= {"within": True}
    more = {"priorities": priorities, "initial_state": nothing, "seed": seed, "start": start}
    return made(columns, capacity, stack, window=window, **more)


def leaf_of(replay, column, row):
    return column * replay.storage.rows + row % replay.storage.rows


def check_starts(replay, model, known, exponent):
    wanted = model.starts_within(replay.window, replay.storage.rows)
    expected = np.zeros(replay.storage.columns * replay.storage.rows)
    for key in wanted:
        expected[leaf_of(replay, *key)] = known.get(key, 1.0) ** exponent
    np.testing.assert_allclose(replay.prioritized._tree.leaves, expected, rtol=1e-6)
    assert replay.ready == bool(wanted)
    return wanted


def check_batch(replay, model, batch):
    """Learned and following rows are the model's; so are burn-in rows, but where the memory is empty afterwards."""
    window, rows = replay.window, batch.trajectory
    for b, (column, row) in enumerate(batch.keys):
        begins = model.begins(column, row)
        empty = begins or row < window.burn_in  # the stream begins
        oldest = max(0, len(model.rows[column]) - replay.storage.rows)
        for t in range(window.rows):
            absolute = max(row - window.burn_in + t, oldest)
            assert empty or absolute == row - window.burn_in + t
            truth = model.rows[column][absolute]
            for name in FIELDS:
                assert getattr(rows, name)[t, b].item() == truth[name], name
            assert rows.inputs.first[t, b] == truth["first"]
            if t >= window.burn_in or not begins:
                image = model.stacked(column, absolute, replay.stack)
                np.testing.assert_array_equal(rows.inputs.observation["image"][t, b], image)
        for name, shape in STATE.items():
            stored = model.rows[column][max(0, row - window.burn_in)][f"state.{name}"]
            expected = np.full(shape, 0.25) if empty or replay.start == "zero" else stored.astype(np.float16)
            np.testing.assert_array_equal(batch.state[name][b], expected.astype(np.float32))


SHAPES = st.fixed_dictionaries(
    {
        "length": st.integers(1, 4),
        "ahead": st.integers(1, 3),
        "burn_in": st.integers(0, 4),
        "period": st.integers(1, 4),
        "stack": st.integers(1, 3),
        "start": st.sampled_from(["stored", "zero"]),
    }
)


@settings(max_examples=20)
@given(shape=SHAPES, columns=st.integers(1, 3), seed=st.integers(0, 10**6), prioritized=st.booleans())
def test_every_sample_is_a_sequence_of_the_games(shape, columns, seed, prioritized):
    """Through several rounds of the ring, columns at different places."""
    replay = build(columns, 18 * columns, priorities=Priorities() if prioritized else None, seed=seed, **shape)
    model, random = Model(columns, seed), np.random.default_rng(seed)
    for _ in range(20):
        who = np.flatnonzero(random.random(columns) < 0.8)
        if len(who):
            replay.extend(who, model.make(who, int(random.integers(1, 5))))
        wanted = check_starts(replay, model, {}, 0.6 if prioritized else 0.0)
        if wanted:
            batch = replay.sample(6)
            assert {(int(c), int(r)) for c, r in batch.keys} <= wanted
            assert torch.equal(batch.weight, torch.ones(6))
            check_batch(replay, model, batch)


@settings(max_examples=25)
@given(
    length=st.integers(1, 5),
    shorter=st.integers(0, 4),
    burn_in=st.integers(0, 6),
    ahead=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_every_row_of_every_game_is_learned_from(length, shorter, burn_in, ahead, seed):
    """Also the first rows of each game, those of the stream, and games shorter than the burn-in."""
    period = max(1, length - shorter)
    replay = build(1, 60, length=length, burn_in=burn_in, ahead=ahead, period=period)
    model = Model(1, seed)
    learned, complete = set(), 0
    for _ in range(20):
        replay.extend(np.arange(1), model.make(np.arange(1), 5))
        rows = model.rows[0]
        for leaf in np.flatnonzero(replay.prioritized._tree.leaves):
            newest = len(rows) - length - ahead
            row = int(leaf + (newest - leaf) // replay.storage.rows * replay.storage.rows)
            for t in range(row, row + length):
                if rows[t]["last"]:
                    break
                learned.add(t)
        complete = len(rows) - length - ahead
    wanted = {t for t in range(complete + 1) if not rows[t]["last"]}
    assert wanted <= learned


@pytest.mark.parametrize(("begun", "starts"), [(0, [0, 1, 5, 7, 9, 13]), (3, [5, 7, 9, 13])])
def test_starts_by_hand(begun, starts):
    """Rows 0..4 are a game, 5..6 another (final rows 4 and 6), 7.. a third; grid 4, burn-in 5: grid starts 1, 5, 9, 13.

    Row 1's burn-in begins before the stream: allowed where that begins with a game, not in the midst of one.
    """
    replay = build(1, 40, length=4, burn_in=5, ahead=1, period=4)
    rows = Model(1, 0).make(np.arange(1), 19)
    flags = {name: np.zeros((19, 1), bool) for name in ("first", "last")}
    flags["first"][[5, 7, 10]] = True  # the last of these after a lost life
    flags["first"][0] = begun == 0
    flags["last"][[4, 6]] = True
    elapsed = np.array([*range(begun, begun + 5), 0, 1, *range(12)], np.int32)[:, None]
    inputs = type(rows.inputs)(**vars(rows.inputs) | {"first": flags["first"], "elapsed": elapsed})
    replay.extend(np.arange(1), type(rows)(**vars(rows) | {"inputs": inputs, "last": flags["last"]}))
    assert np.flatnonzero(replay.prioritized._tree.leaves).tolist() == starts


def test_all_starts_are_equally_likely_without_priorities():
    replay, model = build(2, 80), Model(2, 1)
    replay.extend(np.arange(2), model.make(np.arange(2), 55))
    wanted = sorted(model.starts_within(replay.window, replay.storage.rows))
    keys = np.concatenate([replay.sample(50).keys for _ in range(800)])
    count = np.array([(keys == key).all(1).sum() for key in wanted])
    assert count.sum() == len(keys)
    np.testing.assert_allclose(count / len(keys), 1 / len(wanted), rtol=0.15)
    replay.update(keys[:50], torch.rand(3, 50) * 9, torch.ones(3, 50))
    assert set(replay.prioritized._tree.leaves.tolist()) == {0.0, 1.0}


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), stack=st.integers(1, 3), burn_in=st.integers(0, 3))
def test_priorities_count_unmasked_rows_and_old_keys_change_nothing(seed, stack, burn_in):
    eta = 0.7
    replay = build(2, 44, stack, Priorities(eta=eta), seed=seed, burn_in=burn_in)
    model, random = Model(2, seed), np.random.default_rng(seed)
    known, old, highest = {}, [], 1.0
    for turn in range(40):
        before = model.starts_within(replay.window, replay.storage.rows)
        replay.extend(np.arange(2), model.make(np.arange(2), int(random.integers(1, 4))))
        now = model.starts_within(replay.window, replay.storage.rows)
        known = {key: value for key, value in known.items() if key in now} | dict.fromkeys(now - before, highest)
        check_starts(replay, model, known, 0.6)
        if not replay.ready:
            continue
        batch = replay.sample(4)
        old.append(batch.keys)
        keys = old[0] if turn % 3 == 0 else batch.keys
        error = random.exponential(3.0, (3, 4)).astype(np.float32)
        mask = random.random((3, 4)) < 0.7
        error[~mask] = np.where(random.random((~mask).sum()) < 0.5, np.nan, 1e6)  # what is masked may be anything
        if turn % 5 == 0:
            error[0, 1], mask[0, 1] = np.inf, True
        clamped = replay.clamped
        replay.update(keys, torch.from_numpy(error), torch.from_numpy(mask))
        assert replay.clamped - clamped == (turn % 5 == 0 and tuple(keys[1]) in now) or keys is old[0]
        for b, key in enumerate(map(tuple, keys.tolist())):
            valid = error[:, b][mask[:, b]]
            if key in now and np.isfinite(valid).all():
                priority = eta * valid.max() + (1 - eta) * valid.mean() if len(valid) else 0.0
                known[key] = max(float(np.float32(priority)), 1e-6)
        highest = replay.prioritized.highest
        leaves = replay.prioritized._tree.leaves
        for key, priority in known.items():
            assert leaves[leaf_of(replay, *key)] == pytest.approx(priority**0.6, rel=1e-5)


@pytest.mark.parametrize("priorities", [None, Priorities()])
def test_a_saved_replay_goes_on_exactly(priorities):
    check_saved(*(build(priorities=priorities, seed=seed, stack=2, burn_in=3) for seed in (3, 99)), 90)


def test_states_are_read_where_they_are_stored():
    replay, model = build(2, 80, burn_in=3, period=2, length=4), Model(2, 4)
    replay.extend(np.arange(2), model.make(np.arange(2), 70))
    keys = replay.sample(20).keys
    row = replay.first_row(keys)
    offset = 3 + (row + 3) % 2
    states = replay.states_at(keys, offset)
    for b, (column, absolute) in enumerate(zip(keys[:, 0], row + offset, strict=True)):
        stored = model.rows[column][absolute]["state.h"].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(states["h"][b], stored)
    with pytest.raises(ValueError, match="states are stored every 2 rows"):
        replay.states_at(keys, offset + 1)


def test_sequences_within_games_need_an_initial_state():
    with pytest.raises(ValueError, match="need initial_state"):
        Replay(
            layout=Layout(spec=SPEC, state=STATE),
            window=Window(length=2, ahead=1, within=True),
            columns=1,
            capacity=20,
        )
