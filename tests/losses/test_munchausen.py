"""Munchausen targets: the published numbers, loops in paper notation, the soft value's identity, and ends of games."""

import math
from dataclasses import replace

import pytest
import torch
from tests.nn.small import ACTIONS, SAMPLES, assert_trees_close, gradients, make_batch, make_network

from retorq.losses.munchausen import Munchausen, scaled_log_policy, soft_value
from retorq.nn.heads import Categorical, Quantile
from retorq.types import UserError

COLUMNS = 24


def networks(head, clip="clip"):
    made = [make_network("none", "scalar" if head == "quantile" else head, seed=s, clip=clip) for s in (1, 2)]
    if head == "quantile":
        for seed, network in enumerate(made):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                network._head = Quantile(network.core.size, 7, ACTIONS, quantiles=SAMPLES, dueling=True)
                for weight in network._head.parameters():
                    torch.nn.init.normal_(weight, std=0.6)
    return made


def log_policy_twin(q, temperature):
    """``temperature ln pi``, in double precision."""
    top = max(q)
    total = sum(math.exp((x - top) / temperature) for x in q)
    return [x - top - temperature * math.log(total) for x in q]


def twin(loss, online, target, batch, b):
    """Loss (with its graph), error and bonus of one column as the paper writes them; None where nothing was done."""
    rows = batch.trajectory
    if rows.last[0, b]:
        return None
    here, there = (rows.inputs.map(lambda a, t=t: a[t : t + 1, b : b + 1]) for t in (0, 1))
    prediction = online(here, {})[0]
    with torch.no_grad():
        judges = [target.head(target.unroll(row, {})[0], loss.action_samples) for row in (here, there)]
        ahead = target.head(target.unroll(there, {})[0], loss.target_samples)
    now, following = (log_policy_twin(judge.mean()[0, 0].double().tolist(), loss.temperature) for judge in judges)
    action, reward = int(rows.action[0, b]), rows.reward[0, b].item()
    reward = {"sign": (reward > 0) - (reward < 0), "clip": min(max(reward, -1.0), 1.0), "none": reward}[loss.clip]
    bonus = loss.alpha * min(max(now[action], loss.lowest), 0.0)
    discount = 0.0 if rows.terminated[0, b] else loss.gamma
    quantiles = hasattr(prediction, "fractions")
    samples = ahead.values[0, 0].double().tolist() if quantiles else [ahead.values[0, 0].double().tolist()]
    goals = []
    for z in samples:
        value = sum(math.exp(log / loss.temperature) * (z[a] - log) for a, log in enumerate(following))
        goals.append(reward + bonus + discount * value)
    predicted = prediction.values[0, 0, :, action] if quantiles else prediction.values[0, 0, action][None]
    amount, error = 0.0, 0.0
    for i in range(len(predicted)):
        for y in goals:
            u = y - predicted[i]
            size = 0.5 * u * u if abs(u) <= loss.kappa else loss.kappa * (abs(u) - 0.5 * loss.kappa)
            weight = abs(prediction.fractions[0, 0, i] - float(u < 0)) / loss.kappa if quantiles else 1.0
            amount = amount + weight * size / len(goals)
            error += abs(u.item()) / (len(goals) * len(predicted))
    return amount, error, bonus


CASES = {
    "as published": {},
    "other numbers": {"gamma": 0.8, "alpha": 0.5, "temperature": 0.3, "lowest": -0.2, "kappa": 0.5},
    "hot, never cut": {"temperature": 2.0, "lowest": -50.0, "alpha": 1.0},
    "raw rewards": {"clip": "none"},
    "signs": {"clip": "sign"},
    "loss as error": {"error": "loss"},
}


@pytest.mark.parametrize("head", ["scalar", "quantile", "midpoints"])
@pytest.mark.parametrize("name", CASES)
def test_loss_error_and_gradient_equal_the_loops(name, head):
    loss = Munchausen(**CASES[name])
    compare(loss, *networks(head, loss.clip))


