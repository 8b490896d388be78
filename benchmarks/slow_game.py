"""A game that keeps its own time: fifteen pictures a second, whoever plays, and no pausing."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

HZ = 15.0
STEPS = 450  # half a minute a game


class SlowGame(gymnasium.Env[np.ndarray, int]):
    """84x84 noise, and a point for the action that the picture's first pixel names."""

    observation_space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self) -> None:
        self._next = 0.0
        self._played = 0

    def _look(self) -> np.ndarray:
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game now."""
        super().reset(seed=seed, options=options)
        self._played, self._next, self._seen = 0, time.monotonic() + 1 / HZ, self._look()
        return self._seen, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait for the next picture; what comes too late for one is played at the one after it."""
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + 1 / HZ
        self._played += 1
        reward = float(action == self._seen[0, 0, 0] % 4)
        self._seen = self._look()
        return self._seen, reward, False, self._played >= STEPS, {}
