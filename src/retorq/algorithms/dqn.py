"""DQN: deep Q-learning on stacked frames (Mnih et al. 2015), and the flags that its successors added to it.

``double`` (van Hasselt et al. 2016), ``dueling`` (Wang et al. 2016), ``prioritized`` (Schaul et al. 2016), ``n_step``,
``noisy`` (Fortunato et al. 2018) and ``munchausen`` (Vieillard et al. 2020) work together or alone.

Departures are in docs/algorithms/dqn.md.
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
    """All settings; the defaults are those of Mnih et al. 2015, extended data table 1."""

    optimizer: Literal["adam", "rmsprop", "adagrad"] = "rmsprop"  # centered, epsilon inside the root
    optimizer_epsilon: float = 0.01 / 32**2  # 0.01 for a loss summed over the batch
    regression: Literal["huber", "squared"] = "huber"  # the error is clipped to [-1, 1]


def atari() -> Config:
    """The published configuration: 50 million steps, 200 million frames."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP, epsilon_final=0.01, epsilon_steps=60_000)


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
    head = Scalar(torso.size, config.hidden_size, spec.actions, **parts.streams(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=parts.kappa(config.regression))
    return parts.feed_forward("dqn", config, spec, network, loss)
