"""Ape-X DPG learns continuous control: Pendulum and a task of MuJoCo (extra ``mujoco``), several seeds each.

``python benchmarks/continuous.py [--tasks ...] [--seeds N]`` trains with the preset ``toy``, evaluates the final
weights without noise over 100 games, and writes one row per run to ``benchmarks/results/continuous.csv``, beside the
score of uniformly random actions. Rows that are there are not made again. Each run has one thread.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from retorq.envs.check import random_actions
from retorq.envs.make import make

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.outcomes import outcome
from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "continuous.csv"
KEY = ("env", "anneal_learning_rate", "seed")


@dataclass(frozen=True)
class Task:
    """A budget in agent steps, the score to reach, how many seeds must, and whether the learning rates fall to 0."""

    env: str
    steps: int
    aim: float
    seeds: int
    anneal: bool = False


TASKS = {
    "pendulum": Task("Pendulum-v1", steps=30_000, aim=-200.0, seeds=5),
    "inverted": Task("InvertedPendulum-v5", steps=30_000, aim=900.0, seeds=3),
    "inverted-annealed": Task("InvertedPendulum-v5", steps=30_000, aim=900.0, seeds=3, anneal=True),
}
ORDER = {"env": [task.env for task in TASKS.values()], "anneal_learning_rate": ["False", "True"]}


@cache
def random_score(env: str, games: int = 100) -> float:
    """Mean score of uniformly random actions over the first ``games`` games of 20 columns."""
    played, chance = make(env, columns=20, seed=0), np.random.default_rng(0)
    played.reset()
    scores, running = [], np.zeros(20)
    while len(scores) < games:
        step = played.step(random_actions(played.spec, 20, chance))
        running += step.reward
        scores += running[step.ended].tolist()
        running[step.ended] = 0.0
    played.close()
    return float(np.mean(scores[:games]))


def run(task: Task, seed: int) -> dict[str, Any]:
    """Train and evaluate one seed."""
    made, settings = made_by(), {"anneal_learning_rate": task.anneal}
    got = outcome(task.env, "apex_dpg", seed=seed, steps=task.steps, preset="toy", threads=1, **settings)
    return {
        "env": task.env,
        "anneal_learning_rate": str(task.anneal),
        "seed": seed,
        "steps": got.last["step"],
        "updates": got.last["updates"],
        "seconds": round(got.seconds, 1),
        "mean": round(got.record["mean"], 1),
        "lowest": round(min(got.record["scores"]), 1),
        "training_score": round(got.last["score_mean"], 1),
        "saturated": round(got.last["saturated"], 3),
        "random": round(random_score(task.env), 1),
        "aim": task.aim,
        "passed": got.record["mean"] >= task.aim,
        **made,
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, help="seeds 0..N-1 (default: by task)")
    asked = parser.parse_args()
    there = {tuple(str(row[name]) for name in KEY) for row in read(OUT)}
    for task in (TASKS[name] for name in asked.tasks):
        for seed in range(asked.seeds or task.seeds):
            if (task.env, str(task.anneal), str(seed)) not in there:
                row = run(task, seed)
                put(OUT, [row], KEY, ORDER)
                print(row, flush=True)


if __name__ == "__main__":
    main()
