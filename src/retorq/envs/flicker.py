"""Observations that vanish at random: any game becomes partially observed (Hausknecht & Stone 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from retorq.envs.generators import generator_state, restore_generator
from retorq.types import EnvSpec, Step, Tree, VectorEnv


class Flicker:
    """Zeroes the whole observation of a column with probability ``chance``, drawn for every observation.

    Each column has its own generator, so that what a column sees does not depend on how many there are beside it or
    on when they end; ``first`` above 0 gives the columns the generators that they would have behind so many others.
    """

    def __init__(self, env: VectorEnv, chance: float, seed: int, first: int = 0) -> None:
        self._env: Any = env
        self._first = first
        spec: EnvSpec = env.spec
        self.spec = replace(spec, settings={**spec.settings, "flicker": chance})
        self.columns = env.columns
        self._chance = chance
        self._generators = self._seeded(seed)

    def _seeded(self, seed: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, self._first + column, 0xF11C]) for column in range(self.columns)]

    def _blank(self, tree: Tree, where: np.ndarray) -> Tree:
        hidden = np.zeros(self.columns, bool)
        for column in np.flatnonzero(where):
            hidden[column] = self._generators[column].random() < self._chance
        return {name: _zero(array, hidden) for name, array in tree.items()}

    def reset(self, seed: int | None = None) -> Tree:
        """New games; a seed also starts the flicker afresh."""
        if seed is not None:
            self._generators = self._seeded(seed)
        return self._blank(self._env.reset(seed), np.ones(self.columns, bool))

    def step(self, action: np.ndarray) -> Step:
        """The environment's step with some observations zeroed (final ones draw before first ones)."""
        step = self._env.step(action)
        final = None if step.final is None else self._blank(step.final, step.ended)
        return replace(step, observation=self._blank(step.observation, np.ones(self.columns, bool)), final=final)

    def render(self, *column: int) -> np.ndarray:
        """The environment's picture, without flicker."""
        return self._env.render(*column)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """The environment's state and the generators, None where the environment has none."""
        inner = self._env.state_dict()
        if inner is None:
            return None
        return {**inner, "flicker": np.stack([generator_state(generator) for generator in self._generators])}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave."""
        self._env.load_state_dict({name: value for name, value in state.items() if name != "flicker"})
        for generator, words in zip(self._generators, state["flicker"], strict=True):
            restore_generator(generator, words)


def _zero(array: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    result = array.copy()
    result[hidden] = 0
    return result
