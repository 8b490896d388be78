"""A linear layer whose weights carry learned noise: exploration without epsilon (Fortunato et al. 2018, NoisyNet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retorq.nn.products import linear

FEW, LARGE = 8, 1 << 20  # up to so many rows of so many weights two products are cheaper: benchmarks/noisy.py


class NoisyLinear(nn.Module):
    """``y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b`` with factorized Gaussian noise.

    Fortunato et al. 2018, equations 9 to 11: ``eps_w[i, j] = f(a_i) f(b_j)`` and ``eps_b[i] = f(a_i)`` for standard
    normal ``a`` (one per output) and ``b`` (one per input), with ``f(x) = sign(x) sqrt(|x|)``. In training mode every
    call draws ``a`` and ``b`` afresh, once for the whole batch; in evaluation mode there is no noise. Noise is never
    kept: it is neither a parameter nor a buffer.

    Args:
        inputs: Size of ``x``.
        outputs: Size of ``y``.
        sigma: sigma_0. Each ``mu`` starts uniform within ``1 / sqrt(inputs)``, each sigma at ``sigma / sqrt(inputs)``.
        blocks: Layers that read the same inputs and are kept in one matrix: the outputs are as many equal blocks,
            and each has a ``b`` of its own, as separate layers would.

    Raises:
        ValueError: ``sigma`` is not above 0, or ``blocks`` does not divide ``outputs``.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float, *, blocks: int = 1) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}: give a number above 0")
        if blocks < 1 or outputs % blocks:
            raise ValueError(f"blocks is {blocks}, which does not divide {outputs} outputs: give one that does")
        self.in_features, self.out_features, self.blocks = inputs, outputs, blocks
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``; noise from ``generator`` while training, none in evaluation mode."""
        if not self.training:
            return linear(x, self.weight, self.bias)
        of_outputs, of_inputs = self.draw(generator)
        bias = torch.addcmul(self.bias, self.bias_sigma, of_outputs)
        few = not torch.is_grad_enabled() and x.numel() <= FEW * self.in_features and self.weight.numel() >= LARGE
        if few:  # reading the weights is what takes time, and writing a sum of them would take more of it
            blocks = zip(of_inputs, self.weight_sigma.chunk(self.blocks), strict=True)
            noise = torch.cat([linear(x * of_block, sigma) for of_block, sigma in blocks], -1)
            return linear(x, self.weight, bias) + noise * of_outputs.to(noise.dtype)
        # One matrix product with the summed weights: for many rows that is cheaper than two products.
        grid = (of_outputs.view(self.blocks, -1, 1) * of_inputs[:, None]).view_as(self.weight)
        return linear(x, torch.addcmul(self.weight, self.weight_sigma, grid), bias)

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``f(a) [outputs]``, which is also ``eps_b``, and ``f(b) [blocks, inputs]``; no gradient."""
        device, dtype = self.weight.device, self.weight.dtype
        normal = torch.randn(self.out_features + self.blocks * self.in_features, device=device, generator=generator)
        scaled = (normal.sign() * normal.abs().sqrt()).to(dtype)
        of_outputs, of_inputs = scaled.split([self.out_features, self.blocks * self.in_features])
        return of_outputs, of_inputs.view(self.blocks, self.in_features)

    def extra_repr(self) -> str:
        """Sizes, as printed."""
        return f"{self.in_features}, {self.out_features}, blocks={self.blocks}"


def sigmas(module: nn.Module) -> list[Tensor]:
    """The noise scales of all noisy layers within a module, as parameters; empty if there are none."""
    layers = [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]
    return [sigma for layer in layers for sigma in (layer.weight_sigma, layer.bias_sigma)]
