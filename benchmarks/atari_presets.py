"""Does every agent's published configuration run on a real game, and how fast?

``python benchmarks/atari_presets.py [AGENT ...] [--steps 100000]`` trains each agent with ``--preset atari`` on
ALE/Breakout-v5 for a short budget, evaluates it, and writes ``benchmarks/results/atari_presets.csv``: a row per agent,
with the settings that differ from the published ones so that it fits this machine (a shorter warm-up and a smaller
replay in every row).
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
from retorq import algorithms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import put

OUT = Path(__file__).parent / "results" / "atari_presets.csv"
FITTING: dict[str, dict[str, Any]] = {
    "drqn": {"replay_ratio": 8.0},  # 320: an update every step, which takes a GPU
    "r2d2": {"num_envs": 32, "replay_size": 200_000},
    "recurrent_iqn": {"replay_ratio": 1.0},
}


def run(
    agent: str, steps: int, *, threads: int = 0, episodes: int = 10, cap: int | None = None, **more: Any
) -> dict[str, Any]:
    """Train ``agent`` with its published configuration for ``steps`` agent steps, and evaluate it.

    ``cap`` in frames ends games of training and evaluation early: an untrained agent may never serve the ball.
    """
    options = retorq.EnvOptions(max_frames=cap) if cap else retorq.EnvOptions()
    fitting = {"replay_size": 100_000, "warmup": steps // 2} | FITTING.get(agent, {}) | more
    folder = Path(tempfile.mkdtemp())
    started = time.monotonic()
    try:
        trained = retorq.train(
            "ALE/Breakout-v5",
            agent,
            preset="atari",
            steps=steps,
            run=folder / "run",
            threads=threads,
            log_every=max(1, steps // 10),
            say=lambda line: None,
            options=options,
            **fitting,
        )
        seconds = time.monotonic() - started
        if trained.code != 0:
            raise SystemExit(f"{agent}: stopped before its budget was used; nothing was written")
        rows = trained.metrics
        record = trained.load().evaluate(protocol="greedy" if cap else None, episodes=episodes)
    finally:
        shutil.rmtree(folder)
    learning = [row for row in rows if row["updates"] > 0 and row["step"] > fitting["warmup"] + steps // 10]
    return {
        "agent": agent,
        "steps": rows[-1]["step"],
        "updates": rows[-1]["updates"],
        "seconds": round(seconds, 1),
        "frames_per_second": round(4 * rows[-1]["step"] / seconds, 1),
        "frames_per_second_learning": round(4 * sum(row["steps_per_second"] for row in learning) / len(learning), 1)
        if learning
        else "",
        "loss": rows[-1]["loss"],
        "score_mean": record["mean"],
        "episodes": record["episodes"],
        "memory_mb": rows[-1]["memory_mb"],
        "changed": "; ".join(f"{name} {value}" for name, value in fitting.items()),
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", choices=[[], *algorithms.DISCRETE], help="default: all")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    for agent in asked.agents or algorithms.DISCRETE:
        row = run(agent, asked.steps, threads=asked.threads)
        put(OUT, [row], key=["agent"], order={"agent": algorithms.DISCRETE})
        print(row, flush=True)


if __name__ == "__main__":
    main()
