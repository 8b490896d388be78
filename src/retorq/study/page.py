"""What a study writes: csv files of raw scores and of statistics, pictures, tables in Markdown, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from retorq.bench.table import Cell, Row, columns
from retorq.report import style
from retorq.report.chart import SERIES_COLORS, Chart, draw
from retorq.report.curves import Axis, Group, group_lines
from retorq.report.runs import load_run, write_text
from retorq.report.tables import table as card
from retorq.report.ticks import short
from retorq.study import bars
from retorq.study.design import Job, Study, Task, slug
from retorq.study.results import (
    MEASURES,
    TOGETHER,
    by_seed,
    discrepancies,
    discrepancy_table,
    scores,
    statistics_table,
)

WIDTH, HEIGHT = 900, 420


def write(study: Study, jobs: Sequence[Job], out: Path, *, resamples: int = 2_000) -> list[Path]:
    """Write what the runs that are done tell; the files. Nothing is written where none is done.

    ``scores.csv`` (one row per run), ``table.csv``, ``delta_q.csv`` where it was measured, ``curves-TASK.svg``,
    ``bars-MEASURE-TASK.svg``, ``tables.md`` and ``index.html``, which holds all of it.

    Raises:
        UserError: ``out`` cannot be written.
    """
    rows = scores(study.name, jobs)
    if not rows:
        return []
    tasks = list({job.task.name: job.task for job in jobs}.values())
    variants = list(dict.fromkeys(job.variant for job in jobs))
    table = statistics_table(rows, tasks, variants, study.reference, resamples)
    raw, drawn = discrepancies(jobs), _pictures(rows, table, jobs, tasks, variants)
    tables = {f"{title}, {task}": part for (title, task), part in _parts(table).items()}
    written = {"scores.csv": csv_text(rows), "table.csv": csv_text(table)}
    if raw:
        tables["Delta-Q after training, means over runs"] = discrepancy_table(raw)
        written["delta_q.csv"] = csv_text(raw)
    written |= {f"{name}.svg": text + "\n" for name, text in drawn.items()}
    about = _about(study, rows, tasks)
    written["tables.md"] = (
        "\n\n".join([about, *(f"**{name}**\n\n{markdown(part)}" for name, part in tables.items())]) + "\n"
    )
    written["index.html"] = _html(study, about, tables, drawn)
    return [write_text(out / name, text) for name, text in written.items()]


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


def _pictures(
    rows: Sequence[Row], table: Sequence[Row], jobs: Sequence[Job], tasks: Sequence[Task], variants: Sequence[str]
) -> dict[str, str]:
    """All pictures by name."""
    pictures: dict[str, str] = {}
    for task in tasks:
        for measure, words in MEASURES.items():
            raw = by_seed(rows, measure)
            found = [r for r in table if (r["task"], r["measure"]) == (task.name, measure)]
            drawn = [
                bars.Bar(
                    name=str(row["variant"]),
                    value=float(row["iqm"] or 0.0),
                    low=float(row["iqm_low"] or 0.0),
                    high=float(row["iqm_high"] or 0.0),
                    runs=list(raw[task.name, str(row["variant"])].values()),
                    color=variants.index(str(row["variant"])),
                )
                for row in found
            ]
            if drawn:
                label = f"interquartile mean of the score, {words}"
                pictures[f"bars-{measure}-{slug(task.name)}"] = bars.draw(f"{task.name}: {words}", label, drawn)
        if curves := _curves(task, jobs, variants):
            pictures[f"curves-{slug(task.name)}"] = curves
    return pictures


def _curves(task: Task, jobs: Sequence[Job], variants: Sequence[str]) -> str:
    """The mean learning curve of every variant with the range of its seeds, from the runs that have any."""
    axis = Axis(key="step", unit=1, label="agent steps")
    lines, shown = [], []
    for color, variant in enumerate(variants):
        paths = [j.path for j in jobs if (j.task.name, j.variant) == (task.name, variant)]
        runs = [load_run(path) for path in paths if (path / "metrics.jsonl").exists()]
        mine = list(group_lines(Group(name=variant, env=task.env, runs=runs, color=color), axis))
        mine = [line for line in mine if not line.faint and line.x]
        lines += mine
        shown += [(variant, color)] if mine else []
    chart = Chart(title=task.name, x_label=axis.label, y_label="score, moving mean of training games", lines=lines)
    if chart.empty:
        return ""
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    return draw(chart, WIDTH, HEIGHT, top=96, extra=_head(task.name, shown), attributes=frame)


def _head(title: str, shown: Sequence[tuple[str, int]]) -> str:
    """Background, title and legend of a picture that stands alone."""
    parts = [
        f"<style>{style.PALETTE}{style.CHART}</style>",
        '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>',
        f'<text class="title" x="20" y="32">{escape(title)}</text>',
    ]
    at = 20.0
    for name, color in shown:
        parts.append(f'<path class="line s{color % SERIES_COLORS}" d="M{at:.0f} 54h16"/>')
        parts.append(f'<text class="label" x="{at + 21:.0f}" y="58">{escape(name)}</text>')
        at += 42 + 6.6 * len(name)
    return "".join(parts)


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
