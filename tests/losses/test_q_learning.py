"""The Q-learning loss against loops in paper notation, and at the boundaries of episodes and windows."""

import math
from dataclasses import replace

import pytest
import torch
from tests.nn.small import ACTIONS, SAMPLES, assert_trees_close, gradients, make_batch, make_network

from retorq.losses.q_learning import QLearning
from retorq.types import Trajectory
from retorq.values import Scalars

COLUMNS, LENGTH, GAMMA = 4, 5, 0.9


def networks(kind="after", head="midpoints", clip="sign"):
    return make_network(kind, head, seed=1, clip=clip), make_network(kind, head, seed=2, clip=clip)


def clipped(reward, how):
    return {"sign": (reward > 0) - (reward < 0), "clip": min(max(reward, -1.0), 1.0), "none": reward}[how]


def h(x, epsilon):
    return math.copysign(1, x) * (math.sqrt(abs(x) + 1) - 1) + epsilon * x


def h_inverse(y, epsilon):
    if epsilon == 0:
        return y
    inner = (math.sqrt(1 + 4 * epsilon * (abs(y) + 1 + epsilon)) - 1) / (2 * epsilon)
    return math.copysign(1, y) * (inner**2 - 1)


def row_by_row(network, loss, batch, b):
    """Features of every row after the burn-in for one column, memory carried by hand, no gradient in the burn-in."""
    state = {name: value[b : b + 1] for name, value in batch.state.items()}
    rows = []
    for t in range(batch.trajectory.rows):
        inputs = batch.trajectory.inputs.map(lambda a, t=t: a[t : t + 1, b : b + 1])
        if inputs.first.item():
            state = network.initial_state(1)
        features, state = network.unroll(inputs, state)
        if t < loss.burn_in:
            state = {name: value.detach() for name, value in state.items()}
        else:
            rows.append(features)
    return rows


def twin(loss, online, target, batch):
    """Loss (with its graph), error and mask of every learned row as lists ``[T][B]``, as the papers write them."""
    table = []
    for b in range(COLUMNS):
        mine, theirs = row_by_row(online, loss, batch, b), row_by_row(target, loss, batch, b)
        rows = batch.trajectory.map(lambda a, b=b: a[loss.burn_in :, b])
        column = []
        for t in range(loss.length):
            if rows.last[: t + 1].any() if loss.within else rows.last[t]:
                column.append(None)
                continue
            total, product, j = 0.0, 1.0, t
            for _ in range(loss.n):
                if rows.last[j]:
                    break
                total += product * clipped(rows.reward[j].item(), loss.clip)
                product *= loss.gamma * (0.0 if rows.terminated[j] else 1.0)
                j += 1
            chooser = online.head(mine[j]) if loss.double else target.head(theirs[j])
            best = max(range(ACTIONS), key=lambda a: chooser.mean()[0, 0, a].item())
            prediction, bootstrap = online.head(mine[t]), target.head(theirs[j], loss.target_samples)
            column.append(regression(loss, prediction, bootstrap, int(rows.action[t]), best, total, product))
        table.append(column)
    return table


def regression(loss, prediction, bootstrap, action, best, total, product):
    def goal(value):
        x = total + product * h_inverse(value, loss.rescale)
        return h(x, loss.rescale) if loss.rescale else x

    if hasattr(prediction, "fractions"):
        taus, goals = prediction.fractions[0, 0], [goal(v.item()) for v in bootstrap.values[0, 0, :, best]]
        value = prediction.values[0, 0, :, action]
    else:
        taus, goals, value = None, [goal(bootstrap.values[0, 0, best].item())], prediction.values[0, 0, action][None]
    amount, error = 0.0, 0.0
    for i in range(len(value)):
        for y in goals:
            u = y - value[i]
            size = 0.5 * u * u if abs(u) <= loss.kappa else loss.kappa * (abs(u) - 0.5 * loss.kappa)
            weight = 1.0 if taus is None else abs(taus[i] - float(u < 0)) / loss.kappa
            amount = amount + weight * size / len(goals)
            error += abs(u.item()) / (len(goals) * len(value))
    return amount, error


