"""Tables of the page: evaluations, published scores beside ours, settings and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from retorq.report.chart import shade
from retorq.report.curves import Group, evaluation_interval, flatten
from retorq.report.runs import Row, Run, number, numbers
from retorq.report.ticks import interval, short
from retorq.running.scores import PUBLISHED, game_id, human_normalised, published, reference

PUBLISHED_FRAMES = 200e6


def table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A card with a table that scrolls sideways where the screen is narrow; ``head`` and ``rows`` are HTML."""
    return (
        f'<div class="card scroll"><table class="{kind}"><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def percent(env: str, score: float) -> str:
    """The human-normalized score in percent, empty if the environment has none."""
    value = human_normalised(env, score)
    return "" if value is None else f"{100 * value:,.0f}%".replace("-", "−")


def _head(*names: str) -> list[str]:
    """Column heads; a leading ``#`` sets numbers to the right."""
    return [
        f'<th scope="col" class="n">{escape(name[1:])}</th>'
        if name.startswith("#")
        else f'<th scope="col">{escape(name)}</th>'
        for name in names
    ]


def _cells(*values: str) -> str:
    return "".join(f'<td class="n">{value}</td>' for value in values)


def _strip(row: Row, low: float, high: float, color: str) -> str:
    """All scores of an evaluation as ticks, the mean as a dot, the interval as a bar, on the table's scale."""
    scores = numbers(row, "scores")
    mean, bottom, top = evaluation_interval(row)

    def x(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
        return f"{4 + 112 * share:.1f}"

    games = "".join(f'<line class="game" x1="{x(s)}" x2="{x(s)}" y1="5" y2="17"/>' for s in sorted(set(scores))[:400])
    return (
        f'<td class="strip {color}"><svg viewBox="0 0 120 22" role="img">'
        f"<title>{len(scores)} scores from {short(min(scores))} to {short(max(scores))}</title>"
        f'<line class="base" x1="4" x2="116" y1="11" y2="11"/>{games}'
        f'<line class="span" x1="{x(bottom)}" x2="{x(top)}" y1="11" y2="11"/>'
        f'<circle cx="{x(mean)}" cy="11" r="4.5"/></svg></td>'
    )


def evaluation_table(groups: Sequence[Group], most: int = 12) -> str:
    """Every evaluation of the groups (the last ``most`` of each run), or a sentence where there is none."""
    chosen = [
        (group, run, shade(color), row)
        for group in groups
        for run, color in zip(group.runs, group.run_colors(), strict=True)
        for row in run.evaluations[-most:]
    ]
    if not chosen:
        return '<p class="empty">No evaluation yet.</p>'
    every = [score for *_, row in chosen for score in numbers(row, "scores")]
    human = ["#Of human"] if reference(groups[0].env) else []
    head = _head(
        "Run", "#Mean", "#95% interval", *human, "All scores", "#Median", "#Games", "#Steps", "#Epsilon", "Protocol"
    )
    rows = [_evaluation_row(*entry, min(every), max(every)) for entry in chosen]
    hidden = sum(max(0, len(run.evaluations) - most) for group in groups for run in group.runs)
    note = f" {hidden} earlier evaluations are not listed." if hidden else ""
    low, high = short(min(every)), short(max(every))
    scale = f"every row on the same scale, {low} to {high}" if high != low else f"every score is {low}"
    return (
        table(head, rows)
        + f'<p class="note">Scores: one tick per game, the dot is the mean, the bar its 95% bootstrap interval; '
        f"{scale}. The interval covers chance between games of one trained network, "
        f"not between training runs.{note}</p>"
    )


def _evaluation_row(group: Group, run: Run, color: str, row: Row, low: float, high: float) -> str:
    scores = numbers(row, "scores")
    mean, bottom, top = evaluation_interval(row)
    center, below, above = interval(mean, bottom, top)
    epsilon = number(row, "epsilon")
    between = f"{below} to {above}" if len(scores) > 1 else "one game"
    human = [percent(group.env, mean)] if reference(group.env) else []
    steps = short(float(row["step"]))
    return (
        f'<tr><th scope="row">{escape(run.label)}</th>{_cells(f"<strong>{center}</strong>", between, *human)}'
        + _strip(row, low, high, color)
        + _cells(short(float(np.median(scores))), str(len(scores)), steps, "" if epsilon is None else f"{epsilon:g}")
        + f"<td>{escape(str(row.get('protocol') or 'not told'))}</td></tr>"
    )


def _differences(groups: Sequence[Group]) -> Iterator[str]:
    """What in these runs' protocol differs from the published one, as far as their settings tell."""
    runs = [run for group in groups for run in group.runs]
    leaves = [(key.rsplit(".", 1)[-1], value) for run in runs for key, value in flatten(run.config)]
    evaluated = [(key, value) for run in runs for row in run.evaluations for key, value in flatten(row)]
    sticky = [
        value
        for key, value in leaves + [(key.rsplit(".", 1)[-1], value) for key, value in evaluated]
        if "sticky" in key or key == "repeat_action_probability"
    ]
    if any(value not in (0, None, False) for value in sticky):
        yield "sticky actions are on here and off in every published column"
    if any(key in {"full_action_space", "full_actions"} and value is True for key, value in leaves):
        yield "all 18 actions are used here, the game's minimal set in most published columns"
    frames = [frames for run in runs if (frames := run.last("frames")) is not None]
    if frames and max(frames) < 0.9 * PUBLISHED_FRAMES:
        yield f"at most {short(max(frames))} frames were trained here, {short(PUBLISHED_FRAMES)} or more there"
    counts = [len(numbers(run.evaluations[-1], "scores")) for run in runs if run.evaluations]
    if counts and min(counts) < 100:
        yield f"as few as {min(counts)} games are averaged here"


def published_table(groups: Sequence[Group]) -> str:
    """The groups' last evaluations among published scores of the game; empty if it is not one of the 57 Atari games."""
    env = groups[0].env
    pair = reference(env)
    if pair is None:
        return ""
    ours = [entry for group in groups if (entry := _our_entry(group))]
    entries = [_Entry("edge", "Random", pair[0], "reference"), _Entry("edge", "Human", pair[1], "reference"), *ours]
    for key, score in published(env).items():
        source = PUBLISHED[key]
        entries.append(_Entry("", source.name, score, f"{source.protocol} ({source.paper})"))
    entries.sort(key=lambda entry: -entry.score)
    span = entries[-1].score, entries[0].score
    differences = "; ".join(_differences(groups))
    note = f" For these runs: {differences}." if differences else ""
    if not ours:
        note += " No evaluation of these runs exists yet, so none is listed."
    if game_id(env) == "VideoPinball":
        note += " Human-normalized scores of Video Pinball use a random score of 0.0, as the published means do."
    return (
        "<h2>Beside published scores</h2>"
        + table(
            _head("", "#Score", "", "#Of human", "How it was measured"),
            [_score_row(env, entry, *span) for entry in entries],
        )
        + '<p class="note">Published numbers come from different protocols, so a difference between two rows is not '
        "by itself a difference between two algorithms: most papers report the best network of a run, this page the "
        f"one evaluated last.{note}</p>"
    )


class _Entry(NamedTuple):
    """A row of the table of published scores; ``kind`` is its CSS class."""

    kind: str
    name: str
    score: float
    how: str


def _our_entry(group: Group) -> _Entry | None:
    rows = [run.evaluations[-1] for run in group.runs if run.evaluations]
    if not rows:
        return None
    means = [evaluation_interval(row)[0] for row in rows]
    many = f"mean of {len(means)} runs, {short(min(means))} to {short(max(means))}" if len(means) > 1 else "one run"
    protocols = sorted({str(row["protocol"]) for row in rows if row.get("protocol")})
    how = ", ".join(["last evaluation", many, *(f"protocol {name}" for name in protocols)])
    return _Entry(f"ours {shade(group.color)}", group.name, float(np.mean(means)), how)


def _score_row(env: str, entry: _Entry, low: float, high: float) -> str:
    width = 100 * (entry.score - low) / ((high - low) or 1.0)
    return (
        f'<tr class="{entry.kind}"><th scope="row">{escape(entry.name)}</th>{_cells(short(entry.score))}'
        f'<td class="bar"><i style="width:{width:.1f}%"></i></td>{_cells(percent(env, entry.score))}'
        f'<td class="small">{escape(entry.how)}</td></tr>'
    )
