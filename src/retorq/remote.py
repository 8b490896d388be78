"""Building parts of a run in other processes: the entries that recipes name."""

from __future__ import annotations

from typing import Any

from retorq import api
from retorq.acting.actor import Actor
from retorq.distributed.shard import Shard
from retorq.envs.make import make
from retorq.envs.options import options_from_json
from retorq.running.bundle import Bundle
from retorq.running.train import Task


def actor(
    *, env: str, agent: str, preset: str, config: dict[str, Any], options: str, columns: int, total: int, seed: int
) -> Actor:
    """An actor of ``columns`` of the run's environments, for a run of ``total`` agent steps.

    ``config`` holds every field of the agent's settings, ``options`` those of the environment as JSON.
    """
    task = _task(env, agent, preset, config, options, seed)
    played = make(env, columns=columns, seed=seed, options=task.options)
    return task.agent.actor(played, seed=seed, total=total, tell_values=task.agent.tell_values)


def shard(*, env: str, agent: str, preset: str, config: dict[str, Any], options: str, columns: int, seed: int) -> Shard:
    """A shard of the agent's replay, of ``columns`` columns: as many rows of each as a whole replay would hold."""
    made = _task(env, agent, preset, config, options, seed).agent
    capacity = made.capacity // made.columns * columns
    return Shard(made.replay(device="cpu", seed=seed, columns=columns, capacity=capacity))


def bundle(
    *,
    env: str,
    agent: str,
    preset: str,
    config: dict[str, Any],
    options: str,
    bundle: int,
    total: int,
    seed: int,
) -> Bundle:
    """One of the bundles that the agent is divided into, with its environments."""
    task = _task(env, agent, preset, config, options, seed)
    assert task.agent.bundles is not None
    columns = task.agent.columns // task.agent.bundles.count
    played = make(env, columns=columns, seed=seed, options=task.options)
    return Bundle(task.agent, played, number=bundle, total=total, seed=seed)


def _task(env: str, agent: str, preset: str, config: dict[str, Any], options: str, seed: int) -> Task:
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    environment = options_from_json(options)
    return api.compose(env, agent=agent, preset=preset, config=settings, options=environment, device="cpu", seed=seed)
