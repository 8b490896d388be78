"""Ape-X DPG: continuous actions, by a deterministic policy and its critic, with many actors (Horgan et al. 2018).

Changes of :mod:`apex_dqn <retorq.algorithms.apex_dqn>`: a policy acts, and a critic of state and action stands for the
values of all actions; normal noise explores; 5-step returns; a full replay lets transitions of low priority go first.

Departures are in docs/algorithms/apex_dpg.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from retorq.agent import Agent
from retorq.algorithms import continuous
from retorq.algorithms.continuous import BOUND, Continuous
from retorq.losses.policy_gradient import PolicyGradient
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(Continuous):
    """All settings; the defaults are those of Horgan et al. 2018, section 4 and appendix D, or what the page says."""

    num_envs: int = 64  # actors, each with one environment
    batch_size: int = 256
    n_step: int = 5  # D4PG's
    learning_rate: float = 1e-4
    optimizer_epsilon: float = 1e-8
    target_period: int = 100
    prioritized: bool = True
    priority_beta_final: float = 0.4  # the exponents are constant
    publish_period: int = 10


def published() -> Config:
    """The published configuration: 64 actors."""
    return Config()


def toy() -> Config:
    """Small and quick."""
    return Config(
        num_envs=4,
        batch_size=64,
        n_step=1,  # longer ones carry the noise of old policies into the critic
        learning_rate=1e-3,
        replay_size=50_000,
        replay_ratio=64.0,  # an update per step
        warmup=1_000,
    )


PRESETS = {"published": published, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    network = continuous.network(config, spec)
    loss = PolicyGradient(n=config.n_step, gamma=config.gamma, clip=BOUND if config.actor_clip == "dqda" else None)
    return continuous.agent("apex_dpg", config, spec, network, loss)
