"""Heads: from a core's features to the values of all actions."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from retorq.nn.cores import Cosines, Features
from retorq.nn.noisy import NoisyLinear
from retorq.nn.policy import Critic, Policy
from retorq.nn.products import Linear
from retorq.ops.risk import Risk
from retorq.types import UserError
from retorq.values import ActionValues, Quantiles, Scalars
from retorq.values import Categorical as CategoricalValues


class Kind(TypedDict, total=False):
    """What :class:`Streams` can be; every head takes these."""

    dueling: bool
    rescale: bool
    noise: float


class Streams(nn.Module):
    """One ReLU layer of ``hidden`` units (0: none) and the outputs of all actions.

    ``dueling`` (Wang et al. 2016, equation 9): two such streams, ``V + A - mean over actions of A``, for each of the
    ``outputs`` by itself. Both hidden layers are one matrix, since they read the same features. ``rescale``: the
    gradient that two streams send back into the features is multiplied by 1/sqrt(2) (the same paper).
    ``noise`` is sigma_0 of :class:`NoisyLinear`, which all layers then are; 0 means ordinary ones.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        actions: int,
        *,
        outputs: int = 1,
        dueling: bool = False,
        rescale: bool = False,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.outputs, self.actions, self.dueling, self.rescale = outputs, actions, dueling, rescale and dueling
        streams = 2 if dueling else 1
        self.hidden = _linear(inputs, hidden * streams, noise, blocks=streams) if hidden else None
        self.advantage = _linear(hidden or inputs, outputs * actions, noise)
        if dueling:
            self.value = _linear(hidden or inputs, outputs, noise)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[..., F]`` to float32 ``[..., A]``, or ``[..., K, A]`` for ``K`` outputs; ``generator`` draws noise."""
        if self.rescale:
            x = _Rescaled.apply(x)
        hidden = x if self.hidden is None else nn.functional.relu(_apply(self.hidden, x, generator))
        if not self.dueling:
            return self._per_action(_apply(self.advantage, hidden, generator))
        for_advantage, for_value = (hidden, hidden) if self.hidden is None else hidden.chunk(2, dim=-1)
        advantage = self._per_action(_apply(self.advantage, for_advantage, generator))
        value = _apply(self.value, for_value, generator).float()
        if self.outputs > 1:
            value = value.unsqueeze(-1)
        return value + advantage - advantage.mean(-1, keepdim=True)

    def _per_action(self, x: Tensor) -> Tensor:
        """Float32 ``[..., K A]`` as ``[..., K, A]``, or as it is for one output."""
        x = x.float()
        return x if self.outputs == 1 else x.unflatten(-1, (self.outputs, self.actions))


class _Rescaled(torch.autograd.Function):
    """The same values; the gradient times 1/sqrt(2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2**-0.5


def _linear(inputs: int, outputs: int, noise: float, *, blocks: int = 1) -> nn.Linear | NoisyLinear:
    return NoisyLinear(inputs, outputs, noise, blocks=blocks) if noise else Linear(inputs, outputs)


def _apply(layer: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
    y: Tensor = layer(x, generator) if isinstance(layer, NoisyLinear) else layer(x)
    return y


class Scalar(nn.Module):
    """One value per action."""

    def __init__(self, inputs: int, hidden: int, actions: int, **kind: Unpack[Kind]) -> None:
        super().__init__()
        self.streams = Streams(inputs, hidden, actions, **kind)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` to :class:`Scalars`."""
        return Scalars(self.streams(features.x, generator))


class Quantile(nn.Module):
    """The return's quantiles at ``quantiles`` fixed fractions ``(2 i - 1) / (2 N)`` (Dabney et al. 2018, QR-DQN)."""

    def __init__(self, inputs: int, hidden: int, actions: int, *, quantiles: int, **kind: Unpack[Kind]) -> None:
        super().__init__()
        self.quantiles = quantiles
        self.streams = Streams(inputs, hidden, actions, outputs=quantiles, **kind)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` to :class:`Quantiles`; their number is the head's own."""
        values = self.streams(features.x, generator)
        if self.quantiles == 1:
            values = values.unsqueeze(-2)
        # Computed anew, since a buffer would be rounded where a copy of the network acts in bfloat16.
        middle = (torch.arange(self.quantiles, device=values.device, dtype=torch.float32) + 0.5) / self.quantiles
        return Quantiles(values, middle.expand(values.shape[:-1]))


class Categorical(nn.Module):
    """Probabilities of ``atoms`` returns, evenly spaced from ``low`` to ``high`` (Bellemare et al. 2017, C51).

    Dueling streams are combined per atom, on the logits (Hessel et al. 2018, Rainbow).

    Raises:
        UserError: ``atoms`` is below 2, or ``low`` is not below ``high``.
    """

    def __init__(
        self, inputs: int, hidden: int, actions: int, *, atoms: int, low: float, high: float, **kind: Unpack[Kind]
    ) -> None:
        super().__init__()
        if atoms < 2:
            raise UserError(f"atoms is {atoms}; give 2 or more.")
        if not low < high:
            raise UserError(f"lowest_value is {low}, but highest_value is {high}; give a lower one.")
        self.atoms, self.low, self.high = atoms, low, high
        self.streams = Streams(inputs, hidden, actions, outputs=atoms, **kind)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` to :class:`retorq.values.Categorical` in float32."""
        logits = self.streams(features.x, generator)
        # Computed anew, since a buffer would be rounded where a copy of the network acts in bfloat16.
        support = torch.linspace(self.low, self.high, self.atoms, device=logits.device, dtype=torch.float32)
        return CategoricalValues(logits, support)


class ImplicitQuantile(nn.Module):
    """The return's quantile function at sampled fractions (Dabney et al. 2018, IQN).

    Every call draws fresh fractions, independently per row, column and sample. Features that already carry fractions
    (``QuantileLSTM``) are valued at those instead, and the head has no embedding of its own.

    ``risk`` distorts the fractions that actions are chosen by (``preferences``) and none that are learned from.

    Raises:
        UserError: ``risk`` is given, but the head does not draw the fractions.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        actions: int,
        *,
        samples: int,
        embed: bool = True,
        cosines: int = 64,
        risk: Risk | None = None,
        **kind: Unpack[Kind],
    ) -> None:
        super().__init__()
        if risk is not None and not embed:
            raise UserError(
                f"risk is {risk.kind!r}, but the quantiles come before the memory, where they are not drawn for acting "
                "alone; leave risk out, or put them after the memory."
            )
        self.samples, self.risk = samples, risk
        self.embedding = Cosines(inputs, cosines) if embed else None
        self.streams = Streams(inputs, hidden, actions, **kind)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` (or ``[T, B, N, F]`` with fractions) to :class:`Quantiles` of ``samples`` fractions."""
        if features.fractions is not None and self.embedding is None:
            return Quantiles(self.streams(features.x, generator), features.fractions)
        return self.at(features, self._draw(features, samples, generator), generator)

    def preferences(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean value of each action ``[T, B, A]``, at fractions distorted by ``risk`` if there is one."""
        if self.risk is None:
            return self(features, samples, generator).mean()
        return self.at(features, self.risk(self._draw(features, samples, generator)), generator).mean()

    def at(self, features: Features, fractions: Tensor, generator: torch.Generator | None = None) -> Quantiles:
        """Values of features ``[T, B, F]`` at the given fractions ``[T, B, N]``."""
        if self.embedding is None:
            raise ValueError("this head values features that carry fractions, and these carry none")
        embedded = self.embedding(fractions)
        return Quantiles(self.streams(features.x.to(embedded.dtype).unsqueeze(2) * embedded, generator), fractions)

    def _draw(self, features: Features, samples: int | None, generator: torch.Generator | None) -> Tensor:
        """Uniform fractions ``[T, B, N]``."""
        lead = features.x.shape[:2]
        return torch.rand(*lead, samples or self.samples, device=features.x.device, generator=generator)


class PolicyCritic(nn.Module):
    """A deterministic policy and its critic, which share no weights: the head of agents with continuous actions."""

    def __init__(self, policy: Policy, critic: Critic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` to :class:`Scalars` ``[T, B, 1]``: the value of the one action that the policy would do."""
        return Scalars(self.critic(features.x, self.policy(features.x)).unsqueeze(-1))


Head = Scalar | Quantile | Categorical | ImplicitQuantile | PolicyCritic
