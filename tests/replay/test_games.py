"""Whole games against the list of rows per column: drawing places in them, and walking through them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.replay.model import STATE, Model, made, restore

from retorq.replay.samplers import Priorities
from retorq.types import UserError


def nothing(columns, device):
    return {name: torch.zeros(columns, *shape, device=device) for name, shape in STATE.items()}


def build(draw, columns=2, capacity=80, stack=1, seed=0, **more):
    window = {"within": True} | more.pop("window", {})
    more = {"initial_state": nothing, "start": "zero"} | more
    return made(columns, capacity, stack, window=window, seed=seed, draw=draw, **more)


def check_rows(replay, model, batch):
    for b, (column, row) in enumerate(batch.keys):
        for t in range(replay.window.rows):
            truth = model.rows[column][row + t]
            for name in ("action", "reward", "terminated", "last"):
                assert getattr(batch.trajectory, name)[t, b].item() == truth[name]
            image = model.stacked(column, row + t, replay.stack)
            np.testing.assert_array_equal(batch.trajectory.inputs.observation["image"][t, b], image)


SHAPES = st.fixed_dictionaries({"length": st.integers(1, 5), "ahead": st.integers(1, 3), "period": st.integers(1, 3)})


@settings(max_examples=15)
@given(shape=SHAPES, columns=st.integers(1, 3), stack=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_episodes_are_finished_games_and_places_where_a_sequence_fits(shape, columns, stack, seed):
    replay = build("episode", columns, 24 * columns, stack, seed, window=shape)
    model, random = Model(columns, seed), np.random.default_rng(seed)
    for _ in range(16):
        who = np.flatnonzero(random.random(columns) < 0.8)
        if len(who):
            replay.extend(who, model.make(who, int(random.integers(1, 6))))
        games = model.games(replay.window, replay.storage.rows)
        if (replay.storage.written < 2 * replay.storage.rows).any() or games:
            assert replay.ready == bool(games)
        if not games:
            continue
        batch = replay.sample(5)
        check_rows(replay, model, batch)
        assert all((state == 0).all() for state in batch.state.values())
        assert set(batch.state) == set(STATE)
        for column, row in batch.keys:
            (first, last), *others = [(f, e) for c, f, e in games if c == column and f <= row < e]
            assert not others
            assert row == first if last - first <= shape["length"] else row + shape["length"] <= last


def test_each_game_is_alike_and_each_place_in_it():
    """Not each row: a short game's rows are drawn more often (Hausknecht and Stone draw the game first)."""
    replay, model = build("episode", 2, 100), Model(2, 3)
    replay.extend(np.arange(2), model.make(np.arange(2), 50))
    games = sorted(model.games(replay.window, replay.storage.rows))
    assert len({last - first for _, first, last in games}) > 3
    keys = np.concatenate([replay.sample(100).keys for _ in range(400)])
    for column, first, last in games:
        places = list(range(first, max(first, last - 3) + 1))
        for place in places:
            share = ((keys[:, 0] == column) & (keys[:, 1] == place)).mean()
            assert share == pytest.approx(1 / len(games) / len(places), rel=0.35)


def after(batch, weights=1.0):
    """Made-up states after a chunk: the online one counts rows, the target's counts by tens."""
    return {
        name: value + (3.0 if not name.startswith("target.") else 30.0) * weights for name, value in batch.state.items()
    }


