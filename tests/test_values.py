"""Values: means, bootstraps and regressions against loops in paper notation."""

import math

import pytest
import torch

from retorq.values import Categorical, Quantiles, Scalars, _pick, greedy

T, B, N, M, A, K = 3, 2, 4, 5, 3, 7


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
    """The greedy action maximizes the mean over samples, not any one sample; the first of equals."""
    values = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])  # [T=2, B=1, N=2, A=2]
    record = Quantiles(values, torch.rand(2, 1, 2))
    assert record.mean().tolist() == [[[2.0, 1.5]], [[1.0, 1.0]]]
    assert greedy(record).tolist() == [[0], [0]]
    assert greedy(Scalars(torch.tensor([[[0.0, 2.0, 2.0]]]))).tolist() == [[1]]
    part = record.rows(1, 2)
    assert part.values.shape == (1, 1, 2, 2)
    assert torch.equal(part.fractions, record.fractions[1:])
    assert Scalars(values[:, :, 0]).rows(0, 1).values.shape == (1, 1, 2)


SUPPORT = torch.linspace(-3, 2, K, dtype=torch.float64)


def categorical(seed=0):
    return Categorical(2 * draw(T, B, K, A, seed=seed), SUPPORT)


def softmax_twin(logits):
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def test_mean_of_probabilities():
    values = categorical()
    mean = values.mean()
    assert mean.shape == (T, B, A)
    for t, b in CELLS:
        for a in range(A):
            probs = softmax_twin(values.logits[t, b, :, a].tolist())
            expected = sum(p * z for p, z in zip(probs, SUPPORT.tolist(), strict=True))
            assert mean[t, b, a].item() == pytest.approx(expected)
    assert greedy(values).tolist() == mean.argmax(-1).tolist()
    part = values.rows(1, 2)
    assert torch.equal(part.mean(), mean[1:2])
    assert part.support is values.support


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_bellman_of_probabilities_moves_every_atom_and_shares_it_between_its_neighbors(epsilon):
    values, width = categorical(), 5 / (K - 1)
    target = values.bellman(ACTION, REWARD, DISCOUNT, epsilon)
    assert target.shape == (T, B, K)
    torch.testing.assert_close(target.sum(-1), torch.ones(T, B, dtype=torch.float64))
    for t, b in CELLS:
        probs, expected = softmax_twin(values.logits[t, b, :, ACTION[t, b]].tolist()), [0.0] * K
        for z, p in zip(SUPPORT.tolist(), probs, strict=True):
            moved = min(max(goal(z, t, b, epsilon), -3.0), 2.0)
            for i, atom in enumerate(SUPPORT.tolist()):
                expected[i] += max(0.0, 1 - abs(moved - atom) / width) * p
        assert target[t, b].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.5, 0.9, [0.03, 0.15, 0.32, 0.32, 0.18]),
        (1.0, 1.0, [0.0, 0.1, 0.2, 0.4, 0.3]),
        (3.0, 0.5, [0.0, 0.0, 0.0, 0.0, 1.0]),
        (-0.25, 0.0, [0.0, 0.25, 0.75, 0.0, 0.0]),
    ],
)
def test_bellman_of_probabilities_worked_by_hand(reward, discount, expected):
    """The last row is a termination: all mass at the reward."""
    logits = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]).log()[None, None, :, None]
    values = Categorical(logits, torch.arange(-2.0, 3.0))
    target = values.bellman(torch.tensor([[0]]), torch.tensor([[reward]]), torch.tensor([[discount]]), 0.0)
    torch.testing.assert_close(target[0, 0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_regress_of_probabilities_is_the_cross_entropy_and_its_error_the_divergence():
    values, target = categorical(), draw(T, B, K, seed=2).softmax(-1)
    target[0, 0] = torch.nn.functional.one_hot(torch.tensor(2), K)  # probabilities of 0 and 1 need no logarithm
    loss, error = values.regress(ACTION, target, 1.0)
    for t, b in CELLS:
        probs = softmax_twin(values.logits[t, b, :, ACTION[t, b]].tolist())
        goals = target[t, b].tolist()
        assert loss[t, b].item() == pytest.approx(-sum(m * math.log(p) for m, p in zip(goals, probs, strict=True)))
        divergence = sum(m * math.log(m / p) for m, p in zip(goals, probs, strict=True) if m > 0)
        assert error[t, b].item() == pytest.approx(divergence)


def test_the_gradient_is_prediction_minus_target_and_only_the_taken_action_has_one():
    values, target = categorical(), draw(T, B, K, seed=2).softmax(-1)
    values.logits.requires_grad_()
    loss, error = values.regress(ACTION, target, 1.0)
    assert not error.requires_grad
    loss.sum().backward()
    for t, b in CELLS:
        for a in range(A):
            expected = values.logits[t, b, :, a].softmax(-1) - target[t, b] if a == ACTION[t, b] else torch.zeros(K)
            torch.testing.assert_close(values.logits.grad[t, b, :, a], expected, check_dtype=False)


def test_the_divergence_is_zero_where_the_prediction_is_right_and_never_negative():
    logits = 5 * torch.randn(50, 40, 51, 1, generator=torch.Generator().manual_seed(0))
    values = Categorical(logits, torch.linspace(-10, 10, 51))
    loss, error = values.regress(torch.zeros(50, 40, dtype=torch.long), logits[..., 0].softmax(-1), 1.0)
    assert (error >= 0).all()
    assert error.max() < 1e-5
    assert loss.mean() > 0.1, "the entropy of the target stays in the loss"


def test_impossible_logits_give_no_infinite_error():
    logits = torch.tensor([200.0, 0.0, -200.0])[None, None, :, None].requires_grad_()
    target = torch.tensor([[[1.0, 0.0, 0.0]]])
    loss, error = Categorical(logits, torch.arange(3.0)).regress(torch.tensor([[0]]), target, 1.0)
    loss.sum().backward()
    assert loss.item() == error.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_end_mass_of_the_taken_action():
    values = categorical()
    probs = [softmax_twin(values.logits[t, b, :, ACTION[t, b]].tolist()) for t, b in CELLS]
    told = values.diagnostics(ACTION)
    assert set(told) == {"end_mass"}
    assert told["end_mass"].item() == pytest.approx(sum(p[0] + p[-1] for p in probs) / len(CELLS))
    assert told["end_mass"].shape == ()
    values.logits.requires_grad_()
    assert not values.diagnostics(ACTION)["end_mass"].requires_grad
    assert Scalars(draw(T, B, A)).diagnostics(ACTION) == {}
    assert Quantiles(draw(T, B, N, A), draw(T, B, N)).diagnostics(ACTION) == {}


def test_probabilities_are_computed_in_single_precision():
    """Logits in half precision, and an autocast that would round products."""
    logits = draw(T, B, 51, A).to(torch.bfloat16)
    half, full = (Categorical(x, torch.linspace(-10, 10, 51)) for x in (logits, logits.float()))
    reward, discount = REWARD.float(), DISCOUNT.float()
    with torch.autocast("cpu", torch.bfloat16):
        told = half.mean(), half.bellman(ACTION, reward, discount, 0.0)
        told += half.regress(ACTION, told[1], 1.0)
    expected = full.mean(), full.bellman(ACTION, reward, discount, 0.0)
    expected += full.regress(ACTION, expected[1], 1.0)
    for mine, exact in zip(told, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-6)
    assert (told[1].sum(-1) - 1).abs().max() < 1e-6
