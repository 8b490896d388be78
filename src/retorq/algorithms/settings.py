"""Settings that algorithms share, as plain data to inherit, with the rules that every value must keep.

A ``Config`` inherits one of ``FeedForward`` and ``Recurrent`` and a kind of exploration, and restates only what its
paper sets differently. Defaults here are those of DQN on Atari (Mnih et al. 2015), in agent steps and updates: one
agent step is 4 frames, and one update of 32 transitions every 4 steps is a replay ratio of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retorq.acting.explore import Explore, Ladder, Linear
from retorq.algorithms.checks import check, refuse, unused


@dataclass(frozen=True, kw_only=True)
class Basic:
    """What every agent has, whatever it learns."""

    # acting
    num_envs: int = 1
    # learning
    batch_size: int = 32
    n_step: int = 1
    gamma: float = 0.99
    learning_rate: float = 2.5e-4
    anneal_learning_rate: bool = False  # linearly to 0
    optimizer_epsilon: float = 0.01 / 32
    target_period: int = 2_500  # updates = 10,000 agent steps / 4
    # replay
    replay_size: int = 1_000_000
    replay_ratio: float = 8.0  # rows trained per step acted = batch 32 every 4 steps
    warmup: int = 50_000
    prioritized: bool = False
    priority_exponent: float = 0.6  # Schaul et al. 2016, proportional
    priority_beta: float = 0.4
    priority_beta_final: float = 1.0
    # machine
    precision: Literal["fp32", "bf16"] = "fp32"
    cuda_graph: bool = False  # record the learner's step and replay it (CUDA only)
    publish_period: int = 1  # updates

    def __post_init__(self) -> None:
        """Refuse values out of range, and combinations that make no sense."""
        check(self)
        unused(self, "prioritized", "priority_exponent", "priority_beta", "priority_beta_final")
        if isinstance(self, ActorPriorities):
            unused(self, "prioritized", "actor_priorities")


@dataclass(frozen=True, kw_only=True)
class Settings(Basic):
    """What every agent has that learns values of actions to choose among."""

    # network
    torso: Literal["auto", "nature", "compact", "minatar", "flat"] = "auto"  # nature for Atari: 32@8s4, 64@4s2, 64@3s1
    torso_hidden: tuple[int, ...] = ()  # fully connected layers after the convolutions
    torso_norm: bool = False  # ours: layer normalization after them
    center_images: bool = False  # ours: subtract the mean image of the warm-up
    stack: int = 1  # images stacked
    hidden_size: int = 512  # of the layer before the outputs; of each stream if dueling; 0: none
    dueling: bool = False
    # learning
    double: bool = False
    clip_rewards: Literal["sign", "clip", "none"] = "clip"
    rescale_epsilon: float = 0.0  # of the value rescaling h; 0: none
    optimizer: Literal["adam", "rmsprop", "adagrad"] = "adam"
    clip_gradient: float = 10.0
    # replay
    priority_error: Literal["td", "loss"] = "td"

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense."""
        super().__post_init__()
        unused(self, "prioritized", "priority_error")
        refuse(
            self.rescale_epsilon > 0 and self.clip_rewards != "none",
            "rescale_epsilon rescales unclipped rewards, but clip_rewards is "
            f"{self.clip_rewards!r}; set clip_rewards to none or rescale_epsilon to 0.",
        )
        if isinstance(self, LadderEpsilon):
            sensible_ladder(self, self.num_envs)
        if isinstance(self, Munchausen):
            sensible_munchausen(self)
        if isinstance(self, Support):
            sensible_support(self)
        if isinstance(self, RiskAttitude):
            sensible_risk(self)
        if isinstance(self, ManyActors):
            unused(self, "prioritized", "trim_period")


@dataclass(frozen=True, kw_only=True)
class LinearEpsilon:
    """One epsilon for all environments, falling linearly after the warm-up."""

    epsilon_start: float = 1.0
    epsilon_final: float = 0.1
    epsilon_steps: int = 1_000_000  # agent steps of the decay

    def exploration(self, columns: int, warmup: int) -> tuple[Explore, tuple[str, ...]]:
        """What explores, and what is to be said about it."""
        start, final = self.epsilon_start, self.epsilon_final
        return Linear(columns=columns, start=start, final=final, steps=self.epsilon_steps, warmup=warmup), ()


