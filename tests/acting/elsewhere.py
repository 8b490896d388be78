"""Actors that the tests of the pools build in other processes, by name."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tests.small import Rule

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.envs.vector import GymVector


class Weighted(Rule):
    """A rule with one weight, which is the version it was published as."""

    def __init__(self, actions: int = 5, size: int = 3) -> None:
        super().__init__(actions)
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.register_buffer("constant", torch.ones(2, dtype=torch.float64))

    def unroll(self, inputs, state, generator=None):
        assert self.weight.min() == self.weight.max(), "weights of two versions"
        return super().unroll(inputs, state, generator)


class Failing(GymVector):
    """Does ``what`` at its ``at``-th step, if no process has done so before (``marker`` tells).

    ``slow`` takes its time at every step; ``wait`` waits at that step until somebody makes the marker.
    """

    what, at, marker, done = "", 0, "", 0

    def step(self, action):
        self.done += 1
        if self.what == "slow":
            time.sleep(0.05)
        elif self.what == "wait":
            while self.done == self.at and not Path(self.marker).exists():
                time.sleep(0.01)
        elif self.what and self.done == self.at and self.is_first():
            if self.what == "hang":
                time.sleep(1000)
            if self.what == "die":
                os.kill(os.getpid(), 9)
            raise RuntimeError("the bridge fell down")
        return super().step(action)

    def is_first(self):
        """Whether no process has come here before; of two that come at the same time one is first."""
        try:
            Path(self.marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Until:
    """Acts at random until the run has done so many steps, and greedily from then on."""

    columns: int
    steps: int

    def epsilon(self, step, total):
        return np.full(self.columns, float(step < self.steps))


def counting(
    *,
    columns: int,
    first: int,
    seed: int,
    mode: str = "NextStep",
    what: str = "",
    at: int = 0,
    marker: str = "",
    size: int = 3,
    until: int = 0,
) -> Actor:
    """An actor on environments that say which game and which step they show."""
    from sample_envs import CountingVector

    vector = CountingVector(columns, mode, starts=range(first, first + columns))
    env = Failing(vector, name="counting", seed=seed, options=EnvOptions())
    env.what, env.at, env.marker = what, at, marker
    explore = Until(4, until) if until else Fixed(columns=4, value=0.5)
    return Actor(env, Weighted(size=size), explore, total=10_000, seed=seed)


def falling(*, columns: int, seed: int, marker: str, what: str = "raise") -> Actor:
    """An actor of which one environment does ``what`` once, if no file ``marker`` says that another has done so."""
    apart = {"workers": "0"} if what == "raise" else {"workers": "each", "step_time_limit": 8.0}
    options = EnvOptions(kwargs={"marker": marker, "what": what}, **apart)
    env = make("sample_envs:FailsOnce", columns=columns, seed=seed, options=options)
    return Actor(env, Weighted(2), Fixed(columns=4, value=0.5), total=10_000, seed=seed)


def unfit(*, columns: int, seed: int) -> Actor:
    """No actor: the user asked for something that cannot be."""
    from retorq.types import UserError

    raise UserError("game is 'chess'; give another.")


TURN = 200
"""Step of the run at which ``until`` is tested."""


def check_clock(pool):
    """Before ``TURN`` steps of the run actions are random, and soon after none is: exploration goes by its clock.

    Soon: of each actor, up to three messages may have been ordered before, whenever they come, and the last of them
    leaves a row to the next. An actor's own clock is slower.
    """
    random, after = [], {}
    while pool.steps < TURN or len(after) < 2 or min(map(len, after.values())) < 10:
        now = pool.steps
        same = []
        for columns, rows in pool.receive():  # of one message
            actor = columns[0] // pool.recipes[0].columns
            for t in range(rows.rows):
                inputs = rows.inputs.map(lambda a, t=t: torch.from_numpy(np.array(a[t : t + 1])))
                count = rows.extras["state.count"][t].float()
                chosen = Weighted().unroll(inputs, {"count": count})[0][0].numpy()
                same += (chosen == rows.action[t])[~rows.last[t]].tolist()
        if same and now >= TURN:
            after.setdefault(actor, []).append(same)
        elif pool.steps < TURN:
            random += same
    assert sum(random) < 0.5 * len(random)  # one in five by chance
    for messages in after.values():
        assert all(all(same) for same in messages[4:])
