"""R2D2: recurrent replay with stored states and burn-in (Kapturowski, Ostrovski, Quan, Munos and Dabney 2019).

Changes of :mod:`drqn <retorq.algorithms.drqn>`: sequences of 80 within a game that start every 40 rows, burnt in from
the state the actor had; double, dueling, 5-step and prioritized; rescaled values of unclipped rewards; the last action
and reward as inputs; a ladder of epsilons.

Departures are in docs/algorithms/r2d2.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import ActorPriorities, LadderEpsilon, Recurrent
from retorq.nn.heads import Scalar
from retorq.nn.network import Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(ActorPriorities, LadderEpsilon, Recurrent):
    """All settings; the defaults are those of Kapturowski et al. 2019, tables 2 and 3, or Ape-X's."""

    regression: Literal["huber", "squared"] = "squared"
    num_envs: int = 256  # actors
    stack: int = 4
    last_action: bool = True
    last_reward: bool = True
    dueling: bool = True
    batch_size: int = 64
    sequence_length: int = 80
    start_state: Literal["whole", "zero", "stored", "zero+burn_in", "stored+burn_in"] = "stored+burn_in"
    state_period: int = 40  # so that adjacent sequences overlap by 40
    n_step: int = 5
    gamma: float = 0.997
    double: bool = True
    clip_rewards: Literal["sign", "clip", "none"] = "none"
    rescale_epsilon: float = 1e-3
    learning_rate: float = 1e-4
    clip_gradient: float = 40.0  # Ape-X
    replay_ratio: float = 0.8  # measured in the paper, which lets actors and learner run free
    replay_size: int = 4_000_000
    prioritized: bool = True


def atari() -> Config:
    """The published configuration."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP_MEMORY)


def minatar() -> Config:
    """MinAtar's tasks."""
    return Config(**presets.MINATAR_MEMORY)


def toy() -> Config:
    """Small and quick."""
    return Config(**presets.TOY_MEMORY)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso, extras = parts.torso(config, spec), parts.extras(config, spec)
    core = parts.memory(config, torso.size + extras.size)
    network = Network(torso, core, Scalar(core.size, config.hidden_size, spec.actions, dueling=config.dueling), extras)
    loss = parts.loss(config, kappa=parts.kappa(config.regression))
    return parts.recurrent("r2d2", config, spec, network, loss)
