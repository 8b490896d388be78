"""Agents whose actors are in other processes reach what they reach in one: their toys, by pool.

``python benchmarks/distributed.py [--pools local process ray] [--seeds 3]`` trains, evaluates the final weights
greedily over 100 games, and writes one row per run to ``benchmarks/results/distributed.csv``. Rows that are there are
not made again. The learner has one thread, every actor a process of one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import retorq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "distributed.csv"
TASKS = {
    "apex_dqn": ("catch", 15_000),
    "r2d2": ("memory", 20_000),
    "recurrent_iqn": ("memory", 20_000),
    "gorila": ("catch", 20_000),
}
POOLS = ("local", "process", "ray")
ACTORS = 2  # of gorila: bundles, also with the local pool, where they take turns
KEY = ("agent", "pool", "seed")


def run(agent: str, pool: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one agent with one pool and one seed."""
    env, steps = TASKS[agent]
    folder = Path(tempfile.mkdtemp())
    where: dict[str, Any] = {} if pool == "local" else {"pool": pool, "actors": ACTORS}
    made, started = made_by(), time.monotonic()
    trained = retorq.train(
        env, agent, steps=steps, seed=seed, run=folder / "run", preset="toy", threads=1, say=_silent, **where
    )
    seconds = time.monotonic() - started
    if trained.code != 0:
        raise SystemExit(f"{agent} on {pool}, seed {seed}: stopped before its budget was used; nothing was written")
    record = trained.load().evaluate(protocol="greedy", episodes=100, seed=10_000 + seed)
    last = trained.metrics[-1]
    shutil.rmtree(folder)
    return {
        "agent": agent,
        "pool": pool,
        "seed": seed,
        "env": env,
        "actors": 1 if pool == "local" else ACTORS,
        "steps": last["step"],
        "updates": last["updates"],
        "replay_ratio": last["replay_ratio"],
        "seconds": round(seconds, 1),
        "mean": round(record["mean"], 3),
        "passed": record["mean"] >= 0.9,
        **made,
    }


def _silent(line: str) -> None:
    pass


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0..N-1")
    asked = parser.parse_args()
    there = {tuple(str(row[name]) for name in KEY) for row in read(OUT)}
    for seed in range(asked.seeds):
        for agent in asked.agents:
            for pool in asked.pools:
                if (agent, pool, str(seed)) not in there and (agent, pool) != ("gorila", "process"):
                    row = run(agent, pool, seed)
                    put(OUT, [row], KEY, {"agent": TASKS, "pool": POOLS})
                    print(row, flush=True)


if __name__ == "__main__":
    main()
