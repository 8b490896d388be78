"""A small game seen in several ways at once, as first-person games are: a picture, numbers, a choice and bits."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

SIDE, LENGTH = 8, 6


class Senses(gymnasium.Env):
    """A lamp lights one of three places and the hand must point at it: reward 1 where it does, six steps a game.

    ``kind`` leaves one part of the observation only; without it the observation is a Dict of all.
    """

    action_space = Discrete(3)

    def __init__(self, kind: str = "") -> None:
        spaces = {
            "screen": Box(0, 255, (SIDE, SIDE, 3), np.uint8),
            "gamevariables": Box(-np.inf, np.inf, (2,), np.float32),
            "weapon": Discrete(3, start=1),
            "buttons": MultiBinary((2, 2)),
        }
        self._kind = kind
        self.observation_space = spaces[kind] if kind else Dict(spaces)

    def _see(self):
        screen = np.zeros((SIDE, SIDE, 3), np.uint8)
        screen[:, 2 * self._lamp : 2 * self._lamp + 2] = 200
        tree = {
            "screen": screen,
            "gamevariables": np.array([self._lamp, self._steps / LENGTH], np.float32),
            "weapon": np.int64(self._lamp + 1),
            "buttons": np.array([[self._lamp & 1, self._lamp >> 1], [self._steps & 1, 0]], np.int8),
        }
        return tree[self._kind] if self._kind else tree

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps, self._lamp = 0, int(self.np_random.integers(3))
        return self._see(), {}

    def step(self, action):
        reward = float(action == self._lamp)
        self._steps, self._lamp = self._steps + 1, int(self.np_random.integers(3))
        return self._see(), reward, False, self._steps == LENGTH, {}
