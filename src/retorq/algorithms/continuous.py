"""Agents with continuous actions: their settings beside those of all agents, and from settings to parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from retorq.acting.explore import Gaussian
from retorq.agent import Agent
from retorq.algorithms.checks import refuse, unused
from retorq.algorithms.settings import ActorPriorities, Basic
from retorq.learner import Apart, Learner, Loss
from retorq.losses.q_learning import QLearning
from retorq.nn.cores import Stateless
from retorq.nn.heads import PolicyCritic
from retorq.nn.network import Extras, Network
from retorq.nn.policy import Critic, Policy
from retorq.nn.torsos import Torso
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec

SURPLUS = 3.0
"""Rows kept beside those of replay_size, as a share of it: a transition not evicted gets four times as old at most."""
BOUND = 1.0
"""What actor_clip cuts to."""


@dataclass(frozen=True, kw_only=True)
class Continuous(ActorPriorities, Basic):
    """A policy that acts, a critic that it learns from, and a replay that evicts by priority (Horgan et al. 2018).

    What that paper leaves open is from its siblings DDPG (Lillicrap et al. 2016) and D4PG (Barth-Maron et al. 2018).
    """

    action_noise: float = 0.3  # D4PG's
    critic_layers: tuple[int, int] = (400, 300)
    policy_layers: tuple[int, int] = (300, 200)
    second_activation: Literal["relu", "tanh"] = "relu"
    action_layer: Literal[1, 2] = 2  # DDPG's
    squash: Literal["tanh", "clip"] = "tanh"
    policy_learning_rate: float = 1e-4
    actor_clip: Literal["dqda", "param"] = "dqda"
    evict_exponent: float = -0.4

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        super().__post_init__()
        unused(self, "prioritized", "evict_exponent")
        refuse(self.evict_exponent > 0, f"evict_exponent is {self.evict_exponent:g}; give 0 or less.")

    @property
    def told(self) -> bool:
        """Whether actors write down what they think."""
        return self.prioritized and self.actor_priorities

    @property
    def surplus(self) -> float:
        """Share of replay_size that is kept beyond it."""
        return SURPLUS if self.prioritized else 0.0


def network(config: Continuous, spec: EnvSpec) -> Network:
    """A policy and a critic that read the observation's numbers as they are; refuses images."""
    for name, leaf in spec.observation.items():
        refuse(leaf.kind == "image", f"observation {name!r} of {spec.id} is an image; give numbers instead of pixels.")
    torso, after = Torso(spec.observation), config.second_activation
    policy = Policy(torso.size, config.policy_layers, spec.actions, activation=after, squash=config.squash)
    critic = Critic(torso.size, config.critic_layers, spec.actions, activation=after, action_layer=config.action_layer)
    return Network(torso, Stateless(torso.size), PolicyCritic(policy, critic), Extras(actions=spec.actions))


def agent(name: str, config: Continuous, spec: EnvSpec, network: Network, loss: Loss) -> Agent:
    """Transitions, and the same noise in all environments."""
    window = Window(length=1, ahead=config.n_step)
    layout = Layout(spec=spec, state={}, values=config.told)
    return Agent(
        name=name,
        config=config,
        spec=spec,
        network=network,
        learner=_learner(config, network, loss),
        replay=_replay(config, layout, window),
        explore=Gaussian(columns=config.num_envs, deviation=config.action_noise),
        layout=layout,
        window=window,
        columns=config.num_envs,
        batch_size=config.batch_size,
        samples_per_step=config.replay_ratio,
        warmup=config.warmup,
        capacity=config.replay_size,
        publish_period=config.publish_period,
        precision=config.precision,
        tell_values=config.told,
        surplus=config.surplus,
    )


def _learner(config: Continuous, network: Network, loss: Loss) -> partial[Learner]:
    clip = BOUND if config.actor_clip == "param" else None
    return partial(
        Learner,
        network,
        loss,
        learning_rate=config.learning_rate,
        apart=Apart(prefix="_head.policy.", learning_rate=config.policy_learning_rate, clip=clip),
        optimizer_epsilon=config.optimizer_epsilon,
        anneal=config.anneal_learning_rate,
        clip_gradient=float("inf"),
        target_period=config.target_period,
        precision=config.precision,
        cuda_graph=config.cuda_graph,
    )


def _replay(config: Continuous, layout: Layout, window: Window) -> partial[Replay]:
    priorities = Priorities(
        exponent=config.priority_exponent,
        beta=config.priority_beta,
        beta_final=config.priority_beta_final,
        eta=0.0,
        evict=config.evict_exponent,
    )
    # An actor's own critic and policy make the same error as the values of an agent that chooses.
    errors = QLearning(n=config.n_step, gamma=config.gamma, clip="none").first_errors
    return partial(
        Replay,
        layout=layout,
        window=window,
        columns=config.num_envs,
        capacity=config.replay_size,
        priorities=priorities if config.prioritized else None,
        first_errors=errors if config.told else None,
        surplus=config.surplus,
    )
