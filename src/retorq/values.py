"""What a head returns: the values of all actions, as scalars, as quantiles or as probabilities of the return.

This is the whole difference between DQN, QR-DQN/IQN and C51: how a value is averaged, how it is bootstrapped, and how
it is regressed. Losses need not look inside.

Shapes: ``T`` rows, ``B`` columns, ``A`` actions, ``N`` quantile samples, ``K`` atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from retorq.ops.distributions import categorical_projection, huber, quantile_huber
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
        value rescaling h (0: none). Returns ``[T, B]``, ``[T, B, N]`` or probabilities ``[T, B, K]``.
        """

    def regress(self, action: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Loss and error ``[T, B]`` of the taken action against a target from ``bellman``; the error is at least 0."""

    def diagnostics(self, action: Tensor) -> dict[str, Tensor]:
        """Scalars worth logging about the taken actions ``[T, B]``, detached; empty for most kinds."""


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

    def diagnostics(self, action: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}


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

    def diagnostics(self, action: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Categorical:
    """Probabilities of fixed returns (C51, Bellemare et al. 2017): ``logits [T, B, K, A]`` over ``support [K]``.

    The support is strictly increasing, in the units of the values. Half-precision logits are computed in float32.
    """

    logits: Tensor
    support: Tensor

    def mean(self) -> Tensor:
        """Expected return, ``[T, B, A]``."""
        return (_wide(self.logits).softmax(-2) * self.support.unsqueeze(-1)).sum(-2)  # autocast halves a product

    def rows(self, start: int, stop: int) -> Categorical:
        """Rows ``start..stop-1``."""
        return Categorical(self.logits[start:stop], self.support)

    def bellman(self, action: Tensor, reward: Tensor, discount: Tensor, epsilon: float) -> Tensor:
        """Probabilities ``[T, B, K]``: every atom is bootstrapped by itself, then projected onto the support."""
        moved = _backup(self.support, reward[..., None], discount[..., None], epsilon)
        return categorical_projection(moved, self._logits(action).softmax(-1), self.support)

    def regress(self, action: Tensor, target: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy to the target probabilities; the error is the divergence ``KL(target || prediction)``.

        The two differ by the entropy of the target, which has no gradient but would favor states whose return is
        uncertain if it were part of a priority (Hessel et al. 2018, Rainbow, uses the divergence). ``kappa`` belongs
        to the losses of values, and there is nothing here that it could bend.
        """
        loss = -(target * self._logits(action).log_softmax(-1)).sum(-1)
        error = loss.detach() + torch.special.xlogy(target, target).sum(-1)
        return loss, error.clamp(min=0)

    def diagnostics(self, action: Tensor) -> dict[str, Tensor]:
        """``end_mass``: mean probability of the two outermost atoms; near 1, the support is too narrow."""
        probs = self._logits(action).detach().softmax(-1)
        return {"end_mass": (probs[..., 0] + probs[..., -1]).mean()}

    def _logits(self, action: Tensor) -> Tensor:
        """Logits ``[T, B, K]`` of one action each."""
        return _wide(_pick(self.logits, action))


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def greedy(values: ActionValues) -> Tensor:
    """Index of the action with the highest mean, ``[T, B]``; the first of equals."""
    return torch.argmax(values.mean(), dim=-1)
