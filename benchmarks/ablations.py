"""Rainbow without each of its parts: ``retorq study rainbow-ablations``, with its csv files put beside the others.

``python benchmarks/ablations.py [--workers 2]`` does the runs in runs/studies/rainbow-ablations, goes on where it
stopped, and writes benchmarks/results/rainbow-ablations-scores.csv and -table.csv. Other words go to the command.
"""

import shutil
import sys
from pathlib import Path

from retorq.study import run
from retorq.types import UserError

ROOT = Path(__file__).resolve().parents[1]


def study(name: str, words: list[str]) -> int:
    """Do a study, and copy its csv files to the results once all of it is done; the exit code."""
    if "--out" in words:
        raise UserError("out is chosen by this script (runs/studies/NAME); use retorq study for another folder.")
    out = ROOT / "runs" / "studies" / name
    code = run([name, "--out", str(out), *words])
    if code == 0 and "--dry-run" not in words:
        for file in sorted(out.glob("*.csv")):
            shutil.copy(file, ROOT / "benchmarks" / "results" / f"{name}-{file.name}")
    return code


if __name__ == "__main__":
    try:
        sys.exit(study("rainbow-ablations", sys.argv[1:]))
    except UserError as error:
        sys.exit(f"retorq: {error}")
