"""What a head returns: the values of all actions, as scalars or as quantiles of the return.

This is the whole difference between DQN and QR-DQN/IQN: how a value is averaged, how it is bootstrapped, and how it
is regressed. Losses never look inside.

Shapes: ``T`` rows, ``B`` columns, ``A`` actions, ``N`` quantile samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from retorq.ops.distributions import huber, quantile_huber
from retorq.ops.rescale import rescale, unrescale


class ActionValues(Protocol):
    """Values of every action at ``[T, B]`` rows."""

    def mean(self) -> Tensor:
        """Expected value of each action, ``[T, B, A]``."""

    def rows(self, start: int, stop: int) -> Self:
        """Rows ``start..stop-1``."""

    def bellman(self, action: Tensor, reward: Tensor, discount: Tensor, epsilon: float) -> Tensor:
        """The target that bootstraps from these values: ``h(reward + discount * h_inverse(value[action]))``.

        ``action``, ``reward`` (n-step) and ``discount`` (remaining) are ``[T, B]``; ``epsilon`` is the constant of the
        value rescaling h (0: none). Returns ``[T, B]`` or ``[T, B, N]``.
        """

    def regress(self, action: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Loss and absolute error ``[T, B]`` of the taken action against a target from ``bellman``."""


def _pick(values: Tensor, action: Tensor) -> Tensor:
    """Values ``[..., A]`` of one action each; leading axes of ``action`` match, missing ones are broadcast."""
    index = action.reshape(*action.shape, *([1] * (values.dim() - action.dim())))
    return values.gather(-1, index.expand(*values.shape[:-1], 1)).squeeze(-1)


def _backup(value: Tensor, reward: Tensor, discount: Tensor, epsilon: float) -> Tensor:
    """``h(R + g * h_inverse(V))`` (R2D2, section 2.3), elementwise; plain ``R + g * V`` for ``epsilon = 0``."""
    if epsilon == 0:
        return reward + discount * value
    return rescale(reward + discount * unrescale(value, epsilon), epsilon)


@dataclass(frozen=True)
class Scalars:
    """One value per action (DQN): ``values [T, B, A]``."""

    values: Tensor

    def mean(self) -> Tensor:
        """The values themselves."""
        return self.values

    def rows(self, start: int, stop: int) -> Scalars:
        """Rows ``start..stop-1``."""
        return Scalars(self.values[start:stop])

    def bellman(self, action: Tensor, reward: Tensor, discount: Tensor, epsilon: float) -> Tensor:
        """``[T, B]``, see :class:`ActionValues`."""
        return _backup(_pick(self.values, action), reward, discount, epsilon)

    def regress(self, action: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Huber loss of the temporal-difference error (Mnih et al. 2015); ``kappa = inf`` gives half the square."""
        error = target - _pick(self.values, action)
        loss = 0.5 * error.square() if kappa == float("inf") else huber(error, kappa)
        return loss, error.detach().abs()


@dataclass(frozen=True)
class Quantiles:
    """Samples of the return's quantile function: ``values [T, B, N, A]`` at ``fractions [T, B, N]`` in (0, 1)."""

    values: Tensor
    fractions: Tensor

    def mean(self) -> Tensor:
        """Mean over the samples, ``[T, B, A]``."""
        return self.values.mean(2)

    def rows(self, start: int, stop: int) -> Quantiles:
        """Rows ``start..stop-1``."""
        return Quantiles(self.values[start:stop], self.fractions[start:stop])

    def bellman(self, action: Tensor, reward: Tensor, discount: Tensor, epsilon: float) -> Tensor:
        """``[T, B, N]``: every sample is bootstrapped by itself."""
        return _backup(_pick(self.values, action), reward[..., None], discount[..., None], epsilon)

    def regress(self, action: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Quantile Huber loss (Dabney et al. 2018, IQN, equation 3); the error is the mean absolute pairwise one."""
        return quantile_huber(_pick(self.values, action), self.fractions, target, kappa)


def greedy(values: ActionValues) -> Tensor:
    """Index of the action with the highest mean, ``[T, B]``; the first of equals."""
    return torch.argmax(values.mean(), dim=-1)
