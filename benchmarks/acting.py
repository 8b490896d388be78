"""Environment steps per second of 32 Atari environments, with and without a network that acts.

``python benchmarks/acting.py`` writes benchmarks/results/acting.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "acting", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
