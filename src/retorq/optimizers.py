"""Optimizers: Adam, the centered RMSProp of DQN, and AdaGrad, whose steps can be skipped on the device.

Not those of ``torch.optim``: the first of them that is made imports PyTorch's compiler, which costs every process that
learns time and memory, and each step looks up anew what does not change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Optimizer:
    """What all of them share: groups of parameters, tensors that are kept of each, and steps that may be skipped.

    An attribute ``found_inf`` (a tensor of 0 or 1, or None) may be set before ``step``: where it is 1, neither
    parameters nor state change, whatever the gradients hold, and nothing waits for the device to know it.

    Attributes:
        param_groups: Dicts of ``params``, a list, and the numbers that hold for them, which may be changed at any time.
        state: What is kept of a parameter by name, all zeros before its first step; nothing before it has a gradient.

    Args:
        params: Parameters, or groups of them, each a dict of ``params`` and those numbers that differ.
        lr: Step size, a number or a tensor of no dimensions (which a recorded CUDA graph reads anew).
        numbers: The rest of a group's numbers.

    Raises:
        ValueError: ``lr`` is negative.
    """

    KEPT: ClassVar[tuple[str, ...]] = ()  # tensors like the parameter
    COUNTED: ClassVar[tuple[str, ...]] = ()  # tensors of no dimensions, before those

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor, **numbers: Any) -> None:
        if not isinstance(lr, Tensor) and not lr >= 0:
            raise ValueError(f"lr is {lr}: give a number of at least 0")
        given: list[Any] = list(params)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.param_groups = [{"lr": lr, **numbers, **group} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            parameters, gradients, states = [], [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    scalars = {name: torch.zeros((), device=p.device) for name in self.COUNTED}
                    self.state[p] = scalars | {name: torch.zeros_like(p) for name in self.KEPT}
                parameters.append(p)
                gradients.append(p.grad)
                states.append(self.state[p])
            if parameters:
                kept = {name: [state[name] for state in states] for name in (*self.COUNTED, *self.KEPT)}
                self._update(parameters, gradients, kept, group)

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], kept: dict[str, list[Tensor]], group: dict[str, Any]
    ) -> None:
        """One step of a group's parameters, in place."""
        raise NotImplementedError

    def _finite(self, gradients: list[Tensor]) -> list[Tensor]:
        """Zeros in place of gradients that may be infinite, where the step is to be skipped."""
        bad = self.found_inf
        return gradients if bad is None else [torch.where(bad > 0, 0, g) for g in gradients]


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in one pass over each parameter.

    With running means ``m`` of the gradient and ``v`` of its square, and ``t`` steps taken, all updated first::

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        parameter <- parameter - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    State per parameter, named as in ``torch.optim.Adam``: ``step``, ``exp_avg`` and ``exp_avg_sq``.

    Args:
        params: Parameters, or groups of them.
        lr: Step size, a number or a tensor of no dimensions.
        betas: Decay of the two means.
        eps: Added to the root.
    """

    COUNTED = ("step",)
    KEPT = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps)

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], kept: dict[str, list[Tensor]], group: dict[str, Any]
    ) -> None:
        steps, bad = kept["step"], self.found_inf
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            gradients,
            kept["exp_avg"],
            kept["exp_avg_sq"],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=bad,
        )
        if bad is not None:
            torch._foreach_sub_(steps, [bad] * len(steps))


class AdaGrad(Optimizer):
    """AdaGrad (Duchi et al. 2011), as Gorila's parameter servers use it.

    With a running sum ``s`` of squared gradients, updated first::

        s <- s + g^2
        parameter <- parameter - lr g / (sqrt(s) + eps)

    The sum ``s`` starts at 0 and never shrinks, so the steps of long runs do. State per parameter: ``sum``.

    Args:
        params: Parameters, or groups of them.
        lr: Step size, a number or a tensor of no dimensions.
        eps: Added to the root.
    """

    KEPT = ("sum",)

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor, *, eps: float = 1e-10
    ) -> None:
        super().__init__(params, lr, eps=eps)

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], kept: dict[str, list[Tensor]], group: dict[str, Any]
    ) -> None:
        for p, gradient, total in zip(parameters, self._finite(gradients), kept["sum"], strict=True):
            total.addcmul_(gradient, gradient)
            p.sub_(group["lr"] * gradient / (total.sqrt() + group["eps"]))


class CenteredRMSProp(Optimizer):
    """The RMSProp of DQN (Mnih et al. 2015): centered, without momentum, epsilon *inside* the root.

    With running means ``m`` of the gradient and ``s`` of its square, both updated first::

        m <- decay m + (1 - decay) g
        s <- decay s + (1 - decay) g^2
        parameter <- parameter - lr g / sqrt(s - m^2 + eps)

    ``torch.optim.RMSprop(centered=True)`` adds its epsilon outside the root, which is another optimizer. The variance
    ``s - m^2`` is never negative but for rounding, so it is held at 0 from below. State per parameter: ``mean``,
    ``square``, both starting at 0.

    Args:
        params: Parameters, or groups of them.
        lr: Step size, a number or a tensor of no dimensions.
        decay: Of the running means.
        eps: In units of the squared gradient. Nature's 0.01 belongs to a loss summed over the batch of 32; for its
            mean that is ``0.01 / 32**2``.

    Raises:
        ValueError: ``lr`` is negative, ``decay`` outside [0, 1), or ``eps`` not above 0.
    """

    KEPT = ("mean", "square")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        decay: float = 0.95,
        eps: float = 0.01,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: give a number of at least 0 and below 1")
        if not eps > 0:
            raise ValueError(f"eps is {eps}: give a number above 0")
        super().__init__(params, lr, decay=decay, eps=eps)

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], kept: dict[str, list[Tensor]], group: dict[str, Any]
    ) -> None:
        decay, bad = group["decay"], self.found_inf
        means, squares, gradients = kept["mean"], kept["square"], self._finite(gradients)
        # Where it is skipped nothing is learned, and nothing forgotten.
        keep: float | Tensor = decay if bad is None else torch.where(bad > 0, 1.0, decay)
        torch._foreach_mul_(means, keep)
        torch._foreach_add_(means, gradients, alpha=1 - decay)
        torch._foreach_mul_(squares, keep)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
        roots = torch._foreach_mul(means, means)
        torch._foreach_neg_(roots)
        torch._foreach_add_(roots, squares)
        torch._foreach_clamp_min_(roots, 0.0)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_sqrt_(roots)
        steps = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(parameters, steps)
