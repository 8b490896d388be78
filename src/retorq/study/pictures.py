"""The pictures of a study, from its rows: interval bars, learning curves, and Delta-Q by the length of the burn-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from retorq.bench.table import Row
from retorq.report import style
from retorq.report.chart import SERIES_COLORS, Chart, Line, draw
from retorq.report.curves import spread
from retorq.study import bars
from retorq.study.design import Task, slug
from retorq.study.results import MEASURES, STEPS, Told, by_seed

WIDTH, HEIGHT = 900, 420
Points = tuple[list[float], list[float]]


def pictures(found: Told, table: Sequence[Row], tasks: Sequence[Task], variants: Sequence[str]) -> dict[str, str]:
    """All pictures as SVG text, by name: ``bars-MEASURE-TASK``, ``curves-TASK`` and ``delta_q-START-TASK``.

    ``table`` is the scores' ``statistics_table``. A variant has the same color in all of them. Curves are means over
    seeds with the range of the seeds, over the steps that all of them cover.
    """
    drawn: dict[str, str] = {}
    for task in tasks:
        for measure in MEASURES:
            if text := _bars(found, table, task, measure, variants):
                drawn[f"bars-{measure}-{slug(task.name)}"] = text
        if text := _curves(found, task, variants):
            drawn[f"curves-{slug(task.name)}"] = text
        for start in dict.fromkeys(str(row["start"]) for row in found.discrepancies):
            if text := _burn_ins(found, task, start, variants):
                drawn[f"delta_q-{slug(start)}-{slug(task.name)}"] = text
    return {name: text + "\n" for name, text in drawn.items()}


def _bars(found: Told, table: Sequence[Row], task: Task, measure: str, variants: Sequence[str]) -> str:
    raw, words = by_seed(found.scores, measure), MEASURES[measure]
    drawn = [
        bars.Bar(
            name=str(row["variant"]),
            value=float(row["iqm"] or 0.0),
            low=float(row["iqm_low"] or 0.0),
            high=float(row["iqm_high"] or 0.0),
            runs=list(raw[task.name, str(row["variant"])].values()),
            color=variants.index(str(row["variant"])),
        )
        for row in table
        if (row["task"], row["measure"]) == (task.name, measure)
    ]
    return bars.draw(f"{task.name}: {words}", f"interquartile mean of the score, {words}", drawn) if drawn else ""


def _curves(found: Told, task: Task, variants: Sequence[str]) -> str:
    """The mean learning curve of every variant with the range of its seeds."""
    lines = []
    for color, variant in enumerate(variants):
        seeds = _by_seed([row for row in found.curves if (row["task"], row["variant"]) == (task.name, variant)])
        together = spread(list(seeds.values()))
        if together is not None:
            x, y, low, high = (list(map(float, part)) for part in together)
            lines.append(Line(name=variant, x=x, y=y, low=low, high=high, color=color))
        else:
            lines += [Line(name=variant, x=x, y=y, color=color) for x, y in seeds.values()]
    label = "score, moving mean of training games"
    return _picture(Chart(title=task.name, x_label=STEPS.label, y_label=label, lines=lines))


def _by_seed(rows: Sequence[Row]) -> Mapping[object, Points]:
    """Steps and scores of each seed."""
    seeds: dict[object, Points] = {}
    for row in rows:
        x, y = seeds.setdefault(row["seed"], ([], []))
        x.append(float(row["step"] or 0))
        y.append(float(row["score"] or 0.0))
    return seeds


def _burn_ins(found: Told, task: Task, start: str, variants: Sequence[str]) -> str:
    """Delta-Q at the end of the learned rows by the length of the burn-in, medians over seeds; for several lengths."""
    lines = []
    for color, variant in enumerate(variants):
        about = (task.name, variant, start)
        mine = [row for row in found.discrepancies if (row["task"], row["variant"], row["start"]) == about]
        values: dict[float, list[float]] = {}
        for row in mine:
            if row["final"] is not None:
                values.setdefault(float(row["burn_in"] or 0), []).append(float(row["final"]))
        if len(values) > 1:
            x = sorted(values)
            lines.append(Line(name=variant, x=x, y=[float(np.median(values[at])) for at in x], color=color))
    positive = all(value > 0 for line in lines for value in line.y)
    title = f"{task.name}: Delta-Q where memory starts {'at zero' if start == 'zero' else 'as it was stored'}"
    label = "Delta-Q at the end of the learned rows"
    return _picture(Chart(title=title, x_label="rows of burn-in", y_label=label, lines=lines, log_y=positive))


def _picture(chart: Chart) -> str:
    """A chart that stands alone, empty where there is nothing to draw."""
    if chart.empty:
        return ""
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    shown = {line.name: line.color for line in chart.lines}
    return draw(chart, WIDTH, HEIGHT, top=96, extra=_head(chart.title, shown), attributes=frame)


def _head(title: str, shown: Mapping[str, int]) -> str:
    """Background, title and legend."""
    parts = [
        f"<style>{style.PALETTE}{style.CHART}</style>",
        '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>',
        f'<text class="title" x="20" y="32">{escape(title)}</text>',
    ]
    at = 20.0
    for name, color in shown.items():
        parts.append(f'<path class="line s{color % SERIES_COLORS}" d="M{at:.0f} 54h16"/>')
        parts.append(f'<text class="label" x="{at + 21:.0f}" y="58">{escape(name)}</text>')
        at += 42 + 6.6 * len(name)
    return "".join(parts)
