"""Updates per second of the learner, in float32 and bfloat16, beside a plain implementation and the matrix rate.

``python benchmarks/learner.py`` writes benchmarks/results/learner.csv. How to read it: docs/benchmarks.md.
"""

import sys
from pathlib import Path

from retorq.cli import main

if __name__ == "__main__":
    main(["bench", "learner", "--out", str(Path(__file__).parent / "results"), *sys.argv[1:]])
