"""Munchausen Q-learning: the soft policy's own log-probability joins the reward (Vieillard et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retorq.losses.outputs import regressed
from retorq.nn.network import Network, clip_reward
from retorq.types import Batch, LossOutput, UserError
from retorq.values import Quantiles, Scalars


@dataclass(frozen=True, kw_only=True)
class Munchausen:
    """M-DQN and M-IQN (Vieillard et al. 2020, equation 2 and appendix B.1) for agents without memory, on single steps.

    With ``pi = softmax(q / temperature)`` of the *target* network's mean values ``q``, at both rows::

        bonus  = alpha clip(temperature ln pi(a | s), lowest, 0)
        target = reward + bonus + discount sum_b pi(b | s') (z(s', b) - temperature ln pi(b | s'))

    where ``z`` is ``q`` for scalar values and one quantile after the other for quantiles. A head that draws its
    fractions values the policy and the bootstrap at draws of their own. There is no maximum, hence no double
    Q-learning, and several steps are not defined.

    ``error`` is what priorities are made of: ``"td"`` the mean absolute error, ``"loss"`` the loss itself.
    """

    gamma: float = 0.99
    clip: str = "clip"
    kappa: float = 1.0
    error: str = "td"
    alpha: float = 0.9
    temperature: float = 0.03
    lowest: float = -1.0
    target_samples: int | None = None
    action_samples: int | None = None

    def __call__(
        self, online: Network, target: Network, batch: Batch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Loss, error and mask ``[1, B]`` of batches of two rows; no gradient reaches the target.

        Metrics are those of :func:`retorq.losses.outputs.regressed`, and the mean ``bonus``.

        Raises:
            UserError: The network has a memory, or its values are probabilities.
            ValueError: The batch has not two rows.
        """
        rows = batch.trajectory
        if online.recurrent:
            raise UserError("munchausen is true, but the network has a memory; set munchausen to false.")
        if rows.rows != 2:
            raise ValueError(f"the batch has {rows.rows} rows: give a transition and its next state, two rows")
        learned, _ = online.unroll(rows.inputs.map(lambda a: a[:1]), {}, generator)
        values = online.head(learned, generator=generator)
        with torch.no_grad():
            bonus, bootstrap = self._targets(target, batch, generator)
            discount = self.gamma * (~rows.terminated[:1]).float()
            now = clip_reward(rows.reward[:1], self.clip) + bonus
            goal = (
                now + discount * bootstrap if bootstrap.dim() == 2 else now[..., None] + discount[..., None] * bootstrap
            )
        action, mask = rows.action[:1], ~rows.last[:1]
        return regressed(online, values, action, goal, mask, kappa=self.kappa, error=self.error, bonus=bonus)

    def _targets(self, target: Network, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The bonus ``[1, B]``, and the soft value of the next state, ``[1, B]`` or per quantile ``[1, B, N]``."""
        features, _ = target.unroll(batch.trajectory.inputs, {}, generator)
        judge = target.head(features, self.action_samples, generator)
        if target.sampled:
            values = target.head(features.rows(1, 2), self.target_samples, generator)
        else:  # one forward: the values of a noisy network must be those that its policy is made of
            values = judge.rows(1, 2)
        if not isinstance(values, Scalars | Quantiles):
            raise UserError(
                "munchausen is true, but the values are probabilities of fixed returns, which it is not defined for; "
                "set munchausen to false."
            )
        log_policy = scaled_log_policy(judge.mean(), self.temperature)
        taken = log_policy[:1].gather(-1, batch.trajectory.action[:1, :, None]).squeeze(-1)
        return self.alpha * taken.clamp(self.lowest, 0.0), soft_value(values.values, log_policy[1:], self.temperature)


def scaled_log_policy(values: Tensor, temperature: float) -> Tensor:
    """``temperature * ln softmax(values / temperature)`` over the last axis, at most 0; the shape of ``values``.

    Computed from differences to the maximum (Vieillard et al. 2020, appendix B.1): the logarithm of a softmax would be
    minus infinity for every action some temperatures below the best.
    """
    below = values - values.amax(-1, keepdim=True)
    return below - temperature * torch.logsumexp(below / temperature, dim=-1, keepdim=True)


def soft_value(values: Tensor, log_policy: Tensor, temperature: float) -> Tensor:
    """``sum_b pi(b) (values[b] - temperature ln pi(b))``, with ``log_policy = temperature ln pi``.

    ``values`` is ``[T, B, A]`` or ``[T, B, N, A]``, ``log_policy`` ``[T, B, A]``; returns ``[T, B]`` or ``[T, B, N]``.
    With the values that the policy is made of, it is ``temperature * logsumexp(values / temperature)``.
    """
    if values.dim() > log_policy.dim():
        log_policy = log_policy.unsqueeze(-2)
    return ((log_policy / temperature).exp() * (values - log_policy)).sum(-1)
