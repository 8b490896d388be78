"""Checks at the door: what an environment returns is what it announced, or the run says so in one sentence.

A wrong shape, dtype or value would repeat with the next game, so it stops the run at once: ``UserError`` for a wrong
shape or dtype (the environment's code disagrees with its own spaces), ``Diverged`` for a number that is not finite
(the game blew up; what was learned is kept). An environment that raises, hangs or dies is only restarted; that is
the business of ``retorq.envs.columns``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retorq.types import Diverged, EnvSpec, UserError


def check_actions(action: Any, columns: int, spec: EnvSpec) -> np.ndarray:
    """``action`` as this environment's agents give it; ``ValueError`` if it is not (a caller's bug).

    Either int64 ``[B]`` as by :func:`check_action`, or, where actions are continuous, float32 ``[B, A]`` in [-1, 1].
    """
    if not spec.continuous:
        return check_action(action, columns, spec.actions)
    array = np.asarray(action)
    if array.shape != (columns, spec.actions) or array.dtype.kind != "f":
        raise ValueError(
            f"actions must be floats of shape ({columns}, {spec.actions}), got {array.dtype} of shape {array.shape}"
        )
    if not (np.abs(array) <= 1).all():  # not a number is outside, too
        raise ValueError(f"actions must lie in [-1, 1], got {array.min()}..{array.max()}")
    return array.astype(np.float32)


FAULTS = (Exception, SystemExit)
"""What an environment's own code may end with: one that calls ``sys.exit`` has failed like one that raises."""


def check_action(action: Any, columns: int, actions: int) -> np.ndarray:
    """``action`` as int64 ``[B]``; ``ValueError`` unless every entry is one of ``0..actions-1`` (a caller's bug)."""
    array = np.asarray(action)
    if array.shape != (columns,) or array.dtype.kind not in "iu":
        raise ValueError(f"actions must be integers of shape ({columns},), got {array.dtype} of shape {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= actions):
        raise ValueError(f"actions must lie in 0..{actions - 1}, got {array.min()}..{array.max()}")
    return array.astype(np.int64)


def check_array(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """``value`` as an array of exactly ``shape`` and ``dtype``, finite if it is floating point."""
    array = np.asarray(value)
    if array.shape != shape:
        raise UserError(
            f"the environment returned observation {name!r} with shape {array.shape}, but its observation space says "
            f"{shape}; make the two agree."
        )
    if array.dtype != dtype:
        raise UserError(
            f"the environment returned observation {name!r} with dtype {array.dtype}, but its observation space says "
            f"{dtype}; convert it in the environment, or change the space."
        )
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = array[~np.isfinite(array)].flat[0]
        raise Diverged(
            f"the environment returned observation {name!r} containing {bad}; return finite numbers only "
            "(look for a division by zero or an overflow in the environment)."
        )
    return array


def check_discrete(name: str, value: Any, shape: tuple[int, ...], start: int, high: int) -> np.ndarray:
    """Integers ``start .. start+high-1`` of exactly ``shape``, shifted to 0, as int64."""
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise UserError(
            f"the environment returned observation {name!r} as {array.dtype} of shape {array.shape}, but its "
            f"Discrete space says one integer; return an integer."
        )
    if array.size and (array.min() < start or array.max() >= start + high):
        bad = array.max() if array.max() >= start + high else array.min()
        raise UserError(
            f"the environment returned observation {name!r} = {bad}, outside its Discrete space "
            f"{start}..{start + high - 1}; widen the space."
        )
    return array.astype(np.int64) - start


def check_reward(value: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Rewards as float32 of exactly ``shape``: real and finite, in float32 too."""
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "fiub":
        raise UserError(
            f"the environment returned a reward of type {type(value).__name__} with dtype {array.dtype} and shape "
            f"{array.shape}; return one real number per environment."
        )
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise Diverged(
            f"the environment returned the reward {array[~np.isfinite(single)].flat[0]}; return a finite number "
            "(look for a division by zero or an overflow in the environment)."
        )
    return single


def check_flag(name: str, value: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Flags (``terminated``, ``truncated``) as bool of exactly ``shape``; 0 and 1 are taken for flags too."""
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise UserError(
            f"the environment returned {name} = {value!r}; return True or False "
            "(step returns observation, reward, terminated, truncated, info)."
        )
    return array.astype(bool)
