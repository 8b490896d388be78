"""What all toys share: games in arrays that answer the step after an end with the reset, and can be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from retorq.envs.generators import generator_state, restore_generator
from retorq.envs.guard import check_actions
from retorq.types import EnvSpec, Leaf, Step, Tree, UserError

_DARK, _LIGHT, _LINES = np.array([27.0, 32, 39]), np.array([255.0, 214, 140]), np.array([14, 17, 21], np.uint8)


class Toy(ABC):
    """A batch of games in arrays; a ``VectorEnv``.

    A subclass sets ``state`` (its arrays, first axis ``B``) and says how games begin, advance and look.
    """

    name: str
    action_names: tuple[str, ...] = ()
    numbers = 0
    """Above 0: actions are continuous, and consist of so many numbers in [-1, 1]."""

    def __init__(self, *, columns: int, seed: int, cap: int, observation: dict[str, Leaf], **settings: Any) -> None:
        if cap < 1:
            raise UserError(f"env.kwargs sets cap to {cap} for {self.name}; give at least 1 step.")
        self.columns = columns
        self.spec = EnvSpec(
            id=self.name,
            observation=observation,
            actions=self.numbers or len(self.action_names),
            continuous=self.numbers > 0,
            max_steps=cap,
            settings={**settings, "cap": cap},
            action_names=self.action_names,
        )
        self._cap = cap
        self._random = np.random.default_rng(seed)
        self._elapsed = np.zeros(columns, np.int64)
        self._pending = np.zeros(columns, bool)
        self.state: dict[str, np.ndarray] = {}

    @abstractmethod
    def begin(self, count: int) -> dict[str, np.ndarray]:
        """The state of ``count`` new games."""

    @abstractmethod
    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Do ``action [B]`` (``[B, A]``) where ``live [B]``; returns reward and terminated (ignored elsewhere)."""

    @abstractmethod
    def observe(self) -> Tree:
        """What every column looks like now, in fresh arrays."""

    def picture(self, column: int) -> np.ndarray:
        """One column as brightness ``[H, W]`` in 0..1; by default its observation vector as bars from a middle line."""
        value = np.clip(np.ravel(next(iter(self.observe().values()))[column]).astype(np.float64), -1.0, 1.0)
        place = np.arange(4, -5, -1)[:, None]
        lit = (place * np.sign(value) > 0) & (np.abs(place) <= np.ceil(4 * np.abs(value)))
        return np.where(place == 0, 0.25, lit.astype(np.float64))

    def _restart(self, where: np.ndarray) -> None:
        fresh = self.begin(int(where.sum()))
        for name, value in fresh.items():
            if name not in self.state:
                self.state[name] = np.zeros((self.columns, *value.shape[1:]), value.dtype)
            self.state[name][where] = value
        self._elapsed[where] = 0

    def reset(self, seed: int | None = None) -> Tree:
        """New games in all columns, from a new generator where a seed is given."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._restart(np.ones(self.columns, bool))
        self._pending[:] = False
        return self.observe()

    def step(self, action: np.ndarray) -> Step:
        """One action per column; where the last step ended the game it is ignored and a new game begins."""
        action, live = check_actions(action, self.columns, self.spec), ~self._pending
        self._elapsed += live
        reward, over = self.advance(action, live)
        terminated = over & live
        truncated = (self._elapsed >= self._cap) & live & ~terminated
        if self._pending.any():
            self._restart(self._pending)
        self._pending = terminated | truncated
        return Step(
            observation=self.observe(),
            reward=np.where(live, reward, 0.0).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            ended=self._pending.copy(),
        )

    def render(self, column: int = 0) -> np.ndarray:
        """One column as a picture, uint8 ``[H, W, 3]``: squares of 16 pixels with lines between them."""
        bright = self.picture(column)[..., None]
        colors = np.rint(_DARK + bright * (_LIGHT - _DARK)).astype(np.uint8)
        picture = colors.repeat(16, axis=0).repeat(16, axis=1)
        picture[15::16] = picture[:, 15::16] = _LINES
        return picture

    def close(self) -> None:  # noqa: B027 (nothing to free, in any toy)
        """Nothing to free."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Games, clocks and the generator, as arrays."""
        own = {f"game.{name}": value.copy() for name, value in self.state.items()}
        words = generator_state(self._random)
        return {**own, "elapsed": self._elapsed.copy(), "pending": self._pending.copy(), "generator": words}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave; the number of columns must be the same."""
        if len(state["elapsed"]) != self.columns:
            raise UserError(
                f"the saved {self.name} has {len(state['elapsed'])} columns, this one {self.columns}; "
                "continue with the number of environments that the run was started with."
            )
        self.state = {name[5:]: np.array(value) for name, value in state.items() if name.startswith("game.")}
        self._elapsed, self._pending = np.array(state["elapsed"]), np.array(state["pending"])
        restore_generator(self._random, state["generator"])