@settings(max_examples=15)
@given(shape=SHAPES, columns=st.integers(1, 3), stack=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_lanes_walk_through_games_and_carry_both_states(shape, columns, stack, seed):
    """Chunk by chunk from a game's first row; at its end, or once its rows are gone, to another one's first row."""
    size, length = 4, shape["length"]
    replay = build("walk", columns, 24 * columns, stack, seed, window=shape)
    model, random = Model(columns, seed), np.random.default_rng(seed)
    lanes = [None] * size
    for _ in range(40):
        who = np.flatnonzero(random.random(columns) < 0.5)
        if len(who):
            replay.extend(who, model.make(who, int(random.integers(1, 4))))
        games = model.games(replay.window, replay.storage.rows)
        if not games:
            continue
        batch = replay.sample(size)
        assert set(batch.state) == {*STATE, *(f"target.{name}" for name in STATE)}
        for b, (column, row) in enumerate(batch.keys.tolist()):
            oldest = max(0, len(model.rows[column]) - replay.storage.rows)
            before = lanes[b]
            if before is not None:
                c, first, last, there, value = before
                held = max(there - stack + 1, first) >= max(0, len(model.rows[c]) - replay.storage.rows)
                if there < last and held:
                    assert (column, row) == (c, there)
                    for name, state in batch.state.items():
                        assert (state[b] == (10 * value if name.startswith("target.") else value)).all()
                    continue
            (last,) = [e for c, f, e in games if (c, f) == (column, row)]
            assert row >= oldest
            assert all((state[b] == 0).all() for state in batch.state.values())
            lanes[b] = (column, row, last, row, 0.0)
        again = replay.sample(size)  # nothing was learned: every lane stands where it stood
        np.testing.assert_array_equal(again.keys, batch.keys)
        check_rows(replay, model, batch)
        replay.look(7)
        replay.update(batch.keys, torch.zeros(length, size), torch.ones(length, size), after(batch))
        lanes = [(c, f, e, r + length, value + 3.0) for c, f, e, r, value in lanes]


def test_only_a_walk_has_lanes():
    games, walk = build("episode"), build("walk")
    assert games.walk is None
    assert "walk" not in games.state_dict()
    assert walk.walk is not None
    assert {"games", "walk"} <= walk.state_dict().keys()


@pytest.mark.parametrize("draw", ["episode", "walk"])
@pytest.mark.parametrize("walked", [0, 7])
def test_a_saved_replay_goes_on_exactly(draw, walked):
    one, other = (build(draw, seed=seed, stack=2) for seed in (3, 99))
    model = Model(2, 5)
    one.extend(np.arange(2), model.make(np.arange(2), 90))

    def go_on(replay):
        seen = []
        for _ in range(9):
            batch = replay.sample(3)
            seen += [torch.from_numpy(batch.keys), *batch.state.values(), batch.trajectory.reward]
            replay.update(batch.keys, torch.zeros(3, 3), torch.ones(3, 3), after(batch, 0.3))
        return seen

    for _ in range(walked):
        go_on(one)
    restore(one, other)
    assert all(torch.equal(a, b) for a, b in zip(go_on(one), go_on(other), strict=True))


def rows_of(count, ends=()):
    """One column of ``count`` rows whose games end at ``ends``."""
    rows = Model(1, 0).make(np.arange(1), count)
    last = np.isin(np.arange(count), ends)[:, None]
    first = np.concatenate([[[True]], last[:-1]])
    elapsed = np.zeros((count, 1), np.int32)
    for t in range(1, count):
        elapsed[t] = 0 if first[t] else elapsed[t - 1] + 1
    inputs = type(rows.inputs)(**vars(rows.inputs) | {"first": first, "elapsed": elapsed})
    return type(rows)(**vars(rows) | {"inputs": inputs, "last": last})


@pytest.mark.parametrize("draw", ["episode", "walk"])
def test_games_longer_than_the_replay_are_an_error_not_a_wait(draw):
    replay = build(draw, 1, 20)
    replay.extend(np.arange(1), rows_of(39, [30]))
    assert not replay.ready
    replay.extend(np.arange(1), rows_of(1))
    with pytest.raises(UserError, match=r"replay_size is 20, 20 rows of each environment, less than one whole game"):
        _ = replay.ready


def test_a_game_counts_when_the_rows_its_windows_need_are_there_and_all_of_its_own():
    replay = build("walk", 1, 20)  # windows of 3 + 2 rows: three rows must follow the last one
    rows = rows_of(40, [4, 10, 17])
    for t in range(27):
        assert replay.ready == (t > 7)
        replay.extend(np.arange(1), rows.part(t, t + 1))
    starts = {int(row) for _ in range(30) for _, row in build_more(replay).keys}
    assert starts == {11}  # of rows 7..26: the game of 5..10 has lost its beginning, the newest has not ended


def build_more(replay):
    """Fresh lanes on the same rows."""
    replay.walk.lanes = replay.walk.lanes[:0]
    return replay.sample(4)


def test_a_walk_refuses_what_it_cannot_do():
    replay = build("walk")
    replay.extend(np.arange(2), Model(2, 1).make(np.arange(2), 60))
    batch = replay.sample(3)
    with pytest.raises(ValueError, match="size is 4, but 3 lanes walk"):
        replay.sample(4)
    with pytest.raises(ValueError, match=r"needs the states \['c', 'h', 'target.c', 'target.h'\]"):
        replay.update(batch.keys, torch.zeros(3, 3), torch.ones(3, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"priorities": Priorities()},
        {"start": "stored"},
        {"window": {"within": False}},
        {"window": {"burn_in": 2}},
    ],
)
@pytest.mark.parametrize("draw", ["episode", "walk"])
def test_whole_games_refuse_what_does_not_go_together(draw, wrong):
    with pytest.raises(ValueError, match=f"draw is '{draw}': give a window within games, no burn-in, start zero"):
        build(draw, **wrong)


def test_a_zero_start_needs_the_initial_state():
    with pytest.raises(ValueError, match="need initial_state"):
        build("row", window={"within": False}, initial_state=None)
