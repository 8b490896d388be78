"""The Q-learning loss on sequences within games, and on games walked through with the memory carried along."""

from dataclasses import replace

import pytest
import torch
from tests.losses.test_q_learning import BASE, COLUMNS, KINDS, LENGTH, networks, seeded
from tests.nn.small import make_batch

from retorq.losses.q_learning import QLearning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("double", [True, False])
def test_states_after_the_learned_rows_are_carried_and_change_nothing_else(kind, double):
    """Of each network with its own weights, from its own start; the rows ahead are not part of them."""
    online, target = networks(kind, "iqn")
    loss = QLearning(**BASE | {"n": 3, "double": double, "within": True})
    carry = replace(loss, carry=True)
    batch = make_batch(online, LENGTH + 3, COLUMNS, seed=13)
    plain = seeded(loss, online, target, batch)
    output = seeded(carry, online, target, batch)
    assert plain.state == {}
    assert set(output.state) == {*batch.state, *(f"target.{name}" for name in batch.state)}
    assert not any(value.requires_grad for value in output.state.values())
    if kind == "after":
        torch.testing.assert_close(output.loss, plain.loss)
        rows = batch.trajectory.inputs.map(lambda a: a[:LENGTH])
        theirs = make_batch(online, 1, COLUMNS, seed=14).state
        both = batch.state | {f"target.{name}": value for name, value in theirs.items()}
        output = seeded(carry, online, target, replace(batch, state=both))
        with torch.no_grad():
            mine, other = online.unroll(rows, batch.state)[1], target.unroll(rows, theirs)[1]
        for name in mine:
            torch.testing.assert_close(output.state[name], mine[name])
            torch.testing.assert_close(output.state[f"target.{name}"], other[name])


def test_a_whole_game_in_chunks_is_the_game_in_one():
    """With frozen weights, carrying both states from chunk to chunk gives the losses of one long window."""
    online, target = networks(head="scalar")
    batch = make_batch(online, 3 * LENGTH + 2, COLUMNS, seed=15, rate=0.0)
    batch = replace(batch, state=online.initial_state(COLUMNS))
    loss = QLearning(**BASE | {"within": True, "carry": True})
    whole = replace(loss, length=3 * LENGTH)(online, target, batch)
    state = batch.state
    for chunk in range(3):
        rows = batch.trajectory.part(chunk * LENGTH, (chunk + 1) * LENGTH + 2)
        output = loss(online, target, replace(batch, trajectory=rows, state=state))
        torch.testing.assert_close(output.loss, whole.loss[chunk * LENGTH : (chunk + 1) * LENGTH])
        state = output.state
    for name, value in state.items():
        torch.testing.assert_close(value, whole.state[name])


def test_rows_of_burn_in_before_a_game_never_matter_to_it():
    """What stands before a game's first row, and the state before that, are forgotten at the reset."""
    loss = QLearning(**BASE | {"within": True, "burn_in": 3})
    online, target = networks(head="scalar")
    batch = make_batch(online, 3 + LENGTH + 2, COLUMNS, seed=16, rate=0.0)
    batch.trajectory.inputs.first[3] = batch.trajectory.last[2] = True
    before = loss(online, target, batch)
    seen = batch.trajectory.inputs.observation["obs"].clone()
    seen[:3] = -7
    inputs = replace(batch.trajectory.inputs, observation={"obs": seen})
    state = {name: value + 1 for name, value in batch.state.items()}
    after = loss(online, target, replace(batch, trajectory=replace(batch.trajectory, inputs=inputs), state=state))
    torch.testing.assert_close(after.loss, before.loss)
    assert before.mask.all()


def test_within_games_masks_everything_after_the_first_end():
    online, target = networks(head="scalar")
    batch = make_batch(online, 2 + LENGTH + 2, 2, seed=17, rate=0.0)
    rows = batch.trajectory
    rows.last[1] = True  # in the burn-in: no matter
    rows.last[3, 0] = rows.inputs.first[4, 0] = True  # learned rows are 2..6
    rows.terminated[4, 1] = rows.inputs.first[5, 1] = True  # a lost life ends nothing
    rows.last[8, 1] = True
    for within, expected in ((True, [1, 0, 0, 0, 0]), (False, [1, 0, 1, 1, 1])):
        output = QLearning(**BASE | {"burn_in": 2, "within": within})(online, target, batch)
        assert output.mask[:, 0].int().tolist() == expected
        assert output.mask[:, 1].all()
        assert output.metrics["valid"].item() == pytest.approx((sum(expected) + 5) / 10)
