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

from retorq.nn.products import mm, ours


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
        keep = keep.to(exact)
        activations = gates.to(exact, copy=True)
        # States before the first row and after every row, and room for those of a row that clears some.
        hiddens, cells = (gates.new_empty(rows + 1, columns, size, dtype=exact) for _ in range(2))
        hiddens[0], cells[0] = h, c
        kept_h, kept_c = hiddens.new_empty(columns, size, dtype=products), hiddens.new_empty(columns, size)
        squashed = hiddens.new_empty(rows, columns, size)
        # Every row's views are made before the loop: within, they would take as long as the arithmetic of small sizes.
        i, f, o, g = (gate.unbind(0) for gate in activations.split(size, dim=2))
        sigmoids = activations[..., : 3 * size].unbind(0)
        every = (activations, keep, hiddens[:-1], cells[:-1], squashed, hiddens[1:], cells[1:])
        clears, direct = _clears(keep, products), products == exact and not ours(hiddens[0], weight)
        for t, (a, k, before, cell, squash, h, c) in enumerate(zip(*(x.unbind(0) for x in every), strict=True)):
            if clears[t]:
                before, cell = torch.mul(before, k, out=kept_h), torch.mul(cell, k, out=kept_c)
            if direct:
                torch.addmm(a, before, transposed, out=a)
            else:
                a.add_(mm(before, transposed))
            sigmoids[t].sigmoid_()
            g[t].tanh_()
            torch.mul(f[t], cell, out=c).addcmul_(i[t], g[t])
            torch.tanh(c, out=squash)
            torch.mul(o[t], squash, out=h)
        ctx.save_for_backward(weight, activations, cells, squashed, hiddens, keep)
        ctx.products, ctx.clears, ctx.direct = products, clears, direct
        return hiddens[1:], hiddens[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_outputs: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        """Back through time; all factors that do not depend on the loop are computed before it."""
        weight, activations, cells, squashed, hiddens, keep = ctx.saved_tensors
        rows, columns, size = squashed.shape
        h_before, c_before = ((x[:-1] * keep) if any(ctx.clears) else x[:-1] for x in (hiddens, cells))
        w = weight.to(ctx.products)
        i, f, o, g = activations.split(size, dim=2)
        slope = activations * (1 - activations)
        slope[..., 3 * size :] = 1 - g * g
        # d(gate pre-activation) = slope * factor * (dc, dc, dh, dc)
        factor = slope * torch.cat([g, c_before, squashed, i], dim=2)
        through = o * (1 - squashed * squashed)
        d_gates = activations.new_empty(rows, columns, 4 * size, dtype=ctx.products)
        # Input, forget and cell gates lie on the way to the cell state, the output gate on that to the output.
        (both, to_output, to_cell), (d_both, d_output, d_cell) = (
            [part.unbind(0) for part in (x[:, :, :2], x[:, :, 2], x[:, :, 3])]
            for x in (y.unflatten(2, (4, size)) for y in (factor, d_gates))
        )
        every = through.unbind(0), (f * keep).unbind(0), keep.unbind(0), d_gates.unbind(0), d_outputs.unbind(0)
        through, keep_c, keeps, d_rows, d_outs = every
        d_h = d_h + d_outs[-1]
        for t in range(rows - 1, -1, -1):
            d_c = torch.addcmul(d_c, d_h, through[t])
            torch.mul(both[t], d_c.unsqueeze(1), out=d_both[t])
            torch.mul(to_output[t], d_h, out=d_output[t])
            torch.mul(to_cell[t], d_c, out=d_cell[t])
            d_c = d_c * keep_c[t]
            if t > 0 and ctx.direct and not ctx.clears[t]:
                d_h = torch.addmm(d_outs[t - 1], d_rows[t], w)
            else:
                d_h = mm(d_rows[t], w).to(d_c.dtype) * keeps[t]
                d_h = d_h if t == 0 else d_h + d_outs[t - 1]
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = mm(d_gates.flatten(0, 1).t(), h_before.to(ctx.products).flatten(0, 1)).to(weight.dtype)
        return d_gates, d_weight, d_h, d_c, None


def _clears(keep: Tensor, products: torch.dtype) -> list[bool]:
    """For each row whether its states go through ``keep``.

    They need not where it clears none of them and their type is that of the products. On a GPU, where to know would be
    to wait, all do.
    """
    if keep.device.type != "cpu" or keep.dtype != products:
        return [True] * len(keep)
    cleared: list[bool] = (keep == 0).flatten(1).any(1).tolist()
    return cleared
