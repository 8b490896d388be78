"""Environments for the tests, importable by worker processes: one that counts, and some that misbehave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

LENGTHS = (3, 1, 5, 2, 4, 1, 1, 7)


class Counting(gymnasium.Env):
    """Says which episode, which step and which actions so far; episode k lasts LENGTHS[k + start] steps."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Discrete(5, start=2)

    def __init__(self, start=0):
        self._start, self._episode = start, -1

    def _see(self):
        return np.array([self._episode, self._step, self._trace], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._episode, self._step, self._trace = self._episode + 1, 0, 0
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._step += 1
        self._trace = (self._trace * 7 + int(action)) % 1009
        over = self._step == LENGTHS[(self._episode + self._start) % len(LENGTHS)]
        cut = over and self._episode % 2 == 1
        over = over and (not cut or self._episode % 4 == 3)  # every fourth episode ends in both ways at once
        return self._see(), 10.0 * action + self._step, over, cut, {}


class CountingVector(VectorEnv):
    """The same as a whole vector environment that reuses its arrays, in any autoreset mode."""

    def __init__(self, num_envs, mode="NextStep", starts=None):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode(mode)}
        self.single_observation_space, self.single_action_space = Counting.observation_space, Counting.action_space
        self._envs = [Counting(start) for start in (starts or range(num_envs))]
        self._seen = np.zeros((num_envs, 3), np.float32)
        self._over = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        for i in range(self.num_envs) if options is None else np.flatnonzero(options["reset_mask"]):
            self._seen[i] = self._envs[i].reset()[0]
            self._over[i] = False
        if options is not None:  # what the rows say that were not reset is nobody's business
            return np.where(options["reset_mask"][:, None], self._seen, np.float32(99)), {}
        return self._seen, {}

    def step(self, actions):
        mode, info = self.metadata["autoreset_mode"], {}
        reward, over, cut = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        final = np.full((self.num_envs, 3), 99.0, np.float32)
        for i, env in enumerate(self._envs):
            if self._over[i]:
                assert mode is AutoresetMode.NEXT_STEP
                self._seen[i] = env.reset()[0]
                self._over[i] = False
                continue
            self._seen[i], reward[i], over[i], cut[i], _ = env.step(actions[i])
            self._over[i] = over[i] or cut[i]
            if self._over[i] and mode is AutoresetMode.SAME_STEP:
                final[i], info["final_obs"] = self._seen[i], final
                self._seen[i] = env.reset()[0]
                self._over[i] = False
        return self._seen, reward, over, cut, info


def parts(seen):
    """The observation of Counting as a Dict of its number of the episode and the rest."""
    return {"episode": seen[..., 0].astype(np.int64), "rest": seen[..., 1:]}


PARTS = Dict(episode=Discrete(100), rest=Box(-np.inf, np.inf, (2,), np.float32))


class CountingDict(Counting):
    """The same with a Dict for an observation."""

    observation_space = PARTS

    def _see(self):
        return parts(super()._see())


class CountingDictVector(CountingVector):
    """The same as a whole vector environment; what was last seen comes as a Dict of arrays, too."""

    def __init__(self, num_envs, mode="NextStep", starts=None):
        super().__init__(num_envs, mode, starts)
        self.single_observation_space = PARTS

    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed, options=options)
        return parts(seen.clip(0)), info

    def step(self, actions):
        seen, *rest, info = super().step(actions)
        if "final_obs" in info:
            info["final_obs"] = parts(info["final_obs"])
        return parts(seen), *rest, info


class Misbehaving(gymnasium.Env):
    """Does ``what`` at step ``at`` of every episode (or at once in the constructor or in reset)."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Discrete(2)

    def __init__(self, what="", at=3, where="step", render_mode=None):
        self._what, self._at, self._where = what, at, where
        self.render_mode = render_mode
        if where == "constructor":
            self._do()

    def _do(self):
        if self._what == "raise":
            raise RuntimeError("the bridge fell down")
        if self._what == "exit":
            sys.exit()
        if self._what == "hang":
            time.sleep(1000)
        if self._what == "die":
            os._exit(7)
        if self._what == "crash":
            os.abort()
        return {
            "nan": np.full(4, np.nan, np.float32),
            "shape": np.zeros(3, np.float32),
            "dtype": np.zeros(4, np.float64),
        }.get(self._what)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        if self._where == "reset":
            self._do()
        return np.full(4, -1.0, np.float32), {"torch": "torch" in sys.modules}

    def step(self, action):
        self._step += 1
        seen = np.full(4, self._step / 100, np.float32)
        reward, over = 1.0, False
        if self._where == "step" and self._step == self._at:
            bad = self._do()
            seen = seen if bad is None else bad
            reward = {"nan reward": np.nan, "huge reward": 1e300, "no reward": None, "text": "1"}.get(self._what, 1.0)
            over = {"flag": "yes"}.get(self._what, False)
        if self._what == "four":
            return seen, reward, over, {}
        return seen, reward, over, self._step == 6, {}

    def render(self):
        return np.full((20, 30, 3), self._step, np.uint8)


class FailsOnce(Misbehaving):
    """Does ``what`` at step ``at`` where no other has done so: then there is a file ``marker``."""

    def __init__(self, marker, what="raise", **kwargs):
        super().__init__(what, **kwargs)
        self._marker = Path(marker)

    def _do(self):
        try:
            self._marker.touch(exist_ok=False)  # of two that come at the same time one is first
        except FileExistsError:
            return
        super()._do()


class MisbehavingVector(VectorEnv):
    """All environments of a whole vector environment do the same wrong thing, and nothing on the way hides it."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space, single_action_space = Misbehaving.observation_space, Misbehaving.action_space

    def __init__(self, num_envs, **kwargs):
        self.num_envs, self._one = num_envs, Misbehaving(**kwargs)

    def _all(self, value):
        return np.array([value] * self.num_envs)

    def reset(self, *, seed=None, options=None):
        return self._all(self._one.reset()[0]), {}

    def step(self, actions):
        *arrays, info = self._one.step(actions[0])
        return *map(self._all, arrays), info


class Starts(Misbehaving):
    """Starts a process, observes its id, and hangs in the first step."""

    observation_space = Box(0, np.inf, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([subprocess.Popen(["sleep", "1000"]).pid], np.float64), {}

    def step(self, action):
        time.sleep(1000)


class Reports(Misbehaving):
    """Observes facts about the process it runs in: torch loaded, process id (in two halves), parent's id is alive."""

    observation_space = Box(0, np.inf, (3,), np.float64)

    def _see(self):
        return np.array(["torch" in sys.modules, os.getpid(), os.getpgid(0)], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        return self._see(), 0.0, False, False, {}


def counting_vector(num_envs, mode="NextStep"):
    """A function that makes a vector environment."""
    return CountingVector(num_envs, mode)


class Steered(gymnasium.Env):
    """Shows what it was told and how often; its actions are a Box of two rows, and it ends after four of them."""

    observation_space = Box(-np.inf, np.inf, (5,), np.float32)
    action_space = Box(np.array([[-2, 0], [1, -9]], np.float32), np.array([[2, 1], [5, 9]], np.float32))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._seen = np.zeros(5, np.float32)
        return self._seen.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._seen = np.array([*action.ravel(), self._seen[4] + 1], np.float32)
        return self._seen.copy(), float(action.sum()), False, self._seen[4] == 4, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


def steered(num_envs):
    """The same as a whole vector environment."""
    return gymnasium.vector.SyncVectorEnv([Steered] * num_envs)
