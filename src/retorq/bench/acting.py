"""Environment steps per second: the environments alone, and with a network that chooses the actions."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from retorq import algorithms
from retorq.acting.actor import Actor
from retorq.acting.pools import LocalPool
from retorq.bench.machine import Setup, interleaved, spread
from retorq.bench.table import Row, rounded
from retorq.envs.make import make
from retorq.types import EnvSpec, VectorEnv


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which environment, how many side by side, whose networks, and vector steps per timed turn."""

    env: str = "ALE/Pong-v5"
    columns: int = 32
    presets: tuple[str, ...] = ("atari", "laptop")
    turn: int = 100
    repeats: int = 11


FULL = Sizes()
QUICK = Sizes(env="catch", columns=4, presets=("toy",), turn=5, repeats=3)


class Alone:
    """Environments stepped with random actions; counts agent steps (the reset after a game is none)."""

    def __init__(self, env: VectorEnv, seed: int = 0) -> None:
        self.env, self.steps = env, 0
        self.generator = np.random.default_rng(seed)
        env.reset(seed)
        self._over = np.zeros(env.columns, bool)

    def run(self, turns: int) -> None:
        """Step all columns ``turns`` times."""
        for _ in range(turns):
            step = self.env.step(self.generator.integers(self.env.spec.actions, size=self.env.columns))
            self.steps += int(np.count_nonzero(~self._over))
            self._over = step.ended if step.final is None else np.zeros(self.env.columns, bool)


def playing(env: VectorEnv, spec: EnvSpec, preset: str, device: str) -> tuple[Actor, str, int]:
    """An untrained agent's actor, as training sets it up; its precision and number of samples."""
    module = algorithms.load("recurrent_iqn")
    torch.manual_seed(0)
    config = module.PRESETS[preset]()
    agent = module.make(config, spec)
    network = agent.network.to(device)
    explore = _Never(env.columns)
    actor = Actor(
        env, network, explore, total=1, samples=agent.action_samples, precision=agent.precision, device=device
    )
    LocalPool(actor).publish(network, 0)
    return actor, agent.precision, agent.action_samples or config.samples


class _Never:
    """No exploration: the count of environments need not be the preset's."""

    sentence = "epsilon 0"

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def epsilon(self, step: int, total: int) -> np.ndarray:
        return np.zeros(self.columns)


def measure(setup: Setup, sizes: Sizes | None = None) -> list[Row]:
    """One row per way to act; medians of interleaved turns. A step is one agent action of one environment."""
    sizes = sizes or (QUICK if setup.quick else FULL)
    environments = [make(sizes.env, columns=sizes.columns, seed=0) for _ in range(1 + len(sizes.presets))]
    try:
        return _measure(setup, sizes, environments)
    finally:
        for env in environments:
            env.close()


def _measure(setup: Setup, sizes: Sizes, environments: list[VectorEnv]) -> list[Row]:
    alone = Alone(environments[0])
    about: dict[str, Row] = {"none": {"network": "none", "precision": None, "samples": None}}
    counters: dict[str, Alone | Actor] = {"none": alone}
    advance: dict[str, Callable[[], object]] = {"none": lambda: alone.run(sizes.turn)}
    for env, preset in zip(environments[1:], sizes.presets, strict=True):
        actor, precision, samples = playing(env, env.spec, preset, setup.device)
        about[preset] = {"network": preset, "precision": precision, "samples": samples}
        counters[preset] = actor
        # The rows are dropped at once; the list of finished games must not grow either.
        advance[preset] = lambda actor=actor: (actor.collect(sizes.turn), actor.drain())  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in advance}
    for turn in range(1 + sizes.repeats):
        before = {name: counter.steps for name, counter in counters.items()}
        seconds = interleaved(advance, repeats=1, warmup=0, device=setup.device)
        if turn:
            for name, counter in counters.items():
                rates[name].append((counter.steps - before[name]) / seconds[name][0])
    fastest = statistics.median(rates["none"])
    return [
        {
            "environment": sizes.env,
            "environments": sizes.columns,
            **about[name],
            **spread(rates[name], "steps_per_second"),
            "frames_per_second": rounded(statistics.median(rates[name]) * environments[0].spec.frames_per_step),
            "share_of_environments_alone": rounded(statistics.median(rates[name]) / fastest, 3),
            "repeats": sizes.repeats,
        }
        for name in rates
    ]
