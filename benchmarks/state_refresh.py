"""Stored states computed anew while training, run by run into csv files: the study ``state-refresh``.

``python benchmarks/state_refresh.py [--workers 2]`` writes benchmarks/results/state-refresh-scores.csv, -delta_q.csv
and -table.csv and goes on where these stop. What they say: docs/studies/state_refresh.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.studies import run

if __name__ == "__main__":
    sys.exit(run("state-refresh", sys.argv[1:]))
