"""Time to draw a batch from a replay of 10,000 to 1,000,000 steps, and of a prioritized draw with its update.

``python benchmarks/replay.py`` writes benchmarks/results/replay.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "replay", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
