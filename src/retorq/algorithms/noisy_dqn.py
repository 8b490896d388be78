"""Noisy DQN: noise in the weights of the last layers explores, with a learned amplitude (Fortunato et al. 2018).

Changes of :mod:`dqn <retorq.algorithms.dqn>`: ``noisy``, and no epsilon. ``dqn --noisy`` keeps epsilon beside it.

Departures are in docs/algorithms/noisy_dqn.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import FeedForward, Munchausen
from retorq.nn.cores import Stateless
from retorq.nn.heads import Scalar
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(Munchausen, FeedForward):
    """All settings; the defaults are those of Fortunato et al. 2018, section 4, else DQN's."""

    epsilon_start: float = 0.0  # noise explores
    epsilon_final: float = 0.0
    noisy: bool = True
    optimizer: Literal["adam", "rmsprop", "adagrad"] = "rmsprop"  # centered, epsilon inside the root
    optimizer_epsilon: float = 0.01 / 32**2  # 0.01 for a loss summed over the batch
    regression: Literal["huber", "squared"] = "huber"  # the error is clipped to [-1, 1]


def atari() -> Config:
    """The published configuration: 50 million steps, 200 million frames."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP)


def minatar() -> Config:
    """MinAtar's own settings (Young and Tian 2019)."""
    return Config(**presets.MINATAR)


def toy() -> Config:
    """Small and quick."""
    return Config(**presets.TOY)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso = parts.torso(config, spec)
    head = Scalar(torso.size, config.hidden_size, spec.actions, **parts.streams(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=parts.kappa(config.regression))
    return parts.feed_forward("noisy_dqn", config, spec, network, loss)
