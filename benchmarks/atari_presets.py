"""Does every agent's published configuration run on a real game, and how fast?

``python benchmarks/atari_presets.py [AGENT ...] [--steps 100000]`` trains each agent with ``--preset atari`` on
ALE/Breakout-v5 for a short budget, evaluates it by the protocol ``nature_2015`` (ten games of at most five minutes, as
an agent that has hardly learned may never serve the ball), and writes ``benchmarks/results/atari_presets.csv``: a row
per agent, with the settings that differ from the published ones so that it fits this machine (in every row a replay
that is full after 60% of the steps, and learning that begins after 90%, with large batches 50%). Each is trained in a
process of its own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import retorq
from retorq import algorithms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "atari_presets.csv"
FITTING: dict[str, dict[str, Any]] = {
    "drqn": {"replay_ratio": 8.0},  # 320: an update every step, which takes a GPU
    "r2d2": {"num_envs": 32},
    "recurrent_iqn": {"replay_ratio": 1.0},
}
LARGE_BATCHES = "recurrent_iqn", "r2d2", "apex_dqn"
"""Their updates are few: they learn after half of the steps."""
# What Vieillard et al. 2020 have other than the agents that take their targets (docs/algorithms/dqn.md, iqn.md).
MUNCHAUSEN: dict[str, Any] = {"munchausen": True, "target_period": 2_000, "epsilon_steps": 250_000}
THEIRS: dict[str, Any] = {"sticky": 0.25, "noop_max": 0, "life_loss": False}
M_DQN = {"optimizer": "adam", "learning_rate": 5e-5, "optimizer_epsilon": 3.125e-4, "epsilon_final": 0.01}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # row: agent, settings, environment options
    **{agent: (agent, {}, {}) for agent in algorithms.DISCRETE},
    "m-dqn": ("dqn", MUNCHAUSEN | M_DQN, THEIRS),
    "m-iqn": ("iqn", MUNCHAUSEN, THEIRS),
}


def run(
    name: str, steps: int, *, threads: int = 0, episodes: int = 10, cap: int | None = None, **more: Any
) -> dict[str, Any]:
    """Train the agent of a row with its published configuration for ``steps`` agent steps, and evaluate it.

    ``cap`` in frames ends games of training and evaluation early, and the evaluation is greedy.
    """
    agent, settings, chosen = PUBLISHED[name]
    options = retorq.EnvOptions(**chosen | ({"max_frames": cap} if cap else {}))
    warmup = steps // 2 if agent in LARGE_BATCHES else steps * 9 // 10
    fitting = {"replay_size": steps * 6 // 10, "warmup": warmup} | FITTING.get(agent, {}) | more
    folder, by = Path(tempfile.mkdtemp()), made_by()
    started = time.monotonic()
    try:
        trained = retorq.train(
            "ALE/Breakout-v5",
            agent,
            preset="atari",
            steps=steps,
            run=folder / "run",
            threads=threads,
            log_every=max(1, steps // 100),
            say=lambda line: None,
            options=options,
            **settings | fitting,
        )
        seconds = time.monotonic() - started
        if trained.code != 0:
            raise SystemExit(f"{name}: stopped before its budget was used; nothing was written")
        rows = trained.metrics
        record = trained.load().evaluate(protocol="greedy" if cap else "nature_2015", episodes=episodes)
    finally:
        shutil.rmtree(folder)
    learning = [row for row in rows if row["updates"] > 0 and row["step"] > fitting["warmup"] + steps // 50]
    return {
        "agent": name,
        "steps": rows[-1]["step"],
        "updates": rows[-1]["updates"],
        "seconds": round(seconds, 1),
        "frames_per_second": round(4 * rows[-1]["step"] / seconds, 1),
        "frames_per_second_learning": round(pace(learning), 1) if len(learning) > 1 else "",
        "loss": next((row["loss"] for row in reversed(rows) if row["loss"] is not None), ""),
        "score_mean": record["mean"],
        "episodes": record["episodes"],
        "memory_mb": rows[-1]["memory_mb"],
        "changed": "; ".join(f"{field} {value}" for field, value in fitting.items()),
        **by,
    }


def pace(rows: list[dict[str, Any]]) -> float:
    """Frames per second between the first and the last row of ``metrics.jsonl``."""
    first, *_, last = rows
    return float(4 * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"]))


def table() -> str:
    """The csv as a table for docs/results.md."""
    lines = [
        "| row | updates | frames/s | learning | MB | score | other than published, beside the sizes above |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in read(OUT):
        changed = [text for text in row["changed"].split("; ") if not text.startswith(("replay_size", "warmup"))]
        cells = [row["agent"], f"{int(row['updates']):,}"]
        cells += [f"{float(row[name]):,.0f}" for name in ("frames_per_second", "frames_per_second_learning")]
        cells += [f"{float(row['memory_mb']):,.0f}", f"{float(row['score_mean']):.1f}", "; ".join(changed)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", choices=[[], *PUBLISHED], help="default: all")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the table of docs/results.md, and train nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table(), end="")
        return
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as apart:
        for agent in asked.agents or PUBLISHED:
            row = apart.submit(run, agent, asked.steps, threads=asked.threads).result()
            put(OUT, [row], key=["agent"], order={"agent": PUBLISHED})
            print(row, flush=True)


if __name__ == "__main__":
    main()
