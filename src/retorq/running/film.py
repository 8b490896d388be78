"""One game to look at: pictures, and beside each what the agent made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Actor
from retorq.running.distributions import ReturnDistribution, look
from retorq.running.evaluate import without_noise


@dataclass(frozen=True)
class Moment:
    """What one step led to, or, in the first of a film, where the game begins.

    ``action`` led here (-1: none; 0 where actions are continuous: what the policy does), with ``reward`` (raw).
    ``values [A]`` are what acting maximizes here and ``distribution`` is that of the returns from here on, both in
    units of return; both are None after the last step, the latter also for agents that have none.
    """

    picture: np.ndarray
    action: int
    reward: float
    values: np.ndarray | None = None
    distribution: ReturnDistribution | None = None


def film(actor: Actor, *, longest: int, looking: bool, rescale: float = 0.0) -> Iterator[Moment]:
    """Play the one column of ``actor`` for a game or ``longest`` steps: a :class:`Moment` before them, one after each.

    Its environment must have ``render``. With ``looking`` the network is asked once more per step, with quantile
    fractions of its own, so that the game is the same either way. ``rescale``: of its values (``Agent.rescale``).
    """
    env: Any = actor.env
    generator = torch.Generator(actor.device).manual_seed(actor.seed)
    actor.start()
    action, reward = -1, 0.0
    while True:
        values, distribution = None, None
        if looking and not actor.episodes:
            with without_noise(actor.network):
                told, distribution, _ = look(actor.network, actor._inputs(), actor.state, generator, rescale)
            values = told.cpu().numpy()
        yield Moment(env.render(), action, reward, values, distribution)
        if actor.episodes or actor.steps >= longest:
            return
        with without_noise(actor.network):
            (_, row), *_ = actor.collect(1)
        action, reward = 0 if env.spec.continuous else int(row.action[0, 0]), float(row.reward[0, 0])
