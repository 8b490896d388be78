"""A deterministic policy and its critic, for continuous actions (Horgan et al. 2018, Ape-X DPG, appendix D)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from retorq.nn.products import Linear

Activation = Literal["relu", "tanh"]
Squash = Literal["tanh", "clip"]
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "tanh": torch.tanh}
_SQUASHES: dict[Squash, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "clip": lambda x: x.clamp(-1.0, 1.0)}


class Policy(nn.Module):
    """Features to actions in [-1, 1]: two fully connected layers, tanh after the first, and ``actions`` outputs.

    ``activation`` follows the second layer. ``squash`` brings the outputs into range; ``"clip"`` cuts them off, and has
    no gradient beyond the ends.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, int],
        actions: int,
        *,
        activation: Activation = "relu",
        squash: Squash = "tanh",
    ) -> None:
        super().__init__()
        self.activation, self.squash = activation, squash
        self.first, self.second = Linear(inputs, hidden[0]), Linear(hidden[0], hidden[1])
        self.out = Linear(hidden[1], actions)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., F]`` to actions, float32 ``[..., A]``."""
        hidden = _ACTIVATIONS[self.activation](self.second(torch.tanh(self.first(x))))
        return _SQUASHES[self.squash](self.out(hidden).float())


class Critic(nn.Module):
    """Features and an action to its value: two fully connected layers, tanh after the first, and one output.

    The action joins the input of layer ``action_layer``, 1 or 2. ``activation`` follows the second layer.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, int],
        actions: int,
        *,
        activation: Activation = "relu",
        action_layer: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        self.activation, self.action_layer = activation, action_layer
        early, late = (actions, 0) if action_layer == 1 else (0, actions)
        self.first, self.second = Linear(inputs + early, hidden[0]), Linear(hidden[0] + late, hidden[1])
        self.out = Linear(hidden[1], 1)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """``[..., F]`` and ``[..., A]`` to values, float32 ``[...]``."""
        if self.action_layer == 1:
            x = torch.cat([x, action.to(x.dtype)], dim=-1)
        hidden = torch.tanh(self.first(x))
        if self.action_layer == 2:
            hidden = torch.cat([hidden, action.to(hidden.dtype)], dim=-1)
        value: Tensor = self.out(_ACTIVATIONS[self.activation](self.second(hidden)))
        return value.squeeze(-1).float()
