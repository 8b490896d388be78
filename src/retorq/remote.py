"""Building an actor in another process: the entry that :class:`retorq.acting.remote.Recipe` names."""

from __future__ import annotations

from typing import Any

from retorq import api
from retorq.acting.actor import Actor
from retorq.envs.make import make
from retorq.envs.options import options_from_json


def actor(
    *, env: str, agent: str, preset: str, config: dict[str, Any], options: str, columns: int, total: int, seed: int
) -> Actor:
    """An actor of ``columns`` of the run's environments, for a run of ``total`` agent steps.

    ``config`` holds every field of the agent's settings, ``options`` those of the environment as JSON.
    """
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    environment = options_from_json(options)
    made = api.compose(
        env, agent=agent, preset=preset, config=settings, options=environment, device="cpu", seed=seed
    ).agent
    played = make(env, columns=columns, seed=seed, options=environment)
    return made.actor(played, seed=seed, total=total, tell_values=made.tell_values)
