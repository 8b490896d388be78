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
from functools import partial
from typing import Literal

from retorq.acting.explore import Explore, Ladder, Linear
from retorq.agent import Agent
from retorq.algorithms.checks import at_least, choice, refuse, share, sizes, unused
from retorq.learner import Learner
from retorq.losses.q_learning import QLearning
from retorq.nn.cores import LSTM, QuantileLSTM, Stateless
from retorq.nn.heads import ImplicitQuantile
from retorq.nn.network import Extras, Network, zero_biases
from retorq.nn.torsos import Torso, fits
from retorq.replay.replay import Priorities, Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings; the defaults are the published configuration (RLtime ``atari_iqn_lstm``, facts checked in docs)."""

    # acting
    num_envs: int = 32  # actor_envs
    epsilon_start: float = 0.4  # eps_start: base of the per-environment ladder
    epsilon_final: float = 0.01  # eps_final
    epsilon_floor: float = 0.01  # eps_min
    epsilon_exponent: float = 7.0  # per_actor_exponent_factor
    epsilon_fraction: float = 0.5  # exploration_fraction of the run
    epsilon_uniform_steps: int = 0  # ours: first come down from 1 over this many steps
    # network
    torso: Literal["auto", "nature", "compact", "minatar", "flat"] = "auto"  # nature for Atari: 32@8s4, 64@4s2, 64@3s1
    torso_hidden: tuple[int, ...] = ()  # fully connected layers before the memory
    torso_norm: bool = False  # ours: layer normalization before the memory
    center_images: bool = False  # ours: subtract the mean image of the warm-up
    stack: int = 1  # images stacked; the memory makes more unnecessary
    memory: Literal["lstm", "none"] = "lstm"
    memory_size: int = 512  # num_units
    last_action: bool = True  # extra inputs of the LSTM
    last_reward: bool = True
    elapsed_time: bool = True
    quantile_layer: Literal["after", "outer", "inner", "separate"] = "after"  # injection_layer -1: after the LSTM
    samples: int = 32  # num_sampling_quantiles: learned fractions N
    target_samples: int | None = None  # N'; None: as samples (published)
    action_samples: int | None = None  # K, for choosing actions; None: as samples (published)
    cosines: int = 64  # embedding_dim
    hidden_size: int = 512  # fc_size, of each stream
    dueling: bool = True
    # learning
    batch_size: int = 32  # mbatch_size, sequences
    sequence_length: int = 20  # nstep_train
    burn_in: int = 0  # burn_in_timesteps
    n_step: int = 2  # nstep_target
    gamma: float = 0.99
    double: bool = True  # double_q
    kappa: float = 1.0  # huber_kappa
    clip_rewards: Literal["sign", "clip", "none"] = "sign"
    rescale_epsilon: float = 0.0  # vf_scale_epsilon: none
    learning_rate: float = 3e-4
    anneal_learning_rate: bool = True  # lr_anneal: linearly to 0
    adam_epsilon: float = 1e-5
    clip_gradient: float = 40.0
    target_period: int = 125  # updates = target_update_freq 20,000 steps x 4 / 640
    time_reduction: Literal["mean", "sum"] = "mean"
    # replay
    replay_size: int = 1_000_000  # transitions over all environments
    replay_ratio: float = 4.0  # train_frequency: steps trained per step acted
    warmup: int = 50_000  # agent steps, acted with the untrained network
    start_state: Literal["stored", "zero"] = "stored"
    state_period: int = 10  # published: 1; ours keeps a state (and a start) every 10 rows, see docs
    prioritized: bool = False
    priority_exponent: float = 0.6
    priority_beta: float = 0.4
    priority_eta: float = 0.9
    priority_error: Literal["td", "loss"] = "td"
    # machine
    precision: Literal["fp32", "bf16"] = "fp32"
    cuda_graph: bool = False  # record the learner's step and replay it (CUDA only)
    publish_period: int = 1  # updates

    def __post_init__(self) -> None:
        """Refuse values out of range, and combinations that make no sense."""
        at_least(self, 1, "num_envs", "stack", "memory_size", "samples", "cosines", "hidden_size", "batch_size")
        at_least(self, 1, "sequence_length", "n_step", "target_period", "replay_size", "state_period", "publish_period")
        at_least(self, 1, "target_samples", "action_samples")
        at_least(self, 0, "burn_in", "warmup", "epsilon_uniform_steps", "epsilon_exponent", "rescale_epsilon", "kappa")
        at_least(self, 0, "learning_rate", "adam_epsilon", "clip_gradient", "replay_ratio", exclusive=True)
        share(self, "epsilon_start", "epsilon_final", "epsilon_floor", "epsilon_fraction", "gamma", "priority_eta")
        share(self, "priority_exponent", "priority_beta")
        choice(self)
        sizes(self, "torso_hidden")
        unused(self, "prioritized", "priority_exponent", "priority_beta", "priority_eta", "priority_error")
        refuse(
            self.rescale_epsilon > 0 and self.clip_rewards != "none",
            "rescale_epsilon rescales unclipped rewards, but clip_rewards is "
            f"{self.clip_rewards!r}; set clip_rewards to none or rescale_epsilon to 0.",
        )
        refuse(
            self.memory == "none" and self.quantile_layer != "after",
            f"quantile_layer is {self.quantile_layer!r}, which places quantiles before a memory, but memory is none; "
            "set quantile_layer to after or memory to lstm.",
        )
        refuse(
            self.memory == "none" and (self.burn_in > 0 or self.sequence_length > 1),
            f"memory is none, but burn_in is {self.burn_in} and sequence_length {self.sequence_length}; without a "
            "memory set burn_in to 0 and sequence_length to 1.",
        )
        refuse(
            self.quantile_layer != "after" and (self.target_samples, self.action_samples) != (None, None),
            f"quantile_layer is {self.quantile_layer!r}, where one unroll fixes the fractions of every role; leave "
            "target_samples and action_samples unset.",
        )
        refuse(
            self.quantile_layer == "separate" and self.start_state == "zero",
            "quantile_layer is separate, whose fractions are part of the stored state, but start_state is zero; set "
            "start_state to stored or choose another quantile_layer.",
        )
        refuse(
            self.memory == "lstm" and self.state_period > self.sequence_length,
            f"state_period is {self.state_period}, longer than sequence_length {self.sequence_length}, so rows between "
            "would never be trained; give at most the sequence length.",
        )


def atari() -> Config:
    """The published configuration (RLtime ``atari_iqn_lstm``): 50 million steps, 200 million frames."""
    return Config()


def laptop() -> Config:
    """The same algorithm sized for two CPU cores: a smaller network, fewer samples, smaller and more frequent batches.

    The network is A3C's (Mnih et al. 2016) with a quantile head: a tenth of the published one's work per step.
    """
    return Config(
        num_envs=8,
        epsilon_uniform_steps=60_000,
        epsilon_fraction=0.6,
        epsilon_final=0.05,
        epsilon_floor=0.005,
        torso="compact",
        torso_hidden=(256,),
        torso_norm=True,
        center_images=True,
        memory_size=256,
        samples=8,
        hidden_size=128,
        batch_size=16,
        sequence_length=10,
        n_step=3,
        learning_rate=5e-4,
        target_period=300,
        replay_size=200_000,
        replay_ratio=8.0,
        warmup=5_000,
        precision="bf16",
        publish_period=2,
    )


def toy() -> Config:
    """Small and quick, for the built-in toys and CartPole."""
    return Config(
        num_envs=8,
        epsilon_uniform_steps=2_000,
        torso_hidden=(64,),
        memory_size=64,
        samples=8,
        hidden_size=64,
        batch_size=8,
        sequence_length=10,
        n_step=3,
        state_period=5,
        learning_rate=1e-3,
        target_period=100,
        replay_size=50_000,
        replay_ratio=16.0,
        warmup=1_000,
        clip_rewards="none",
    )


PRESETS = {"atari": atari, "laptop": laptop, "toy": toy}


def make(config: Config, spec: EnvSpec) -> Agent:
    """Compose the agent, one statement per part."""
    notes = _images(config, spec)
    torso = Torso(
        spec.observation,
        convolutions=config.torso,
        hidden=config.torso_hidden,
        stack=config.stack,
        center=config.center_images,
        norm=config.torso_norm,
    )
    extras = Extras(
        actions=spec.actions,
        action=config.last_action,
        reward=config.last_reward,
        time=config.elapsed_time,
        time_scale=float(spec.max_steps or 100_000),
        clip=config.clip_rewards,
    )
    core = _core(config, torso.size + extras.size)
    head = ImplicitQuantile(
        core.size,
        config.hidden_size,
        spec.actions,
        samples=config.samples,
        dueling=config.dueling,
        embed=config.quantile_layer == "after",
        cosines=config.cosines,
    )
    network = Network(torso, core, head, extras)
    zero_biases(network)
    loss = QLearning(
        burn_in=config.burn_in,
        length=config.sequence_length,
        n=config.n_step,
        gamma=config.gamma,
        double=config.double,
        clip=config.clip_rewards,
        rescale=config.rescale_epsilon,
        kappa=config.kappa,
        error=config.priority_error,
        target_samples=config.target_samples,
        action_samples=config.action_samples,
    )
    recurrent = config.memory == "lstm"
    window = Window(
        burn_in=config.burn_in,
        length=config.sequence_length,
        ahead=config.n_step,
        period=config.state_period if recurrent else 1,
        margin=config.stack - 1,
    )
    state = {name: tuple(value.shape[1:]) for name, value in network.initial_state(1).items()}
    layout = Layout(spec=spec, state=state, period=window.period)
    explore, more = _explore(config)
    notes += more
    if not recurrent:
        notes += ("without a memory, memory_size, start_state and state_period are unused",)
    return Agent(
        name="recurrent_iqn",
        config=config,
        spec=spec,
        network=network,
        learner=partial(
            Learner,
            network,
            loss,
            learning_rate=config.learning_rate,
            optimizer_epsilon=config.adam_epsilon,
            anneal=config.anneal_learning_rate,
            clip_gradient=config.clip_gradient,
            target_period=config.target_period,
            time_reduction=config.time_reduction,
            precision=config.precision,
            cuda_graph=config.cuda_graph,
        ),
        replay=partial(
            Replay,
            layout=layout,
            window=window,
            columns=config.num_envs,
            capacity=config.replay_size,
            priorities=Priorities(exponent=config.priority_exponent, beta=config.priority_beta, eta=config.priority_eta)
            if config.prioritized
            else None,
            stack=config.stack,
            initial_state=network.initial_state,
            start=config.start_state if recurrent else "stored",
        ),
        explore=explore,
        layout=layout,
        window=window,
        columns=config.num_envs,
        batch_size=config.batch_size,
        samples_per_step=config.replay_ratio,
        warmup=config.warmup,
        capacity=config.replay_size,
        publish_period=config.publish_period,
        stack=config.stack,
        action_samples=config.action_samples,
        precision=config.precision,
        notes=notes,
    )


def _images(config: Config, spec: EnvSpec) -> tuple[str, ...]:
    """Refuse settings of images that do not fit the environment's; a torso for images that has none is only noted."""
    images = [leaf.shape for leaf in spec.observation.values() if leaf.kind == "image"]
    refuse(
        config.stack > 1 and not images,
        f"stack is {config.stack}, but {spec.id} shows no image; leave stack at 1.",
    )
    for shape in images:
        refuse(
            config.torso != "auto" and not fits(shape, config.torso),
            f"torso is {config.torso}, whose convolutions do not fit images of {shape}; set torso to auto.",
        )
    unused = [
        name for name, default in (("torso", "auto"), ("center_images", False)) if getattr(config, name) != default
    ]
    if unused and not images:
        return (f"{spec.id} shows no image, so {' and '.join(unused)} of this preset do nothing",)
    return ()


def _core(config: Config, inputs: int) -> Stateless | LSTM | QuantileLSTM:
    if config.memory == "none":
        return Stateless(inputs)
    if config.quantile_layer == "after":
        return LSTM(inputs, config.memory_size)
    return QuantileLSTM(inputs, config.memory_size, config.samples, config.quantile_layer, config.cosines)


def _explore(config: Config) -> tuple[Explore, tuple[str, ...]]:
    """The ladder; with one environment, which has no ladder, the classic linear decay, and says so."""
    if config.num_envs > 1:
        return Ladder(
            columns=config.num_envs,
            start=config.epsilon_start,
            final=config.epsilon_final,
            floor=config.epsilon_floor,
            exponent=config.epsilon_exponent,
            fraction=config.epsilon_fraction,
            warmup=config.warmup,
            uniform_steps=config.epsilon_uniform_steps,
        ), ()
    note = (
        "one environment has no epsilon ladder: epsilon falls linearly from 1 to epsilon_final in a tenth of the run; "
        "epsilon_start, epsilon_floor, epsilon_exponent, epsilon_fraction and epsilon_uniform_steps are unused"
    )
    return Linear(columns=1, final=config.epsilon_final, warmup=config.warmup), (note,)
