"""Milliseconds forward and backward, by stacked frames and by the length of the unroll (DRQN).

``python benchmarks/unroll.py`` writes benchmarks/results/unroll.csv; ``--table`` measures nothing and prints the table
of docs/benchmarks.md from it.
"""

import sys
from pathlib import Path

from retorq.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import read

OUT = Path(__file__).parent / "results" / "unroll.csv"


def table() -> str:
    """Rows of the csv as frames by unroll: medians forward / backward."""
    cells = {(row["frames"], row["core"], row["unroll"]): row for row in read(OUT)}
    frames = sorted({int(frames) for frames, *_ in cells})
    unrolls = [("none", "1"), *(("lstm", str(n)) for n in sorted({int(n) for _, core, n in cells if core == "lstm"}))]
    names = ["no recurrence" if core == "none" else f"unroll {n}" for core, n in unrolls]
    lines = ["| frames | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for count in frames:
        found = [cells[str(count), *unroll] for unroll in unrolls]
        numbers = [f"{_short(row['forward_ms'])} / {_short(row['backward_ms'])}" for row in found]
        lines.append(f"| {count} | " + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n"


def _short(milliseconds: str) -> str:
    value = float(milliseconds)
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    if "--table" in sys.argv[1:]:
        print(table(), end="")
    else:
        main(["bench", "unroll", "--out", str(OUT.parent), *sys.argv[1:]])
