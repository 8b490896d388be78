"""The hand-written LSTM loop: against PyTorch's LSTM, finite differences, and itself in half precision."""

import pytest
import torch
from torch import nn

from retorq.nn.cores import LSTM
from retorq.nn.recurrence import Recurrence

T, B, F, H = 7, 3, 4, 5


def permuted(matrix):
    """From our gate order (input, forget, output, cell) to PyTorch's (input, forget, cell, output)."""
    i, f, o, g = matrix.chunk(4)
    return torch.cat([i, f, g, o])


@pytest.fixture
def pair():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ours, theirs = LSTM(F, H), nn.LSTM(F, H)
        x = torch.randn(T, B, F)
        state = torch.randn(B, H), torch.randn(B, H)
        slopes = torch.randn(T, B, H), torch.randn(B, H), torch.randn(B, H)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(permuted(ours.weight_input))
        theirs.weight_hh_l0.copy_(permuted(ours.weight_hidden))
        theirs.bias_ih_l0.copy_(permuted(ours.bias))
        theirs.bias_hh_l0.zero_()
    return ours, theirs, x, state, slopes


def test_equals_the_lstm_of_pytorch_forward_and_backward(pair):
    ours, theirs, x, (h, c), (wy, wh, wc) = pair
    x1, h1, c1 = (v.clone().requires_grad_() for v in (x, h, c))
    x2, h2, c2 = (v.clone().requires_grad_() for v in (x, h, c))
    features, state = ours(x1, torch.zeros(T, B, dtype=torch.bool), {"h": h1, "c": c1})
    y, (h_end, c_end) = theirs(x2, (h2[None], c2[None]))
    torch.testing.assert_close(features.x, y)
    torch.testing.assert_close(state, {"h": h_end[0], "c": c_end[0]})

    ((features.x * wy).sum() + (state["h"] * wh).sum() + (state["c"] * wc).sum()).backward()
    ((y * wy).sum() + (h_end[0] * wh).sum() + (c_end[0] * wc).sum()).backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    for mine, other in ((x1, x2), (h1, h2), (c1, c2)):
        torch.testing.assert_close(mine.grad, other.grad, **close)
    torch.testing.assert_close(permuted(ours.weight_input.grad), theirs.weight_ih_l0.grad, **close)
    torch.testing.assert_close(permuted(ours.weight_hidden.grad), theirs.weight_hh_l0.grad, **close)
    torch.testing.assert_close(permuted(ours.bias.grad), theirs.bias_ih_l0.grad, **close)


def test_gradients_equal_finite_differences_with_resets_inside():
    draw = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_()

    keep = torch.ones(4, 2, 1, dtype=torch.float64)
    keep[2, 0] = keep[0, 1] = 0
    inputs = random(4, 2, 12), random(12, 3), random(2, 3), random(2, 3), keep
    assert torch.autograd.gradcheck(Recurrence.apply, inputs)


def test_half_precision_products_stay_close_and_the_cell_stays_exact():
    draw = torch.Generator().manual_seed(3)
    gates, weight = torch.randn(20, 4, 32, generator=draw), torch.randn(32, 8, generator=draw) * 8**-0.5
    h, c, keep = torch.randn(4, 8, generator=draw), torch.randn(4, 8, generator=draw), torch.ones(20, 4, 1)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [gates.to(dtype, copy=True).requires_grad_(), weight.clone().requires_grad_()]
        outputs, _, cell = Recurrence.apply(*leaves, h, c, keep)
        assert outputs.dtype == cell.dtype == torch.float32
        outputs.square().sum().backward()
        assert leaves[1].grad.dtype == torch.float32
        results.append((outputs.detach(), leaves[0].grad.float(), leaves[1].grad))
    for exact, half in zip(*results, strict=True):
        error = (half - exact).norm() / exact.norm()
        assert 0 < error < 0.02


def test_the_initial_weights_are_spread_evenly_about_zero():
    """Uniform in +-1/sqrt(fan-in), variance a third of the square; the bias is the sum of two such draws."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        core = LSTM(64, 400)
    bounds = {"weight_input": 64**-0.5, "weight_hidden": 400**-0.5}
    assert {name for name, _ in core.named_parameters()} == {*bounds, "bias"}
    for name, bound in bounds.items():
        for gate in getattr(core, name).detach().chunk(4):
            assert 0.99 * bound < gate.abs().max() <= bound, name
            assert gate.std() == pytest.approx(bound / 3**0.5, rel=0.02), name
            assert abs(gate.mean()) < 5 * gate.std() / gate.numel() ** 0.5, name
    for gate in core.bias.detach().chunk(4):  # none has an offset
        assert 400**-0.5 < gate.abs().max() <= 2 * 400**-0.5
        assert gate.var() == pytest.approx(2 / (3 * 400), rel=0.2)
        assert abs(gate.mean()) < 5 * (gate.var() / 400) ** 0.5