def test_numbers_of_samples_for_the_policy_and_for_the_bootstrap():
    compare(Munchausen(target_samples=3, action_samples=7), *networks("midpoints"))


def compare(loss, online, target):
    batch = make_batch(online, 2, COLUMNS, seed=3, rate=0.5)
    batch.trajectory.last[0, :3] = True
    assert batch.trajectory.terminated[0].any()
    assert batch.trajectory.truncated[0].any()
    output = loss(online, target, batch)
    assert output.loss.shape == output.error.shape == output.mask.shape == (1, COLUMNS)
    (output.loss * output.mask).sum().backward()
    measured = gradients(online)
    online.zero_grad()
    total, bonuses = 0.0, []
    for b in range(COLUMNS):
        expected = twin(loss, online, target, batch, b)
        assert output.mask[0, b].item() == (expected is not None)
        if expected is None:
            continue
        amount, error, bonus = expected
        assert output.loss[0, b].item() == pytest.approx(amount.item(), rel=2e-4, abs=1e-6)
        chosen = amount.item() if loss.error == "loss" else error
        assert output.error[0, b].item() == pytest.approx(chosen, rel=2e-4, abs=1e-6)
        total = total + amount
        bonuses.append(bonus)
    assert output.metrics["bonus"].item() == pytest.approx(sum(bonuses) / len(bonuses), rel=1e-4, abs=1e-6)
    total.backward()
    assert_trees_close(measured, gradients(online), rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in target.parameters())
    assert not any(value.requires_grad for value in output.metrics.values())


@pytest.mark.parametrize(("action", "bonus", "goal"), [(0, -0.029513, 1.070504), (2, -0.119513, 0.980504)])
def test_worked_by_hand(action, bonus, goal):
    here, there = torch.tensor([[[1, 1.02, 0.9]]]), torch.tensor([[[0.5, 0.6, 0.55]]])
    told = 0.9 * scaled_log_policy(here, 0.03)[0, 0, action].clamp(-1, 0)
    assert told.item() == pytest.approx(bonus, abs=2e-6)
    value = soft_value(there, scaled_log_policy(there, 0.03), 0.03).item()
    assert 0.5 + told.item() + 0.99 * value == pytest.approx(goal, abs=2e-6)


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_the_soft_value_is_a_scaled_log_sum_of_exponentials(temperature):
    values = 3 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_policy = scaled_log_policy(values, temperature)
    expected = temperature * torch.logsumexp(values / temperature, dim=-1)
    torch.testing.assert_close(soft_value(values, log_policy, temperature), expected)
    per_quantile = values.unsqueeze(-2) + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    told = soft_value(per_quantile, log_policy, temperature)
    assert told.shape == (4, 5, 3)
    torch.testing.assert_close(told, expected.unsqueeze(-1) + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))


