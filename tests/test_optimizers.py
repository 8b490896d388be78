"""Centered RMSProp and AdaGrad: against slow twins and PyTorch, where epsilon stands, and updates that are skipped."""

import copy
import math

import pytest
import torch

from retorq.optimizers import AdaGrad, CenteredRMSProp

SHAPES = [(3, 2), (4,), (1, 1, 2)]


def parameters(seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=draw, dtype=dtype)) for shape in SHAPES]


def give_gradients(weights, seed):
    draw = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(*weight.shape, generator=draw, dtype=weight.dtype)


def twin(values, gradients, lr, decay, eps):
    """Every number by itself, through all its gradients in turn."""
    for i in range(len(values)):
        mean = square = 0.0
        for gradient in gradients:
            g = gradient[i]
            mean = decay * mean + (1 - decay) * g
            square = decay * square + (1 - decay) * g * g
            values[i] -= lr * g / math.sqrt(square - mean * mean + eps)
    return values


@pytest.mark.parametrize(("decay", "eps"), [(0.95, 0.01), (0.5, 1e-4), (0.0, 1.0)])
@pytest.mark.parametrize("tensor", [False, True])
def test_equals_the_slow_twin(decay, eps, tensor):
    weights = parameters(dtype=torch.float64)
    start = torch.cat([w.detach().flatten() for w in weights]).tolist()
    rate = torch.tensor(0.02, dtype=torch.float64) if tensor else 0.02
    optimizer = CenteredRMSProp(weights, rate, decay=decay, eps=eps)
    gradients = []
    for step in range(6):
        give_gradients(weights, step)
        gradients.append(torch.cat([w.grad.flatten() for w in weights]).tolist())
        optimizer.step()
    expected = torch.tensor(twin(start, gradients, 0.02, decay, eps), dtype=torch.float64)
    torch.testing.assert_close(torch.cat([w.detach().flatten() for w in weights]), expected)


def test_epsilon_is_inside_the_root():
    """One step from zero state: mean 0.05 g, square 0.05 g^2."""
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([2.0])
    CenteredRMSProp([weight], 1.0).step()
    assert weight.item() == pytest.approx(-2 / math.sqrt(0.05 * 4 - 0.01 + 0.01))


def test_defaults_and_names_of_the_state():
    weights = parameters()
    optimizer = CenteredRMSProp(weights, 2.5e-4)
    assert {k: v for k, v in optimizer.defaults.items() if k in ("lr", "decay", "eps")} == {
        "lr": 2.5e-4,
        "decay": 0.95,
        "eps": 0.01,
    }
    give_gradients(weights, 0)
    optimizer.step()
    for weight in weights:
        state = optimizer.state[weight]
        assert set(state) == {"mean", "square"}
        torch.testing.assert_close(state["mean"], 0.05 * weight.grad)
        torch.testing.assert_close(state["square"], 0.05 * weight.grad**2)


@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf, 1.0])
def test_a_skipped_step_leaves_no_trace(content):
    weights, others = parameters(), parameters()
    optimizer, other = (CenteredRMSProp(w, 0.1) for w in (weights, others))
    for step in range(5):
        give_gradients(weights, step)
        give_gradients(others, step)
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        other.step()
        optimizer.found_inf = torch.tensor(1.0)
        for weight in weights:
            weight.grad.flatten()[0] = content
        before = [w.detach().clone() for w in weights]
        state = [{k: v.clone() for k, v in optimizer.state[w].items()} for w in weights]
        optimizer.step()
        for weight, old, kept in zip(weights, before, state, strict=True):
            assert torch.equal(weight, old)
            for name, value in kept.items():
                assert torch.equal(optimizer.state[weight][name], value)
    for weight, twin_weight in zip(weights, others, strict=True):
        assert torch.equal(weight, twin_weight)


def test_a_skipped_first_step_starts_from_zero_state():
    weights = parameters()
    optimizer = CenteredRMSProp(weights, 0.1)
    optimizer.found_inf = torch.tensor(1.0)
    give_gradients(weights, 0)
    before = [w.detach().clone() for w in weights]
    optimizer.step()
    assert all(torch.equal(w, old) for w, old in zip(weights, before, strict=True))
    assert all((value == 0).all() for w in weights for value in optimizer.state[w].values())


