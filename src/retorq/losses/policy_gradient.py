"""The deterministic policy gradient, with a critic that learns from n-step returns (Ape-X DPG)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retorq.losses.outputs import masked_mean
from retorq.nn.network import Network
from retorq.ops.policy import action_gradient_loss
from retorq.ops.returns import n_step
from retorq.types import Batch, LossOutput

EDGE = 0.99
"""Actions beyond this count as saturated: there the tanh of a policy has a fiftieth of its slope."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Critic and policy of Ape-X DPG (Horgan et al. 2018, appendix D) on windows of ``1 + n`` rows.

    With online critic ``q`` and policy ``pi`` and their target copies ``q'`` and ``pi'``, row ``s`` and the row ``s''``
    to bootstrap from (``ops.returns.n_step``)::

        critic:  1/2 (R + g q'(s'', pi'(s'')) - q(s, a))^2     rewards are not clipped
        policy:  the gradient of q(s, pi(s)) with respect to pi alone, see ops.policy

    No weight is in both terms, and neither sends a gradient into the other's: one backward pass and one optimizer serve
    both. Only the critic's term takes importance weights (``LossOutput.unweighted``).

    ``clip``: bound on every element of dq/da; None: none.
    """

    n: int = 5
    gamma: float = 0.99
    clip: float | None = 1.0

    def __call__(
        self, online: Network, target: Network, batch: Batch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Loss, error and mask ``[1, B]``; no gradient reaches the target, and nothing is drawn from ``generator``.

        Metrics, as means over unmasked rows: ``q_mean`` (what the critic thinks of the policy's action), ``td``
        (absolute error), ``action_gradient`` (of absolute dq/da, before the clipping) and ``saturated`` (the share of
        action elements beyond ``EDGE``); ``valid`` is the share of these rows.
        """
        rows = batch.trajectory
        discount = self.gamma * (~rows.terminated).float()
        reward, remaining, index = (x[:1] for x in n_step(rows.reward, discount, rows.last, self.n))
        with torch.no_grad():
            columns = torch.arange(index.shape[1], device=index.device)
            ahead, _ = target.unroll(rows.inputs.map(lambda a: a[index[0], columns].unsqueeze(0)), {})
            goal = reward + remaining * target.value(ahead, target.policy(ahead))
        seen, _ = online.unroll(rows.inputs.map(lambda a: a[:1]), {})
        error = goal - online.value(seen, rows.action[:1])

        action = online.policy(seen)
        free = action.detach().requires_grad_()
        value = online.value(seen, free)
        gradient: Tensor = torch.autograd.grad(value.sum(), free)[0]
        mask = ~rows.last[:1]
        means = {
            "q_mean": value.detach(),
            "td": error.detach().abs(),
            "action_gradient": gradient.abs().mean(-1),
            "saturated": (free.detach().abs() > EDGE).float().mean(-1),
        }
        return LossOutput(
            loss=0.5 * error.square(),
            unweighted=action_gradient_loss(action, gradient, self.clip),
            error=error.detach().abs(),
            mask=mask,
            metrics={name: masked_mean(x, mask) for name, x in means.items()} | {"valid": mask.float().mean()},
        )
