"""Products by oneDNN: what PyTorch's own product gives, values and gradients, whatever the memory layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retorq.nn import products
from retorq.nn.products import Linear, linear, mm


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    return


def _made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


def _gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(out, inputs, d_out)


@pytest.mark.parametrize("many", [1, 10_000])  # the weights' gradient transposed, and not
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (2, 3, 4)])
def test_linear_is_pytorchs(lead: tuple[int, ...], many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MANY", many)
    x, weight, bias = _made(*lead, 5), _made(6, 5), _made(6)
    ours, theirs = linear(x, weight, bias), nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(_gradients(ours, x, weight, bias), _gradients(theirs, x, weight, bias), strict=True):
        torch.testing.assert_close(mine, other)


def test_linear_takes_any_layout() -> None:
    wide, weight = _made(4, 3, 10), _made(6, 5)
    for x in (
        wide[..., :5],
        wide[..., ::2],
        wide[:, 1:, 5:],
        wide[..., :5].transpose(0, 1),
        wide[:1, :1, :5].expand(4, 3, 5),
    ):
        ours, theirs = linear(x, weight), nn.functional.linear(x, weight)
        torch.testing.assert_close(ours, theirs)
        for mine, other in zip(_gradients(ours, wide, weight), _gradients(theirs, wide, weight), strict=True):
            torch.testing.assert_close(mine, other)


def test_a_gradient_that_was_expanded() -> None:
    x, weight = _made(4, 5), _made(6, 5)
    linear(x, weight).sum().backward()
    ours, x.grad = x.grad, None
    nn.functional.linear(x, weight).sum().backward()
    assert ours is not None
    torch.testing.assert_close(ours, x.grad)


def test_only_needed_gradients() -> None:
    x, weight, bias = _made(4, 5), _made(6, 5).detach(), _made(6).detach()
    linear(x, weight, bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    assert bias.grad is None


def test_mm_is_pytorchs_for_both_ways_of_lying() -> None:
    a, b = _made(4, 5).detach(), _made(5, 6).detach()
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            torch.testing.assert_close(mm(left, right), a @ b)


def test_sums_are_float32() -> None:
    # 1 + 2^-12 is lost in bfloat16 and in TF32.
    x = torch.full((8, 64), 1 + 2.0**-12)
    assert torch.equal(linear(x, torch.eye(64)), x)


@pytest.mark.skipif(not products.AVAILABLE, reason="this PyTorch has no oneDNN")
def test_what_goes_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.ones(4, 5), torch.ones(6, 5)
    assert products.ours(x, weight)
    assert not products.ours(x.double(), weight.double())
    assert not products.ours(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not products.ours(x, weight)
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(products, "SMALL", 121)
    assert not products.ours(x, weight)
    monkeypatch.setattr(products, "SMALL", 120)
    assert products.ours(x, weight)


@pytest.mark.parametrize("rows", [0, 2])
def test_other_types_and_nothing_at_all(rows: int) -> None:
    x, weight = torch.ones(rows, 5, dtype=torch.float64), torch.ones(6, 5, dtype=torch.float64)
    assert torch.equal(linear(x, weight), torch.full((rows, 6), 5.0, dtype=torch.float64))
    assert torch.equal(linear(x.float(), weight.float()), torch.full((rows, 6), 5.0))


def test_layer_starts_as_pytorchs() -> None:
    torch.manual_seed(0)
    ours = Linear(5, 6)
    torch.manual_seed(0)
    theirs = nn.Linear(5, 6)
    assert {k: v.tolist() for k, v in ours.state_dict().items()} == {
        k: v.tolist() for k, v in theirs.state_dict().items()
    }
    x = _made(2, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