@dataclass(frozen=True, kw_only=True)
class LadderEpsilon:
    """A different epsilon per environment: ``max(floor, base ** (1 + exponent * i / (num_envs - 1)))``."""

    epsilon_start: float = 0.4  # base (Ape-X and R2D2 keep it: final is the same)
    epsilon_final: float = 0.4
    epsilon_floor: float = 0.0
    epsilon_exponent: float = 7.0
    epsilon_fraction: float = 0.5  # of the run, over which the base goes from start to final
    epsilon_steps: int = 0  # ours: agent steps over which every environment first comes down from 1

    def exploration(self, columns: int, warmup: int) -> tuple[Explore, tuple[str, ...]]:
        """The ladder; with one environment, which has none, the classic linear decay, and says so."""
        if columns > 1:
            return Ladder(
                columns=columns,
                start=self.epsilon_start,
                final=self.epsilon_final,
                floor=self.epsilon_floor,
                exponent=self.epsilon_exponent,
                fraction=self.epsilon_fraction,
                warmup=warmup,
                uniform_steps=self.epsilon_steps,
            ), ()
        final = self.final_alone
        note = (
            f"one environment has no epsilon ladder: epsilon falls linearly from 1 to {final:g} in a tenth of the run"
        )
        return Linear(columns=1, final=final, warmup=warmup), (note,)

    @property
    def final_alone(self) -> float:
        """The last rung of a ladder: what an agent with one environment comes down to."""
        return max(self.epsilon_floor, min(self.epsilon_final, 0.01))


@dataclass(frozen=True, kw_only=True)
class ActorPriorities:
    """First priorities from the actors (Horgan et al. 2018, section 3), for a prioritized replay."""

    actor_priorities: bool = True  # from the actor's own values, instead of the highest so far


@dataclass(frozen=True, kw_only=True)
class ManyActors(ActorPriorities):
    """What Ape-X (Horgan et al. 2018) adds to a prioritized replay for many actors."""

    trim_period: int = 100  # updates between cuts back to replay_size, a soft cap; 0: a hard one

    SURPLUS = 0.1
    """Share of replay_size that a soft cap may be exceeded by; beyond it, the oldest rows are overwritten at once."""


@dataclass(frozen=True, kw_only=True)
class ManyLearners(Settings):
    """What Gorila (Nair et al. 2015) adds: bundles of actor, replay and learner around a sharded parameter server."""

    bundles: int = 100
    servers: int = 31  # shards of the weights
    max_staleness: int = 100  # updates; the paper has a threshold and does not say which
    outlier_deviations: float = 4.0  # "several" standard deviations above the mean loss
    outlier_warmup: int = 1_000  # ours: losses a learner must have seen before

    def __post_init__(self) -> None:
        """Refuse shares that are not equal."""
        super().__post_init__()
        refuse(
            self.num_envs % self.bundles > 0,
            f"num_envs is {self.num_envs}, which {self.bundles} bundles cannot share equally; give a multiple of "
            "bundles.",
        )


@dataclass(frozen=True, kw_only=True)
class Munchausen:
    """Munchausen Q-learning (Vieillard et al. 2020): a soft policy's log-probability joins the reward."""

    munchausen: bool = False
    munchausen_alpha: float = 0.9
    munchausen_temperature: float = 0.03
    munchausen_lowest: float = -1.0  # of temperature * log-probability


@dataclass(frozen=True, kw_only=True)
class Support:
    """The fixed values of a categorical distribution (Bellemare et al. 2017)."""

    atoms: int = 51
    lowest_value: float = -10.0  # of a discounted return of clipped rewards
    highest_value: float = 10.0


@dataclass(frozen=True, kw_only=True)
class RiskAttitude:
    """Acting by a distorted mean of the return's distribution (Dabney et al. 2018, IQN, section 3)."""

    risk: Literal["neutral", "cvar", "wang", "power"] = "neutral"
    risk_level: float = 0.25  # cvar: in (0, 1], the worst share; wang, power: below 0 avoids risk


@dataclass(frozen=True, kw_only=True)
class IQN(RiskAttitude):
    """Implicit quantiles (Dabney et al. 2018, IQN, section 5)."""

    samples: int = 64  # N, learned fractions
    target_samples: int | None = 64  # N'; None: as samples
    action_samples: int | None = 32  # K, for choosing actions; None: as samples
    cosines: int = 64
    kappa: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FeedForward(LinearEpsilon, Settings):
    """Agents without memory: a state is a stack of images, a sample is a transition."""

    stack: int = 4
    dueling_rescale: bool = False  # both streams' gradient into the torso times 1/sqrt(2) (Wang et al. 2016)
    noisy: bool = False  # NoisyNet instead of fully connected layers
    noisy_sigma: float = 0.5  # sigma_0; 0.1 in some implementations

    def __post_init__(self) -> None:
        """Refuse what does nothing."""
        super().__post_init__()
        unused(self, "dueling", "dueling_rescale")
        unused(self, "noisy", "noisy_sigma")


