"""Optimizers that PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdaGrad(torch.optim.Optimizer):
    """AdaGrad (Duchi et al. 2011), as Gorila's parameter servers use it.

    With a running sum ``s`` of squared gradients, updated first::

        s <- s + g^2
        parameter <- parameter - lr g / (sqrt(s) + eps)

    The sum ``s`` starts at 0 and never shrinks, so the steps of long runs do. An attribute ``found_inf`` skips a step
    as in :class:`CenteredRMSProp`, which is what ``torch.optim.Adagrad`` does not have on a GPU.

    Args:
        params: Parameters, or groups of them.
        lr: Step size, a number or a tensor of no dimensions.
        eps: Added to the root.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor, *, eps: float = 1e-10
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what ``closure``, run first, returns."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p] = {"sum": torch.zeros_like(p)}
                gradient = p.grad if self.found_inf is None else torch.where(self.found_inf > 0, 0, p.grad)
                total = self.state[p]["sum"].addcmul_(gradient, gradient)
                p.sub_(group["lr"] * gradient / (total.sqrt() + group["eps"]))
        return result


class CenteredRMSProp(torch.optim.Optimizer):
    """The RMSProp of DQN (Mnih et al. 2015): centered, without momentum, epsilon *inside* the root.

    With running means ``m`` of the gradient and ``s`` of its square, both updated first::

        m <- decay m + (1 - decay) g
        s <- decay s + (1 - decay) g^2
        parameter <- parameter - lr g / sqrt(s - m^2 + eps)

    ``torch.optim.RMSprop(centered=True)`` adds its epsilon outside the root, which is another optimizer. The variance
    ``s - m^2`` is never negative but for rounding, so it is held at 0 from below. State per parameter: ``mean``,
    ``square``, both starting at 0.

    An attribute ``found_inf`` (a tensor of 0 or 1, or None) may be set before ``step``: where it is 1, neither
    parameters nor state change, whatever the gradients hold, and nothing waits for the device to know it.

    Args:
        params: Parameters, or groups of them.
        lr: Step size, a number or a tensor of no dimensions (which a recorded CUDA graph reads anew).
        decay: Of the running means.
        eps: In units of the squared gradient. Nature's 0.01 belongs to a loss summed over the batch of 32; for its
            mean that is ``0.01 / 32**2``.

    Raises:
        ValueError: ``lr`` is negative, ``decay`` outside [0, 1), or ``eps`` not above 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        decay: float = 0.95,
        eps: float = 0.01,
    ) -> None:
        if not isinstance(lr, Tensor) and not lr >= 0:
            raise ValueError(f"lr is {lr}: give a number of at least 0")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: give a number of at least 0 and below 1")
        if not eps > 0:
            raise ValueError(f"eps is {eps}: give a number above 0")
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what ``closure``, run first, returns."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, **{name: group[name] for name in ("lr", "decay", "eps")})
        return result

    def _update(self, parameters: list[Tensor], lr: float | Tensor, decay: float, eps: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {name: torch.zeros_like(p) for name in ("mean", "square")}
        means, squares = ([self.state[p][name] for p in parameters] for name in ("mean", "square"))
        gradients = [p.grad for p in parameters if p.grad is not None]
        bad = self.found_inf
        if bad is not None:
            # Zeros in place of what may be infinite; then nothing is learned of them, and nothing forgotten.
            gradients = [torch.where(bad > 0, 0, g) for g in gradients]
        keep: float | Tensor = decay if bad is None else torch.where(bad > 0, 1.0, decay)
        torch._foreach_mul_(means, keep)
        torch._foreach_add_(means, gradients, alpha=1 - decay)
        torch._foreach_mul_(squares, keep)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
        roots = torch._foreach_mul(means, means)
        torch._foreach_neg_(roots)
        torch._foreach_add_(roots, squares)
        torch._foreach_clamp_min_(roots, 0.0)
        torch._foreach_add_(roots, eps)
        torch._foreach_sqrt_(roots)
        steps = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(steps, lr)
        torch._foreach_sub_(parameters, steps)
