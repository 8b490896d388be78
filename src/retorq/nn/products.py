"""Matrix products in float32 on a CPU, by oneDNN.

PyTorch hands float32 products to MKL, which uses part of the vector width on processors that are not Intel's.
Convolutions and bfloat16 go through oneDNN anyway. What is computed is the same, in IEEE float32; only the order of
the sums differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this PyTorch was built with oneDNN; without it ``linear`` and ``mm`` are PyTorch's own."""

SMALL = 1 << 22  # below so many multiplications, the call itself is what takes time
MANY = 4096  # rows from which the weights' gradient is computed transposed


def ours(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of these goes to oneDNN: float32 on a CPU, outside of autocast, and not tiny."""
    return (
        AVAILABLE
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * weight.shape[0] >= SMALL
        and not torch.is_autocast_enabled("cpu")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [M, K]`` and ``weight [N, K]`` to ``x weight^T + bias``, ``[M, N]``."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def mm(a: Tensor, b: Tensor) -> Tensor:
    """``a [M, K]`` times ``b [K, N]``, ``[M, N]``, without recording a gradient; for use inside a backward pass."""
    return _product(a, b.t()) if ours(a, b.t()) else torch.mm(a, b)


class _Linear(torch.autograd.Function):
    """``(x [M, K], weight [N, K], bias [N] or None) -> [M, N]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """The three gradients, each only where it is needed."""
        x, weight = ctx.saved_tensors
        d_out = d_out.contiguous()
        need_x, need_weight, need_bias = ctx.needs_input_grad
        d_x = _product(d_out, weight.t()) if need_x else None
        d_weight = None
        if need_weight:
            d_weight = _product(x.t(), d_out.t()).t() if len(x) >= MANY else _product(d_out.t(), x.t())
        return d_x, d_weight, d_out.sum(0) if need_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[..., K]`` and ``weight [N, K]`` to ``[..., N]``, as ``torch.nn.functional.linear``."""
    if not ours(x, weight):
        return nn.functional.linear(x, weight, bias)
    rows = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
    rows = rows.contiguous()  # rows that lie apart are much slower
    out = _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else _product(rows, weight, bias)
    return out.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """``torch.nn.Linear`` through :func:`linear`: same weights, same initial values, same names."""

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        return linear(input, self.weight, self.bias)
