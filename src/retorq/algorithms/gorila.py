"""Gorila: several learners send gradients to a sharded parameter server (Nair et al. 2015).

Changes of :mod:`dqn <retorq.algorithms.dqn>`: every bundle of an actor, a replay of its own and a learner fetches the
weights from the servers and sends them gradients, which they apply with AdaGrad; gradients that come too late, or of
losses far out, are dropped. One actor and one learner per bundle come with ``--pool ray``; else bundles take turns.

Departures are in docs/algorithms/gorila.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.settings import FeedForward, ManyLearners
from retorq.nn.cores import Stateless
from retorq.nn.heads import Scalar
from retorq.nn.network import Extras, Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(FeedForward, ManyLearners):
    """All settings; the defaults are those of Nair et al. 2015, section 5, as far as it gives them."""

    num_envs: int = 100  # one per bundle
    epsilon_steps: int = 4_000_000  # agent steps = 1,000,000 updates, each of a batch every 4 steps
    regression: Literal["huber", "squared"] = "huber"
    optimizer: Literal["adam", "rmsprop", "adagrad"] = "adagrad"
    learning_rate: float = 2.5e-4
    optimizer_epsilon: float = 1e-10
    target_period: int = 60_000  # updates of the servers
    replay_size: int = 100_000_000  # 1,000,000 of each bundle
    warmup: int = 5_000_000  # 50,000 in each bundle, DQN's


TWO = {"bundles": 2, "servers": 2}


def atari() -> Config:
    """The published configuration: 100 bundles, 31 servers."""
    return Config()


def laptop() -> Config:
    """Atari on two CPU cores."""
    return Config(**presets.LAPTOP | TWO | {"center_images": False}, epsilon_final=0.01, epsilon_steps=60_000)


def minatar() -> Config:
    """MinAtar's tasks."""
    return Config(**presets.MINATAR | TWO, epsilon_steps=100_000)


def toy() -> Config:
    """Small and quick."""
    rule = {"optimizer": "adagrad", "learning_rate": 0.03}
    return Config(**presets.TOY | TWO | rule, epsilon_final=0.05, epsilon_steps=5_000)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso = parts.torso(config, spec)
    head = Scalar(torso.size, config.hidden_size, spec.actions, **parts.streams(config))
    network = Network(torso, Stateless(torso.size), head, Extras(actions=spec.actions))
    loss = parts.loss(config, kappa=parts.kappa(config.regression))
    agent = parts.feed_forward("gorila", config, spec, network, loss)
    return replace(agent, bundles=parts.bundles(config))
