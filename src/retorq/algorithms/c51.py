"""C51: the return's distribution as probabilities of 51 fixed values (Bellemare, Dabney and Munos 2017).

Changes of :mod:`dqn <retorq.algorithms.dqn>`: the head, and with it how values are bootstrapped and regressed (the
projected distribution and its cross-entropy); Adam; a lower final epsilon.

Departures are in docs/algorithms/c51.md.
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
    """All settings; the defaults are those of Bellemare et al. 2017, section 5."""

    epsilon_final: float = 0.01


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
    head = Categorical(torso.size, config.hidden_size, spec.actions, **parts.streams(config), **parts.support(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config)
    return parts.feed_forward("c51", config, spec, network, loss)