def test_policies_stay_finite_and_at_most_certain_in_single_precision():
    """The logarithm of a softmax would be minus infinity here; the floor of -1 needs the distances to stay right."""
    values = torch.tensor([[[0.0, -5.0, 400.0], [1000.0, 1000.0, 999.99], [-3000.0, -3000.5, -3001.0]]])
    told = scaled_log_policy(values, 0.03)
    exact = torch.tensor([[log_policy_twin(row, 0.03) for row in values[0].double().tolist()]])
    assert (told <= 0).all()
    torch.testing.assert_close(told, exact, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(soft_value(values, told, 0.03)).all()


def test_the_bonus_is_cut_at_its_floor_and_scaled_after():
    online, target = networks("scalar")
    batch = make_batch(online, 2, 64, seed=5, rate=0.0)
    q = target(batch.trajectory.inputs, {})[0].mean()[:1].detach()
    taken = scaled_log_policy(q, 0.03).gather(-1, batch.trajectory.action[:1, :, None]).squeeze(-1)
    assert ((taken < -0.25) & (taken > -math.inf)).any()
    assert (taken > -0.25).any()
    base = Munchausen(alpha=0.0, kappa=math.inf)(online, target, batch)
    for lowest in (-0.25, -1.0):
        cut = Munchausen(alpha=0.5, lowest=lowest, kappa=math.inf)(online, target, batch)
        assert cut.metrics["bonus"].item() == pytest.approx(0.5 * taken.clamp(min=lowest).mean().item(), rel=1e-5)
    assert base.metrics["bonus"].item() == 0


def test_termination_ends_the_bootstrap_and_nothing_after_it_is_read():
    online, target = networks("quantile")
    batch = make_batch(online, 2, COLUMNS, seed=6, rate=0.0)
    rows = batch.trajectory
    rows.terminated[0, ::2] = True
    before = Munchausen()(online, target, batch)
    seen = rows.inputs.observation["obs"].clone()
    seen[1] += 1
    changed = replace(rows, inputs=replace(rows.inputs, observation={"obs": seen}))
    after = Munchausen()(online, target, replace(batch, trajectory=changed))
    assert torch.equal(after.loss[0, ::2], before.loss[0, ::2])
    assert (after.loss[0, 1::2] != before.loss[0, 1::2]).all()


def test_truncation_changes_nothing_and_the_next_row_is_read_only_as_an_observation():
    online, target = networks("scalar")
    batch = make_batch(online, 2, COLUMNS, seed=7, rate=0.0)
    before = Munchausen()(online, target, batch)
    rows = batch.trajectory
    for name, value in (("truncated", True), ("reward", 9.0), ("action", 0), ("terminated", True), ("last", True)):
        column = getattr(rows, name).clone()
        column[1] = value
        if name == "truncated":
            column[0] = value
        after = Munchausen()(online, target, replace(batch, trajectory=replace(rows, **{name: column})))
        assert torch.equal(after.loss, before.loss), name
        assert torch.equal(after.mask, before.mask), name


def test_policy_and_bootstrap_of_sampled_quantiles_draw_their_own_fractions():
    online, target = networks("iqn")
    drawn = []
    for name, network in (("online", online), ("target", target)):
        network._head.register_forward_hook(lambda _, __, out, name=name: drawn.append((name, out.fractions)))
    loss = Munchausen(target_samples=4, action_samples=6)
    loss(online, target, make_batch(online, 2, COLUMNS), torch.Generator().manual_seed(0))
    assert sorted((n, tuple(f.shape)) for n, f in drawn) == [
        ("online", (1, COLUMNS, SAMPLES)),
        ("target", (1, COLUMNS, 4)),
        ("target", (2, COLUMNS, 6)),
    ]
    every = torch.cat([f.flatten() for _, f in drawn])
    assert len(every.unique()) == len(every)


@pytest.mark.parametrize("head", ["scalar", "quantile"])
def test_fixed_values_are_computed_once_for_policy_and_bootstrap(head):
    online, target = networks(head)
    calls = []
    target._head.register_forward_hook(lambda *_: calls.append(1))
    Munchausen()(online, target, make_batch(online, 2, COLUMNS))
    assert len(calls) == 1


def test_refuses_what_it_is_not_defined_for():
    online, target = networks("scalar")
    batch = make_batch(online, 2, 3)
    with pytest.raises(ValueError, match="has 3 rows"):
        Munchausen()(online, target, make_batch(online, 3, 3))
    recurrent = make_network("after", "scalar")
    with pytest.raises(UserError, match="has a memory"):
        Munchausen()(recurrent, recurrent, make_batch(recurrent, 2, 3))
    for network in (online, target):
        network._head = Categorical(network.core.size, 7, ACTIONS, atoms=5, low=-1, high=1)
    with pytest.raises(UserError, match="probabilities"):
        Munchausen()(online, target, batch)
