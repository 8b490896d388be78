"""What a study writes: csv files of raw scores and of statistics, pictures, tables in Markdown, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from retorq.bench.table import Cell, Row, columns
from retorq.report import style
from retorq.report.runs import write_text
from retorq.report.tables import table as card
from retorq.report.ticks import short
from retorq.study.design import Job, Study, Task
from retorq.study.pictures import pictures
from retorq.study.results import MEASURES, TOGETHER, Told, discrepancy_table, statistics_table, told


def write(study: Study, jobs: Sequence[Job], out: Path, *, resamples: int = 2_000) -> list[Path]:
    """Write what the runs that are done tell; the files. Nothing is written where none is done.

    ``scores.csv`` (one row per run), ``table.csv``, ``curves.csv``, ``delta_q.csv`` where it was measured, the
    pictures of :func:`retorq.study.pictures.pictures`, ``tables.md`` and ``index.html``, which holds all of it.

    Raises:
        UserError: ``out`` cannot be written.
    """
    found = told(study.name, jobs)
    if not found.scores:
        return []
    tasks = list({job.task.name: job.task for job in jobs}.values())
    variants = list(dict.fromkeys(job.variant for job in jobs))
    table = statistics_table(found.scores, tasks, variants, study.reference, resamples)
    written = {"scores.csv": csv_text(found.scores), "table.csv": csv_text(table), "curves.csv": csv_text(found.curves)}
    if found.discrepancies:
        written["delta_q.csv"] = csv_text(found.discrepancies)
    drawn, about = pictures(found, table, tasks, variants), _about(study, found.scores, tasks)
    written |= {f"{name}.svg": text for name, text in drawn.items()}
    written["tables.md"] = f"{about}\n\n{text_tables(table, found)}"
    written["index.html"] = _html(study, about, _tables(table, found), drawn)
    return [write_text(out / name, text) for name, text in written.items()]


def text_tables(table: Sequence[Row], found: Told) -> str:
    """All tables in Markdown, each after its name."""
    return "\n\n".join(f"**{name}**\n\n{markdown(part)}" for name, part in _tables(table, found).items()) + "\n"


def _tables(table: Sequence[Row], found: Told) -> dict[str, Sequence[Row]]:
    tables: dict[str, Sequence[Row]] = {f"{title}, {task}": part for (title, task), part in _parts(table).items()}
    if found.discrepancies:
        tables["Delta-Q after training, medians over runs"] = discrepancy_table(found.discrepancies)
    return tables


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as csv, empty where there is no value."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown."""
    names = columns(rows)
    lines = [names, ["---"] * len(names), *([_shown(row.get(name)) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Cell) -> str:
    if value is None:
        return "-"
    return short(value) if isinstance(value, int | float) else str(value)


def _parts(table: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The statistics of each measure and task, as they are shown."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        better, low, high = (row[f"reference_better{end}"] for end in ("", "_low", "_high"))
        shown: Row = {
            "variant": row["variant"],
            "runs": row["runs"],
            "IQM": row["iqm"],
            "95% interval": f"{_shown(row['iqm_low'])} to {_shown(row['iqm_high'])}",
            "median": row["median"],
            "mean": row["mean"],
            "P(reference better)": None if better is None else f"{better} ({low} to {high})",
        }
        parts.setdefault((MEASURES[str(row["measure"])], str(row["task"])), []).append(shown)
    return parts


def _about(study: Study, rows: Sequence[Row], tasks: Sequence[Task]) -> str:
    budgets = "; ".join(f"{task.name} ({task.env}), {task.steps:,} agent steps" for task in tasks)
    together = (
        f' "{TOGETHER}" has 0 at the score of guessing and 1 at the best possible one, runs of all tasks pooled.'
        if len(tasks) > 1
        else ""
    )
    return (
        f"{study.summary}. {len(rows)} runs: {budgets}. Intervals: 95%, stratified bootstrap over seeds. The "
        f"reference is {study.reference}; P is the probability that one of its runs beats one of the variant.{together}"
    )


def _html(study: Study, about: str, tables: Mapping[str, Sequence[Row]], pictures: Mapping[str, str]) -> str:
    body = [f'<p class="over">retorq study</p><h1>{escape(study.name)}</h1><p class="lead">{escape(about)}</p>']
    body += [f'<figure class="card">{picture}</figure>' for picture in pictures.values()]
    for name, rows in tables.items():
        body.append(f"<h2>{escape(name)}</h2>")
        names = columns(rows)
        head = [f'<th scope="col">{escape(column)}</th>' for column in names]
        lines = ["".join(f"<td>{escape(_shown(row.get(column)))}</td>" for column in names) for row in rows]
        body.append(card(head, [f"<tr>{line}</tr>" for line in lines]))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(study.name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="generator" content="retorq">'
        f"<style>{style.PALETTE}{style.CHART}{style.PAGE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