def compare(loss, online, target, batch):
    output = loss(online, target, batch)
    assert output.loss.shape == output.error.shape == output.mask.shape == (LENGTH, COLUMNS)
    table = twin(loss, online, target, batch)
    (output.loss * output.mask * batch.weight).sum().backward()
    measured = gradients(online)
    online.zero_grad()
    total = 0.0
    for b in range(COLUMNS):
        for t in range(LENGTH):
            assert output.mask[t, b].item() == (table[b][t] is not None)
            if table[b][t] is None:
                continue
            amount, error = table[b][t]
            assert output.loss[t, b].item() == pytest.approx(amount.item(), rel=2e-4, abs=1e-6)
            chosen = amount.item() if loss.error == "loss" else error
            assert output.error[t, b].item() == pytest.approx(chosen, rel=2e-4, abs=1e-6)
            total = total + amount * batch.weight[b]
    total.backward()
    assert_trees_close(measured, gradients(online), rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in target.parameters())


BASE = {"length": LENGTH, "gamma": GAMMA, "burn_in": 0, "n": 2, "double": True}
CASES = {
    "one step": {"n": 1},
    "two steps, not double": {"double": False},
    "three steps": {"n": 3},
    "three steps, not double": {"n": 3, "double": False},
    "burn-in": {"burn_in": 2},
    "burn-in, not double": {"burn_in": 3, "n": 1, "double": False},
    "rescaled": {"rescale": 1e-2, "clip": "none"},
    "rescaled, burn-in, three steps": {"rescale": 1e-3, "clip": "none", "burn_in": 2, "n": 3},
    "clip to one": {"clip": "clip"},
    "raw": {"clip": "none", "kappa": 0.5},
    "loss as error": {"error": "loss"},
    "fewer target samples": {"target_samples": 2},
    "within games": {"within": True, "burn_in": 2, "n": 3},
    "within games, not double": {"within": True, "double": False},
}


@pytest.mark.parametrize("name", CASES)
def test_recurrent_quantiles_equal_the_loops(name):
    loss = QLearning(**BASE | CASES[name])
    online, target = networks(clip=loss.clip)
    batch = make_batch(online, loss.burn_in + LENGTH + loss.n, COLUMNS, seed=3, rate=0.25)
    flags = batch.trajectory.map(lambda a: a[loss.burn_in : loss.burn_in + LENGTH])
    assert flags.last.any() and flags.terminated.any() and flags.truncated.any(), "the case must hold every kind of end"  # noqa: PT018
    compare(loss, online, target, batch)


@pytest.mark.parametrize("changes", [{}, {"double": False, "burn_in": 2}, {"rescale": 1e-3, "clip": "none", "n": 3}])
def test_recurrent_scalars_equal_the_loops(changes):
    loss = QLearning(**BASE | changes)
    online, target = networks(head="scalar", clip=loss.clip)
    compare(loss, online, target, make_batch(online, loss.burn_in + LENGTH + loss.n, COLUMNS, seed=4))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_transitions_equal_the_loops_and_the_recurrent_formulas(double, n):
    """Without memory two rows are run instead of all: the same numbers as through the path for sequences."""
    loss = QLearning(length=1, n=n, gamma=GAMMA, double=double)
    online, target = networks("none")
    batch = make_batch(online, 1 + n, 64, seed=5, rate=0.3)
    assert batch.trajectory.last.any()
    results = []
    for recurrent in (False, True):
        online.zero_grad()
        online.core.recurrent = recurrent
        output = loss(online, target, batch)
        (output.loss * output.mask).sum().backward()
        results.append((output.loss.detach(), output.error, gradients(online)))
    torch.testing.assert_close(results[0][:2], results[1][:2])
    assert_trees_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-5)


KINDS = ["after", "outer", "inner", "separate"]


def seeded(loss, online, target, batch):
    return loss(online, target, batch, torch.Generator().manual_seed(0))


def altered(trajectory: Trajectory, row: int) -> Trajectory:
    """Everything from ``row`` on replaced by something else; shapes and the row's own beginning of a game stay."""

    def change(value):
        new = value.clone()
        new[row:] = ~value[row:] if value.dtype == torch.bool else (value[row:] + 1 if value.is_floating_point() else 0)
        return new

    changed = trajectory.map(change)
    changed.inputs.first[row] = True
    return changed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [1, 3, 5, 6])
