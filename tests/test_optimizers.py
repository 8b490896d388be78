"""Adam, centered RMSProp and AdaGrad: against slow twins and PyTorch, where epsilon stands, steps that are skipped."""

import copy
import math
import subprocess
import sys

import pytest
import torch

from retorq.optimizers import AdaGrad, Adam, CenteredRMSProp

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES = [(3, 2), (4,), (1, 1, 2)]


def parameters(seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=draw, dtype=dtype)) for shape in SHAPES]


def give_gradients(weights, seed):
    draw = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(*weight.shape, generator=draw, dtype=weight.dtype).to(weight.device)


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
    (group,) = optimizer.param_groups
    assert {k: v for k, v in group.items() if k != "params"} == {"lr": 2.5e-4, "decay": 0.95, "eps": 0.01}
    give_gradients(weights, 0)
    optimizer.step()
    for weight in weights:
        state = optimizer.state[weight]
        assert set(state) == {"mean", "square"}
        torch.testing.assert_close(state["mean"], 0.05 * weight.grad)
        torch.testing.assert_close(state["square"], 0.05 * weight.grad**2)


@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf, 1.0])
@pytest.mark.parametrize("kind", [Adam, AdaGrad, CenteredRMSProp])
def test_a_skipped_step_leaves_no_trace(kind, content):
    weights, others = parameters(), parameters()
    optimizer, other = (kind(w, 0.1) for w in (weights, others))
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


@pytest.mark.parametrize("kind", [Adam, AdaGrad, CenteredRMSProp])
def test_a_skipped_first_step_starts_from_zero_state(kind):
    weights = parameters()
    optimizer = kind(weights, 0.1)
    optimizer.found_inf = torch.tensor(1.0)
    give_gradients(weights, 0)
    before = [w.detach().clone() for w in weights]
    optimizer.step()
    assert all(torch.equal(w, old) for w, old in zip(weights, before, strict=True))
    assert all((value == 0).all() for w in weights for value in optimizer.state[w].values())


@pytest.mark.parametrize("kind", [Adam, AdaGrad, CenteredRMSProp])
def test_the_step_size_may_change_in_place(kind):
    rate = torch.tensor(0.1)
    weights = parameters()
    optimizer = kind(weights, rate)
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


@pytest.mark.parametrize("kind", [Adam, AdaGrad, CenteredRMSProp])
def test_parameters_without_gradient_are_left_alone_and_groups_have_their_own_numbers(kind):
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([{"params": [first, idle]}, {"params": [second], "lr": 0.2}], 0.1)
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(2 * (first - 1), second - 1)
    assert torch.equal(idle, torch.ones(2))
    assert idle not in optimizer.state


@pytest.mark.parametrize("kind", [Adam, AdaGrad, CenteredRMSProp])
def test_goes_on_exactly_from_a_saved_state(kind):
    weights, others = parameters(), parameters()
    optimizer, other = kind(weights, 0.1), kind(others, 0.1)
    give_gradients(weights, 0)
    optimizer.step()
    for weight, copied in zip(weights, others, strict=True):
        other.state[copied] = copy.deepcopy(optimizer.state[weight])  # else both would write into the same tensors
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


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-5), ((0.5, 0.9), 0.1)])
@pytest.mark.parametrize("tensor", [False, True])
def test_adam_equals_its_slow_twin(betas, eps, tensor):
    weights = parameters(dtype=torch.float64)
    values = torch.cat([w.detach().flatten() for w in weights]).tolist()
    means, squares = [0.0] * len(values), [0.0] * len(values)
    optimizer = Adam(weights, torch.tensor(0.05, dtype=torch.float64) if tensor else 0.05, betas=betas, eps=eps)
    for step in range(1, 6):
        give_gradients(weights, step)
        optimizer.step()
        for i, g in enumerate(torch.cat([w.grad.flatten() for w in weights]).tolist()):
            means[i] = betas[0] * means[i] + (1 - betas[0]) * g
            squares[i] = betas[1] * squares[i] + (1 - betas[1]) * g * g
            mean, square = means[i] / (1 - betas[0] ** step), squares[i] / (1 - betas[1] ** step)
            values[i] -= 0.05 * mean / (math.sqrt(square) + eps)
    torch.testing.assert_close(
        torch.cat([w.detach().flatten() for w in weights]), torch.tensor(values, dtype=torch.float64)
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_adam_does_what_pytorch_s_does_to_the_bit_with_skipped_steps_too(device):
    weights, others = ([torch.nn.Parameter(p.to(device)) for p in parameters()] for _ in range(2))
    rate = torch.tensor(0.05, device=device) if device == "cuda" else 0.05
    mine = Adam(weights, rate, eps=1e-5)
    theirs = torch.optim.Adam(others, rate, eps=1e-5, fused=True, capturable=device == "cuda")
    for step in range(8):
        for optimizer, of in ((mine, weights), (theirs, others)):
            give_gradients(of, step)
            optimizer.found_inf = torch.tensor(float(step % 3 == 1), device=device)
            optimizer.grad_scale = None
            optimizer.step()
    for one, other in zip(weights, others, strict=True):
        assert torch.equal(one, other)
        assert mine.state[one].keys() == theirs.state[other].keys()
        for name, kept in mine.state[one].items():
            assert torch.equal(kept, theirs.state[other][name])


def test_learning_does_not_import_pytorch_s_compiler(tmp_path):
    """It would cost every process that learns time and memory."""
    words = (
        "import sys, retorq; retorq.train('catch', 'dqn', preset='toy', steps=100, warmup=50, say=lambda line: None, "
        f"run={str(tmp_path / 'run')!r}); print('torch._dynamo' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.splitlines()[-1] == "False"
