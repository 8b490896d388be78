"""QR-DQN: the return's distribution as the values at 200 fixed quantiles (Dabney et al. 2018).

Changes of :mod:`c51 <retorq.algorithms.c51>`: the head and its quantile Huber loss, without any support to choose; a
lower learning rate.

Departures are in docs/algorithms/qr_dqn.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import FeedForward
from retorq.nn.cores import Stateless
from retorq.nn.heads import Quantile
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(FeedForward):
    """All settings; the defaults are those of Dabney et al. 2018, section 5 (QR-DQN-1)."""

    epsilon_final: float = 0.01
    learning_rate: float = 5e-5
    quantiles: int = 200
    kappa: float = 1.0


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
    return Config(**presets.TOY, epsilon_final=0.05, epsilon_steps=5_000)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso = parts.torso(config, spec)
    size = config.quantiles
    head = Quantile(torso.size, config.hidden_size, spec.actions, **parts.streams(config), quantiles=size)
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=config.kappa)
    return parts.feed_forward("qr_dqn", config, spec, network, loss)
