"""Up to how many rows is a noisy layer faster with two products than with summed weights? See ``nn.noisy.FEW``.

``python benchmarks/noisy.py`` asks noisy layers for their outputs without gradient, both ways in turns, with one thread
and with all cores, and writes benchmarks/results/noisy.csv: milliseconds per call (medians), and how many times as fast
two products are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.rows import made_by, write

from retorq.nn import noisy
from retorq.ops.heap import keep_freed_memory
from retorq.running.plan import cores

OUT = Path(__file__).parent / "results" / "noisy.csv"
LAYERS = (  # inputs, outputs, blocks
    (3136, 1024, 2),  # Rainbow on Atari: both streams' hidden layers
    (512, 51 * 18, 1),  # its advantages
    (1024, 1024, 2),  # as large as LARGE
    (128, 256, 2),  # a toy's
)
ROWS = (1, 2, 4, 8, 16, 32)


def measured(layer: noisy.NoisyLinear, rows: int, turns: int) -> dict[str, float]:
    """Milliseconds by either way; two products are used up to ``FEW`` rows of layers from ``LARGE`` weights on."""
    x = torch.rand(1, rows, layer.in_features)
    times: dict[int, list[float]] = {0: [], rows: []}
    noisy.LARGE = 0
    with torch.inference_mode():
        for _ in range(turns):
            for noisy.FEW, kept in times.items():
                begun = time.perf_counter()
                layer(x)
                kept.append((time.perf_counter() - begun) * 1e3)
    one, two = (statistics.median(kept) for kept in times.values())
    return {"ms_summed": round(one, 3), "ms_two_products": round(two, 3), "times_as_fast": round(one / two, 2)}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    asked, by = parser.parse_args(), made_by()
    found: list[dict[str, Any]] = []
    keep_freed_memory()
    for threads in (1, cores()):
        torch.set_num_threads(threads)
        for inputs, outputs, blocks in LAYERS:
            layer = noisy.NoisyLinear(inputs, outputs, 0.5, blocks=blocks)
            for rows in ROWS:
                sizes = {"threads": threads, "inputs": inputs, "outputs": outputs, "blocks": blocks, "rows": rows}
                found.append(sizes | measured(layer, rows, asked.turns) | by)
                print(found[-1], flush=True)
    write(OUT, found)


if __name__ == "__main__":
    main()
