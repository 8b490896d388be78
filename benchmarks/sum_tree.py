"""Time to draw a prioritized batch and write its new priorities back, by size of the replay.

``python benchmarks/sum_tree.py`` prints csv rows; with ``--out benchmarks/results/sum_tree.csv`` it writes them. Times
are medians in milliseconds, on one thread: ``sample`` draws the batch with its probabilities and weights, ``update``
writes its priorities, ``both`` is one after the other.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from retorq.replay.samplers import Prioritized

CAPACITIES = (10_000, 100_000, 1_000_000, 4_000_000)
BATCHES = (32, 256)


def milliseconds(act: Callable[[], object]) -> float:
    start = perf_counter()
    act()
    return 1e3 * (perf_counter() - start)


def measure(capacity: int, batch: int, repeats: int) -> dict[str, object]:
    generator = np.random.default_rng(0)
    sampler = Prioritized(capacity)
    sampler.add(np.arange(capacity))
    sampler.update(np.arange(capacity), generator.exponential(size=capacity))
    drawn = np.empty(0, np.int64)

    def sample() -> None:
        nonlocal drawn
        drawn, probabilities = sampler.sample(batch, generator)
        sampler.weights(probabilities, 0.5)

    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        priorities = generator.exponential(size=batch)
        # One after the other, as a learner does it: an update finds the leaves its sample has just read.
        times.append((milliseconds(sample), milliseconds(lambda p=priorities: sampler.update(drawn, p))))  # type: ignore[misc]
    return {
        "capacity": capacity,
        "batch": batch,
        "sample_ms": round(statistics.median(s for s, _ in times), 4),
        "update_ms": round(statistics.median(u for _, u in times), 4),
        "both_ms": round(statistics.median(s + u for s, u in times), 4),
        "repeats": repeats,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": processor(),
    }


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="csv file to write; default: print")
    options = parser.parse_args()
    rows = [measure(capacity, batch, options.repeats) for capacity in CAPACITIES for batch in BATCHES]
    stream = options.out.open("w", newline="") if options.out else sys.stdout
    writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if options.out:
        stream.close()


if __name__ == "__main__":
    main()
