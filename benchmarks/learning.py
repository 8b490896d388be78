"""Small learning tasks, several seeds each: does the agent learn what it should, and fail what it must?

``python benchmarks/learning.py [TASK ...] [--seeds S ...]`` trains every task on every seed, evaluates the final
weights greedily over 100 whole games, and writes ``benchmarks/results/learning.csv`` (one row per run; rows of the same
task and seed are replaced). ``aim`` is what a run must reach, or, with ``<=``, must not exceed.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import retorq
from retorq.envs.make import make

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.family import LONG
from benchmarks.outcomes import outcome
from benchmarks.rows import made_by, put

OUT = Path(__file__).parent / "results" / "learning.csv"


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment, what differs from its preset, a budget in agent steps and the score to reach.

    No steps: uniformly random play, to compare with.
    """

    env: str
    steps: int
    aim: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int = 5


NO_MEMORY = {"memory": "none", "sequence_length": 1, "batch_size": 80}
# A point a step for 500 steps: rewards must travel far (n, gamma), rescaled values keep the errors of such returns
# small, and the ladder of epsilons stays as wide as R2D2's, so that falls are seen to the end. Time is no help here.
BALANCE = {
    "elapsed_time": False,
    "n_step": 10,
    "gamma": 0.997,
    "rescale_epsilon": 1e-3,
    "sequence_length": 10,
    "batch_size": 32,
    "replay_ratio": 64.0,
    "state_period": 10,
    "target_period": 200,
    "epsilon_final": 0.4,
    "replay_size": 200_000,
}
# Why DRQN misses masked CartPole in the table of the family: the same settings, and one thing of R2D2's each.
DRQN = {"agent": "drqn", "anneal_learning_rate": True, **LONG}
ONE_MORE = {
    "drawn alike": {"sequences": "within"},  # every row as likely, instead of every game
    "stored states": {"sequences": "within", "start_state": "stored"},
    "whole games": {"start_state": "whole"},
    "double": {"double": True},
    "dueling": {"dueling": True},
}
SCREEN = {"resize": 84, "drop": "gamevariables", "kwargs": '{"frame_skip": 4}'}
TASKS = {
    "chain": Task(env="chain", steps=6_000, aim=">= 0.59"),
    "catch": Task(env="catch", steps=25_000, aim=">= 0.95", seeds=8),
    "memory": Task(env="memory", steps=25_000, aim=">= 0.95", seeds=8),
    # The quantile layer before the LSTM, in its three ways; after it is the row above.
    **{
        f"memory, quantiles before, {merge}": Task(
            env="memory", steps=15_000, aim=">= 0.95", settings={"quantile_layer": merge}, seeds=2
        )
        for merge in ("outer", "inner", "separate")
    },
    "memory without its LSTM": Task(env="memory", steps=15_000, aim="<= 0.3", settings=NO_MEMORY),
    "masked_cartpole": Task(env="masked_cartpole", steps=100_000, aim=">= 450", settings=BALANCE),
    "masked_cartpole without its LSTM": Task(
        env="masked_cartpole",
        steps=100_000,
        aim="<= 150",  # the last action tells it something of the velocities
        settings={**BALANCE, **NO_MEMORY, "batch_size": 320},
        seeds=3,
    ),
    **{
        f"masked_cartpole, drqn, {name}": Task(
            env="masked_cartpole", steps=100_000, aim=">= 250", settings=DRQN | more, seeds=3
        )
        for name, more in ONE_MORE.items()
    },
    # Why Recurrent IQN misses it there on one seed of three: the preset's ladder comes down to 0.01.
    "masked_cartpole, wide ladder": Task(
        env="masked_cartpole", steps=100_000, aim=">= 250", settings=LONG | {"epsilon_final": 0.4}, seeds=3
    ),
    # Why Adam's epsilon goes with the number of samples in the table of the family: there it reaches the aim of 1.
    "minatar_asterix, iqn, epsilon of 64 samples": Task(
        env="MinAtar/Asterix-v0",
        steps=200_000,
        aim="<= 2",
        settings={"agent": "iqn", "preset": "minatar", "samples": 8, "target_samples": 8, "epsilon_steps": 100_000},
        seeds=1,
    ),
    "vizdoom_basic": Task(
        env="VizdoomBasic-v1",
        steps=40_000,
        aim=">= 0",
        settings={
            "preset": "laptop",
            "batch_size": 8,
            "replay_ratio": 32.0,  # an update every 2.5 steps: a short run must learn much from each
            "replay_size": 60_000,
            "epsilon_steps": 15_000,
            "clip_rewards": "none",  # -4 a step, -5 a shot, 101 for the monster
            "rescale_epsilon": 1e-3,
        },
        options=SCREEN,
        seeds=2,
    ),
    "vizdoom_basic at random": Task(env="VizdoomBasic-v1", steps=0, aim="<= 0", options=SCREEN, seeds=1),
}


def run(name: str, seed: int, threads: int) -> dict[str, Any]:
    """Train and evaluate one task with one seed."""
    task, by = TASKS[name], made_by()
    started = time.monotonic()
    options = retorq.EnvOptions(**task.options)
    if task.steps == 0:
        scores = random_scores(task.env, options, seed)
        return row(name, seed, 0, time.monotonic() - started, threads, scores) | by
    got = outcome(task.env, seed=seed, steps=task.steps, options=options, threads=threads, **task.settings)
    return row(name, seed, got.last["updates"], got.seconds, threads, got.record["scores"]) | by


def random_scores(env: str, options: retorq.EnvOptions, seed: int) -> list[float]:
    """Scores of the first 100 games of uniformly random play, one game after the other."""
    game, generator = make(env, columns=1, seed=seed, options=options), np.random.default_rng(seed)
    game.reset(seed)
    scores, score = [], 0.0
    while len(scores) < 100:
        step = game.step(generator.integers(game.spec.actions, size=1))
        score += float(step.reward[0])
        if step.ended[0]:
            scores.append(score)
            score = 0.0
    game.close()
    return scores


def row(name: str, seed: int, updates: int, seconds: float, threads: int, scores: list[float]) -> dict[str, Any]:
    """One row of the csv."""
    task, mean = TASKS[name], sum(scores) / len(scores)
    comparison, aim = task.aim.split()
    return {
        "task": name,
        "seed": seed,
        "steps": task.steps,
        "updates": updates,
        "seconds": round(seconds, 1),
        "threads": threads,
        "mean": round(mean, 3),
        "lowest": min(scores),
        "aim": task.aim,
        "passed": mean >= float(aim) if comparison == ">=" else mean <= float(aim),
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 to 4, fewer for some tasks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.workers, max_tasks_per_child=1) as pool:
        waiting = [
            pool.submit(run, name, seed, asked.threads)
            for name in asked.tasks or TASKS
            for seed in asked.seeds or range(TASKS[name].seeds)
        ]
        for done in as_completed(waiting):
            made = done.result()
            put(OUT, [made], key=("task", "seed"), order={"task": TASKS})
            print(made, flush=True)


if __name__ == "__main__":
    main()
