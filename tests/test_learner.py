"""The learner: how rows become one number, what a step changes, and what it must leave alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.nn.small import ACTIONS, gradients, make_batch, make_network

from retorq import learner as learning
from retorq.learner import Learner, seeds
from retorq.losses.q_learning import QLearning
from retorq.nn.heads import Scalar
from retorq.nn.noisy import sigmas
from retorq.types import LossOutput, Refused

COLUMNS, LENGTH = 6, 4
LOSS = QLearning(length=LENGTH, n=2, double=True)


def make_learner(kind="after", head="iqn", **more):
    return Learner(make_network(kind, head, seed=1), LOSS, **{"learning_rate": 1e-3, "optimizer_epsilon": 1e-5} | more)


def batch_for(learner, seed=0, rate=0.2):
    return make_batch(learner.online, LENGTH + 2, COLUMNS, seed=seed, rate=rate)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moments(learner):
    state = learner.optimizer.state
    return [{k: v.clone() for k, v in state[p].items()} for p in learner.online.parameters()]


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


class Rows:
    """A loss that is the first weight times given numbers per row."""

    def __init__(self, loss, mask):
        self.loss, self.mask = loss, mask

    def __call__(self, online, target, batch, generator=None):
        weight = next(online.parameters()).flatten()[0]
        return LossOutput(loss=weight * self.loss, error=self.loss.abs(), mask=self.mask)


def test_weights_cast_for_the_burn_in_are_not_those_of_the_learned_rows(monkeypatch):
    """Older versions of PyTorch kept casts made without gradient: nothing below the head would learn in bfloat16."""
    kept, casts, plain = {}, [], torch.nn.functional.linear

    def cast(weight):
        known = torch.is_autocast_enabled("cpu") and weight is not None and weight.is_leaf and weight.requires_grad
        casts.append(known)
        return kept.setdefault(id(weight), weight.to(torch.bfloat16)) if known else weight

    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: plain(x, cast(w), cast(b)))
    monkeypatch.setattr(torch, "clear_autocast_cache", kept.clear)
    loss = replace(LOSS, burn_in=2)
    learner = Learner(make_network("after", seed=1), loss, learning_rate=1e-3, optimizer_epsilon=1e-5, precision="bf16")
    learner.gradient(make_batch(learner.online, 2 + LENGTH + 2, COLUMNS))
    assert any(casts)
    assert [name for name, p in learner.online.named_parameters() if p.grad is None] == []


def test_a_state_of_another_kind_of_device_is_loaded_with_new_random_numbers():
    learner = make_learner()
    tensors, numbers = learner.state_dict()
    assert not learner.reseeded
    learner.load_state_dict(tensors | {"generator": torch.zeros(16, dtype=torch.uint8)}, numbers)
    assert learner.reseeded
    learner.load_state_dict(tensors, numbers)
    assert not learner.reseeded


def test_weights_of_another_network_are_refused():
    learner, other = make_learner(), make_learner(head="scalar")
    with pytest.raises(Refused, match=r"do not fit: .* is not there in the checkpoint and \(.*\) for the environment"):
        learner.load_state_dict(*other.state_dict())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_masks_and_importance_weights(reduction):
    """Mean over the unmasked rows of w * loss, or sum over time and mean over windows."""
    draw = np.random.default_rng(0)
    numbers, mask = draw.normal(size=(LENGTH, COLUMNS)), draw.random((LENGTH, COLUMNS)) < 0.6
    loss = Rows(torch.tensor(numbers, dtype=torch.float32), torch.tensor(mask))
    learner = make_learner(time_reduction=reduction)
    learner.loss = loss
    batch = batch_for(learner)
    first = next(learner.online.parameters()).flatten()[0].item()
    expected = 0.0
    for t in range(LENGTH):
        for b in range(COLUMNS):
            expected += numbers[t, b] * batch.weight[b].item() if mask[t, b] else 0.0
    expected /= mask.sum() if reduction == "mean" else COLUMNS
    error, returned, metrics, _ = learner.update(batch)
    assert metrics["loss"].item() == pytest.approx(first * expected, rel=1e-5)
    assert metrics["gradient_norm"].item() == pytest.approx(abs(expected), rel=1e-5)
    torch.testing.assert_close(error, loss.loss.abs())  # unweighted: priorities must not see the weights
    assert torch.equal(returned, loss.mask)


def test_a_batch_without_a_single_row_to_learn_changes_nothing_and_is_finite():
    learner = make_learner()
    learner.loss = Rows(torch.ones(LENGTH, COLUMNS), torch.zeros(LENGTH, COLUMNS, dtype=torch.bool))
    before = weights(learner.online)
    _, _, metrics, _ = learner.update(batch_for(learner))
    assert metrics["loss"] == 0
    assert metrics["skipped"] == 0
    assert same(weights(learner.online), before)


def clipped(learner, batch, clip):
    """The weights and the gradients of the first update, clipped, by name; and the norm before that."""
    before = {name: p.detach().clone() for name, p in learner.online.named_parameters()}
    output = LOSS(learner.online, learner.target, batch)
    ((output.loss * output.mask * batch.weight).sum() / output.mask.sum()).backward()
    grads = gradients(learner.online)
    norm = torch.cat([g.flatten() for g in grads.values()]).norm()
    assert norm > 2 * clip
    return before, {name: g * clip / norm for name, g in grads.items()}, norm


def test_the_first_step_is_one_of_adam_on_clipped_gradients():
    """After one step the moments are 0 and (1 - beta) g, so the step is lr * g / (|g| + eps)."""
    rate, epsilon, clip = 1e-2, 0.05, 0.03
    learner = make_learner(head="midpoints", learning_rate=rate, optimizer_epsilon=epsilon, clip_gradient=clip)
    batch = batch_for(learner)
    before, grads, norm = clipped(learner, batch, clip)
    _, _, metrics, _ = learner.update(batch)
    assert metrics["gradient_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    for name, p in learner.online.named_parameters():
        g = grads[name]
        torch.testing.assert_close(p.detach(), before[name] - rate * g / (g.abs() + epsilon), rtol=1e-4, atol=1e-6)


def test_the_first_step_of_rmsprop_is_one_on_clipped_gradients():
    """Mean and square are 0.05 g and 0.05 g^2 then: the step is lr * g / sqrt(0.05 g^2 - (0.05 g)^2 + eps)."""
    rate, epsilon, clip = 1e-2, 1e-3, 0.03
    learner = make_learner(
        head="midpoints", optimizer="rmsprop", learning_rate=rate, optimizer_epsilon=epsilon, clip_gradient=clip
    )
    batch = batch_for(learner)
    before, grads, _ = clipped(learner, batch, clip)
    learner.update(batch)
    for name, p in learner.online.named_parameters():
        g = grads[name]
        step = rate * g / (0.05 * g**2 - (0.05 * g) ** 2 + epsilon).sqrt()
        torch.testing.assert_close(p.detach(), before[name] - step, rtol=1e-4, atol=1e-6)


def test_carried_states_are_passed_out_beside_the_metrics():
    learner = make_learner()
    batch = batch_for(learner)
    assert learner.update(batch)[3] == {}
    learner.loss = replace(LOSS, carry=True, within=True)
    _, _, metrics, state = learner.update(batch)
    assert set(state) == {"h", "c", "target.h", "target.c"}
    assert all(value.shape == (COLUMNS, 6) and not value.requires_grad for value in state.values())
    assert not set(state) & set(metrics)
    assert all(value.dim() == 0 for value in metrics.values())


def test_gradients_below_the_limit_are_not_scaled():
    learner = make_learner(clip_gradient=1e6)
    batch = batch_for(learner)
    _, _, metrics, _ = learner.update(batch)
    total = torch.cat([p.grad.flatten() for p in learner.online.parameters()]).norm()
    assert total.item() == pytest.approx(metrics["gradient_norm"].item(), rel=1e-5)


def test_the_target_is_copied_every_period_and_only_then():
    learner = make_learner(target_period=3)
    start = weights(learner.target)
    assert same(start, weights(learner.online))
    for update in range(1, 8):
        before = weights(learner.target)
        learner.update(batch_for(learner, seed=update))
        now = weights(learner.target)
        assert not same(weights(learner.online), start)
        if update % 3 == 0:
            assert same(now, weights(learner.online))
            assert not same(now, before)
        else:
            assert same(now, before)
    assert not any(p.requires_grad for p in learner.target.parameters())
    assert all(a.data_ptr() != b.data_ptr() for a, b in
               zip(learner.target.parameters(), learner.online.parameters(), strict=True))  # fmt: skip


def test_the_target_is_copied_with_the_amplitude_of_its_noise():
    network = make_network("none", "scalar", seed=1)
    network._head = Scalar(network.core.size, 7, ACTIONS, noise=0.5)
    learner = Learner(network, QLearning(n=2), learning_rate=1e-2, optimizer_epsilon=1e-5, target_period=2)
    for update in (1, 2):
        learner.update(make_batch(network, 3, COLUMNS, seed=update))
        pairs = list(zip(sigmas(learner.target), sigmas(learner.online), strict=True))
        assert len(pairs) == 4
        assert all(torch.equal(theirs, mine) is (update == 2) for theirs, mine in pairs)


@pytest.mark.parametrize(("anneal", "expected"), [(True, [1e-3, 7.5e-4, 0.0, 0.0]), (False, [1e-3] * 4)])
def test_the_learning_rate_falls_linearly_or_not_at_all(anneal, expected):
    learner = make_learner(anneal=anneal)
    rates = []
    for progress in (0.0, 0.25, 1.0, 1.5):
        before = weights(learner.online)
        learner.update(batch_for(learner), progress)
        rates.append(float(learner.optimizer.param_groups[0]["lr"]))
        assert same(before, weights(learner.online)) == (rates[-1] == 0)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("learned_before", [0, 2])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_non_finite_loss_changes_no_weight_and_no_moment_and_is_counted(value, learned_before, optimizer):
    learner = make_learner(optimizer=optimizer)
    twin = make_learner(optimizer=optimizer)
    for step in range(learned_before):
        learner.update(batch_for(learner, seed=step))
        twin.update(batch_for(twin, seed=step))
    before = weights(learner.online)
    bad = batch_for(learner, seed=9)
    bad.trajectory.inputs.observation["obs"][1, 2] = value
    for count in (1, 2):
        moments_before = moments(learner) if learned_before else None
        _, _, metrics, _ = learner.update(bad)
        assert metrics["skipped"].item() == count
        assert same(weights(learner.online), before)
        if moments_before:
            assert all(same(a, b) for a, b in zip(moments(learner), moments_before, strict=True))
    good = batch_for(learner, seed=10)
    twin.generator.set_state(learner.generator.get_state())
    assert learner.update(good)[2]["skipped"].item() == 0
    twin.update(good)
    assert same(weights(learner.online), weights(twin.online)), "a skipped update must leave no trace in the next"
    assert learner.updates == learned_before + 3


def test_a_gradient_alone_that_is_not_finite_is_skipped_too():
    class Steep:
        def __call__(self, online, target, batch, generator=None):
            weight = next(online.parameters()).flatten()[0]
            zero = (weight - weight.detach()).abs().sqrt()  # value 0, slope infinite
            loss = zero.expand(LENGTH, COLUMNS)
            return LossOutput(loss=loss, error=loss.detach(), mask=torch.ones(LENGTH, COLUMNS, dtype=torch.bool))

    learner = make_learner()
    learner.loss = Steep()
    before = weights(learner.online)
    _, _, metrics, _ = learner.update(batch_for(learner))
    assert metrics["loss"].item() == 0
    assert metrics["skipped"].item() == 1
    assert same(weights(learner.online), before)


@pytest.mark.parametrize("kind", ["after", "inner", "separate", "none"])
@pytest.mark.parametrize(("copied", "optimizer"), [(True, "adam"), (False, "adam"), (True, "rmsprop")])
def test_a_saved_learner_goes_on_bit_for_bit(kind, copied, optimizer):
    loss = replace(LOSS, length=1) if kind == "none" else LOSS
    one = make_learner(kind, target_period=2, optimizer=optimizer)
    one.loss = loss
    rows = loss.length + 2

    def batch(seed):
        return make_batch(one.online, rows, COLUMNS, seed=seed)

    for step in range(3):
        one.update(batch(step))
    tensors, numbers = one.state_dict()
    names = {"adam": {"step", "exp_avg", "exp_avg_sq"}, "rmsprop": {"mean", "square"}}[optimizer]
    assert {name.split(".")[1] for name in tensors if name.startswith("optimizer.")} == names
    if copied:  # as a checkpoint would
        tensors = {name: value.clone() for name, value in tensors.items()}
    other = Learner(make_network(kind, "iqn", seed=5), loss, learning_rate=1e-3, optimizer_epsilon=1e-5,
                    optimizer=optimizer, target_period=2, seed=99)  # fmt: skip
    other.load_state_dict(tensors, numbers)
    for step in range(3, 6):
        metrics = one.update(batch(step), 0.1)[2], other.update(batch(step), 0.1)[2]
        assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    for part in ("online", "target"):
        assert same(weights(getattr(one, part)), weights(getattr(other, part)))
    assert all(same(a, b) for a, b in zip(moments(one), moments(other), strict=True))
    assert one.updates == other.updates == 6


def test_a_learner_that_has_not_learned_yet_can_be_saved():
    one, other = make_learner(), make_learner()
    other.update(batch_for(other))
    fresh = make_learner()
    fresh.load_state_dict(*one.state_dict())
    one.update(batch_for(one))
    fresh.update(batch_for(fresh))
    assert same(weights(one.online), weights(fresh.online))


def test_the_seed_decides_the_fractions():
    runs = []
    for seed in (0, 0, 1):
        learner = make_learner(seed=seed)
        runs.append(learner.update(batch_for(learner))[2]["loss"].item())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("kind", ["after", "outer", "inner", "separate", "none"])
def test_half_precision_learns_nearly_the_same(kind):
    loss = replace(LOSS, length=1) if kind == "none" else LOSS
    results = []
    for precision in ("fp32", "bf16"):
        learner = make_learner(kind, precision=precision)
        learner.loss = loss
        error, _, metrics, _ = learner.update(make_batch(learner.online, loss.length + 2, COLUMNS))
        assert error.dtype == metrics["loss"].dtype == torch.float32
        assert {p.dtype for p in learner.online.parameters()} == {torch.float32}
        grads = torch.cat([p.grad.flatten() for p in learner.online.parameters()])
        results.append((metrics["loss"], error, grads))
    for exact, half in zip(*results, strict=True):
        assert 0 < ((half - exact).norm() / exact.norm()).item() < 0.05


def test_seeds_are_many_and_reproducible():
    assert seeds(3, 4) == seeds(3, 4)
    assert seeds(3, 2) == seeds(3, 4)[:2]
    assert len({*seeds(3, 4), *seeds(4, 4)}) == 8


@pytest.mark.parametrize("longest", [0.5, 100.0, float("inf")])
def test_clipping_is_that_of_torch(longest):
    ours = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 4), (5,), (2,))]
    theirs = [torch.nn.Parameter(torch.ones(p.shape)) for p in ours]
    for i, (mine, other) in enumerate(zip(ours[:2], theirs[:2], strict=True)):  # the third has no gradient
        mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(i))
        other.grad = mine.grad.clone()
    norm = learning.clipped(ours, longest)
    assert norm == torch.nn.utils.clip_grad_norm_(theirs, longest)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)
