"""Tables of measurements: csv files and aligned text."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

Cell = str | int | float | None
Row = dict[str, Cell]
"""One line of a table: column name to value; None where a column says nothing about the row."""


def rounded(value: float, digits: int = 4) -> float:
    """``digits`` significant digits: more would be noise."""
    return float(f"{value:.{digits}g}")


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write(path: Path, rows: Sequence[Row], machine: Mapping[str, Cell]) -> None:
    """Write rows as csv, each with the facts about the machine; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*columns(rows), *machine], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **machine} for row in rows)


def text(title: str, rows: Sequence[Row], machine: Mapping[str, Cell]) -> str:
    """Rows as aligned text under a line that tells the machine."""
    names = columns(rows)
    cells = [names, *([_shown(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join([f"{title}: {about}", *lines])


def _shown(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
