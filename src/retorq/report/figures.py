"""Charts as figures of the page: with title, legend, read-out and caption, alone or to be switched between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from retorq.report.chart import Chart, draw, read_out, shade
from retorq.report.curves import Group, few_scores

LONGEST_NAME = 30
"""Characters beyond which names stand in a legend, not beside the curves."""


def legend(groups: Sequence[Group], *, beside: bool, means: bool = True) -> str:
    """The names of all series; ``beside``: only where the picture is too narrow to hold them.

    Without ``means`` a group whose runs have colors of their own is not named itself.
    """
    entries: list[tuple[str, int]] = []
    for group in groups:
        runs = f" (mean of {len(group.runs)} runs)" if len(group.runs) > 1 else ""
        if means or not group.alone:
            entries.append((group.name + runs, group.color))
        if group.alone:
            entries += zip(group.run_names(), group.run_colors(), strict=True)
    if len(entries) == 1:
        return ""
    items = "".join(
        f'<li class="{shade(color)}"><span class="swatch"></span>{escape(name)}</li>' for name, color in entries
    )
    return f'<ul class="legend{" beside-names" if beside else ""}">{items}</ul>'


def figure(chart: Chart, groups: Sequence[Group]) -> str:
    """A learning curve as a figure without a frame of its own."""
    beside = all(len(line.name) <= LONGEST_NAME for line in chart.lines if not line.faint)
    return (
        f'<figure class="chart"><h3>{escape(chart.title)}</h3>{legend(groups, beside=beside)}'
        + draw(replace(chart, named=beside), 1000, 390, attributes='class="wide"')
        + draw(replace(chart, named=False), 400, 330, attributes='class="narrow"')
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script>'
        + f"<figcaption>{escape(caption(groups, chart))}</figcaption></figure>"
    )


def switched(name: str, figures: Sequence[tuple[str, str]]) -> str:
    """A card that shows one of several figures ``(label, figure)`` at a time; ``name`` is unique on the page."""
    if len(figures) == 1:
        return f'<div class="card">{figures[0][1]}</div>'
    inputs = "".join(
        f'<input type="radio" name="{name}" id="{name}-{place}"{" checked" if not place else ""}>'
        for place in range(len(figures))
    )
    labels = "".join(f'<label for="{name}-{place}">{escape(label)}</label>' for place, (label, _) in enumerate(figures))
    panes = "".join(f'<div class="pane">{figure}</div>' for _, figure in figures)
    return f'<div class="card switch">{inputs}<div class="tabs">{labels}</div>{panes}</div>'


def small(chart: Chart) -> str:
    """A figure for a grid of small ones."""
    scale = " (logarithmic)" if chart.log_y else ""
    return (
        f'<figure class="card chart"><h3>{escape(chart.title[:1].upper() + chart.title[1:] + scale)}</h3>'
        + draw(chart, 340, 190, top=10)
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script></figure>'
    )


def caption(groups: Sequence[Group], chart: Chart) -> str:
    """What the lines, bands and marks of a learning curve are."""
    parts = []
    if any(line.faint or line.thin for line in chart.lines):
        parts.append(
            "Strong line: mean over the runs of one experiment, where all of them have data; "
            "band: from the lowest to the highest run; thin lines: single runs."
        )
    singles = [group.runs[0] for group in groups if len(group.runs) == 1]
    if singles and any(line.low for line in chart.lines if not line.name.endswith("(mean)")):
        parts.append("A single run's band: 10th to 90th percentile of its last 100 training games.")
    few = [count for run in singles if (count := few_scores(run))]
    if few:
        parts.append(f"No band for a run whose games have only {' or '.join(map(str, sorted(set(few))))} scores.")
    if chart.marks:
        parts.append("Diamonds: evaluations with their 95% interval.")
    return " ".join(parts)
