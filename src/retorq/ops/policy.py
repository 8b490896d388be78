"""Losses of policies."""

from __future__ import annotations

from torch import Tensor


def action_gradient_loss(action: Tensor, gradient: Tensor, clip: float | None = None) -> Tensor:
    """A loss whose gradient with respect to ``action`` is ``-gradient``: the deterministic policy gradient.

    ``1/2 |stop(action + gradient) - action|^2``, summed over the elements of an action (Silver et al. 2014, theorem 1,
    in the form of rlax and trfl: the value is half the squared length of the gradient, 0 at the best action).

    Args:
        action: What the policy does, ``[..., A]``, through which gradient flows back.
        gradient: Of the critic's value with respect to the action, ``[..., A]``; a constant.
        clip: Bound on every element of ``gradient``; None: none.

    Returns:
        ``[...]``.
    """
    gradient = gradient.detach()
    if clip is not None:
        gradient = gradient.clamp(-clip, clip)
    return 0.5 * ((action.detach() + gradient) - action).square().sum(-1)
