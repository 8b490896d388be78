"""One Atari game with a picture: the numpy twin of ``retorq.envs.atari.Atari``, for watching and recording.

The preprocessing is the same to within one gray level, and so are the starts of games (a test compares them): the
no-ops are drawn from the C++ library's generator, as GNU's standard library draws from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retorq.envs import atari
from retorq.envs.guard import check_action
from retorq.envs.images import resize
from retorq.envs.options import EnvOptions
from retorq.types import Step, Tree, UserError


class AtariSingle:
    """One game on one emulator; a ``VectorEnv`` of one column that can also ``render``.

    ``column`` is the place that it would have among many.
    """

    def __init__(self, rom: str, *, seed: int, options: EnvOptions, training: bool, column: int = 0) -> None:
        from ale_py import Action

        self.spec = atari.describe(rom, options)
        self.columns = 1
        self._rom, self._options, self._column = rom, options, column
        self._life_loss = options.life_loss and training
        self._seed: int | None = seed
        self._ale: Any = atari.emulator(rom, options.sticky, 0)
        self._actions = self._ale.getLegalActionSet() if options.full_actions else self._ale.getMinimalActionSet()
        self._noop, self._fire = Action.NOOP, Action.FIRE
        self._noops = np.random.RandomState(seed)
        self._older, self._newer = self._screen(), self._screen()
        self._elapsed = 0
        self._pending = False

    def _screen(self) -> np.ndarray:
        """The emulator's current screen, ``[C, 210, 160]`` uint8."""
        if self._options.grayscale:
            return self._ale.getScreenGrayscale()[None]
        return np.moveaxis(self._ale.getScreenRGB(), -1, 0)

    def reset(self, seed: int | None = None) -> Tree:
        """A new game; the seed of the constructor counts for the first reset, later ones go on."""
        seed, self._seed = (self._seed if seed is None else seed), None
        if seed is not None:
            column_seed = int(atari.seeds_for(seed, 1, self._column)[0])
            self._ale = atari.emulator(self._rom, self._options.sticky, column_seed)
            self._noops = np.random.RandomState(column_seed)
        return self._begin()

    def _begin(self) -> Tree:
        self._ale.reset_game()
        pressed = self._options.fire_reset and self._fire in self._actions
        if pressed:
            self._ale.act(self._fire)
        word = int(self._noops.randint(2**32, dtype=np.uint32))  # std::mt19937, scaled to 0 .. noop_max
        for _ in range((word * (self._options.noop_max + 1) >> 32) - int(pressed)):
            self._ale.act(self._noop)
            if self._ale.game_over():
                self._ale.reset_game()
        self._elapsed, self._pending = 0, False
        self._newer, self._older = self._screen(), np.zeros_like(self._older)
        return self._observe()

    def _shrunk(self, screen: np.ndarray) -> np.ndarray:
        return resize(screen, self._options.frame_size, self._options.frame_size)

    def _observe(self) -> Tree:
        # A step that ends early leaves screens of the step before in the pair, as in the C++ environment.
        self._newer = np.maximum(self._newer, self._older)
        return {"obs": self._shrunk(self._newer)[None]}

    def _advance(self, action: int) -> float:
        """Repeat one action for ``frame_skip`` frames or until the game ends; returns the raw reward."""
        reward, left = 0, self._options.frame_skip
        while left > 0:
            reward += self._ale.act(self._actions[action])
            self._elapsed += 1
            if self._ale.game_over() or self._elapsed >= self._options.max_frames:
                break
            if left == 2:
                self._older = self._screen()
            elif left == 1:
                self._newer = self._screen()
            left -= 1
        return float(reward)

    def step(self, action: np.ndarray) -> Step:
        """One action ``[1]``; after the end it is ignored and a new game starts."""
        choice = int(check_action(action, 1, self.spec.actions)[0])
        if self._pending:
            no = np.zeros(1, bool)
            return Step(
                observation=self._begin(), reward=np.zeros(1, np.float32), terminated=no, truncated=no, ended=no
            )
        lives = self._ale.lives()
        reward = self._advance(choice)
        over, left = self._ale.game_over(), self._ale.lives()
        life_lost = self._life_loss and 0 < left < lives
        capped = self._elapsed >= self._options.max_frames
        terminated = over or life_lost
        self._pending = over or capped
        return Step(
            observation=self._observe(),
            reward=np.array([reward], np.float32),
            terminated=np.array([terminated]),
            truncated=np.array([capped and not terminated]),
            ended=np.array([self._pending]),
        )

    def render(self) -> np.ndarray:
        """The emulator's screen in color, uint8 ``[210, 160, 3]``."""
        return np.array(self._ale.getScreenRGB())

    def close(self) -> None:
        """Let the emulator go."""
        self._ale = None

    def state_dict(self) -> None:
        """None: as with many columns, a run does not store an emulator's position."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Refused: there is nothing to put back."""
        raise UserError(f"{self.spec.id} cannot restore an emulator's position; start a new game with reset().")
