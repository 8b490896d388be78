"""Refreshing stored states: a sweep with frozen weights leaves what a fresh unroll from each game's start gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.replay.model import SPEC, STATE, Model
from tests.replay.test_games import rows_of

from retorq.replay.refresh import Refresh
from retorq.replay.replay import Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window


def nothing(columns, device):
    return {name: torch.zeros(columns, *shape, device=device) for name, shape in STATE.items()}


def advance(state, first, seen):
    """A made-up memory of one row: cleared where an episode begins, then it forgets half and takes in what is seen."""
    keep = 0.0 if first else 0.5
    return {name: keep * value + seen for name, value in state.items()}


def unroll(inputs, state):
    """The same for ``[T, B]`` rows."""
    for t in range(inputs.first.shape[0]):
        keep = torch.where(inputs.first[t], 0.0, 0.5)
        seen = inputs.previous_reward[t]
        state = {
            name: value * keep.reshape(-1, *([1] * (value.dim() - 1))) + seen.reshape(-1, *([1] * (value.dim() - 1)))
            for name, value in state.items()
        }
    return state


def build(columns=2, rows=24, period=3, stack=1, draw="row", within=False):
    return Replay(
        layout=Layout(spec=SPEC, state=STATE, period=period),
        window=Window(length=4, ahead=1, period=period, margin=stack - 1, within=within),
        columns=columns,
        capacity=rows * columns,
        stack=stack,
        initial_state=nothing,
    )


def truth(model, column, row):
    """The state before a row: everything from the beginning of the stream, as the network of today sees it."""
    state = {name: torch.zeros(shape) for name, shape in STATE.items()}
    for past in model.rows[column][:row]:
        state = advance(state, past["first"], past["previous_reward"])
    return nothing(1, "cpu") if model.rows[column][row]["first"] else {n: v[None] for n, v in state.items()}


def stored(replay, column, row):
    return replay.storage.state(np.array([column]), np.array([row]))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("counts", "period"), [((17, 17), 3), ((60, 60), 3), ((9, 55), 1), ((70, 31), 4)])
def test_a_sweep_leaves_what_a_fresh_unroll_gives(counts, period, within):
    """Whatever round of the ring the columns are in, from the first game on whose beginning is held."""
    replay, model = build(period=period, rows=24, within=within), Model(2, sum(counts))
    for column, count in enumerate(counts):
        replay.extend(np.array([column]), model.make(np.array([column]), count))
    wrong = 0
    refresh = Refresh(replay, unroll)
    assert refresh.rows == 2 * period
    begun = [next((r for r in range(max(0, n - 24), n) if model.rows[c][r]["first"]), n) for c, n in enumerate(counts)]
    for _ in range(24 // period + 1):
        refresh.step()
    for column, count in enumerate(counts):
        oldest = -(-max(0, count - 24) // period) * period
        for row in range(oldest, count, period):
            if row < begun[column]:
                continue
            for name, value in stored(replay, column, row).items():
                expected = truth(model, column, row)[name]
                wrong += (model.rows[column][row][f"state.{name}"] - expected[0].numpy()).any()
                if row > oldest:
                    torch.testing.assert_close(value, expected, rtol=2e-3, atol=2e-3)
    assert wrong, "the states stored by the actor were right already"


def test_a_sweep_begins_anew_at_the_newest_row_and_skips_what_was_overwritten():
    replay, model = build(columns=1, rows=24, period=3), Model(1, 2)
    who = np.arange(1)
    refresh = Refresh(replay, unroll)
    assert refresh.step() == 0  # nothing there
    replay.extend(who, model.make(who, 3))
    assert refresh.step() == 0  # row 3, whose state would be replaced, is not there yet
    replay.extend(who, model.make(who, 8))
    positions = []
    for _ in range(5):
        assert refresh.step() == 1
        positions.append(int(refresh.position[0]))
    assert positions == [3, 6, 9, 3, 6]  # rows 0..10 are held: 9 is the last one on the grid
    replay.extend(who, model.make(who, 25))  # rows 12..35 are held
    refresh.step()
    assert int(refresh.position[0]) == 15


def test_columns_go_on_independently():
    replay, model = build(rows=24, period=3), Model(2, 3)
    replay.extend(np.array([1]), model.make(np.array([1]), 10))
    refresh = Refresh(replay, unroll)
    before = replay.storage.states["h"][:, 0].clone()
    assert refresh.step() == 1
    assert refresh.position.tolist() == [0, 3]
    assert torch.equal(replay.storage.states["h"][:, 0], before)


def test_stacked_images_are_whole_when_a_state_is_refreshed():
    """With a margin the sweep begins where the images before the row are held."""
    replay, model = build(columns=1, rows=24, period=3, stack=3), Model(1, 4)
    who = np.arange(1)
    replay.extend(who, model.make(who, 41))  # rows 17..40: 18 is on the grid, but 16 is gone
    seen = []

    def spy(inputs, state):
        seen.append(inputs.observation["image"][:, 0].clone())
        return unroll(inputs, state)

    refresh = Refresh(replay, spy)
    refresh.step()
    assert int(refresh.position[0]) == 24
    for t in range(3):
        np.testing.assert_array_equal(seen[0][t], model.stacked(0, 21 + t, 3))


def test_a_refreshed_state_changes_the_piece_of_the_checkpoint_it_lies_in():
    replay = build(columns=1, rows=24, period=3)
    replay.extend(np.arange(1), rows_of(24))
    refresh = Refresh(replay, unroll)
    before = {name: mark for name, (mark, _) in replay.storage.chunks(rows=6).items()}
    refresh.step()  # the state before row 3
    refresh.step()  # and before row 6
    after = {name: mark for name, (mark, _) in replay.storage.chunks(rows=6).items()}
    assert [name for name in before if before[name] != after[name]] == ["replay-00000000", "replay-00000006"]


def test_only_stored_states_can_be_refreshed():
    replay = build()
    bare = Replay(layout=replace(replay.storage.layout, state={}), window=replay.window, columns=1, capacity=40)
    with pytest.raises(ValueError, match="only stored states can be refreshed"):
        Refresh(bare, unroll)