@dataclass(frozen=True, kw_only=True)
class Recurrent(Settings):
    """Agents with a memory: a sample is a sequence, and where its memory starts is a choice.

    ``start_state``: ``whole`` walks whole games, carrying the memory; ``zero`` clears it; ``stored`` takes what the
    actor had; ``+burn_in`` first runs ``burn_in`` more rows that are not learned from (R2D2, section 3).
    ``sequences``: ``any`` sequence, also across the end of a game (memory resets there); ``within`` one game; or an
    ``episode`` first, each game alike, and then a place in it (DRQN).
    """

    memory: Literal["lstm", "none"] = "lstm"
    memory_size: int = 512
    last_action: bool = False  # extra inputs of the memory
    last_reward: bool = False
    elapsed_time: bool = False
    optimizer_epsilon: float = 1e-3  # R2D2's, which goes with a loss summed over time
    priority_exponent: float = 0.9  # R2D2's, of sequences
    priority_beta: float = 0.6
    priority_beta_final: float = 0.6
    sequence_length: int = 10
    burn_in: int = 40
    sequences: Literal["any", "within", "episode"] = "within"
    start_state: Literal["whole", "zero", "stored", "zero+burn_in", "stored+burn_in"] = "stored"
    state_period: int = 10  # rows between stored states, and between starts
    refresh: float = 0.0  # ours: stored states computed anew, per row trained
    priority_eta: float = 0.9  # R2D2: eta max + (1 - eta) mean of a sequence's errors
    time_reduction: Literal["mean", "sum"] = "sum"

    @property
    def draw(self) -> Literal["row", "episode", "walk"]:
        """What a replay draws; see :class:`retorq.replay.replay.Replay`."""
        if self.memory == "none":
            return "row"
        return "walk" if self.start_state == "whole" else "episode" if self.sequences == "episode" else "row"

    @property
    def within(self) -> bool:
        """Whether sequences end with their game."""
        return self.draw != "row" or (self.memory == "lstm" and self.sequences == "within")

    @property
    def rows_before(self) -> int:
        """Rows that only burn in."""
        return self.burn_in if self.memory == "lstm" and self.start_state.endswith("+burn_in") else 0

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense."""
        super().__post_init__()
        unused(self, "prioritized", "priority_eta")
        refuse(
            self.memory == "none" and self.sequence_length > 1,
            f"memory is none, but sequence_length is {self.sequence_length}; without a memory set it to 1.",
        )
        refuse(
            self.refresh > 0 and (self.memory == "none" or not self.start_state.startswith("stored")),
            f"refresh is {self.refresh}, but memory is {self.memory} and start_state is {self.start_state!r}, so no "
            "stored state is used; set refresh to 0, or memory to lstm and start_state to stored.",
        )
        if self.memory == "none":
            return
        by_episode = self.sequences == "episode" or self.start_state == "whole"
        refuse(
            by_episode and self.prioritized,
            f"prioritized is true, but sequences is {self.sequences!r} and start_state {self.start_state!r}, which "
            "draw games alike; set prioritized to false, or sequences to within and start_state to zero or stored.",
        )
        refuse(
            self.sequences == "episode" and self.start_state not in ("whole", "zero"),
            f"start_state is {self.start_state!r}, but sequences is 'episode', whose starts have no stored state; set "
            "start_state to zero or whole, or sequences to within.",
        )
        refuse(
            self.state_period > self.sequence_length,
            f"state_period is {self.state_period}, longer than sequence_length {self.sequence_length}, so rows between "
            "would never be trained; give at most the sequence length.",
        )


def sensible_ladder(config: LadderEpsilon, num_envs: int) -> None:
    """Refuse a floor that no rung of the ladder is above."""
    floor, start, final = config.epsilon_floor, config.epsilon_start, config.epsilon_final
    refuse(
        num_envs > 1 and floor > 0 and floor >= max(start, final),
        f"epsilon_floor is {floor:g}, but epsilon_start is {start:g} and epsilon_final {final:g}, so every environment "
        "would have the floor and no ladder; set epsilon_floor below one of them.",
    )


def sensible_munchausen(config: Munchausen) -> None:
    """Refuse what Munchausen targets do not have: multi-step returns, double Q-learning, rescaled values."""
    unused(config, "munchausen", "munchausen_alpha", "munchausen_temperature", "munchausen_lowest")
    refuse(
        config.munchausen_lowest > 0,
        f"munchausen_lowest is {config.munchausen_lowest:g}, above any log-probability; give 0 or less.",
    )
    for name, needed in (("n_step", 1), ("double", False), ("rescale_epsilon", 0.0)):
        value = getattr(config, name)
        refuse(
            config.munchausen and value != needed,
            f"{name} is {value}, but munchausen is true, whose targets do without it; set {name} to {needed} or "
            "munchausen to false.",
        )


def sensible_support(config: Support) -> None:
    """Refuse a support without at least two values in order."""
    low, high = config.lowest_value, config.highest_value
    refuse(config.atoms < 2, f"atoms is {config.atoms}; give at least 2.")
    refuse(low >= high, f"lowest_value is {low:g}, not below highest_value {high:g}; give a lower one.")


def sensible_risk(config: RiskAttitude) -> None:
    """Refuse a level that does nothing, or that the distortion does not know."""
    default, level = type(config).risk_level, config.risk_level
    refuse(
        config.risk == "neutral" and level != default,
        f"risk_level is {level:g}, but risk is 'neutral', so it would do nothing; set risk to cvar, wang or power, or "
        f"leave risk_level at {default:g}.",
    )
    refuse(
        config.risk == "cvar" and not 0 < level <= 1,
        f"risk_level is {level:g}, but risk is 'cvar'; give more than 0 and at most 1.",
    )
