"""Heads: from a core's features to the values of all actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retorq.nn.cores import Cosines, Features
from retorq.values import ActionValues, Quantiles, Scalars


class Streams(nn.Module):
    """One ReLU layer and the outputs of all actions, ``[..., F]`` to ``[..., A]``.

    ``dueling`` (Wang et al. 2016, equation 9): two such streams, ``V + A - mean over actions of A``. Both hidden layers
    are one matrix, since they read the same features.
    """

    def __init__(self, inputs: int, hidden: int, actions: int, dueling: bool) -> None:
        super().__init__()
        self.dueling = dueling
        self.hidden = nn.Linear(inputs, hidden * (2 if dueling else 1))
        self.advantage = nn.Linear(hidden, actions)
        if dueling:
            self.value = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., F]`` to float32 ``[..., A]``."""
        hidden = nn.functional.relu(self.hidden(x))
        if not self.dueling:
            plain: Tensor = self.advantage(hidden).float()
            return plain
        for_advantage, for_value = hidden.chunk(2, dim=-1)
        advantage = self.advantage(for_advantage).float()
        combined: Tensor = self.value(for_value).float() + advantage - advantage.mean(-1, keepdim=True)
        return combined


class Scalar(nn.Module):
    """One value per action."""

    def __init__(self, inputs: int, hidden: int, actions: int, *, dueling: bool = False) -> None:
        super().__init__()
        self.streams = Streams(inputs, hidden, actions, dueling)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` to :class:`Scalars`."""
        return Scalars(self.streams(features.x))


class ImplicitQuantile(nn.Module):
    """The return's quantile function at sampled fractions (Dabney et al. 2018, IQN).

    Every call draws fresh fractions, independently per row, column and sample. Features that already carry fractions
    (``QuantileLSTM``) are valued at those instead, and the head has no embedding of its own.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        actions: int,
        *,
        samples: int,
        dueling: bool,
        embed: bool = True,
        cosines: int = 64,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.embedding = Cosines(inputs, cosines) if embed else None
        self.streams = Streams(inputs, hidden, actions, dueling)

    def forward(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """``[T, B, F]`` (or ``[T, B, N, F]`` with fractions) to :class:`Quantiles` of ``samples`` fractions."""
        if self.embedding is None:
            if features.fractions is None:
                raise ValueError("this head values features that carry fractions, and these carry none")
            return Quantiles(self.streams(features.x), features.fractions)
        lead = features.x.shape[:2]
        fractions = torch.rand(*lead, samples or self.samples, device=features.x.device, generator=generator)
        embedded = self.embedding(fractions)
        return Quantiles(self.streams(features.x.to(embedded.dtype).unsqueeze(2) * embedded), fractions)
