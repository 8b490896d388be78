"""A network is a torso, a core and a head, with what else the core reads beside the observation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retorq.nn.cores import LSTM, Features, QuantileLSTM, Stateless
from retorq.nn.heads import Head, ImplicitQuantile, PolicyCritic
from retorq.nn.noisy import sigmas
from retorq.nn.torsos import Image, Torso
from retorq.types import Inputs, Tree
from retorq.values import ActionValues


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What the core reads beside the torso's features.

    ``action``: the previous action, one-hot (zeros on the first row of an episode). ``reward``: the previous reward,
    clipped the way the loss clips it (zero on the first row). ``time``: agent steps since the game began over
    ``time_scale``, at most 1.
    """

    actions: int
    action: bool = False
    reward: bool = False
    time: bool = False
    time_scale: float = 100_000.0
    clip: str = "sign"

    @property
    def size(self) -> int:
        """Number of extra features."""
        return self.actions * self.action + self.reward + self.time

    def encode(self, inputs: Inputs) -> Tensor | None:
        """``[T, B, size]`` float32, or None if there are none."""
        parts: list[Tensor] = []
        begun = (~inputs.first).unsqueeze(-1).float()
        if self.action:
            parts.append(nn.functional.one_hot(inputs.previous_action.long(), self.actions) * begun)
        if self.reward:
            parts.append(clip_reward(inputs.previous_reward, self.clip).unsqueeze(-1) * begun)
        if self.time:
            parts.append((inputs.elapsed.float() / self.time_scale).clamp(max=1.0).unsqueeze(-1))
        return torch.cat(parts, dim=-1) if parts else None


def clip_reward(reward: Tensor, clip: str) -> Tensor:
    """``"sign"``: -1, 0 or 1 (RLtime); ``"clip"``: into [-1, 1] (Mnih et al. 2015); ``"none"``: as it is."""
    if clip == "none":
        return reward
    return reward.sign() if clip == "sign" else reward.clamp(-1.0, 1.0)


class Network(nn.Module):
    """Torso, core and head. ``unroll`` runs rows in time; ``head`` values features and may be called again."""

    def __init__(self, torso: Torso, core: Stateless | LSTM | QuantileLSTM, head: Head, extras: Extras) -> None:
        super().__init__()
        self.torso, self.core, self._head, self.extras = torso, core, head, extras
        self._sigmas: list[Tensor] | None = None  # found once: looking through all modules takes longer than a sum

    @property
    def recurrent(self) -> bool:
        """Whether rows depend on the rows before them."""
        return self.core.recurrent

    @property
    def sampled(self) -> bool:
        """Whether every call of ``head`` draws fresh quantile fractions; not so where features carry theirs."""
        return isinstance(self._head, ImplicitQuantile) and self._head.embedding is not None

    @property
    def noisy(self) -> bool:
        """Whether weights carry noise in training mode (NoisyNet), so that acting needs no epsilon."""
        return bool(sigmas(self))

    @torch.no_grad()
    def center(self, observation: Tree) -> None:
        """Take the mean images to subtract from these observations ``[T, B, ...]``, where the torso centers images."""
        for name, leaf in self.torso.leaves.items():
            if leaf.kind == "image":
                image = self.torso.image(name)
                if image.centered:
                    image.set_mean(observation[name])

    @property
    def centered(self) -> bool:
        """Whether the torso subtracts a mean image."""
        return any(module.centered for module in self.torso.modules() if isinstance(module, Image))

    def initial_state(self, columns: int, device: torch.device | str = "cpu") -> Tree:
        """The memory at the start of an episode, one row per column."""
        return self.core.initial_state(columns, device)

    def unroll(self, inputs: Inputs, state: Tree, generator: torch.Generator | None = None) -> tuple[Features, Tree]:
        """Features of rows ``[T, B]`` and the state after them, from the state before them."""
        x = self.torso(inputs.observation)
        extras = self.extras.encode(inputs)
        if extras is not None:
            x = torch.cat([x, extras.to(x.dtype)], dim=-1)
        outputs: tuple[Features, Tree] = self.core(x, inputs.first, state, generator)
        return outputs

    def head(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> ActionValues:
        """Values of all actions; fresh quantile fractions, and fresh noise in training mode, on every call."""
        values: ActionValues = self._head(features, samples, generator)
        return values

    def preferences(
        self, features: Features, samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """What acting maximizes, float32 ``[T, B, A]``: the mean value of each action, under the head's risk if any."""
        if isinstance(self._head, ImplicitQuantile):
            return self._head.preferences(features, samples, generator).float()
        return self.head(features, samples, generator).mean().float()

    def policy(self, features: Features) -> Tensor:
        """The actions of a deterministic policy, float32 ``[T, B, A]`` in [-1, 1]."""
        actions: Tensor = self._actor_critic.policy(features.x)
        return actions

    def value(self, features: Features, action: Tensor) -> Tensor:
        """What a critic thinks of actions ``[T, B, A]``, float32 ``[T, B]``."""
        values: Tensor = self._actor_critic.critic(features.x, action)
        return values

    @property
    def _actor_critic(self) -> PolicyCritic:
        assert isinstance(self._head, PolicyCritic), "this network chooses among actions, and has no policy"
        return self._head

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """What is worth logging: ``noise``, the mean of all ``|sigma|``, which falls as exploration does."""
        if self._sigmas is None:
            self._sigmas = sigmas(self)
        noise = self._sigmas
        if not noise:
            return {}
        sums = torch.stack([torch.linalg.vector_norm(sigma, 1, dtype=torch.float32) for sigma in noise])
        return {"noise": sums.sum() / sum(sigma.numel() for sigma in noise)}

    def forward(
        self, inputs: Inputs, state: Tree, generator: torch.Generator | None = None
    ) -> tuple[ActionValues, Tree]:
        """``unroll`` and ``head`` in one call."""
        features, state = self.unroll(inputs, state, generator)
        return self.head(features, generator=generator), state


def zero_biases(network: nn.Module) -> None:
    """Set the biases of all linear and convolution layers to zero (RLtime's initialization), noisy ones excepted."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
