"""Single environments side by side as one ``VectorEnv``, each restarted alone when it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from retorq.envs.cell import Cell
from retorq.envs.guard import FAULTS, check_actions
from retorq.envs.options import EnvOptions
from retorq.types import Diverged, EnvSpec, Step, Tree, UserError

FAILURES, WITHIN = 5, 1000
"""A column that fails this often within so many steps stops the run."""


@dataclass(frozen=True)
class Reset:
    """Start a new episode; ``None`` goes on with the environment's own generator."""

    seed: int | None


@dataclass(frozen=True)
class Act:
    """Do one action: a choice, or float32 ``[A]``."""

    action: int | np.ndarray


@dataclass(frozen=True)
class Answer:
    """What followed; the observation lies in the backend's arrays."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class Fault:
    """The environment raised, hung or died; ``reason`` says which and how."""

    reason: str


Command = Reset | Act


class Backend(Protocol):
    """Where the environments live. ``arrays`` hold the latest observation of every column, ``[B, ...]`` per leaf."""

    spec: EnvSpec
    arrays: dict[str, np.ndarray]

    def exchange(self, commands: Mapping[int, Command]) -> dict[int, Answer | Fault]:
        """Have the named columns do their commands at the same time; raises what would repeat (``UserError``)."""

    def restart(self, column: int) -> Fault | None:
        """Throw the column's environment away and build another; says why where that fails too."""

    def render(self) -> np.ndarray:
        """Column 0 as uint8 ``[H, W, 3]``."""

    def close(self) -> None:
        """Free everything; safe to call twice."""


class Columns:
    """A ``VectorEnv`` over a backend: the step after an end answers with the reset, faults are repaired.

    ``first`` above 0 gives its columns the seeds that they would have behind so many others.
    """

    def __init__(self, backend: Backend, *, columns: int, seed: int, first: int = 0) -> None:
        self.spec = backend.spec
        self.columns, self._first = columns, first
        self._backend = backend
        self._seed = seed
        self._restarts = 0
        self._steps = 0
        self._pending = np.zeros(columns, bool)
        self._faults: list[tuple[int, str]] = []  # not told yet
        self._failures: list[deque[int]] = [deque(maxlen=FAILURES) for _ in range(columns)]

    def reset(self, seed: int | None = None) -> Tree:
        """New episodes everywhere, each column with a seed of its own (the constructor's seed unless one is given)."""
        self._seed = self._seed if seed is None else seed
        seeds = np.random.SeedSequence(self._seed).generate_state(self._first + self.columns)[self._first :] >> 1
        # Later resets without a seed must not repeat the same games.
        self._seed += 1_000_003 if seed is None else 0
        self._run({column: Reset(int(seeds[column])) for column in range(self.columns)})
        self._pending[:] = False
        return self._observation()

    def _observation(self) -> Tree:
        return {name: array.copy() for name, array in self._backend.arrays.items()}

    def _run(self, commands: Mapping[int, Command]) -> tuple[dict[int, Answer], list[int]]:
        """Do the commands; columns that fail are restarted and reset, and returned apart."""
        answers: dict[int, Answer] = {}
        failed: list[int] = []
        for column, answer in self._backend.exchange(commands).items():
            if isinstance(answer, Answer):
                answers[column] = answer
            else:
                failed.append(column)
                self._revive(column, answer, playing=isinstance(commands[column], Act))
        return answers, failed

    def _revive(self, column: int, fault: Fault, *, playing: bool) -> None:
        """Restart one column until its reset succeeds, or give up with ``Diverged``; ``playing``: its game was on."""
        answer: Answer | Fault = fault
        done = "its game was cut and it was replaced" if playing else "it was replaced before its next game"
        while isinstance(answer, Fault):
            past = self._failures[column]
            past.append(self._steps)
            if len(past) == FAILURES and self._steps - past[0] < WITHIN:
                raise Diverged(
                    f"environment {column} of {self.spec.id} failed {FAILURES} times within {WITHIN} steps, the last "
                    f"time because it {answer.reason}; mend the environment, then resume the run."
                )
            on_one_line = " ".join(answer.reason.split()).rstrip(":.")
            self._faults.append((column, f"{on_one_line}; {done}"))
            done = "it was replaced once more"
            self._restarts += 1
            fresh = np.random.SeedSequence([abs(self._seed), column, self._restarts]).generate_state(1) >> 1
            trouble = self._backend.restart(column)
            answer = trouble or self._backend.exchange({column: Reset(int(fresh[0]))})[column]

    def step(self, action: np.ndarray) -> Step:
        """One action per column; where the last step ended the episode it is ignored and a new one starts."""
        checked = check_actions(action, self.columns, self.spec)
        chosen: Any = checked if self.spec.continuous else checked.tolist()
        self._steps += 1
        commands: dict[int, Command] = {
            column: Reset(None) if self._pending[column] else Act(chosen[column]) for column in range(self.columns)
        }
        answers, failed = self._run(commands)
        reward = np.zeros(self.columns, np.float32)
        terminated, truncated, broken = np.zeros((3, self.columns), bool)
        for column, answer in answers.items():
            reward[column], terminated[column], truncated[column] = answer.reward, answer.terminated, answer.truncated
        # An environment that failed in its reset was due for a new episode anyway: its stream is not cut.
        broken[failed] = ~self._pending[failed]
        self._pending = terminated | truncated
        faults, self._faults = tuple(self._faults), []
        return Step(
            observation=self._observation(),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            ended=self._pending.copy(),
            broken=broken if broken.any() else None,
            faults=faults,
        )

    def render(self) -> np.ndarray:
        """Column 0 as a picture, uint8 ``[H, W, 3]``."""
        return self._backend.render()

    def close(self) -> None:
        """Close every environment."""
        self._backend.close()

    def state_dict(self) -> None:
        """None: a Gymnasium environment has no common way to be saved."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Refused: there is nothing to put back."""
        raise UserError(f"{self.spec.id} cannot be restored; start new episodes with reset().")


