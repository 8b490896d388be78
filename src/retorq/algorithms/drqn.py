"""DRQN: an LSTM in place of the stack of frames (Hausknecht and Stone 2015).

Random updates (the default): a game is drawn, then a place in it, and the memory starts empty there. Sequential ones
(``start_state`` whole) walk whole games and carry the memory on.

Departures are in docs/algorithms/drqn.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import LinearEpsilon, Recurrent
from retorq.nn.heads import Scalar
from retorq.nn.network import Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(LinearEpsilon, Recurrent):
    """All settings; the defaults are those of Hausknecht and Stone 2015 and of its authors' program."""

    hidden_size: int = 0  # the outputs lie directly on the memory
    regression: Literal["huber", "squared"] = "huber"
    sequences: Literal["any", "within", "episode"] = "episode"
    start_state: Literal["whole", "zero", "stored", "zero+burn_in", "stored+burn_in"] = "zero"
    clip_rewards: Literal["sign", "clip", "none"] = "sign"
    learning_rate: float = 1e-4  # Adam instead of ADADELTA
    replay_ratio: float = 320.0  # = a batch of 32 x 10 rows every step
    target_period: int = 10_000
    replay_size: int = 400_000


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
    return parts.recurrent("drqn", config, spec, network, loss)
