"""Agents whose actors are in other processes reach what they reach in one: their toys, by pool.

``python benchmarks/distributed.py [--pools local process ray] [--seeds 3]`` trains, evaluates the final weights
greedily over 100 games, and writes one row per run to ``benchmarks/results/distributed.csv``. Rows that are there are
not made again. The learner has one thread, every actor a process of one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.outcomes import outcome
from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "distributed.csv"
TASKS = {
    "apex_dqn": ("catch", 15_000),
    "r2d2": ("memory", 20_000),
    "recurrent_iqn": ("memory", 20_000),
    "gorila": ("catch", 10_000),
}
POOLS = ("local", "process", "ray")
ACTORS = 2  # of gorila: bundles, also with the local pool, where they take turns
KEY = ("agent", "pool", "seed")


def run(agent: str, pool: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one agent with one pool and one seed."""
    env, steps = TASKS[agent]
    where: dict[str, Any] = {} if pool == "local" else {"pool": pool, "actors": ACTORS}
    made = made_by()
    got = outcome(env, agent, seed=seed, steps=steps, preset="toy", threads=1, **where)
    return {
        "agent": agent,
        "pool": pool,
        "seed": seed,
        "env": env,
        "actors": 1 if pool == "local" else ACTORS,
        "steps": got.last["step"],
        "updates": got.last["updates"],
        "replay_ratio": got.last["replay_ratio"],
        "seconds": round(got.seconds, 1),
        "mean": round(got.record["mean"], 3),
        "passed": got.record["mean"] >= 0.9,
        **made,
    }


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
