"""Rainbow without each of its parts, run by run into csv files: the study ``rainbow-ablations``.

``python benchmarks/ablations.py [--workers 2]`` writes benchmarks/results/rainbow-ablations-scores.csv and -table.csv
and goes on where these stop. What they say: docs/studies/rainbow_ablations.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.studies import run

if __name__ == "__main__":
    sys.exit(run("rainbow-ablations", sys.argv[1:]))
