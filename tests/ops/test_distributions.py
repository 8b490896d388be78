"""Distributional losses: against the paper's double sums, numbers worked by hand, and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retorq.ops.distributions import categorical_projection, huber, quantile_huber

PREDICTION = torch.tensor([0.0, 1, 2], dtype=torch.float64)
FRACTIONS = torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64)
TARGET = torch.tensor([-1, 0.5, 3], dtype=torch.float64)


def huber_twin(u, kappa):
    return 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)


def quantile_twin(prediction, fractions, target, kappa):
    """Loss, gradient to the predictions and mean absolute pair, summed as the paper writes it."""
    loss, error, gradient = 0.0, 0.0, np.zeros(len(prediction))
    for i, (theta, tau) in enumerate(zip(prediction, fractions, strict=True)):
        for goal in target:
            u = goal - theta
            weight = abs(tau - (u < 0))
            loss += weight * (huber_twin(u, kappa) / kappa if kappa else abs(u)) / len(target)
            slope = min(max(u, -kappa), kappa) / kappa if kappa else np.sign(u)
            gradient[i] -= weight * slope / len(target)
            error += abs(u) / (len(prediction) * len(target))
    return loss, gradient, error


def case(seed, shape, targets):
    generator = np.random.default_rng(seed)
    prediction = 2 * generator.normal(size=shape)
    return prediction, generator.random(shape), 2 * generator.normal(size=(*shape[:-1], targets))


@given(st.floats(-50, 50), st.sampled_from([0.1, 1.0, 3.0]))
def test_huber_equals_its_two_branches(u, kappa):
    assert huber(torch.tensor(u, dtype=torch.float64), kappa).item() == pytest.approx(huber_twin(u, kappa), abs=1e-12)


def test_the_gradient_of_huber_is_the_clipped_error():
    error = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    huber(error, 1.0).sum().backward()
    torch.testing.assert_close(error.grad, error.detach().clamp(-1, 1))
    torch.testing.assert_close(huber(error.detach(), math.inf), error.detach() ** 2 / 2)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0, 2.0]))
def test_quantile_huber_equals_the_double_sum(seed, n, m, kappa):
    shape = (2, 3, n)
    prediction, fractions, target = case(seed, shape, m)
    leaf = torch.from_numpy(prediction).requires_grad_()
    loss, error = quantile_huber(leaf, torch.from_numpy(fractions), torch.from_numpy(target), kappa)
    scale = torch.from_numpy(np.random.default_rng(seed).normal(size=shape[:-1]))
    (loss * scale).sum().backward()
    assert loss.shape == error.shape == shape[:-1]
    assert not error.requires_grad
    for where in np.ndindex(shape[:-1]):
        expected, gradient, pair = quantile_twin(prediction[where], fractions[where], target[where], kappa)
        assert loss[where].item() == pytest.approx(expected)
        assert error[where].item() == pytest.approx(pair)
        np.testing.assert_allclose(leaf.grad[where], scale[where].item() * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kappa", "expected"), [(1.0, 1.138889), (0.0, 1.75), (2.0, 0.739583)])
def test_quantile_huber_worked_by_hand(kappa, expected):
    loss, error = quantile_huber(PREDICTION, FRACTIONS, TARGET, kappa)
    # A flipped indicator gives 2.277778 for kappa 1, a mean over both axes 0.379630.
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert error.item() == pytest.approx(14.5 / 9)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_quantile_gradient_equals_finite_differences(kappa):
    prediction, fractions, target = (torch.from_numpy(a) for a in case(5, (4, 7), 6))
    assert torch.autograd.gradcheck(
        lambda p: quantile_huber(p, fractions, target, kappa)[0], prediction.requires_grad_()
    )


def test_gradient_flows_to_the_prediction_only():
    leaves = [x.clone().requires_grad_() for x in (PREDICTION, FRACTIONS, TARGET)]
    quantile_huber(*leaves, 1.0)[0].backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is None
    assert leaves[2].grad is None


def test_fractions_may_be_shared_by_all_rows():
    prediction, _, target = (torch.from_numpy(a) for a in case(1, (2, 4, 3), 5))
    shared, each = (quantile_huber(prediction, f, target, 1.0)[0] for f in (FRACTIONS, FRACTIONS.expand(2, 4, 3)))
    torch.testing.assert_close(shared, each)


def test_half_precision_is_computed_in_single():
    prediction, fractions, target = (torch.from_numpy(a).bfloat16() for a in case(2, (3, 8), 8))
    leaf = prediction.clone().requires_grad_()
    loss, error = quantile_huber(leaf, fractions, target, 1.0)
    expected, _ = quantile_huber(prediction.float(), fractions.float(), target.float(), 1.0)
    assert loss.dtype == error.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    loss.sum().backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_the_median_of_the_target_is_what_the_half_fraction_learns():
    """Where the plain quantile loss is lowest, a fraction tau of the target lies below the prediction."""
    target = torch.from_numpy(np.random.default_rng(0).exponential(size=1000))
    grid = torch.linspace(0, 3, 301, dtype=torch.float64).unsqueeze(-1)
    for tau in (0.1, 0.5, 0.9):
        loss, _ = quantile_huber(grid, torch.full_like(grid, tau), target.expand(301, 1000), 0.0)
        assert grid[loss.argmin()].item() == pytest.approx(target.quantile(tau).item(), abs=0.02)


SUPPORT = torch.linspace(-2, 2, 5, dtype=torch.float64)
PROBS = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)


def projection_twin(support_from, probs, support_to):
    """The triangular kernel, one atom at a time, evenly spaced support."""
    width, result = support_to[1] - support_to[0], []
    for z in support_to:
        mass = 0.0
        for value, p in zip(support_from, probs, strict=True):
            clipped = min(max(value, support_to[0]), support_to[-1])
            mass += min(max(1 - abs(clipped - z) / width, 0), 1) * p
        result.append(mass)
    return result


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.5, 0.9, [0.03, 0.15, 0.32, 0.32, 0.18]),
        (1, 1, [0, 0.1, 0.2, 0.4, 0.3]),
        (3, 0.5, [0, 0, 0, 0, 1]),
        (-0.25, 0, [0, 0.25, 0.75, 0, 0]),
    ],
)
def test_projection_worked_by_hand(reward, discount, expected):
    projected = categorical_projection(reward + discount * SUPPORT, PROBS, SUPPORT)
    assert projected.tolist() == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(2, 8))
def test_projection_equals_the_kernel_sum(seed, j, k):
    generator = np.random.default_rng(seed)
    support_to = np.linspace(-2, 3, k)
    support_from = generator.normal(size=(2, 3, j)) * 3
    support_from[0, 0, 0] = support_to[k // 2]  # exactly on an atom
    probs = generator.dirichlet(np.ones(j), size=(2, 3))
    projected = categorical_projection(*(torch.from_numpy(a) for a in (support_from, probs, support_to)))
    for where in np.ndindex(2, 3):
        expected = projection_twin(support_from[where], probs[where], support_to)
        assert projected[where].tolist() == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10**6))
def test_projection_keeps_mass_and_mean(seed):
    generator = np.random.default_rng(seed)
    support_to = np.sort(generator.normal(size=9)) + np.arange(9) * 0.1  # unevenly spaced
    support_from = generator.uniform(support_to[0], support_to[-1], size=(4, 6))
    probs = generator.dirichlet(np.ones(6), size=4)
    projected = categorical_projection(*(torch.from_numpy(a) for a in (support_from, probs, support_to))).numpy()
    np.testing.assert_allclose(projected.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(projected @ support_to, (probs * support_from).sum(-1), rtol=1e-9, atol=1e-9)
    assert (projected >= 0).all()


def test_single_precision_keeps_the_mass_of_the_usual_support():
    support = torch.linspace(-10, 10, 51)
    probs = torch.softmax(torch.from_numpy(np.random.default_rng(0).normal(size=(64, 51))).float(), -1)
    reward = torch.linspace(-12, 12, 64).unsqueeze(-1)
    projected = categorical_projection(reward + 0.99 * support, probs, support)
    torch.testing.assert_close(projected.sum(-1), torch.ones(64), rtol=0, atol=2e-6)


def test_refuses_what_makes_no_sense():
    for kappa in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="kappa is"):
            quantile_huber(PREDICTION, FRACTIONS, TARGET, kappa)
    with pytest.raises(ValueError, match="kappa is 0"):
        huber(TARGET, 0)
    for support in (torch.zeros(1), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="support_to has shape"):
            categorical_projection(SUPPORT, PROBS, support)
