"""One environment behind the door: what a worker process, or this process, runs for one column."""

from __future__ import annotations

from typing import Any

import numpy as np

from retorq.envs.guard import check_flag, check_reward
from retorq.envs.gymnasium_ids import build, step_limit
from retorq.envs.options import VECTOR_FIELDS, EnvOptions
from retorq.envs.spaces import Actions, Door
from retorq.types import EnvSpec, Tree, UserError


class Cell:
    """A Gymnasium environment whose outputs are checked and converted to leaves (without a column axis)."""

    def __init__(self, env: str, options: EnvOptions, *, render: bool = False) -> None:
        self._env = build(env, options, render=render)
        self._actions = Actions(self._env.action_space)
        self._door = Door(self._env.observation_space, options)
        self.spec = EnvSpec(
            id=env,
            observation=self._door.leaves,
            actions=self._actions.count,
            continuous=self._actions.continuous,
            max_steps=step_limit(self._env),
            settings=options.settings(VECTOR_FIELDS - {"vector"} - self._door.idle),
            action_names=_action_names(self._env, self._actions.count),
        )

    def reset(self, seed: int | None) -> Tree:
        """The first observation of a new episode."""
        answer = self._env.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise UserError(
                f"the environment's reset returned a {type(answer).__name__}; Gymnasium's reset returns "
                "(observation, info)."
            )
        return self._door(answer[0])

    def step(self, action: int | np.ndarray) -> tuple[Tree, np.ndarray, np.ndarray, np.ndarray]:
        """Observation, reward (float32), terminated and truncated (bool, never both) of one step.

        ``action`` is a choice, or numbers ``[A]`` in [-1, 1] where actions are continuous.
        """
        answer: Any = self._env.step(self._actions(action))
        if not (isinstance(answer, tuple) and len(answer) == 5):
            found = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
            raise UserError(
                f"the environment's step returned {found}; Gymnasium's step returns (observation, reward, terminated, "
                "truncated, info)."
            )
        observation, reward, terminated, truncated, _ = answer
        over = check_flag("terminated", terminated)
        cut = check_flag("truncated", truncated) & ~over
        return self._door(observation), check_reward(reward), over, cut

    def render(self) -> np.ndarray:
        """The environment's picture, uint8 ``[H, W, 3]``; ``UserError`` if it draws none."""
        picture: Any = self._env.render()
        if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3):
            raise UserError(
                f"{self.spec.id} draws no pictures: its render_mode 'rgb_array' gave {type(picture).__name__}."
            )
        return picture.astype(np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _action_names(env: Any, actions: int) -> tuple[str, ...]:
    """Names where the environment offers ``get_action_meanings``, else none."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    names = tuple(str(name).lower() for name in meanings()) if callable(meanings) else ()
    return names if len(names) == actions else ()
