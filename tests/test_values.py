"""Values: means, bootstraps and regressions against loops in paper notation."""

import math

import pytest
import torch

from retorq.values import Quantiles, Scalars, _pick, greedy

T, B, N, M, A = 3, 2, 4, 5, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ACTION = torch.tensor([[0, 2], [1, 1], [2, 0]])
REWARD, DISCOUNT = draw(T, B, seed=1), torch.tensor([[0.9, 0.0], [0.81, 0.9], [1.0, 0.5]], dtype=torch.float64)
CELLS = [(t, b) for t in range(T) for b in range(B)]


def h(x, epsilon):
    return math.copysign(1, x) * (math.sqrt(abs(x) + 1) - 1) + epsilon * x


def h_inverse(y, epsilon):
    inner = (math.sqrt(1 + 4 * epsilon * (abs(y) + 1 + epsilon)) - 1) / (2 * epsilon)
    return math.copysign(1, y) * (inner**2 - 1)


def goal(value, t, b, epsilon):
    reward, discount = REWARD[t, b].item(), DISCOUNT[t, b].item()
    if epsilon == 0:
        return reward + discount * value
    return h(reward + discount * h_inverse(value, epsilon), epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_bellman_of_scalars(epsilon):
    values = 5 * draw(T, B, A)
    target = Scalars(values).bellman(ACTION, REWARD, DISCOUNT, epsilon)
    assert target.shape == (T, B)
    for t, b in CELLS:
        assert target[t, b].item() == pytest.approx(goal(values[t, b, ACTION[t, b]].item(), t, b, epsilon), rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_bellman_of_quantiles_is_the_same_per_sample(epsilon):
    values = 5 * draw(T, B, N, A)
    target = Quantiles(values, draw(T, B, N)).bellman(ACTION, REWARD, DISCOUNT, epsilon)
    assert target.shape == (T, B, N)
    for t, b in CELLS:
        for n in range(N):
            expected = goal(values[t, b, n, ACTION[t, b]].item(), t, b, epsilon)
            assert target[t, b, n].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kappa", [0.5, 1.0, math.inf])
def test_regress_of_scalars(kappa):
    values, target = draw(T, B, A), draw(T, B, seed=2)
    loss, error = Scalars(values).regress(ACTION, target, kappa)
    for t, b in CELLS:
        u = target[t, b].item() - values[t, b, ACTION[t, b]].item()
        expected = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
        assert loss[t, b].item() == pytest.approx(expected)
        assert error[t, b].item() == pytest.approx(abs(u))


@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_regress_of_quantiles(kappa):
    """Sum over predictions, mean over targets, the fraction of the prediction; N and M differ on purpose."""
    values, fractions, target = draw(T, B, N, A), draw(T, B, N, seed=3).sigmoid(), draw(T, B, M, seed=2)
    loss, error = Quantiles(values, fractions).regress(ACTION, target, kappa)
    for t, b in CELLS:
        expected, absolute = 0.0, 0.0
        for i in range(N):
            for j in range(M):
                u = (target[t, b, j] - values[t, b, i, ACTION[t, b]]).item()
                size = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                expected += abs(fractions[t, b, i].item() - (u < 0)) * size / kappa / M
                absolute += abs(u) / (N * M)
        assert loss[t, b].item() == pytest.approx(expected)
        assert error[t, b].item() == pytest.approx(absolute)


@pytest.mark.parametrize("quantiles", [False, True])
def test_only_the_taken_action_gets_a_gradient(quantiles):
    values = draw(*((T, B, N, A) if quantiles else (T, B, A))).requires_grad_()
    record = Quantiles(values, draw(T, B, N).sigmoid()) if quantiles else Scalars(values)
    loss, error = record.regress(ACTION, draw(T, B, M, seed=2) if quantiles else draw(T, B, seed=2), 1.0)
    assert not error.requires_grad
    loss.sum().backward()
    touched = values.grad.abs() if not quantiles else values.grad.abs().sum(2)
    assert (touched.gather(-1, ACTION[..., None]) > 0).all()
    assert (touched.scatter(-1, ACTION[..., None], 0) == 0).all()


def test_pick_broadcasts_missing_axes():
    values = draw(T, B, N, A)
    per_row = _pick(values, ACTION)
    per_sample = _pick(values, ACTION[..., None].expand(T, B, N))
    assert per_row.shape == (T, B, N)
    torch.testing.assert_close(per_row, per_sample)
    torch.testing.assert_close(_pick(values[:, :, 0], ACTION), per_row[:, :, 0])
    for t, b in CELLS:
        torch.testing.assert_close(per_row[t, b], values[t, b, :, ACTION[t, b]])


def test_mean_greedy_and_rows():
    """The greedy action maximises the mean over samples, not any one sample; the first of equals."""
    values = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])  # [T=2, B=1, N=2, A=2]
    record = Quantiles(values, torch.rand(2, 1, 2))
    assert record.mean().tolist() == [[[2.0, 1.5]], [[1.0, 1.0]]]
    assert greedy(record).tolist() == [[0], [0]]
    assert greedy(Scalars(torch.tensor([[[0.0, 2.0, 2.0]]]))).tolist() == [[1]]
    part = record.rows(1, 2)
    assert part.values.shape == (1, 1, 2, 2)
    assert torch.equal(part.fractions, record.fractions[1:])
    assert Scalars(values[:, :, 0]).rows(0, 1).values.shape == (1, 1, 2)
