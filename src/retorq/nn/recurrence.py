"""An LSTM's loop over time, written out, with its own backward pass.

Two things make it fast: the product of all inputs with the input weights is done before the loop in one matrix
multiplication, and the gradient of the recurrent weights is one multiplication after it instead of one per row.
Resets inside a sequence are a mask of static shape, so the loop can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retorq.nn.products import mm


class Recurrence(torch.autograd.Function):
    """``(gates [T,B,4H], weight [4H,H], h [B,H], c [B,H], keep [T,B,1]) -> (outputs [T,B,H], h, c)``.

    ``gates`` holds the input products with the bias, in the order input, forget, output, cell. ``keep`` is 0 where the
    memory is cleared before the row is read, else 1. Products run in the data type of ``gates``; the cell state, the
    gates' activations and everything in the backward loop but its products stay in float32 (or float64, if gates are).
    Equations: Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000).
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the loop; keeps what the backward pass needs."""
        rows, columns, width = gates.shape
        size = width // 4
        products = gates.dtype
        exact = torch.promote_types(products, torch.float32)
        transposed = weight.to(products).t()
        h, c, keep = h.to(exact), c.to(exact), keep.to(exact)
        activations = gates.to(exact, copy=True)
        outputs, cells, squashed = (gates.new_empty(rows, columns, size, dtype=exact) for _ in range(3))
        h_before = gates.new_empty(rows, columns, size, dtype=products)
        # Every row's views are made before the loop: within, they would take as long as the arithmetic of small sizes.
        i, f, o, g = (gate.unbind(0) for gate in activations.split(size, dim=2))
        sigmoids = activations[..., : 3 * size].unbind(0)
        every = (activations, keep, h_before, cells, squashed, outputs)
        for t, (a, k, before, cell, squash, out) in enumerate(zip(*(x.unbind(0) for x in every), strict=True)):
            torch.mul(h, k, out=before)
            torch.mul(c, k, out=cell)
            a.add_(mm(before, transposed))
            sigmoids[t].sigmoid_()
            g[t].tanh_()
            c = torch.addcmul(f[t] * cell, i[t], g[t])
            torch.tanh(c, out=squash)
            h = torch.mul(o[t], squash, out=out)
        ctx.save_for_backward(weight, activations, cells, squashed, h_before, keep)
        return outputs, outputs[-1].clone(), c

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_outputs: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        """Back through time; all factors that do not depend on the loop are computed before it."""
        weight, activations, cells, squashed, h_before, keep = ctx.saved_tensors
        rows, columns, size = cells.shape
        products = h_before.dtype
        w = weight.to(products)
        i, f, o, g = activations.split(size, dim=2)
        slope = activations * (1 - activations)
        slope[..., 3 * size :] = 1 - g * g
        # d(gate pre-activation) = slope * factor * (dc, dc, dh, dc)
        factor = slope * torch.cat([g, cells, squashed, i], dim=2)
        through = o * (1 - squashed * squashed)
        through, keep_c = through.unbind(0), (f * keep).unbind(0)
        d_gates = activations.new_empty(rows, columns, 4 * size, dtype=products)
        # Input, forget and cell gates lie on the way to the cell state, the output gate on that to the output.
        ways = [
            list(zip(part.unbind(0), into.unbind(0), strict=True))
            for part, into in zip(factor.split(size, 2), d_gates.split(size, 2), strict=True)
        ]
        for t in range(rows - 1, -1, -1):
            d_h = d_h + d_outputs[t]
            d_c = torch.addcmul(d_c, d_h, through[t])
            for gate, d_state in enumerate((d_c, d_c, d_h, d_c)):
                part, into = ways[gate][t]
                torch.mul(part, d_state, out=into)
            d_h = mm(d_gates[t], w).to(cells.dtype) * keep[t]
            d_c = d_c * keep_c[t]
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = mm(d_gates.flatten(0, 1).t(), h_before.flatten(0, 1)).to(weight.dtype)
        return d_gates, d_weight, d_h, d_c, None
