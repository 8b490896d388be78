"""From targets to what a loss returns, the same for every way to make targets."""

from __future__ import annotations

from torch import Tensor

from retorq.nn.network import Network
from retorq.ops.rescale import unrescale
from retorq.types import LossOutput, Tree
from retorq.values import ActionValues


def regressed(
    online: Network,
    values: ActionValues,
    action: Tensor,
    goal: Tensor,
    mask: Tensor,
    *,
    kappa: float,
    error: str,
    rescale: float = 0.0,
    state: Tree | None = None,
    **more: Tensor,
) -> LossOutput:
    """Loss, error and mask ``[T, B]`` of the taken actions' values against their targets.

    Metrics: ``q_mean`` (value of the best action, in units of return), ``td`` (absolute error), ``more`` by name
    ``[T, B]`` and what values and network have to tell are means over unmasked rows; ``valid`` is the share of these.

    Args:
        online: The network that made the values.
        values: Of all actions, ``[T, B]`` rows.
        action: The taken ones, ``[T, B]``.
        goal: Targets, in the shape that the kind of values regresses to.
        mask: Which rows count, ``[T, B]`` bool.
        kappa: Huber's threshold.
        error: What priorities are made of: ``"td"`` the mean absolute error, ``"loss"`` the loss itself.
        rescale: Epsilon of the rescaling that values and targets are in; 0: none.
        state: Recurrent states to carry on.
        more: Further metrics.
    """
    loss, absolute = values.regress(action, goal, kappa)
    best = values.mean().detach().amax(-1)
    means = {"q_mean": unrescale(best, rescale) if rescale else best, "td": absolute, **more}
    return LossOutput(
        loss=loss,
        error=loss.detach() if error == "loss" else absolute,
        mask=mask,
        metrics={
            **{name: masked_mean(value, mask) for name, value in means.items()},
            "valid": mask.float().mean(),
            **values.diagnostics(action),
            **online.diagnostics(),
        },
        state=state or {},
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values [T, B]`` over the rows that count; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
