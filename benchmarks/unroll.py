"""Milliseconds forward and backward, by stacked frames and by the length of the unroll (DRQN).

``python benchmarks/unroll.py`` writes benchmarks/results/unroll.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "unroll", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
