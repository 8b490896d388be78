"""Agent steps per second of whole training at a replay ratio of 4: acting, replay and learning together.

``python benchmarks/end_to_end.py`` writes benchmarks/results/end-to-end.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "end-to-end", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
