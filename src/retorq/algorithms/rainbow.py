"""Rainbow: C51 with double, dueling, prioritized, 3-step and noisy (Hessel et al. 2018).

Changes of :mod:`c51 <retorq.algorithms.c51>`: the flags, a lower learning rate, a shorter warm-up and target period, no
epsilon. Priorities are Kullback-Leibler divergences.

Departures are in docs/algorithms/rainbow.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import FeedForward, Support
from retorq.nn.cores import Stateless
from retorq.nn.heads import Categorical
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(Support, FeedForward):
    """All settings; the defaults are those of Hessel et al. 2018, table 1."""

    epsilon_start: float = 0.0  # noise explores
    epsilon_final: float = 0.0
    noisy: bool = True
    dueling: bool = True
    double: bool = True
    n_step: int = 3
    learning_rate: float = 6.25e-5
    optimizer_epsilon: float = 1.5e-4
    target_period: int = 2_000  # updates = 32,000 frames / 16
    warmup: int = 20_000  # = 80,000 frames / 4
    prioritized: bool = True
    priority_exponent: float = 0.5


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
    head = Categorical(torso.size, config.hidden_size, spec.actions, **parts.streams(config), **parts.support(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config)
    return parts.feed_forward("rainbow", config, spec, network, loss)
