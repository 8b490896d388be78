"""Actors that the tests of the pools build in other processes, by name."""

import os
import time
from pathlib import Path

import torch
from tests.small import Rule

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.options import EnvOptions
from retorq.envs.vector import GymVector


class Weighted(Rule):
    """A rule with one weight, which is the version it was published as."""

    def __init__(self, actions: int = 5) -> None:
        super().__init__(actions)
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("constant", torch.ones(2, dtype=torch.float64))

    def unroll(self, inputs, state, generator=None):
        assert len(set(self.weight.tolist())) == 1, "weights of two versions"
        return super().unroll(inputs, state, generator)


class Failing(GymVector):
    """Does ``what`` at its ``at``-th step, if no process has done so before (``marker`` tells)."""

    what, at, marker, done = "", 0, "", 0

    def step(self, action):
        self.done += 1
        if self.what and self.done == self.at and not Path(self.marker).exists():
            Path(self.marker).touch()
            if self.what == "hang":
                time.sleep(1000)
            if self.what == "die":
                os.kill(os.getpid(), 9)
            raise RuntimeError("the bridge fell down")
        return super().step(action)


def counting(
    *, columns: int, first: int, seed: int, mode: str = "NextStep", what: str = "", at: int = 0, marker: str = ""
) -> Actor:
    """An actor on environments that say which game and which step they show."""
    from sample_envs import CountingVector

    vector = CountingVector(columns, mode, starts=range(first, first + columns))
    env = Failing(vector, name="counting", seed=seed, options=EnvOptions())
    env.what, env.at, env.marker = what, at, marker
    return Actor(env, Weighted(), Fixed(columns=4, value=0.5), total=10_000, seed=seed)


def unfit(*, columns: int, seed: int) -> Actor:
    """No actor: the user asked for something that cannot be."""
    from retorq.types import UserError

    raise UserError("game is 'chess'; give another.")
