"""The data that moves between the parts: rows of experience, batches, losses, and what an environment is.

Everything here is plain data over arrays. An *array* is a ``numpy.ndarray`` where environments and actors make it and
a ``torch.Tensor`` where replay and learner use it, so this module imports neither torch nor gymnasium and a worker
process that only steps a game never loads torch.

Letters in shapes: ``T`` rows in time, ``B`` columns (one column is one environment's stream of rows), ``A`` actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np

Array = Any
"""``numpy.ndarray`` or ``torch.Tensor``."""

Tree = dict[str, Array]
"""Named arrays that share their leading axes: an observation, or a recurrent state (batch first)."""


class UserError(Exception):
    """A mistake of the user: one sentence naming the field, the value and the remedy. The command line exits with 2."""

    exit_code = 2


class Refused(UserError):
    """Something that was understood but must not be done (a locked run, another config, too little memory): exit 3."""

    exit_code = 3


class Diverged(UserError):
    """Training cannot go on (non-finite losses, an environment that keeps failing): exit 4, the last save is kept."""

    exit_code = 4


class Stopped(UserError):
    """Something outside ended the run, which can go on from what was saved: exit 75."""

    exit_code = 75


class HeadLost(Stopped):
    """Ray is gone, here or at its head: nobody elsewhere can be started, and perhaps nobody reached. Few words."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One named part of an observation, as it arrives after the door (``retorq.envs``) has normalized it.

    ``image``: uint8 or float32, shape ``(channels, height, width)``. ``vector``: float32, shape ``(size,)``.
    ``discrete``: int64, shape ``()``, values in ``0..high-1``. ``binary``: int8, shape ``(size,)``.
    """

    kind: Literal["image", "vector", "discrete", "binary"]
    shape: tuple[int, ...]
    dtype: str
    high: int = 0


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What an agent must know of an environment, and what a run must store of it.

    ``observation`` maps names to leaves (a plain, non-Dict observation has the one name ``"obs"``). ``actions`` is how
    many there are to choose among; or, where they are ``continuous``, how many numbers in [-1, 1] one consists of.
    ``max_steps`` is the episode cap in agent steps (``None``: no cap known). ``frames_per_step`` is emulator frames per
    agent step. ``settings`` holds every preprocessing option, printed at start and stored with the run.
    """

    id: str
    observation: Mapping[str, Leaf]
    actions: int
    max_steps: int | None = None
    frames_per_step: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    action_names: tuple[str, ...] = ()
    continuous: bool = False

    def no_action(self, *lead: int) -> np.ndarray:
        """What stands where nothing was done: int64 zeros ``[*lead]``, or float32 ``[*lead, actions]``."""
        return np.zeros((*lead, self.actions), np.float32) if self.continuous else np.zeros(lead, np.int64)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all columns of a vector environment gave for one action each; every array is numpy, first axis ``B``.

    ``terminated`` is true where the learning episode ends (a lost life included, where the protocol says so);
    ``ended`` where the game itself is over, by termination, truncation or a fault. Where ``ended``, the game's last
    observation is in ``observation`` if the environment answers the *next* step with the reset (``final is None``,
    Gymnasium's NEXT_STEP), or in ``final`` if ``observation`` already is the first one of the next game.
    ``broken`` marks columns whose environment failed during this step and was replaced: no row results, the stream is
    cut at the row before, and ``observation`` already is the first one of the new game. ``faults`` tells of every
    environment replaced since the step before, a failed reset included: its column, what happened and what was done.
    """

    observation: Tree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    final: Tree | None = None
    broken: np.ndarray | None = None
    faults: tuple[tuple[int, str], ...] = ()


class VectorEnv(Protocol):
    """``B`` copies of one environment behind the door: normalized, checked, with their ends told apart."""

    spec: EnvSpec
    columns: int

    def reset(self, seed: int | None = None) -> Tree:
        """Start a new game in every column; returns observations ``[B, ...]``."""

    def step(self, action: np.ndarray) -> Step:
        """Do one action in every column: ``[B]`` int64, or ``[B, A]`` float32 in [-1, 1] where they are continuous."""

    def close(self) -> None:
        """Free processes and memory; safe to call twice."""

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """Everything needed to go on exactly, as named arrays, or None where the environment cannot be saved."""

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a network sees, ``[T, B, ...]`` each.

    ``first`` is true on the first row of a learning episode: memory, previous action and previous reward start afresh
    there. ``elapsed`` counts agent steps since the game began (a lost life does not reset it).
    """

    observation: Tree
    previous_action: Array
    previous_reward: Array
    elapsed: Array
    first: Array

    def map(self, fn: Callable[[Array], Array]) -> Inputs:
        """Apply ``fn`` to every array."""
        return _map(self, fn)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Rows of experience ``[T, B, ...]``: what was seen, what was done, what followed.

    The stream of a column holds *every* observation, the final one of a game included. On that final row ``last`` is
    true, its action is ignored and its loss is masked; the next state of any other row is simply the next row.
    ``reward`` is raw. ``terminated`` sets the row's discount to zero (a lost life too); ``truncated`` is only told.
    Continuous actions are ``[T, B, A]``.
    """

    inputs: Inputs
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    last: Array
    extras: Tree = field(default_factory=dict)

    def map(self, fn: Callable[[Array], Array]) -> Trajectory:
        """Apply ``fn`` to every array: slicing, stacking, moving to a device."""
        return _map(self, fn)

    def part(self, start: int, stop: int) -> Trajectory:
        """Rows ``start..stop-1``."""
        return self.map(lambda a: a[start:stop])

    @property
    def rows(self) -> int:
        """T."""
        return int(self.action.shape[0])

    @property
    def columns(self) -> int:
        """B."""
        return int(self.action.shape[1])


def _map(record: Any, fn: Callable[[Array], Array]) -> Any:
    """Apply ``fn`` to the arrays of a (nested) record."""

    def apply(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fn(leaf) for name, leaf in value.items()}
        return value.map(fn) if isinstance(value, Inputs) else fn(value)

    return replace(record, **{f.name: apply(getattr(record, f.name)) for f in fields(record)})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a replay hands to a learner: ``burn_in + T + n`` rows of ``B`` windows.

    ``state`` is the recurrent state before row 0 (``[B, ...]`` per leaf, empty if there is none); leaves named
    ``target.NAME``, where there are any, are the target network's own. ``weight [B]`` are the importance weights,
    ``keys [B, 2]`` names the windows for ``Replay.update``, ``is_demo [B]`` marks demonstrations.
    """

    trajectory: Trajectory
    state: Tree
    weight: Array
    keys: np.ndarray
    is_demo: Array | None = None


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """A loss before any reduction: ``loss``, ``error`` (for priorities) and ``mask``, each ``[T, B]``.

    ``unweighted [T, B]``, if any, is added to the loss without importance weights: a policy's, beside its critic's.
    ``state`` holds the recurrent states after the learned rows where they are carried into the next window:
    ``NAME`` of the online and ``target.NAME`` of the target network, ``[B, ...]``, without gradient.
    """

    loss: Array
    error: Array
    mask: Array
    metrics: Mapping[str, Array] = field(default_factory=dict)
    state: Tree = field(default_factory=dict)
    unweighted: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One finished game: undiscounted raw return, agent steps, the column it ran in, and when it ended (steps)."""

    score: float
    length: int
    column: int
    step: int
    cut: bool = False