def test_nothing_after_a_final_row_changes_an_earlier_loss(kind, final):
    loss = QLearning(**BASE | {"n": 3, "double": True})
    online, target = networks(kind, "iqn")
    batch = make_batch(online, LENGTH + 3, COLUMNS, seed=6, rate=0.0)
    batch.trajectory.last[final] = True
    batch.trajectory.truncated[final - 1] = True
    before = seeded(loss, online, target, batch)
    after = seeded(loss, online, target, replace(batch, trajectory=altered(batch.trajectory, final + 1)))
    kept = min(final, LENGTH)
    torch.testing.assert_close(after.loss[:kept], before.loss[:kept], rtol=0, atol=1e-6)
    torch.testing.assert_close(after.error[:kept], before.error[:kept], rtol=0, atol=1e-6)
    if final + 1 < LENGTH:
        assert not torch.allclose(after.loss[final + 1 :], before.loss[final + 1 :])


def test_a_final_row_itself_is_read_only_as_an_observation():
    """Its action, reward and discount say nothing; what it shows is bootstrapped from."""
    loss = QLearning(**BASE | {"n": 2})
    online, target = networks()
    batch = make_batch(online, LENGTH + 2, COLUMNS, seed=7, rate=0.0)
    batch.trajectory.last[3] = batch.trajectory.inputs.first[4] = True
    before = loss(online, target, batch)
    for name, value in (("reward", 9.0), ("terminated", True), ("action", 0)):
        rows = getattr(batch.trajectory, name).clone()
        rows[3] = value
        after = loss(online, target, replace(batch, trajectory=replace(batch.trajectory, **{name: rows})))
        unmasked = before.mask
        assert not unmasked[3].any()
        assert torch.equal(after.loss[unmasked], before.loss[unmasked])
    seen = batch.trajectory.inputs.observation["obs"].clone()
    seen[3] += 1
    inputs = replace(batch.trajectory.inputs, observation={"obs": seen})
    after = loss(online, target, replace(batch, trajectory=replace(batch.trajectory, inputs=inputs)))
    assert (after.loss[1:3] != before.loss[1:3]).all()
    assert torch.equal(after.loss[0], before.loss[0])


def test_truncation_bootstraps_and_termination_does_not():
    loss = QLearning(**BASE | {"n": 1, "double": False})
    online, target = networks(head="scalar")
    batch = make_batch(online, LENGTH + 1, COLUMNS, seed=8, rate=0.0)
    rows = batch.trajectory
    rows.last[3] = True
    with torch.no_grad():
        mine, theirs = (n(rows.inputs, batch.state)[0].mean() for n in (online, target))
    value = mine[2].gather(-1, rows.action[2][:, None]).squeeze(-1)
    for name, bootstrap in (("truncated", GAMMA * theirs[3].amax(-1)), ("terminated", 0.0)):
        flag = torch.zeros_like(rows.last)
        flag[2] = True
        output = loss(online, target, replace(batch, trajectory=replace(rows, **{name: flag})))
        expected = (rows.reward[2].sign() + bootstrap - value).abs()
        torch.testing.assert_close(output.error[2], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_only_serve_as_targets_give_no_gradient(kind):
    loss = QLearning(**BASE | {"n": 3, "burn_in": 2})
    online, target = networks(kind, "iqn")
    batch = make_batch(online, 2 + LENGTH + 3, COLUMNS, seed=9, rate=0.0)
    seen = batch.trajectory.inputs.observation["obs"].requires_grad_()
    seeded(loss, online, target, batch).loss.sum().backward()
    assert seen.grad[:2].abs().sum() == 0, "burn-in"
    assert seen.grad[2 : 2 + LENGTH].abs().sum((1, 2)).min() > 0
    assert seen.grad[2 + LENGTH :].abs().sum() == 0, "target rows"


@pytest.mark.parametrize("double", [True, False])
def test_each_network_burns_in_with_its_own_weights(double):
    """The online memory never reaches the target: other online weights change no target."""
    loss = QLearning(**BASE | {"burn_in": 3, "n": 1, "double": double})
    online, target = networks(head="scalar")
    batch = make_batch(online, 3 + LENGTH + 1, COLUMNS, seed=10)
    states = []
    for network in (online, target):
        original = network.unroll

        def spy(inputs, state, generator=None, original=original):
            states.append({name: value.clone() for name, value in state.items()})
            return original(inputs, state, generator)

        network.unroll = spy
    loss(online, target, batch)
    stored, learned, ahead = states[0], states[2], states[3]
    assert_trees_close(stored, batch.state)
    assert_trees_close(states[1], batch.state)
    before = batch.trajectory.inputs.map(lambda a: a[:3])
    with torch.no_grad():
        assert_trees_close(learned, type(online).unroll(online, before, batch.state)[1])
        assert_trees_close(ahead, type(target).unroll(target, before, batch.state)[1])
    assert not torch.allclose(learned["h"], ahead["h"])


@pytest.mark.parametrize(("double", "rows"), [(True, [2, 2, 5, 7, 2]), (False, [2, 2, 5, 7])])
def test_the_online_network_is_unrolled_once_over_each_row(double, rows):
    loss = QLearning(**BASE | {"burn_in": 2, "n": 2, "double": double})
    online, target = networks()
    lengths = []
    for network in (online, target):
        network.core.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[0]))
    loss(online, target, make_batch(online, 9, COLUMNS))
    assert lengths == rows


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["none", "after"])
def test_prediction_target_and_choice_draw_their_own_fractions(kind, double):
    length = 1 if kind == "none" else LENGTH
    loss = QLearning(length=length, n=2, double=double, target_samples=4, action_samples=6)
    online, target = networks(kind, "iqn")
    drawn = []
    for name, network in (("online", online), ("target", target)):
        network._head.register_forward_hook(lambda _, __, out, name=name: drawn.append((name, out.fractions)))
    seeded(loss, online, target, make_batch(online, length + 2, COLUMNS))
    chooser = ("online" if double else "target", 6)
    assert target.sampled
    assert sorted((name, f.shape[2]) for name, f in drawn) == sorted([("online", SAMPLES), ("target", 4), chooser])
    every = torch.cat([f.flatten() for _, f in drawn])
    assert len(every.unique()) == len(every)


