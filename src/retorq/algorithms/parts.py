"""From settings to parts: what the algorithm files would otherwise repeat word for word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from retorq.agent import Agent, Bundles
from retorq.algorithms import settings
from retorq.algorithms.checks import refuse
from retorq.algorithms.settings import (
    IQN,
    ActorPriorities,
    FeedForward,
    LadderEpsilon,
    LinearEpsilon,
    ManyActors,
    Recurrent,
    Settings,
)
from retorq.learner import Learner, Loss
from retorq.losses.munchausen import Munchausen
from retorq.losses.q_learning import QLearning
from retorq.nn.cores import LSTM, Stateless
from retorq.nn.network import Extras, Network, zero_biases
from retorq.nn.torsos import Torso, fits
from retorq.ops.risk import Risk
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec


def torso(config: Settings, spec: EnvSpec) -> Torso:
    """Convolutions for images, then fully connected layers; refuses settings that do not fit the images."""
    images = [leaf.shape for leaf in spec.observation.values() if leaf.kind == "image"]
    refuse(
        config.stack > 1 and not images,
        f"stack is {config.stack}, but {spec.id} shows no image; set stack to 1.",
    )
    for shape in images:
        refuse(
            config.torso != "auto" and not fits(shape, config.torso),
            f"torso is {config.torso}, whose convolutions do not fit images of {shape}; set torso to auto.",
        )
    return Torso(
        spec.observation,
        convolutions=config.torso,
        hidden=config.torso_hidden,
        stack=config.stack,
        center=config.center_images,
        norm=config.torso_norm,
    )


def extras(config: Recurrent, spec: EnvSpec) -> Extras:
    """What the memory reads beside the torso."""
    return Extras(
        actions=spec.actions,
        action=config.last_action,
        reward=config.last_reward,
        time=config.elapsed_time,
        time_scale=float(spec.max_steps or 100_000),
        clip=config.clip_rewards,
    )


def memory(config: Recurrent, inputs: int) -> Stateless | LSTM:
    """The LSTM, or nothing."""
    return LSTM(inputs, config.memory_size) if config.memory == "lstm" else Stateless(inputs)


def loss(config: Settings, *, kappa: float = 1.0) -> Loss:
    """The loss of the whole family: Q-learning, on sequences for an agent with a memory, or Munchausen's."""
    common: dict[str, Any] = {
        "gamma": config.gamma,
        "clip": config.clip_rewards,
        "kappa": kappa,
        "error": config.priority_error,
    }
    if isinstance(config, settings.IQN):
        common |= {"target_samples": config.target_samples, "action_samples": config.action_samples}
    if isinstance(config, settings.Munchausen) and config.munchausen:
        return Munchausen(
            alpha=config.munchausen_alpha,
            temperature=config.munchausen_temperature,
            lowest=config.munchausen_lowest,
            **common,
        )
    if isinstance(config, Recurrent) and config.memory == "lstm":
        common |= {
            "burn_in": config.rows_before,
            "length": config.sequence_length,
            "within": config.within,
            "carry": config.draw == "walk",
        }
    return QLearning(n=config.n_step, double=config.double, rescale=config.rescale_epsilon, **common)


def streams(config: FeedForward) -> dict[str, Any]:
    """What every feed-forward head can be: dueling, noisy."""
    noise = config.noisy_sigma if config.noisy else 0.0
    return {"dueling": config.dueling, "rescale": config.dueling_rescale, "noise": noise}


def support(config: settings.Support) -> dict[str, Any]:
    """The values of a categorical head."""
    return {"atoms": config.atoms, "low": config.lowest_value, "high": config.highest_value}


def risk(config: settings.RiskAttitude) -> Risk | None:
    """The distortion of fractions when acting; None: neutral."""
    return None if config.risk == "neutral" else Risk(kind=config.risk, level=config.risk_level)


def fractions(config: IQN) -> dict[str, Any]:
    """An implicit quantile head's draws when learning and acting."""
    return {"samples": config.samples, "cosines": config.cosines, "risk": risk(config)}


