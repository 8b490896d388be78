"""Recurrent IQN: implicit quantile networks with an LSTM, replayed as short sequences.

Published as the configuration ``atari_iqn_lstm`` of RLtime (2019): convolutions, then an LSTM that also reads the last
action, reward and time, then the implicit quantile layer (Dabney et al. 2018), dueling streams, double Q-learning,
2-step targets, 32 environments and 32 sequences of 20 steps, each step replayed 4 times. Relative to R2D2 (Kapturowski
et al. 2019): quantiles instead of values, one machine, uniform replay, shorter sequences, more replay per step.

Departures, each measured or argued in docs/algorithms/recurrent_iqn.md: sequences start on the grid on which states
are stored (``state_period``); truncation bootstraps; one online unroll serves training and double Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.agent import Agent
from retorq.algorithms import parts, presets
from retorq.algorithms.checks import refuse
from retorq.algorithms.settings import IQN, LadderEpsilon, Recurrent
from retorq.nn.cores import LSTM, QuantileLSTM, Stateless
from retorq.nn.heads import ImplicitQuantile
from retorq.nn.network import Network
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config(IQN, LadderEpsilon, Recurrent):
    """All settings; the defaults are the published configuration (RLtime ``atari_iqn_lstm``, facts checked in docs)."""

    # acting
    num_envs: int = 32  # actor_envs
    epsilon_final: float = 0.01  # eps_final; the base starts at 0.4
    epsilon_floor: float = 0.01  # eps_min
    # network: an LSTM of 512 that reads the last action and reward and the time
    last_action: bool = True
    last_reward: bool = True
    elapsed_time: bool = True
    quantile_layer: Literal["after", "outer", "inner", "separate"] = "after"  # injection_layer -1: after the LSTM
    samples: int = 32  # num_sampling_quantiles: learned fractions N
    target_samples: int | None = None  # as samples
    action_samples: int | None = None  # as samples
    dueling: bool = True
    # learning
    batch_size: int = 32  # mbatch_size, sequences
    sequence_length: int = 20  # nstep_train
    sequences: Literal["any", "within", "episode"] = "any"
    n_step: int = 2  # nstep_target
    double: bool = True  # double_q
    clip_rewards: Literal["sign", "clip", "none"] = "sign"
    learning_rate: float = 3e-4
    anneal_learning_rate: bool = True  # lr_anneal: linearly to 0
    optimizer_epsilon: float = 1e-5
    clip_gradient: float = 40.0
    target_period: int = 125  # updates = target_update_freq 20,000 steps x 4 / 640
    time_reduction: Literal["mean", "sum"] = "mean"
    # replay: stored states (published: of every row), a million transitions over all environments
    replay_ratio: float = 4.0  # train_frequency: steps trained per step acted

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense."""
        super().__post_init__()
        before = self.quantile_layer != "after"
        refuse(
            before and self.memory == "none",
            f"quantile_layer is {self.quantile_layer!r}, which places quantiles before a memory, but memory is none; "
            "set quantile_layer to after or memory to lstm.",
        )
        refuse(
            before and (self.target_samples, self.action_samples) != (None, None),
            f"quantile_layer is {self.quantile_layer!r}, where one unroll fixes the fractions of every role; leave "
            "target_samples and action_samples unset.",
        )
        refuse(
            before and self.risk != "neutral",
            f"risk is {self.risk!r}, but quantile_layer is {self.quantile_layer!r}, whose fractions are drawn before "
            "anyone acts; set risk to neutral or quantile_layer to after.",
        )
        refuse(
            self.quantile_layer == "separate" and not self.start_state.startswith("stored"),
            "quantile_layer is separate, whose fractions are part of the stored state, but start_state is "
            f"{self.start_state}; set start_state to stored or choose another quantile_layer.",
        )


def atari() -> Config:
    """The published configuration (RLtime ``atari_iqn_lstm``): 50 million steps, 200 million frames."""
    return Config()


def laptop() -> Config:
    """The same algorithm sized for two CPU cores: a smaller network, fewer samples, smaller batches."""
    return Config(
        **presets.LAPTOP_MEMORY | {"sequence_length": 10},
        epsilon_fraction=0.6,
        epsilon_final=0.05,
        epsilon_floor=0.005,
        samples=8,  # more than half of an update's work is in the quantile layer
        n_step=3,
    )


def minatar() -> Config:
    """MinAtar's tasks."""
    return Config(**presets.MINATAR_MEMORY, epsilon_floor=0.0, samples=8)


def toy() -> Config:
    """Small and quick, for the built-in toys and CartPole."""
    return Config(**presets.TOY_MEMORY, samples=8, n_step=3)


PRESETS = {"atari": atari, "laptop": laptop, "minatar": minatar, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    torso, extras = parts.torso(config, spec), parts.extras(config, spec)
    core = _core(config, torso.size + extras.size)
    head = ImplicitQuantile(
        core.size,
        config.hidden_size,
        spec.actions,
        dueling=config.dueling,
        embed=config.quantile_layer == "after",
        **parts.fractions(config),
    )
    network = Network(torso, core, head, extras)
    loss = parts.loss(config, kappa=config.kappa)
    return parts.recurrent("recurrent_iqn", config, spec, network, loss)


def _core(config: Config, inputs: int) -> Stateless | LSTM | QuantileLSTM:
    if config.quantile_layer == "after":
        return parts.memory(config, inputs)
    return QuantileLSTM(inputs, config.memory_size, config.samples, config.quantile_layer, config.cosines)
