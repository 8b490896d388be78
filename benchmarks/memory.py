"""Bytes per stored step, of the process and of a learner, as the system counts them.

``python benchmarks/memory.py`` writes benchmarks/results/memory.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "memory", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
