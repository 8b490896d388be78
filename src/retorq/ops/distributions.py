"""Losses and projections for learning the distribution of the return: quantiles and categorical supports."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def huber(error: Tensor, kappa: float) -> Tensor:
    """Huber's loss (Huber 1964; Mnih et al. 2015 clip the error, which is its gradient), elementwise.

    ``error^2 / 2`` where ``|error| <= kappa``, else ``kappa (|error| - kappa / 2)``.

    Args:
        error: differences, any shape.
        kappa: where the parabola becomes a line, in the units of ``error``; above 0, infinity is half the square.

    Returns:
        A tensor shaped like ``error``, at least 0.

    Raises:
        ValueError: ``kappa`` is not above 0.
    """
    if not kappa > 0:
        raise ValueError(f"kappa is {kappa}: give a number above 0")
    inner = error.clamp(-kappa, kappa)
    return inner * (error - 0.5 * inner)  # both branches at once


def quantile_huber(prediction: Tensor, fractions: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Quantile Huber loss between samples of a predicted and of a target return distribution.

    With ``u_ij = target_j - prediction_i`` (Dabney et al. 2018, "Implicit Quantile Networks", equation 3)::

        loss = sum_i mean_j |fractions_i - 1{u_ij < 0}| huber(u_ij, kappa) / kappa

    a *sum* over predictions and a *mean* over targets; ``kappa = 0`` is the plain quantile loss, ``|u|`` in place of
    ``huber / kappa``. The fraction belongs to the prediction. Target, fractions and indicator are constants: gradient
    flows to ``prediction`` only, of first order only (it is computed on the way forward, so that no ``N * M`` array is
    kept for the way back), and none flows through the error.

    Args:
        prediction: ``[..., N]`` quantile values; half-precision inputs are computed in float32.
        fractions: ``[..., N]`` (leading axes may broadcast) in (0, 1), the quantile fraction of each prediction.
        target: ``[..., M]`` samples of the target, in the units of ``prediction``.
        kappa: finite, at least 0.

    Returns:
        ``loss [...]``, and ``error [...]``, the mean over all pairs of ``|u_ij|``, which serves as a priority.

    Raises:
        ValueError: ``kappa`` is negative or not finite.
    """
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa is {kappa}: give a finite number, 0 or above")
    if prediction.dtype in (torch.float16, torch.bfloat16):
        prediction = prediction.float()
    dtype = prediction.dtype
    loss, error = _QuantileHuber.apply(prediction, fractions.to(dtype), target.to(dtype), kappa)
    return loss, error


class _QuantileHuber(torch.autograd.Function):
    """The loss with its gradient by hand: faster on a CPU than recorded operations."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, fractions: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        pair = target.unsqueeze(-2) - prediction.unsqueeze(-1)  # u: [..., N, M]
        scale = kappa or 1.0
        inner = pair.clamp(-kappa, kappa) if kappa else pair.sign()  # the slope of huber (of |u|)
        tau = fractions.unsqueeze(-1)
        # |tau - 1{u < 0}| * inner: tau * inner above zero, (1 - tau) * inner below, without a comparison.
        slope = torch.addcmul(tau * inner, 1 - 2 * tau, inner.clamp(max=0))
        ctx.save_for_backward(slope.mean(-1) / -scale)
        error = pair.abs().mean((-1, -2))
        ctx.mark_non_differentiable(error)
        if kappa:
            pair = pair.sub_(inner, alpha=0.5)
        loss = pair.mul_(slope).sum((-1, -2)) / (scale * target.shape[-1])
        return loss, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return loss_gradient.unsqueeze(-1) * gradient, None, None, None


def categorical_projection(support_from: Tensor, probs: Tensor, support_to: Tensor) -> Tensor:
    """Move probability from one support to another, keeping the mean of what lies within the new one.

    Each atom is clipped to the new support's range and shared between its two neighbors there, in proportion to
    nearness (Bellemare, Dabney and Munos 2017, equation 7, whose triangular kernel this is)::

        result_i = sum_j clip(1 - |clip(from_j, to_first, to_last) - to_i| / width, 0, 1) probs_j

    The form with floor and ceil in that paper's algorithm 1 loses all mass that falls exactly on an atom; this one does
    not. ``width`` is the gap on the side where the atom lies, so the new support may be unevenly spaced.

    Args:
        support_from: ``[..., J]`` values in the units of return, in any order, usually ``R + g * z``.
        probs: ``[..., J]`` probabilities.
        support_to: ``[K]`` values, strictly increasing, at least two.

    Returns:
        ``[..., K]`` probabilities with the sum of ``probs``.

    Raises:
        ValueError: ``support_to`` is not one row of at least two values.
    """
    if support_to.dim() != 1 or support_to.shape[0] < 2:
        raise ValueError(f"support_to has shape {tuple(support_to.shape)}: give one row of at least two values")
    value = support_from.clamp(support_to[0], support_to[-1]).unsqueeze(-2)  # [..., 1, J]
    gap = support_to.diff()
    # Beyond either end nothing is left after clipping: any width will do there.
    below, above = torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]])
    atom = support_to.unsqueeze(-1)  # [K, 1]
    rising, falling = (value - atom) / below.unsqueeze(-1), (atom - value) / above.unsqueeze(-1)
    kernel = (1 + torch.minimum(rising, falling)).clamp(0, 1)
    return (kernel * probs.unsqueeze(-2)).sum(-1)