def kappa(regression: str) -> float:
    """Huber's threshold for a kind of regression: 1, or none."""
    return 1.0 if regression == "huber" else float("inf")


def feed_forward(name: str, config: FeedForward, spec: EnvSpec, network: Network, loss: Loss) -> Agent:
    """An agent without memory: transitions, and one epsilon for all environments."""
    window = Window(length=1, ahead=config.n_step, margin=config.stack - 1)
    return _agent(name, config, spec, network, loss, window)


def recurrent(name: str, config: Recurrent, spec: EnvSpec, network: Network, loss: Loss) -> Agent:
    """An agent with a memory: sequences, and states stored on a grid of rows."""
    zero_biases(network)
    window = Window(
        burn_in=config.rows_before,
        length=config.sequence_length,
        ahead=config.n_step,
        period=config.state_period if config.memory == "lstm" else 1,
        margin=config.stack - 1,
        within=config.within,
    )
    return _agent(name, config, spec, network, loss, window)


def _agent(name: str, config: Settings, spec: EnvSpec, network: Network, loss: Loss, window: Window) -> Agent:
    assert isinstance(config, LinearEpsilon | LadderEpsilon)
    explore, notes = config.exploration(config.num_envs, config.warmup)
    state = {name: tuple(value.shape[1:]) for name, value in network.initial_state(1).items()}
    told = isinstance(config, ActorPriorities) and config.prioritized and config.actor_priorities
    layout = Layout(spec=spec, state=state, period=window.period, values=told)
    return Agent(
        name=name,
        config=config,
        spec=spec,
        network=network,
        learner=_learner(config, network, loss),
        replay=_replay(config, network, loss, layout, window),
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
        action_samples=config.action_samples if isinstance(config, settings.IQN) else None,
        precision=config.precision,
        refresh=config.refresh if isinstance(config, Recurrent) else 0.0,
        tell_values=told,
        trim_period=config.trim_period if isinstance(config, ManyActors) and config.prioritized else 0,
        surplus=_surplus(config),
        notes=notes,
    )


def bundles(config: settings.ManyLearners) -> Bundles:
    """How an agent is divided around a parameter server, and by what rule the servers change the weights."""
    return Bundles(
        count=config.bundles,
        servers=config.servers,
        max_staleness=config.max_staleness,
        outlier_deviations=config.outlier_deviations,
        outlier_warmup=config.outlier_warmup,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        optimizer_epsilon=config.optimizer_epsilon,
        target_period=config.target_period,
    )


def _surplus(config: Settings) -> float:
    """The share of its capacity that a replay holds beyond it."""
    soft = isinstance(config, ManyActors) and config.prioritized and config.trim_period
    return ManyActors.SURPLUS if soft else 0.0


def _learner(config: Settings, network: Network, loss: Loss) -> Callable[..., Learner]:
    return partial(
        Learner,
        network,
        loss,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        optimizer_epsilon=config.optimizer_epsilon,
        anneal=config.anneal_learning_rate,
        clip_gradient=config.clip_gradient,
        target_period=config.target_period,
        time_reduction=config.time_reduction if isinstance(config, Recurrent) else "mean",
        precision=config.precision,
        cuda_graph=config.cuda_graph,
    )


def _replay(config: Settings, network: Network, loss: Loss, layout: Layout, window: Window) -> Callable[..., Replay]:
    eta, what = 0.0, dict[str, Any]()
    if isinstance(config, Recurrent):
        eta = config.priority_eta
        what = {"start": "stored" if config.start_state.startswith("stored") else "zero", "draw": config.draw}
    priorities = Priorities(
        exponent=config.priority_exponent, beta=config.priority_beta, beta_final=config.priority_beta_final, eta=eta
    )
    return partial(
        Replay,
        layout=layout,
        window=window,
        columns=config.num_envs,
        capacity=config.replay_size,
        priorities=priorities if config.prioritized else None,
        stack=config.stack,
        initial_state=network.initial_state,
        surplus=_surplus(config),
        first_errors=loss.first_errors if layout.values and isinstance(loss, QLearning) else None,
        **what,
    )
