"""Ape-X DPG's loss against loops in the paper's notation, and its gradients against independent formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.continuous import batch, make_network

from retorq.learner import Apart, Learner
from retorq.losses.policy_gradient import EDGE, PolicyGradient
from retorq.ops.policy import action_gradient_loss
from retorq.optimizers import Optimizer

GAMMA, N = 0.9, 3


def loss(**more):
    return PolicyGradient(**{"n": N, "gamma": GAMMA} | more)


def layers(part):
    """Weights and biases of the three layers, float64."""
    return [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in (part.first, part.second, part.out)
    ]


def relu(x):
    return np.maximum(x, 0)


def q(network, rows, t, b, action):
    """Slow twin of the critic: the value of one action (a list of numbers) in one row."""
    part, x = network._head.critic, rows.inputs.observation["obs"][t, b].double().numpy()
    (w1, b1), (w2, b2), (w3, b3) = layers(part)
    early, late = (action, []) if part.action_layer == 1 else ([], action)
    hidden = np.tanh(w1 @ [*x, *early] + b1)
    hidden = {"relu": relu, "tanh": np.tanh}[part.activation](w2 @ [*hidden, *late] + b2)
    return (w3 @ hidden + b3).item()


def pi(network, rows, t, b):
    """Slow twin of the policy: its action in one row, as a list of numbers."""
    part, x = network._head.policy, rows.inputs.observation["obs"][t, b].double().numpy()
    (w1, b1), (w2, b2), (w3, b3) = layers(part)
    hidden = {"relu": relu, "tanh": np.tanh}[part.activation](w2 @ np.tanh(w1 @ x + b1) + b2)
    out = w3 @ hidden + b3
    return (np.tanh(out) if part.squash == "tanh" else out.clip(-1, 1)).tolist()


def target_of(target, rows, b):
    """Slow twin: ``R_1 + gamma R_2 + ... + gamma^n q'(s'', pi'(s''))`` along one column, to the end of its game."""
    total, factor, t = 0.0, 1.0, 0
    while t < N and not rows.last[t, b]:
        total += factor * float(rows.reward[t, b])
        factor *= 0.0 if rows.terminated[t, b] else GAMMA
        t += 1
    return total + factor * q(target, rows, t, b, pi(target, rows, t, b))


@pytest.mark.parametrize("kind", [{}, {"action_layer": 1, "activation": "tanh", "squash": "clip"}])
def test_the_critic_learns_the_n_step_return_of_the_target_policy(kind):
    online, target, made = make_network(1, **kind), make_network(2, **kind), batch(0, columns=40)
    rows = made.trajectory
    ends = (rows.terminated[:N].any(0), (rows.truncated[:N] & ~rows.terminated[:N]).any(0), ~rows.last[: N + 1].any(0))
    assert all(games.any() for games in ends)
    told = loss()(online, target, made)
    for b in range(40):
        delta = target_of(target, rows, b) - q(online, rows, 0, b, rows.action[0, b].tolist())
        assert told.loss[0, b].item() == pytest.approx(0.5 * delta**2, rel=1e-4, abs=1e-6)
        assert told.error[0, b].item() == pytest.approx(abs(delta), rel=1e-4, abs=1e-5)
    assert told.mask.all()
    assert float(told.metrics["td"]) == pytest.approx(float(told.error.mean()), rel=1e-5)
    best = [q(online, rows, 0, b, pi(online, rows, 0, b)) for b in range(40)]
    assert float(told.metrics["q_mean"]) == pytest.approx(np.mean(best), rel=1e-4)


@pytest.mark.parametrize("clip", [None, 0.02])
def test_the_policy_climbs_the_critic_s_slope(clip):
    """By differences: every weight of the policy moves against sum_i clip(dq/da_i) d pi_i / d weight."""
    online, target, made = make_network(1, actions=2), make_network(2, actions=2), batch(0, columns=6, actions=2)
    rows, tiny, slopes = made.trajectory, 1e-5, np.zeros((6, 2))
    online.zero_grad()
    told = loss(clip=clip)(online, target, made)
    told.unweighted.sum().backward()
    ours = {name: p.grad.clone() for name, p in online._head.policy.named_parameters()}
    assert all(p.grad is None for p in online._head.critic.parameters())

    for b in range(6):
        here = pi(online, rows, 0, b)
        for i in range(2):
            up, down = ([x + sign * tiny * (j == i) for j, x in enumerate(here)] for sign in (1, -1))
            slopes[b, i] = (q(online, rows, 0, b, up) - q(online, rows, 0, b, down)) / (2 * tiny)
    assert float(told.metrics["action_gradient"]) == pytest.approx(np.abs(slopes).mean(), rel=1e-3)
    if clip is not None:
        assert 0.1 < (np.abs(slopes) > clip).mean() < 1  # some are cut, and some are not
        slopes = slopes.clip(-clip, clip)
    np.testing.assert_allclose(told.unweighted.detach()[0], 0.5 * (slopes**2).sum(1), rtol=1e-3, atol=1e-8)
    for name, parameter in online._head.policy.named_parameters():
        flat = parameter.data.view(-1)
        for place in (0, len(flat) // 2, len(flat) - 1):
            kept, found, reached = flat[place].item(), [], []
            for sign in (1, -1):
                flat[place] = kept + sign * 1e-3  # weights are float32
                reached.append(flat[place].item())
                found.append([pi(online, rows, 0, b) for b in range(6)])
            flat[place] = kept
            moved = (np.array(found[0]) - np.array(found[1])) / (reached[0] - reached[1])
            wanted = -(slopes * moved).sum()
            assert float(ours[name].view(-1)[place]) == pytest.approx(wanted, rel=2e-3, abs=1e-6), name


def test_without_clipping_it_is_the_gradient_of_the_critic_s_value():
    online, target, made = make_network(3, actions=3), make_network(4, actions=3), batch(5, columns=9, actions=3)
    told = loss(clip=None)(online, target, made)
    policy = list(online._head.policy.parameters())
    ours = torch.autograd.grad(told.unweighted.sum(), policy)
    seen = made.trajectory.inputs.observation["obs"][:1]
    value = online._head.critic(seen, online._head.policy(seen))
    for a, b in zip(ours, torch.autograd.grad(-value.sum(), policy), strict=True):
        torch.testing.assert_close(a, b)


def test_the_critic_s_term_has_no_gradient_in_the_policy_and_none_reaches_the_target():
    online, target = make_network(1), make_network(2)
    loss()(online, target, batch(0)).loss.sum().backward()
    assert all(p.grad is None for p in (*online._head.policy.parameters(), *target.parameters()))
    assert all(p.grad.abs().sum() > 0 for p in online._head.critic.parameters())


def test_nothing_after_the_end_of_a_game_or_the_bootstrap_row_matters():
    online, target, made = make_network(1), make_network(2), batch(0, columns=60, rows=N + 3)
    rows = made.trajectory
    before = loss()(online, target, made)
    end = torch.where(rows.last.any(0), rows.last.float().argmax(0), torch.tensor(N)).clamp(max=N)
    after = torch.arange(rows.rows)[:, None] > end[None, :]
    assert after.sum(0).float().std() > 0
    noise = torch.Generator().manual_seed(1)
    observation = rows.inputs.observation["obs"]
    other = torch.where(after[..., None], torch.randn(observation.shape, generator=noise), observation)
    changed = replace(
        rows,
        inputs=replace(rows.inputs, observation={"obs": other}),
        reward=torch.where(after, 100.0, rows.reward),
        terminated=rows.terminated ^ after,
        action=torch.where(after[..., None], 0.7, rows.action),
    )
    told = loss()(online, target, replace(made, trajectory=changed))
    torch.testing.assert_close(told.loss, before.loss, rtol=0, atol=0)
    torch.testing.assert_close(told.unweighted, before.unweighted, rtol=0, atol=0)
    # and what comes before does: the test would not notice a loss that looks at nothing
    moved = replace(rows, reward=torch.where(after, rows.reward, rows.reward + 1.0))
    assert (loss()(online, target, replace(made, trajectory=moved)).loss != before.loss).all()


def test_a_final_row_is_masked_and_saturation_is_told():
    online, target, made = make_network(1), make_network(2), batch(0, columns=8)
    with torch.no_grad():
        online._head.policy.out.bias.fill_(9.0)
    last = made.trajectory.last.clone()
    last[0, :3] = True
    told = loss()(online, target, replace(made, trajectory=replace(made.trajectory, last=last)))
    assert told.mask.tolist() == [[False] * 3 + [True] * 5]
    assert float(told.metrics["valid"]) == 5 / 8
    assert float(told.metrics["saturated"]) == 1.0
    assert np.tanh(9.0) > EDGE


def test_action_gradient_loss_by_hand():
    action = torch.tensor([[0.5, -0.5]], requires_grad=True)
    slope = torch.tensor([[3.0, -0.25]], requires_grad=True)
    value = action_gradient_loss(action, slope, clip=1.0)
    value.sum().backward()
    assert value.tolist() == [0.5 * (1.0 + 0.0625)]
    assert action.grad.tolist() == [[-1.0, 0.25]]
    assert slope.grad is None


def learner(seed=1, **more):
    settings = {"learning_rate": 1e-2, "optimizer_epsilon": 1e-8, "clip_gradient": float("inf"), "target_period": 9}
    return Learner(make_network(seed), more.pop("loss", loss()), **settings | more)


def parts(learner):
    head = learner.online._head
    return {name: torch.cat([p.detach().flatten() for p in getattr(head, name).parameters()]) for name in PARTS}


PARTS = ("policy", "critic")


@pytest.mark.parametrize("anneal", [False, True])
def test_the_policy_has_a_learning_rate_of_its_own(anneal):
    """The first step of Adam is as long as its rate, for every weight with a gradient well above epsilon."""
    made = learner(apart=Apart(prefix="_head.policy.", learning_rate=3e-3), anneal=anneal)
    before = parts(made)
    made.update(batch(0, columns=30), progress=0.75)
    after, share = parts(made), 0.25 if anneal else 1.0
    for name, rate in (("policy", 3e-3), ("critic", 1e-2)):
        moved = (after[name] - before[name]).abs()
        assert float(moved.max()) == pytest.approx(rate * share, rel=1e-2)
        assert float(moved.median()) == pytest.approx(rate * share, rel=1e-1)


class Descent(Optimizer):
    """Steps as long as the gradients, unlike Adam's."""

    def _update(self, parameters, gradients, kept, group):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(group["lr"] * gradient)


