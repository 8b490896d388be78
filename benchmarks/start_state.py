"""Where the memory of a replayed sequence starts, run by run into csv files: the study ``start-state``.

``python benchmarks/start_state.py [--workers 2]`` writes benchmarks/results/start-state-scores.csv, -delta_q.csv and
-table.csv and goes on where these stop. What they say: docs/studies/start_state.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.studies import run

if __name__ == "__main__":
    sys.exit(run("start-state", sys.argv[1:]))