def empty_arrays(spec: EnvSpec, columns: int) -> dict[str, np.ndarray]:
    """Zeros of the right shape and dtype for every leaf."""
    return {name: np.zeros((columns, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}


class InProcess:
    """A backend that runs the environments one after another in this process; a hanging one hangs the run."""

    def __init__(self, env: str, *, columns: int, options: EnvOptions, render: bool = False) -> None:
        self._make = lambda: Cell(env, options, render=render)
        self._cells = [self._make() for _ in range(columns)]
        spec = self._cells[0].spec
        self.spec = replace(spec, settings={**spec.settings, "workers": "0"})
        self.arrays = empty_arrays(self.spec, columns)

    def exchange(self, commands: Mapping[int, Command]) -> dict[int, Answer | Fault]:
        """Do the commands one after another."""
        return {column: self._one(column, command) for column, command in commands.items()}

    def _one(self, column: int, command: Command) -> Answer | Fault:
        cell = self._cells[column]
        try:
            if isinstance(command, Reset):
                tree, answer = cell.reset(command.seed), Answer()
            else:
                tree, *rest = cell.step(command.action)
                reward, terminated, truncated = rest
                answer = Answer(float(reward), bool(terminated), bool(truncated))
        except UserError:
            raise
        except FAULTS as error:
            return Fault(f"raised {type(error).__name__}: {error}")
        for name, value in tree.items():
            self.arrays[name][column] = value
        return answer

    def restart(self, column: int) -> Fault | None:
        """Close the failed environment as far as it lets itself be closed, and build another."""
        close_quietly(self._cells[column : column + 1])
        try:
            self._cells[column] = self._make()
        except UserError as error:
            return Fault(f"could not be built again: {error}")
        return None

    def render(self) -> np.ndarray:
        """The picture of column 0."""
        return self._cells[0].render()

    def close(self) -> None:
        """Close all environments."""
        close_quietly(self._cells)
        self._cells = []


def close_quietly(cells: Sequence[Cell]) -> None:
    """Close environments that may be broken: what they raise on the way out changes nothing anymore."""
    for cell in cells:
        with suppress(*FAULTS):
            cell.close()
