"""Noisy layers: published variances and initial values, one draw per call for the whole batch, none in evaluation."""

import copy

import pytest
import torch
from torch import nn

from retorq.nn import noisy, products
from retorq.nn.noisy import NoisyLinear, sigmas

IN, OUT = 4, 6


def layer(inputs=IN, outputs=OUT, sigma=0.5, seed=0, **more):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NoisyLinear(inputs, outputs, sigma, **more)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_of(module, generator):
    """``eps_w [outputs, inputs]`` and ``eps_b [outputs]`` of a draw, block by block."""
    of_outputs, of_inputs = module.draw(generator)
    grid = [torch.outer(a, b) for a, b in zip(of_outputs.chunk(module.blocks), of_inputs, strict=True)]
    return torch.cat(grid), of_outputs


def draws(module, count=4000):
    g = generator(1)
    pairs = [noise_of(module, g) for _ in range(count)]
    return torch.stack([w for w, _ in pairs]), torch.stack([b for _, b in pairs])


def test_variances_of_the_noise():
    """Var f(e) = E|e| = 0.7979 for biases; Var f(a) f(b) = 2/pi = 0.6366 for weights; means are 0."""
    weight, bias = draws(layer())
    assert bias.mean().item() == pytest.approx(0.0, abs=0.02)
    assert weight.mean().item() == pytest.approx(0.0, abs=0.02)
    assert bias.var().item() == pytest.approx(0.7979, rel=0.02)
    assert weight.var().item() == pytest.approx(0.6366, rel=0.04)


def test_noise_is_factorized_and_its_outputs_share_their_factor_with_the_bias():
    """eps_w[i, j] = f(a_i) f(b_j), eps_b[i] = f(a_i), with f(x) = sign(x) sqrt|x| of standard normal numbers."""
    weight, bias = noise_of(layer(), generator())
    of_inputs = weight / bias[:, None]
    torch.testing.assert_close(of_inputs, of_inputs[:1].expand_as(of_inputs))
    _, many = draws(layer(), 3000)
    normal = (many.sign() * many.square()).flatten()
    quantiles = torch.tensor([0.025, 0.16, 0.5, 0.84, 0.975])
    torch.testing.assert_close(normal.quantile(quantiles), torch.special.ndtri(quantiles), rtol=0, atol=0.07)


def test_blocks_have_noise_of_their_own_for_the_inputs():
    """As two separate layers would; within a block the noise is factorized."""
    weight, bias = draws(layer(blocks=2))
    ratio = weight / bias[..., None]
    first, second = ratio[:, 0], ratio[:, 3]
    torch.testing.assert_close(ratio[:, :3], first[:, None].expand(-1, 3, -1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ratio[:, 3:], second[:, None].expand(-1, 3, -1), rtol=1e-3, atol=1e-4)
    joint = torch.corrcoef(torch.cat([first, second, bias], dim=1).T).fill_diagonal_(0)
    assert joint.abs().max() < 0.08  # 4000 draws: five standard errors
    assert weight.var().item() == pytest.approx(0.6366, rel=0.04)


def test_initial_values():
    module = layer(inputs=400, outputs=300, sigma=0.5)
    for mu in (module.weight, module.bias):
        assert mu.abs().max().item() <= 0.05
        assert mu.abs().max().item() == pytest.approx(0.05, rel=0.02)
        assert mu.mean().item() == pytest.approx(0.0, abs=0.005)
    assert module.weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.01)
    for sigma in (module.weight_sigma, module.bias_sigma):
        torch.testing.assert_close(sigma, torch.full_like(sigma, 0.5 / 20))


def test_the_layer_is_linear_with_the_summed_weights():
    """Row by row in the notation of the paper."""
    module, x = layer(blocks=2), torch.randn(3, 2, IN, generator=generator(2))
    eps_w, eps_b = noise_of(module, generator(5))
    told = module(x, generator(5))
    for t in range(3):
        for b in range(2):
            for i in range(OUT):
                y = module.bias[i] + module.bias_sigma[i] * eps_b[i]
                for j in range(IN):
                    y = y + (module.weight[i, j] + module.weight_sigma[i, j] * eps_w[i, j]) * x[t, b, j]
                torch.testing.assert_close(told[t, b, i], y)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("half", [False, True])
