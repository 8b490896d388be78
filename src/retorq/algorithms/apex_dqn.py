"""Ape-X DQN: many actors, one prioritized replay, one learner (Horgan et al. 2018).

Changes of :mod:`dqn <retorq.algorithms.dqn>`: double, dueling, 3-step and prioritized, with a ladder of epsilons over
the environments; new transitions enter the replay with priorities made of what their actor thought, and the replay's
size is a soft cap. Actors in other processes come with ``--pool`` and ``--actors``.

Departures are in docs/algorithms/apex_dqn.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import FeedForward, LadderEpsilon, ManyActors
from retorq.nn.cores import Stateless
from retorq.nn.heads import Scalar
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(ManyActors, LadderEpsilon, FeedForward):
    """All settings; the defaults are those of Horgan et al. 2018, section 4 and appendix C."""

    num_envs: int = 360  # actors, each with one environment
    dueling: bool = True
    batch_size: int = 512
    n_step: int = 3
    double: bool = True
    optimizer: Literal["adam", "rmsprop", "adagrad"] = "rmsprop"  # centered, decay 0.95, no momentum
    learning_rate: float = 2.5e-4 / 4
    optimizer_epsilon: float = 1.5e-7
    clip_gradient: float = 40.0
    regression: Literal["huber", "squared"] = "squared"
    replay_size: int = 2_000_000
    replay_ratio: float = 0.78  # 19 batches of 512 a second, 12,500 transitions inserted; the paper lets both run free
    prioritized: bool = True
    priority_beta_final: float = 0.4  # the exponents are constant
    publish_period: int = 50  # updates; actors fetch new weights every 400 frames


def atari() -> Config:
    """The published configuration: 360 actors."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP | {"publish_period": 20}, epsilon_steps=60_000, batch_size=32, replay_ratio=8.0)


def minatar() -> Config:
    """MinAtar's tasks."""
    return Config(**presets.MINATAR, epsilon_steps=100_000, batch_size=32, replay_ratio=8.0, publish_period=20)


def toy() -> Config:
    """Small and quick."""
    return Config(**presets.TOY, epsilon_steps=2_000, batch_size=64, publish_period=10)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso = parts.torso(config, spec)
    head = Scalar(torso.size, config.hidden_size, spec.actions, **parts.streams(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=parts.kappa(config.regression))
    return parts.feed_forward("apex_dqn", config, spec, network, loss)
