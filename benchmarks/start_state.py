"""Where the memory of a replayed sequence starts: ``retorq study start-state``, with its csv files beside the others.

``python benchmarks/start_state.py [--workers 2]`` does the runs in runs/studies/start-state, goes on where it stopped,
and writes benchmarks/results/start-state-scores.csv, -table.csv and -delta_q.csv. What they say:
docs/studies/start_state.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ablations import study

from retorq.types import UserError

if __name__ == "__main__":
    try:
        sys.exit(study("start-state", sys.argv[1:]))
    except UserError as error:
        sys.exit(f"retorq: {error}")
