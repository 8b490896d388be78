"""Tiny agents and environments that the tests of several parts share."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from retorq import api, cli
from retorq.agent import Agent
from retorq.envs.options import EnvOptions
from retorq.types import EnvSpec, Leaf, Step
from retorq.values import Scalars

SETTINGS = {
    "num_envs": 2,
    "torso_hidden": (8,),
    "memory_size": 8,
    "samples": 4,
    "hidden_size": 8,
    "cosines": 4,
    "batch_size": 2,
    "sequence_length": 4,
    "n_step": 2,
    "state_period": 2,
    "replay_size": 120,
    "replay_ratio": 0.8,
    "warmup": 30,
    "target_period": 5,
    "epsilon_steps": 20,
}


def agent(env: str = "memory", *, seed: int = 0, options: EnvOptions | None = None, **changes) -> Agent:
    """A recurrent_iqn of a few hundred weights."""
    config = SETTINGS | changes
    made = api.compose(
        env,
        agent="recurrent_iqn",
        preset="toy",
        config=config,
        options=options or EnvOptions(),
        device="cpu",
        seed=seed,
    )
    return made.agent


def flags(**changes) -> list[str]:
    """The same settings as words of the command line; None leaves one out."""
    words = ["--preset", "toy"]
    for name, value in (SETTINGS | changes).items():
        if value is None:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def command(*words) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


class Scripted:
    """A vector environment that plays back ``script``: one dict of ``Step`` fields (as lists) per step, then repeats.

    Observation: (column, step number, 0). Columns named in ``ended`` answer the next step with a new game.
    """

    def __init__(self, columns: int, script: list[dict], actions: int = 3) -> None:
        leaf = Leaf(kind="vector", shape=(3,), dtype="float32")
        self.spec = EnvSpec(id="scripted", observation={"obs": leaf}, actions=actions)
        self.columns, self._script, self._time = columns, script, 0

    def _see(self) -> dict[str, np.ndarray]:
        return {"obs": np.array([[c, self._time, 0] for c in range(self.columns)], np.float32)}

    def reset(self, seed=None):
        return self._see()

    def step(self, action):
        told = self._script[self._time % len(self._script)]
        self._time += 1

        def flag(name):
            return np.array(told.get(name, [False] * self.columns), bool)

        return Step(
            observation=self._see(),
            reward=np.array(told.get("reward", [0.0] * self.columns), np.float32),
            terminated=flag("terminated"),
            truncated=flag("truncated"),
            ended=flag("ended"),
            broken=flag("broken") if "broken" in told else None,
        )

    def close(self):
        pass

    def state_dict(self):
        return None


class Rule(torch.nn.Module):
    """Stands for a network: values that are a fixed function of the row, and a memory that counts rows since first."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions

    def initial_state(self, columns, device="cpu"):
        return {"count": torch.zeros(columns, 1)}

    def unroll(self, inputs, state, generator=None):
        count = state["count"]
        for first in inputs.first:
            count = torch.where(first[:, None], 0, count) + 1
        seen = next(iter(inputs.observation.values())).flatten(2).sum(-1)
        key = 31 * seen + 7 * inputs.previous_action + 3 * inputs.elapsed + 13 * inputs.first + inputs.previous_reward
        key = key + 11 * count[:, 0]
        return key.long() % self.actions, {"count": count}

    def head(self, features, samples=None, generator=None):
        return Scalars(torch.nn.functional.one_hot(features, self.actions).float())

    def preferences(self, features, samples=None, generator=None):
        return self.head(features, samples, generator).mean()


def program(*words):
    """Retorq in a process of its own, from this source, its two streams as one text."""
    return subprocess.Popen(
        [sys.executable, "-m", "retorq.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"},
    )
