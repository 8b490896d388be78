"""How late actions come in real time: ``python benchmarks/real_time.py``.

Recurrent IQN's laptop preset plays Pong at 15 steps a second (the emulator's own pace, an action every 4 frames) with
actors in processes of their own, while the learner has nothing to do, and while it learns without a pause: it is
allowed more updates than the machine can make. One row per number of actors and learner goes to
``benchmarks/results/real_time.csv``: ``p99_ms`` and ``p99_ms_highest`` are the median and the highest of the 99th
percentiles of the time from an observation to its action, one percentile per row of the run's metrics (``SECONDS`` of
play); ``late`` are actions that came more than a period of 66.7 ms after their observation, of all ``steps``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import retorq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "real_time.csv"
KEY = ("actors", "learner", "threads")
HZ = 15
SECONDS = 10
WARMUP = 10 * HZ  # steps of each actor; they are in no row that counts
LEARNERS = {"idle": 0.001, "flat out": 10_000.0}  # rows trained per step
NUMBERS = (1, 2, 4, 8)


def measure(actors: int, learner: str, threads: int, seconds: int) -> dict[str, Any]:
    """One row."""
    made, period = made_by(), HZ * SECONDS * actors
    with tempfile.TemporaryDirectory() as folder:
        run = retorq.train(
            "ALE/Pong-v5",
            preset="laptop",
            pool="process",
            actors=actors,
            num_envs=actors,
            hz=float(HZ),
            replay_ratio=LEARNERS[learner],
            warmup=WARMUP * actors,
            steps=(WARMUP + HZ * seconds) * actors,
            log_every=period,
            threads=threads,
            run=Path(folder) / "run",
            say=lambda _: None,
        )
        told = [row for row in run.metrics if row["step"] > WARMUP * actors + period]
    tails = [row["action_ms_p99"] for row in told]
    return {
        "actors": actors,
        "learner": learner,
        "threads": threads,
        "hz": HZ,
        "steps": told[-1]["step"] - told[0]["step"],
        "late": int(told[-1]["late_steps"] - told[0]["late_steps"]),
        "p99_ms": round(statistics.median(tails), 2),
        "p99_ms_highest": round(max(tails), 2),
        "rows": len(tails),
        "updates_per_second": round(statistics.median(row["updates_per_second"] for row in told), 2),
        "steps_per_second": round(statistics.median(row["steps_per_second"] for row in told), 2),
        **made,
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", nargs="+", type=int, default=list(NUMBERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of the learner")
    parser.add_argument("--seconds", type=int, default=90, help="of play, after the warm-up")
    parser.add_argument("--again", action="store_true", help="measure rows that are there anew")
    asked = parser.parse_args()
    there = set() if asked.again else {tuple(row[name] for name in KEY) for row in read(OUT)}
    for actors in asked.actors:
        for threads in asked.threads:
            for learner in LEARNERS:
                if (str(actors), learner, str(threads)) not in there:
                    row = measure(actors, learner, threads, asked.seconds)
                    put(OUT, [row], KEY, {"learner": LEARNERS})
                    print(row, flush=True)


if __name__ == "__main__":
    main()