def test_few_rows_without_gradient_are_given_the_same_noise(blocks, half, monkeypatch):
    """By two products instead of one; of a large layer alone."""
    module, x = layer(1024, 1026, blocks=blocks), torch.randn(noisy.FEW, 1024)
    used = []
    monkeypatch.setattr(noisy, "linear", lambda *of: (used.append(of), products.linear(*of))[1])
    with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.no_grad():
        summed = module(torch.cat([x, x[:1]]), generator())[:-1]
        assert len(used) == 1
        told = module(x, generator())
        assert len(used) == 1 + blocks + 1
        assert told.dtype == summed.dtype
        assert not torch.allclose(told, module(x, generator(1)), rtol=0.1)
        small = layer()
        small(torch.randn(1, IN))
        assert len(used) == 1 + 2 * (blocks + 1) + 1
    error = 0.01 if half else 1e-6
    assert (told - summed).float().norm() < error * summed.float().norm()


def test_every_call_in_training_draws_once_for_the_whole_batch():
    module, g = layer(), generator()
    same = torch.randn(1, IN).expand(8, IN)
    one, two = module(same, g), module(same, g)
    assert torch.equal(one, one[:1].expand_as(one))
    assert not torch.allclose(one, two)
    torch.manual_seed(0)
    three = module(same)
    assert not torch.equal(three, module(same)), "without a generator, torch's own"


def test_the_generator_decides_the_noise_and_is_the_only_source():
    module, x = layer(), torch.randn(2, IN)
    before = torch.random.get_rng_state()
    one, two, other = (module(x, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_noise_and_no_draw_in_evaluation_mode():
    module, x, g = layer().eval(), torch.randn(2, IN), generator()
    state = g.get_state()
    torch.testing.assert_close(module(x, g), x @ module.weight.T + module.bias)
    assert torch.equal(g.get_state(), state)
    assert not torch.allclose(module.train()(x, g), module.eval()(x, g))


def test_noise_is_never_kept():
    module = layer()
    module(torch.randn(2, IN))
    assert set(module.state_dict()) == {"weight", "bias", "weight_sigma", "bias_sigma"}
    assert list(module.buffers()) == []
    twin = copy.deepcopy(module)
    x = torch.randn(2, IN)
    assert torch.equal(module(x, generator()), twin(x, generator()))


def test_gradients_are_those_of_the_sum():
    """d/d sigma = noise times d/d mu; the noise itself is a constant."""
    module, x = layer(blocks=3), torch.randn(5, IN)
    eps_w, eps_b = noise_of(module, generator(1))
    module(x, generator(1)).square().sum().backward()
    assert not eps_w.requires_grad
    assert module.weight.grad.abs().min() > 0
    torch.testing.assert_close(module.weight_sigma.grad, module.weight.grad * eps_w)
    torch.testing.assert_close(module.bias_sigma.grad, module.bias.grad * eps_b)


@pytest.mark.parametrize("rounded", [False, True])
def test_runs_in_half_precision(rounded):
    """Under autocast, and as a copy whose weights are rounded for acting."""
    module, x = layer(), torch.randn(3, IN)
    exact = module(x, generator())
    half = copy.deepcopy(module).to(torch.bfloat16) if rounded else module
    with torch.autocast("cpu", torch.bfloat16):
        told = half(x, generator())
    assert told.dtype == torch.bfloat16
    assert (told.float() - exact).norm() / exact.norm() < 0.03
    if rounded:
        assert half(x.to(torch.bfloat16), generator()).dtype == torch.bfloat16
    else:
        told.float().sum().backward()
        assert module.weight_sigma.grad.dtype == torch.float32


def test_the_sigmas_of_a_module():
    module = nn.Sequential(layer(), nn.Linear(OUT, 2), nn.ModuleList([layer(2, 3)]))
    assert [tuple(s.shape) for s in sigmas(module)] == [(OUT, IN), (OUT,), (3, 2), (3,)]
    assert sigmas(nn.Linear(2, 2)) == []
    assert sigmas(module)[0] is module[0].weight_sigma


@pytest.mark.parametrize(
    ("sigma", "blocks", "message"),
    [(0.0, 1, "sigma is 0.0"), (-0.5, 1, "sigma is -0.5"), (0.5, 4, "blocks is 4"), (0.5, 0, "blocks is 0")],
)
def test_refuses_what_makes_no_sense(sigma, blocks, message):
    with pytest.raises(ValueError, match=message):
        NoisyLinear(IN, OUT, sigma, blocks=blocks)
