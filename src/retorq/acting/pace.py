"""Real time: environments that are stepped by the clock, and how late actions come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from retorq.types import Step, Tree, VectorEnv

AHEAD_SECONDS = 10.0
"""How long actors that play by the clock go on while the learner takes nothing."""


def ahead(least: int, hz: float, rows: int) -> int:
    """Messages an actor may have under way: ``least``, or where it plays by the clock those of some seconds."""
    return max(least, 1 + round(AHEAD_SECONDS * hz / rows)) if hz else least


class Paced:
    """A vector environment that is stepped ``hz`` times a second; a ``VectorEnv`` around another.

    An action is late that comes more than a period after the observation it answers: in a game that goes on by itself
    the next picture is there by then. It is done at once, and the beat goes on from there.

    Args:
        env: What is played.
        hz: Steps per second of each column.
        clock: Seconds.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        env: VectorEnv,
        hz: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.env, self.spec, self.columns = env, env.spec, env.columns
        self.period = 1 / hz
        self._clock, self._sleep = clock, sleep
        self._seen = self._due = 0.0
        self._latencies: list[float] = []

    def reset(self, seed: int | None = None) -> Tree:
        """Start new games, and the beat."""
        observation = self.env.reset(seed)
        self._seen = self._clock()
        self._due = self._seen + self.period
        return observation

    def step(self, action: np.ndarray) -> Step:
        """Do one action ``[B]`` in every column, on the beat."""
        now = self._clock()
        self._latencies.append(now - self._seen)
        self._sleep(max(0.0, self._due - now))
        step = self.env.step(action)
        self._seen = self._clock()
        self._due = max(self._due, now) + self.period
        return step

    def drain(self) -> list[float]:
        """Seconds from each observation to its action, since the last call."""
        told, self._latencies = self._latencies, []
        return told

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """That of the environments."""
        return self.env.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave."""
        self.env.load_state_dict(state)


class Punctuality:
    """How late the actions of all actors come.

    Args:
        hz: Steps per second asked for; 0: none, and nothing is told.
    """

    def __init__(self, hz: float) -> None:
        self.hz = hz
        self.late = 0
        """Actions that came too late, since the run began."""
        self._latencies: deque[float] = deque(maxlen=100_000)

    def add(self, latencies: list[float]) -> None:
        """Count the actions of one message."""
        self.late += sum(latency > 1 / self.hz for latency in latencies)
        self._latencies.extend(latencies)

    def told(self) -> dict[str, float]:
        """``late_steps`` since the run began, and the 99th percentile of the latency since the last call."""
        if not self.hz:
            return {}
        told = {"late_steps": float(self.late)}
        if self._latencies:
            told["action_ms_p99"] = round(1000 * float(np.quantile(np.fromiter(self._latencies, float), 0.99)), 3)
        self._latencies.clear()
        return told