def test_the_step_size_may_change_in_place():
    rate = torch.tensor(0.1)
    weights = parameters()
    optimizer = CenteredRMSProp(weights, rate)
    give_gradients(weights, 0)
    rate.fill_(0.0)
    before = [w.detach().clone() for w in weights]
    optimizer.step()
    assert all(torch.equal(w, old) for w, old in zip(weights, before, strict=True))


def test_rounding_never_makes_the_variance_negative():
    """Large equal gradients: the square's mean and the mean's square differ by nothing but rounding."""
    weight = torch.nn.Parameter(torch.zeros(100))
    optimizer = CenteredRMSProp([weight], 1e-4, eps=1e-5)
    for _ in range(400):
        weight.grad = torch.linspace(3000, 4000, 100)
        optimizer.step()
    variance = optimizer.state[weight]["square"] - optimizer.state[weight]["mean"] ** 2
    assert (variance < 0).any(), "the case must need the bound"
    assert torch.isfinite(weight).all()


def test_parameters_without_gradient_are_left_alone_and_groups_have_their_own_numbers():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = CenteredRMSProp([{"params": [first, idle]}, {"params": [second], "lr": 0.2}], 0.1)
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(2 * (first - 1), second - 1)
    assert torch.equal(idle, torch.ones(2))
    assert idle not in optimizer.state


def test_the_closure_runs_with_gradients():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = CenteredRMSProp([weight], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert (weight < 1).all()


def test_goes_on_exactly_from_a_saved_state():
    weights, others = parameters(), parameters()
    optimizer = CenteredRMSProp(weights, 0.1)
    give_gradients(weights, 0)
    optimizer.step()
    other = CenteredRMSProp(others, 0.3, decay=0.1, eps=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # else both would write into the same tensors
    for weight, copied in zip(weights, others, strict=True):
        copied.data.copy_(weight.data)
    for each, its in ((optimizer, weights), (other, others)):
        give_gradients(its, 1)
        each.step()
    assert all(torch.equal(w, o) for w, o in zip(weights, others, strict=True))


@pytest.mark.parametrize(
    ("rate", "more", "message"),
    [
        (-0.1, {}, "lr is -0.1"),
        (math.nan, {}, "lr is nan"),
        (0.1, {"decay": 1.0}, "decay is 1.0"),
        (0.1, {"decay": -0.1}, "decay is -0.1"),
        (0.1, {"eps": 0.0}, "eps is 0.0"),
    ],
)
def test_refuses_what_makes_no_sense(rate, more, message):
    with pytest.raises(ValueError, match=message):
        CenteredRMSProp(parameters(), rate, **more)


@pytest.mark.parametrize("eps", [1e-10, 0.1])
@pytest.mark.parametrize("tensor", [False, True])
def test_adagrad_equals_its_slow_twin_and_pytorch(eps, tensor):
    weights, others = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    values = torch.cat([w.detach().flatten() for w in weights]).tolist()
    totals = [0.0] * len(values)
    mine = AdaGrad(weights, torch.tensor(0.05, dtype=torch.float64) if tensor else 0.05, eps=eps)
    theirs = torch.optim.Adagrad(others, lr=0.05, eps=eps)
    for step in range(5):
        for optimizer, of in ((mine, weights), (theirs, others)):
            give_gradients(of, step)
            optimizer.step()
        for i, g in enumerate(torch.cat([w.grad.flatten() for w in weights]).tolist()):
            totals[i] += g * g
            values[i] -= 0.05 * g / (math.sqrt(totals[i]) + eps)
    torch.testing.assert_close(
        torch.cat([w.detach().flatten() for w in weights]), torch.tensor(values, dtype=torch.float64)
    )
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other)


def test_adagrad_skips_a_step_without_a_trace():
    weights = parameters()
    optimizer = AdaGrad(weights, 0.1)
    give_gradients(weights, 0)
    optimizer.step()
    before, state = copy.deepcopy(weights), copy.deepcopy([optimizer.state[w]["sum"] for w in weights])
    for weight in weights:
        weight.grad = torch.full_like(weight, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    for one, other, total, kept in zip(
        weights, before, [optimizer.state[w]["sum"] for w in weights], state, strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(total, kept)
