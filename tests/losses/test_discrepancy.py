"""Delta-Q against loops in the paper's notation, and the anchors it must hit exactly."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.nn.small import ACTIONS, make_batch, make_network

from retorq.losses import discrepancy
from retorq.losses.discrepancy import same_game

ROWS, COLUMNS = 9, 4
KINDS = [("after", "scalar"), ("after", "iqn"), ("inner", "iqn"), ("outer", "iqn"), ("separate", "iqn")]


def delta_q(network, trajectory, start, stored, offset):
    """Measured at one row of each column."""
    [found] = discrepancy.delta_q(network, trajectory, start, [(stored, offset)])
    return found


def states_before(network, trajectory, state):
    """The state before every row, one row at a time, and the one after the last."""
    states = [state]
    for t in range(trajectory.rows):
        row = trajectory.inputs.map(lambda a, t=t: a[t : t + 1])
        with torch.no_grad():
            states.append(network.unroll(row, states[-1], torch.Generator().manual_seed(0))[1])
    return states


def at(states, offset):
    """Of each column ``b`` the state before row ``offset[b]``."""
    return {name: torch.stack([states[i][name][b] for b, i in enumerate(offset.tolist())]) for name in states[0]}


def other_state(network, seed=9):
    return make_batch(network, 1, COLUMNS, seed=seed).state


def values_of(network, trajectory, b, state, t):
    """The values ``[A]`` of row ``t`` of column ``b``."""
    row = trajectory.inputs.map(lambda a: a[t : t + 1, b : b + 1])
    return network(row, {name: value[b : b + 1] for name, value in state.items()})[0].mean()[0, 0]


def twin(network, trajectory, start, stored, offset):
    """DeltaQ(i) of section 3, for one column after the other; scalar values."""
    fresh = states_before(network, trajectory, start)
    result = []
    for b in range(COLUMNS):
        i, q = int(offset[b]), partial(values_of, network, trajectory, b)
        last = trajectory.last[:, b].tolist()
        first = max([j + 1 for j in range(i) if last[j]], default=0)
        end = next((j for j in range(i, ROWS) if last[j]), ROWS - 1)
        top = max(q(fresh[j], j)[a].item() for j in range(first, end + 1) for a in range(ACTIONS))
        difference = q(fresh[i], i) - q(stored, i)
        result.append(sum(d.item() ** 2 for d in difference) ** 0.5 / abs(top))
    return torch.tensor(result)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_it_is_the_papers(rate):
    network = make_network("after", "scalar", seed=1)
    batch = make_batch(network, ROWS, COLUMNS, seed=3, rate=rate)
    assert batch.trajectory.last.any() == (rate > 0)
    stored = other_state(network)
    for offset in ([0, 0, 0, 0], [3, 5, 0, 8], [8, 7, 6, 2]):
        offset = torch.tensor(offset)
        expected = twin(network, batch.trajectory, batch.state, stored, offset)
        found = delta_q(network, batch.trajectory, batch.state, stored, offset)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert not found.requires_grad


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_anchors(kind, head):
    """Without burn-in the stored state gives an initial value of exactly 0, and zeros give more."""
    network = make_network(kind, head, seed=2)
    batch = make_batch(network, ROWS, COLUMNS, seed=4, rate=0.0)
    initial = torch.zeros(COLUMNS, dtype=torch.int64)
    assert torch.equal(delta_q(network, batch.trajectory, batch.state, batch.state, initial), torch.zeros(COLUMNS))
    zero = network.initial_state(COLUMNS)
    assert (delta_q(network, batch.trajectory, zero, batch.state, initial) > 1e-3).all()


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_right_after_collection_nothing_is_stale(kind, head):
    """The actor's own states, of the same weights: zero everywhere, and nearly so when stored in half precision."""
    network = make_network(kind, head, seed=5)
    batch = make_batch(network, ROWS, COLUMNS, seed=6, rate=0.2)
    states = states_before(network, batch.trajectory, batch.state)
    for offset in (torch.tensor([0, 3, 8, 5]), torch.tensor([8, 8, 1, 2])):
        stored = at(states, offset)
        assert torch.equal(delta_q(network, batch.trajectory, batch.state, stored, offset), torch.zeros(COLUMNS))
        halves = {name: value.half().float() for name, value in stored.items()}
        rounded = delta_q(network, batch.trajectory, batch.state, halves, offset)
        assert rounded.max() < 5e-3


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_one_unroll_serves_all_rows(kind, head):
    network = make_network(kind, head, seed=2)
    batch = make_batch(network, ROWS, COLUMNS, seed=4, rate=0.2)
    stored = [other_state(network, seed) for seed in (8, 9)]
    measured = list(zip(stored, torch.tensor([[0, 3, 1, 2], [8, 7, 6, 2]]), strict=True))
    alone = [delta_q(network, batch.trajectory, batch.state, *one) for one in measured]
    rows, plain = [], network.unroll
    network.unroll = lambda inputs, *more: rows.append(inputs.first.shape[0]) or plain(inputs, *more)
    found = discrepancy.delta_q(network, batch.trajectory, batch.state, measured)
    assert len(rows) == ROWS + 2 * len(measured)
    assert not torch.equal(*found)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_burn_in_forgets_a_wrong_start():
    """Towards the end of a sequence the start state matters less than at its beginning."""
    network = make_network("after", "scalar", seed=7)
    batch = make_batch(network, 40, 4, seed=8, rate=0.0)
    states = states_before(network, batch.trajectory, batch.state)
    zero = network.initial_state(4)
    initial, final = (
        delta_q(network, batch.trajectory, zero, at(states, offset), offset)
        for offset in (torch.zeros(4, dtype=torch.int64), torch.full((4,), 39))
    )
    assert (final < 0.1 * initial).all()


def test_other_games_do_not_set_the_scale():
    """The maximum is over the rows of the measured row's own game."""
    network = make_network("after", "scalar", seed=1)
    batch = make_batch(network, ROWS, COLUMNS, seed=3, rate=0.0)
    batch.trajectory.last[5] = batch.trajectory.inputs.first[6] = True
    stored, offset = other_state(network), torch.tensor([4] * COLUMNS)
    before = delta_q(network, batch.trajectory, batch.state, stored, offset)
    seen = batch.trajectory.inputs.observation["obs"].clone()
    seen[6:] *= 100
    inputs = replace(batch.trajectory.inputs, observation={"obs": seen})
    after = delta_q(network, replace(batch.trajectory, inputs=inputs), batch.state, stored, offset)
    assert torch.equal(after, before)
    assert not torch.equal(
        delta_q(network, replace(batch.trajectory, inputs=inputs), batch.state, stored, offset + 3),
        delta_q(network, batch.trajectory, batch.state, stored, offset + 3),
    )


def test_it_leaves_the_random_numbers_alone():
    network = make_network("after", "iqn", seed=2)
    batch = make_batch(network, ROWS, COLUMNS, seed=4)
    state = torch.get_rng_state()
    offset = torch.tensor([1, 2, 3, 4])
    one, other = (delta_q(network, batch.trajectory, batch.state, other_state(network), offset) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sequence_that_ended_before_the_row_is_told():
    last = torch.zeros(6, 5, dtype=torch.bool)
    last[1, 0] = last[2, 1] = last[4, 2] = last[5, 3] = True
    offset = torch.tensor([4, 4, 4, 4, 2])
    assert same_game(last, 2, offset).tolist() == [True, False, False, True, True]
