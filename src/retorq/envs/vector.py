"""Whole Gymnasium vector environments: their three ways to start a new episode, told as one kind of ``Step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from retorq.envs.guard import FAULTS, check_actions, check_flag, check_reward
from retorq.envs.gymnasium_ids import step_limit
from retorq.envs.options import VECTOR_FIELDS, EnvOptions
from retorq.envs.spaces import Actions, Door
from retorq.types import Diverged, EnvSpec, Step, Tree, UserError


class GymVector:
    """A Gymnasium vector environment as a ``VectorEnv``, in autoreset mode NEXT_STEP, SAME_STEP or DISABLED."""

    def __init__(self, env: VectorEnv[Any, Any, Any], *, name: str, seed: int, options: EnvOptions) -> None:
        self._env = env
        self.columns = env.num_envs
        self._mode = _mode(env, name)
        self._actions = Actions(env.single_action_space)
        self._door = Door(env.single_observation_space, options)
        self._seed: int | None = seed
        self._pending = np.zeros(self.columns, bool)
        self.spec = EnvSpec(
            id=name,
            observation=self._door.leaves,
            actions=self._actions.count,
            continuous=self._actions.continuous,
            max_steps=step_limit(env),
            settings={
                **options.settings(VECTOR_FIELDS - self._door.idle),
                "vector": True,  # also where the class is one, whatever the option says
                "autoreset": self._mode.value,
            },
        )

    def _see(self, observation: Any) -> Tree:
        return self._door(observation, self.columns)

    def reset(self, seed: int | None = None) -> Tree:
        """New episodes everywhere; the seed of the constructor counts for the first reset, later ones go on."""
        seed, self._seed = (self._seed if seed is None else seed), None
        self._pending[:] = False
        return self._see(self._call("reset", seed=seed)[0])

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = getattr(self._env, method)(*args, **kwargs)
        except FAULTS as error:
            raise Diverged(
                f"the vector environment {self.spec.id} raised {type(error).__name__} in {method}: {error}; mend it, "
                "then resume (single environments, with env.vector off, are restarted alone)."
            ) from error
        wanted = {"reset": 2, "step": 5}[method]
        if not (isinstance(answer, tuple) and len(answer) == wanted):
            found = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
            raise UserError(
                f"the vector environment {self.spec.id} returned {found} from {method}; return {wanted} values, as "
                "Gymnasium's do."
            )
        return answer

    def step(self, action: np.ndarray) -> Step:
        """One action per column, ``[B]`` or ``[B, A]``."""
        chosen = self._actions(check_actions(action, self.columns, self.spec))
        observation, reward, terminated, truncated, info = self._call("step", chosen)
        shape = (self.columns,)
        live = ~self._pending
        over = check_flag("terminated", terminated, shape) & live
        cut = check_flag("truncated", truncated, shape) & live & ~over
        ended = over | cut
        seen, final = self._see(observation), None
        if self._mode is AutoresetMode.NEXT_STEP:
            self._pending = ended
        elif ended.any():
            seen, final = self._after_end(seen, info, ended)
        return Step(
            observation=seen,
            reward=np.where(live, check_reward(reward, shape), np.float32(0)),
            terminated=over,
            truncated=cut,
            ended=ended.copy(),
            final=final,
        )

    def _after_end(self, seen: Tree, info: Mapping[str, Any], ended: np.ndarray) -> tuple[Tree, Tree]:
        """First observations of the new episodes, and the last ones of the old (rows that did not end repeat)."""
        final = {name: value.copy() for name, value in seen.items()}
        if self._mode is AutoresetMode.DISABLED:
            fresh = self._see(self._call("reset", options={"reset_mask": ended})[0])
            for name, value in fresh.items():
                seen[name][ended] = value[ended]
            return seen, final
        if "final_obs" not in info:
            raise UserError(
                f"{self.spec.id} announces SAME_STEP autoreset but gave no info['final_obs'] at an episode's end; "
                "add it, or use another autoreset mode."
            )
        for column in np.flatnonzero(ended):
            for name, value in self._door(_row(info["final_obs"], int(column))).items():
                final[name][column] = value
        return seen, final

    def render(self, column: int = 0) -> np.ndarray:
        """A column's picture, uint8 ``[H, W, 3]``."""
        pictures: Any = self._env.render()
        if pictures is None:
            raise UserError(f"{self.spec.id} draws no pictures; choose render_mode 'rgb_array' in env.kwargs.")
        return np.asarray(pictures[column], np.uint8)

    def close(self) -> None:
        """Close the environment; safe to call twice."""
        self._env.close()

    def state_dict(self) -> None:
        """None: a Gymnasium environment has no common way to be saved."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Refused: there is nothing to put back."""
        raise UserError(f"{self.spec.id} cannot be restored; start new episodes with reset().")


def _row(batch: Any, column: int) -> Any:
    """One column of a batch that is a dict of arrays, an array, or an array of objects."""
    if isinstance(batch, Mapping):
        return {name: value[column] for name, value in batch.items()}
    return batch[column]


def _mode(env: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    told = env.metadata.get("autoreset_mode")
    try:
        return told if isinstance(told, AutoresetMode) else AutoresetMode(told)
    except ValueError:
        raise UserError(
            f"{name} announces the autoreset mode {told!r}; set metadata['autoreset_mode'] to NEXT_STEP, SAME_STEP or "
            "DISABLED of gymnasium.vector.AutoresetMode."
        ) from None
