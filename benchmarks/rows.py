"""Rows of a csv of results: reading them, putting new ones in the place of old ones, and what made them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def read(path: Path) -> list[dict[str, str]]:
    """All rows of a csv, as text; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(path: Path, texts: Iterable[str]) -> list[dict[str, Any]]:
    """All rows of a csv: numbers, and None for an empty cell, in all columns but ``texts``."""
    return [{k: v if k in texts else float(v) if v else None for k, v in row.items()} for row in read(path)]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a csv anew: columns in the order in which they first appear, empty cells where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def put(path: Path, new: Sequence[Row], key: Sequence[str], order: Mapping[str, Iterable[str]]) -> None:
    """Add rows to a csv, each in the place of the one with the same key, and sort it. New columns are empty before.

    Args:
        path: The csv; made where it is missing.
        new: The rows.
        key: Names of the columns that say what a row is a measurement of; the rows are sorted by them.
        order: The values of some of these columns in their order, unknown ones last. Other columns are sorted as
            numbers.
    """
    places = {name: {value: place for place, value in enumerate(values)} for name, values in order.items()}

    def of(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    def place(row: Row) -> tuple[float, ...]:
        return tuple(
            places[name].get(row[name], len(places[name])) if name in places else float(row[name]) for name in key
        )

    made = {of(row) for row in new}
    kept = [row for row in read(path) if of(row) not in made]
    names = dict.fromkeys(name for row in [*new, *kept] for name in row)
    write(path, [{name: row.get(name, "") for name in names} for row in sorted([*kept, *new], key=place)])


def made_by() -> dict[str, str]:
    """What a result depends on beside its settings: ``commit`` and ``machine``. Call this when a run begins."""
    from retorq.bench.machine import commit, cores, processor

    return {"commit": commit(), "machine": f"{processor()}, {cores()} cores"}
