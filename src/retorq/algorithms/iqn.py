"""IQN: the return's quantile function at sampled fractions (Dabney, Ostrovski, Silver and Munos 2018).

Changes of :mod:`dqn <retorq.algorithms.dqn>`: the head, and with it the quantile Huber loss; Adam with a lower learning
rate; a lower final epsilon. ``risk`` acts by a distorted mean: ``cvar`` with a level below 1, ``wang`` and ``power``
with a level below 0 avoid risk.

Departures are in docs/algorithms/iqn.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import IQN, FeedForward, Munchausen
from retorq.nn.cores import Stateless
from retorq.nn.heads import ImplicitQuantile
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(IQN, Munchausen, FeedForward):
    """All settings; the defaults are those of Dabney et al. 2018, section 5."""

    epsilon_final: float = 0.01
    learning_rate: float = 5e-5


def atari() -> Config:
    """The published configuration: 50 million steps, 200 million frames."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP, epsilon_steps=60_000)


def minatar() -> Config:
    """MinAtar's own settings (Young and Tian 2019)."""
    return Config(**presets.MINATAR, epsilon_steps=100_000)


def toy() -> Config:
    """Small and quick."""
    return Config(**presets.TOY, epsilon_final=0.05, epsilon_steps=5_000, samples=8, target_samples=8)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso = parts.torso(config, spec)
    head = ImplicitQuantile(
        torso.size, config.hidden_size, spec.actions, **parts.streams(config), **parts.fractions(config)
    )
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=config.kappa)
    return parts.feed_forward("iqn", config, spec, network, loss)