def test_importance_weights_are_for_the_critic_alone():
    made = batch(0, columns=30)
    skewed = replace(made, weight=torch.linspace(0.01, 1.0, 30))
    found = []
    for given in (made, skewed):
        some = learner(apart=Apart(prefix="_head.policy.", learning_rate=1e-2))
        some.optimizer = Descent(some.optimizer.param_groups, 0.0)
        some.update(given)
        found.append(parts(some))
    torch.testing.assert_close(found[0]["policy"], found[1]["policy"], rtol=0, atol=0)
    assert not torch.allclose(found[0]["critic"], found[1]["critic"])


def test_gradients_of_the_policy_s_weights_are_cut_and_no_others():
    found = {}
    for clip in (None, 1e-3):
        some = learner(loss=loss(clip=None), apart=Apart(prefix="_head.policy.", learning_rate=1e-2, clip=clip))
        *_, metrics, _ = some.update(batch(0, columns=30))
        gradients = {
            name: torch.cat([p.grad.flatten() for p in getattr(some.online._head, name).parameters()]) for name in PARTS
        }
        found[clip] = gradients, float(metrics["gradient_norm"])
    (free, norm), (cut, same) = found[None], found[1e-3]
    assert norm == same  # of what was computed, so that nothing hides in the cut
    assert (free["policy"].abs() > 1e-3).float().mean() > 0.1
    torch.testing.assert_close(cut["policy"], free["policy"].clamp(-1e-3, 1e-3), rtol=0, atol=0)
    torch.testing.assert_close(cut["critic"], free["critic"], rtol=0, atol=0)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_an_infinite_gradient_of_the_policy_changes_nothing(clip):
    some = learner(apart=Apart(prefix="_head.policy.", learning_rate=1e-2, clip=clip))
    some.online._head.policy.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = parts(some)
    *_, metrics, _ = some.update(batch(0, columns=30))
    assert float(metrics["skipped"]) == 1
    assert all(torch.equal(before[name], after) for name, after in parts(some).items())


def test_a_saved_learner_goes_on_exactly():
    apart = Apart(prefix="_head.policy.", learning_rate=3e-3)
    one, other = learner(apart=apart), learner(seed=7, apart=apart)
    for number in range(3):
        one.update(batch(number))
    other.load_state_dict(*one.state_dict())
    for number in range(3, 6):
        one.update(batch(number))
        other.update(batch(number))
    assert all(torch.equal(a, b) for a, b in zip(one.online.parameters(), other.online.parameters(), strict=True))


@pytest.mark.parametrize("prefix", ["_head.", "head.policy."])
def test_parameters_apart_are_some_and_not_all(prefix):
    with pytest.raises(ValueError, match="all parameters begin or none"):
        learner(apart=Apart(prefix=prefix, learning_rate=1e-2))
