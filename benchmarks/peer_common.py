"""What every side of benchmarks/peers.py shares: settings, environments, a clock. Knows none of the libraries."""

from __future__ import annotations

import resource
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

BATCH, RATIO, GAMMA, LEARNING_RATE, ADAM_EPSILON, CLIP = 32, 8, 0.99, 2.5e-4, 0.01 / 32, 10.0
EPSILON = 0.1
SAMPLES, TARGET_SAMPLES, ACTION_SAMPLES, COSINES, QUANTILES, ATOMS, SIGMA = 8, 8, 32, 64, 200, 51, 0.5
ALPHA, BETA, STEPS_AHEAD = 0.5, 0.4, 3  # Rainbow
SETTLE = 200  # steps with learning before the clock starts

Turn = dict[str, Any]
"""What a side reports: steps, updates, seconds, parameters, score, memory, threads and versions."""


@dataclass(frozen=True)
class Plan:
    """What a side is to do: which environment, for how long, how much it stores, when it begins to learn."""

    task: str
    environments: int
    steps: int
    warmup: int
    capacity: int
    threads: int
    seed: int
    decay: int = 0
    """Steps over which epsilon falls from 1 after the warm-up; 0: it is constant, as libraries that skip the network
    wherever they act at random would else do less work."""

    @property
    def hidden(self) -> int:
        """Units of the fully connected layer."""
        return 512 if self.task == "pong" else 128

    @property
    def target_steps(self) -> int:
        """Steps between copies into the target network."""
        return 10_000 if self.task == "pong" else 1_000

    @property
    def stack(self) -> int:
        """Images stacked."""
        return 4 if self.task == "pong" else 1


@dataclass
class Clock:
    """Counts from ``warmup + SETTLE`` steps on, and keeps the scores of finished games."""

    plan: Plan
    begun: tuple[int, int, float] | None = None
    ended: tuple[int, int, float] = (0, 0, 0.0)
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    games: int = 0

    def tick(self, steps: int, updates: int) -> bool:
        """Note the time; whether to go on."""
        self.ended = (steps, updates, time.perf_counter())
        if self.begun is None and steps >= self.plan.warmup + SETTLE:
            self.begun = self.ended
        return steps < self.plan.steps

    def game(self, score: float) -> None:
        """A game has ended."""
        self.scores.append(score)
        self.games += 1

    def turn(self, parameters: int, version: str) -> Turn:
        """The report."""
        import torch

        assert self.begun is not None, "steps must be more than the warm-up"
        steps, updates, seconds = (b - a for a, b in zip(self.begun, self.ended, strict=True))
        return {
            "steps": steps,
            "updates": updates,
            "seconds": seconds,
            "all_steps": self.ended[0],
            "games": self.games,
            "score": sum(self.scores) / len(self.scores) if self.scores else None,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "parameters": parameters,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "version": version,
        }


def make_env(plan: Plan, index: int) -> Any:
    """One Gymnasium environment: pixels uint8 ``[C, H, W]``, rewards as they are (Pong: stacked, 4 frames a step)."""
    import gymnasium
    import numpy as np

    if plan.task == "pong":
        import ale_py
        from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

        gymnasium.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        env = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
        env = AtariPreprocessing(env, noop_max=30, terminal_on_life_loss=True)
        return FrameStackObservation(env, 4, padding_type="zero")

    import minatar

    class Grid(gymnasium.Env[np.ndarray, int]):
        """MinAtar Breakout with the minimal action set and a cap of 5,000 steps."""

        def __init__(self) -> None:
            self.game = minatar.Environment("breakout", sticky_action_prob=0.1)
            self.actions = self.game.minimal_action_set()
            self.action_space = gymnasium.spaces.Discrete(len(self.actions))
            height, width, channels = self.game.state_shape()
            self.observation_space = gymnasium.spaces.Box(0, 255, (channels, height, width), np.uint8)
            self.count = 0

        def _see(self) -> np.ndarray:
            return np.ascontiguousarray(self.game.state().transpose(2, 0, 1)).astype(np.uint8) * 255

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(seed=seed)
            if seed is not None:
                self.game.seed(seed)
            self.game.reset()
            self.count = 0
            return self._see(), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            reward, over = self.game.act(self.actions[int(action)])
            self.count += 1
            return self._see(), float(reward), bool(over), self.count >= 5_000 and not over, {}

    env = Grid()
    env.reset(seed=plan.seed * 1_000 + index)
    return env


def counted(env: Any, clock: Clock) -> Any:
    """The environment, with the raw score of each whole game given to the clock (a lost life is no end of a game)."""
    import gymnasium

    class Counted(gymnasium.Wrapper):  # type: ignore[type-arg]
        score = 0.0

        def step(self, action: Any) -> Any:
            step = self.env.step(action)
            self.score += float(step[1])
            if step[3] or (step[2] and _over(self.env)):
                clock.game(self.score)
                self.score = 0.0
            return step

    return Counted(env)


def _over(env: Any) -> bool:
    """Whether a terminated environment's game has ended, rather than a life."""
    ale = getattr(env.unwrapped, "ale", None)
    return ale is None or bool(ale.game_over())


def epsilon(plan: Plan, step: int) -> float:
    """Linear from 1 after the warm-up, or constant."""
    if not plan.decay:
        return EPSILON
    return 1.0 - (1.0 - EPSILON) * min(1.0, max(0, step - plan.warmup) / plan.decay)


def torso(plan: Plan, channels: int) -> Any:
    """Convolutions from pixels scaled to [0, 1], flattened, and their size."""
    import torch
    from torch import nn

    kinds = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if plan.task == "pong" else [(16, 3, 1)]
    layers: list[nn.Module] = []
    given = channels
    for filters, kernel, stride in kinds:
        layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels = filters
    made = nn.Sequential(*layers, nn.Flatten())
    side = 84 if plan.task == "pong" else 10
    with torch.no_grad():
        size = made(torch.zeros(1, given, side, side)).shape[1]
    return made, int(size)
