"""Agent steps per second of training: acting, replay and learning together, without files and evaluation."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import torch

from retorq import algorithms
from retorq.bench.machine import Setup, spread, wait
from retorq.bench.table import Row, rounded
from retorq.envs.make import make
from retorq.running.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preset with another precision and replay ratio (None: the preset's own)."""

    preset: str
    precision: str
    ratio: float | None = 4.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which environment and cases; agent steps of a timed turn; the replay held and filled for it."""

    env: str = "ALE/Pong-v5"
    cases: tuple[Case, ...] = (
        Case(preset="atari", precision="fp32"),
        Case(preset="atari", precision="bf16"),
        Case(preset="laptop", precision="bf16"),
        Case(preset="laptop", precision="bf16", ratio=None),
    )
    turn: int = 640
    warmup: int = 3_200
    capacity: int = 50_000
    repeats: int = 9


FULL = Sizes()
QUICK = Sizes(
    env="catch",
    cases=(Case(preset="toy", precision="fp32"),),
    turn=80,
    warmup=400,
    capacity=2_000,
    repeats=2,
)


def trainer(case: Case, sizes: Sizes, device: str) -> Trainer:
    """Training set up as ``retorq train`` does it, with a short warm-up, which is done before this returns."""
    module = algorithms.load("recurrent_iqn")
    config = module.PRESETS[case.preset]()
    config = replace(
        config,
        precision=case.precision,
        replay_ratio=config.replay_ratio if case.ratio is None else case.ratio,
        warmup=sizes.warmup,
        replay_size=sizes.capacity,
    )
    env = make(sizes.env, columns=config.num_envs, seed=0)
    torch.manual_seed(0)
    made = Trainer(module.make(config, env.spec), env, total=50_000_000, device=device)
    while not made.warm:
        made.step()
    return made


def turn(training: Trainer, steps: int) -> tuple[int, int]:
    """Train for about ``steps``, from just after an update to just after one; agent steps and updates done.

    Updates come at a fixed number of steps, so a turn of whole cycles measures their proportion rightly.
    """
    first_step, first_update = training.steps, training.learner.updates
    while training.steps - first_step < steps:
        training.step()
    done = training.learner.updates
    while training.learner.updates == done:
        training.step()
    training.means()
    training.pool.drain()
    return training.steps - first_step, training.learner.updates - first_update


def measure(setup: Setup, sizes: Sizes | None = None) -> list[Row]:
    """One row per case; medians of interleaved turns."""
    sizes = sizes or (QUICK if setup.quick else FULL)
    trainings = [trainer(case, sizes, setup.device) for case in sizes.cases]
    rates: list[list[float]] = [[] for _ in trainings]
    updates: list[list[float]] = [[] for _ in trainings]
    try:
        for training in trainings:
            turn(training, 1)
        for repeat in range(sizes.repeats):
            for k in range(len(trainings)):
                which = (k + repeat) % len(trainings)
                wait(setup.device)
                start = time.perf_counter()
                steps, learned = turn(trainings[which], sizes.turn)
                wait(setup.device)
                seconds = time.perf_counter() - start
                rates[which].append(steps / seconds)
                updates[which].append(learned / seconds)
    finally:
        for training in trainings:
            training.pool.close()
    return [
        _row(case, training, sizes, rate, update)
        for case, training, rate, update in zip(sizes.cases, trainings, rates, updates, strict=True)
    ]


def _row(case: Case, training: Trainer, sizes: Sizes, rates: list[float], updates: list[float]) -> Row:
    agent = training.agent
    return {
        "environment": sizes.env,
        "preset": case.preset,
        "precision": case.precision,
        "replay_ratio": agent.samples_per_step,
        "environments": agent.columns,
        "batch": f"{agent.batch_size}x{agent.window.length}",
        "samples": agent.config.samples,
        **spread(rates, "steps_per_second"),
        "frames_per_second": rounded(statistics.median(rates) * agent.spec.frames_per_step),
        "updates_per_second": rounded(statistics.median(updates)),
        "repeats": sizes.repeats,
    }