@pytest.mark.parametrize(("kind", "head"), [("after", "scalar"), ("inner", "iqn"), ("none", "scalar")])
def test_values_that_do_not_change_from_call_to_call_choose_for_themselves(kind, head):
    """Without double Q-learning nothing is drawn anew, so the target's head runs once."""
    loss = QLearning(length=1 if kind == "none" else LENGTH, n=2, double=False)
    online, target = networks(kind, head)
    assert not target.sampled
    calls = []
    target._head.register_forward_hook(lambda *_: calls.append(1))
    seeded(loss, online, target, make_batch(online, loss.length + 2, COLUMNS))
    assert len(calls) == 1


def test_metrics_hold_what_values_and_network_have_to_tell(monkeypatch):
    online, target = networks(head="scalar")
    batch = make_batch(online, LENGTH + 2, COLUMNS, seed=12)
    told = []
    monkeypatch.setattr(type(online), "diagnostics", lambda self: {"noise": torch.tensor(3.0)})
    monkeypatch.setattr(Scalars, "diagnostics", lambda self, action: told.append(action) or {"tell": torch.tensor(2.0)})
    output = QLearning(**BASE)(online, target, batch)
    assert (output.metrics["noise"], output.metrics["tell"]) == (3.0, 2.0)
    assert torch.equal(told[0], batch.trajectory.action[:LENGTH])


def test_double_chooses_by_the_online_mean_and_plain_by_the_target_mean():
    """The bootstrap is the target's value of the chooser's action."""
    online, target = networks(head="scalar")
    batch = make_batch(online, LENGTH + 1, 32, seed=11, rate=0.0)
    rows = batch.trajectory
    with torch.no_grad():
        mine, theirs = (n(rows.inputs, batch.state)[0].mean() for n in (online, target))
    assert (mine[1:].argmax(-1) != theirs[1:].argmax(-1)).float().mean() > 0.2
    taken = mine[:-1].gather(-1, rows.action[:-1, :, None]).squeeze(-1)
    for double, best in ((True, mine.argmax(-1)), (False, theirs.argmax(-1))):
        output = QLearning(length=LENGTH, n=1, gamma=GAMMA, double=double)(online, target, batch)
        bootstrap = theirs[1:].gather(-1, best[1:, :, None]).squeeze(-1)
        torch.testing.assert_close(output.error, (rows.reward[:-1].sign() + GAMMA * bootstrap - taken).abs())


def test_metrics_count_only_learned_rows():
    loss = QLearning(**BASE)
    online, target = networks(head="scalar")
    batch = make_batch(online, LENGTH + 2, COLUMNS, seed=12, rate=0.3)
    output = loss(online, target, batch)
    assert (~output.mask).any()
    best = online(batch.trajectory.inputs, batch.state)[0].mean()[:LENGTH].amax(-1)
    assert output.metrics["q_mean"].item() == pytest.approx(best[output.mask].mean().item(), rel=1e-5)
    assert output.metrics["td"].item() == pytest.approx(output.error[output.mask].mean().item(), rel=1e-5)
    assert not output.metrics["q_mean"].requires_grad
