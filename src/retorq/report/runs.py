"""Run folders as the report sees them: read-only, and forgiving, because a page about a torn run is still useful."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retorq.running.folder import replace_file
from retorq.types import UserError

Row = Mapping[str, Any]
MARKS = ("config.json", "metrics.jsonl", "episodes.jsonl")
"""A folder with at least one of these is taken for a run."""
LARGEST = 1e100
"""Beyond this nothing was measured, and differences would overflow."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run folder holds; a missing part is empty and named in ``notes``.

    ``metrics`` and ``episodes`` are in the order of training, ``step`` rising. ``evaluations`` by step, then games.
    ``agent``, ``env`` and ``seed`` are empty or None where neither the configuration nor an evaluation tells them.
    """

    path: Path
    agent: str = ""
    env: str = ""
    seed: int | None = None
    config: Row = field(default_factory=dict)
    versions: Row = field(default_factory=dict)
    command: str = ""
    metrics: Sequence[Row] = ()
    episodes: Sequence[Row] = ()
    evaluations: Sequence[Row] = ()
    videos: Sequence[Path] = ()
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The folder's name, which is how the page tells runs apart."""
        return self.path.resolve().name or str(self.path)

    @property
    def label(self) -> str:
        """Agent and seed for a legend."""
        agent = self.agent or self.name
        return agent if self.seed is None else f"{agent}, seed {self.seed}"

    def last(self, key: str) -> float | None:
        """The last value of a metric."""
        return next((value for row in reversed(self.metrics) if (value := number(row, key)) is not None), None)

    def series(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """The rows that hold both metrics, as two lists."""
        pairs = [(number(row, x), number(row, y)) for row in self.metrics]
        kept = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in kept], [b for _, b in kept]


def number(row: Row, key: str) -> float | None:
    """A number of a row, None for anything else (a missing key, null, NaN, text, true, or one too large to draw)."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def numbers(row: Row, key: str) -> list[float]:
    """The finite numbers of a list in a row, in order."""
    values = row.get(key)
    if not isinstance(values, list):
        return []
    return [value for index in range(len(values)) if (value := number({"": values[index]}, "")) is not None]


def load_run(path: Path) -> Run:
    """Read a run folder. Torn or missing parts become notes, but for a torn configuration, which tells what it is.

    Raises UserError if the path is no run folder, or its ``config.json`` is torn.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"run {str(path)!r} is not a folder: name the folder that `retorq train --run` wrote")
    if not any((path / mark).is_file() for mark in MARKS):
        raise UserError(f"run {str(path)!r} is not a run folder: it holds none of {', '.join(MARKS)}")
    notes: list[str] = []
    config = _config(path, notes)
    evaluations = list(_evaluations(path / "eval", notes))
    if not evaluations:
        notes.append("no evaluation yet (retorq eval makes one)")
    metrics = _in_order(_rows(path / "metrics.jsonl", notes), notes)
    sources = [config, *reversed(evaluations)]
    seed = _first(sources, "seed")
    return Run(
        path=path,
        agent=_text(_first(sources, "agent")),
        env=_text(_first(sources, "env")),
        seed=int(seed) if isinstance(seed, int) else None,
        config=config,
        versions=_object(path / "versions.json", notes),
        command=_read(path / "command.txt", notes).strip(),
        metrics=metrics,
        episodes=sorted(
            (row for row in _rows(path / "episodes.jsonl", notes) if number(row, "step") is not None),
            key=lambda row: float(row["step"]),
        ),
        evaluations=evaluations,
        videos=sorted((file for file in (path / "videos").glob("[!.]*.mp4") if file.is_file()), key=_by_number),
        notes=notes,
    )


def new_folder(out: Path) -> str:
    """What to add to "written to FILE" where writing will make the file's folder; asked before it is written."""
    return "" if out.parent.exists() else f" (and made the folder {out.parent})"


def write_text(out: Path, text: str) -> Path:
    """Write a finished file under its name, or leave what was there; raises UserError where it cannot be written."""
    if out.is_dir():
        raise UserError(f"out {str(out)!r} is a folder: name a file in it, for example {str(out / 'report.html')!r}")
    try:
        replace_file(out, text)
    except OSError as error:
        raise UserError(f"out {str(out)!r} cannot be written ({error.strerror}): name another file") from error
    return out


def _by_number(file: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts ``500-0`` before ``1000-0``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", file.stem)]


def _text(value: Any) -> str:
    """A name that may be stored as text or as a record with an ``id`` or ``name``."""
    if isinstance(value, Mapping):
        value = value.get("id") or value.get("name")
    return value if isinstance(value, str) else ""


def _first(sources: Sequence[Row], key: str) -> Any:
    """The value nearest to the top of the first source that has one, looking into nested records."""
    for source in sources:
        level: list[Row] = [source]
        while level:
            for record in level:
                if record.get(key) is not None:
                    return record[key]
            level = [value for record in level for value in record.values() if isinstance(value, Mapping)]
    return None


def _read(file: Path, notes: list[str]) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        notes.append(f"{file.name} is missing or cannot be read")
        return ""


def _object(file: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON file that holds one record, ``{}`` with a note if it does not."""
    text = _read(file, notes)
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{file.name} is torn: it is not a JSON object")
        return {}
    return value


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    """The run's configuration, ``{}`` with a note where there is none; raises UserError if it is torn."""
    file = path / "config.json"
    text = _read(file, notes)
    try:
        value = json.loads(text) if text or file.exists() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(
            f"run {str(path)!r} has a torn config.json, which is no JSON object: put a copy of the file back, or leave "
            "the run out."
        )
    return value


def _rows(file: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; lines that cannot be read are counted in a note."""
    lines = _read(file, notes).splitlines()
    rows, torn = [], 0
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    if torn:
        notes.append(f"{file.name}: {torn} of {len(rows) + torn} lines cannot be read and are left out")
    return rows


def _in_order(rows: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Rows with rising ``step``; where training went back to a checkpoint, what came after it was done again."""
    kept: list[dict[str, Any]] = []
    without, again = 0, 0
    for row in rows:
        step = number(row, "step")
        if step is None:
            without += 1
            continue
        while kept and float(kept[-1]["step"]) >= step:
            kept.pop()
            again += 1
        kept.append(row)
    _one_clock(kept)
    if without:
        notes.append(f"metrics.jsonl: {without} rows have no step and are left out")
    if again:
        notes.append(f"metrics.jsonl: {again} rows were trained again after a resume; the later ones are shown")
    return kept


def _one_clock(rows: list[dict[str, Any]]) -> None:
    """Make ``seconds`` rise over the whole run, also where a resumed process started its clock at zero again."""
    before, offset = 0.0, 0.0
    for row in rows:
        seconds = number(row, "seconds")
        if seconds is not None:
            offset += before if seconds < before else 0.0
            before = seconds
            row["seconds"] = seconds + offset


def _evaluations(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Evaluations with a step and at least one score, sorted by step; of one step, that of the most games is last."""
    found = []
    for file in sorted(folder.glob("*.json")):
        row = _object(file, notes)
        step = number(row, "step")
        if not row:
            continue
        if step is None or not numbers(row, "scores"):
            notes.append(f"eval/{file.name} has no step or no scores and is left out")
            continue
        found.append((step, len(numbers(row, "scores")), row))
    yield from (row for *_, row in sorted(found, key=lambda entry: entry[:2]))
