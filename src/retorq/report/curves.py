"""From run folders to charts: which runs belong together, their mean and spread, and learning curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retorq.report.chart import INK, SERIES_COLORS, Chart, Line, Mark, Rule
from retorq.report.runs import Row, Run, number, numbers
from retorq.report.ticks import interval
from retorq.running.scores import bootstrap_interval, reference

POINTS = 240
"""Most points of one line: finer cannot be seen."""
WINDOW = 100
"""Episodes in the moving statistics that are made here."""
FEW_SCORES = 4
"""With no more different scores than this, percentiles of them only jump: no band is drawn."""
FEW_MARKS = 3
"""Most evaluations that are named in the margin."""
_PER_RUN = frozenset(
    {"seed", "id", "run", "path", "folder", "name", "format", "command", "steps", "device", "threads", "log_every"}
)
"""Settings in which runs of one group may differ."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one environment with the same settings but for the seed: repetitions of one experiment.

    ``color`` is that of the group and ``colors`` are those of its runs (none: the group's), which have their own where
    the group is alone on its environment.
    """

    name: str
    env: str
    runs: Sequence[Run]
    color: int = 0
    colors: Sequence[int] = ()

    @property
    def alone(self) -> bool:
        """Whether its runs have colors of their own."""
        return self.color == INK

    def run_colors(self) -> Sequence[int]:
        """The color of each of its runs."""
        return self.colors or [self.color] * len(self.runs)

    def run_names(self) -> list[str]:
        """What tells its runs apart: the seeds, or the folders where these do not."""
        seeds = [run.seed for run in self.runs]
        known = None not in seeds and len(set(seeds)) == len(seeds)
        return [f"seed {run.seed}" if known else run.name for run in self.runs]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What a learning curve is drawn against: the metric, what one unit on paper is worth, and the label."""

    key: str
    unit: float
    label: str


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested records as ``("outer.inner", value)``; lists stay whole."""
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def settings_text(value: Any) -> str:
    """A setting as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _settings(run: Run) -> dict[str, str]:
    """What was asked for: it decides what is in effect in the environment, which older runs did not write down."""
    leaves = flatten({key: value for key, value in run.config.items() if key != "environment"})
    return {key: settings_text(value) for key, value in leaves if key.rsplit(".", 1)[-1] not in _PER_RUN}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Repetitions of the same experiment put together, in the order given.

    An experiment has one color on the whole page, also where it is repeated on other environments. Runs whose settings
    differ in more than seed, folder and budget are different experiments even when agent and environment agree; their
    names then say what differs. A run without a readable configuration stands alone.
    """
    found: list[tuple[Run, dict[str, str], list[Run]]] = []
    for run in runs:
        settings = _settings(run)
        for head, theirs, members in found:
            known = run.env and run.agent and run.config
            if known and (head.env, head.agent) == (run.env, run.agent) and theirs == settings:
                members.append(run)
                break
        else:
            found.append((run, settings, [run]))
    groups: list[Group] = []
    palette: dict[tuple[str, int], int] = {}
    for head, settings, members in found:
        rivals = [other for run, other, _ in found if (run.env, run.agent) == (head.env, head.agent)]
        name = _group_name(head, settings, rivals)
        if any((group.env, group.name) == (head.env, name) for group in groups):
            name = f"{name} ({head.name})"
        alone = 1 < len(members) <= SERIES_COLORS and sum(run.env == head.env for run, _, _ in found) == 1
        keys = [(name, place if alone else 0) for place in range(len(members))]
        colors = [palette.setdefault(key, len(palette)) for key in keys]
        groups.append(Group(name=name, env=head.env, runs=members, color=INK if alone else colors[0], colors=colors))
    return groups


def _group_name(head: Run, settings: Mapping[str, str], rivals: Sequence[Mapping[str, str]]) -> str:
    """The agent, and up to three settings that set it apart from other experiments with the same agent."""
    keys = [key for key in settings if any(other.get(key) != settings[key] for other in rivals)]
    parts = [f"{key.rsplit('.', 1)[-1]}={settings[key][:24]}" for key in keys[:3]]
    if len(keys) > 3:
        parts.append("…")
    return " · ".join([head.agent or head.name, *parts])


def progress_axis(runs: Sequence[Run]) -> Axis:
    """Emulator frames where they differ from agent steps and every run counts them, else agent steps."""
    counted = [(run.last("frames"), run.last("step")) for run in runs if run.metrics]
    if counted and all(f is not None and s is not None and f > s for f, s in counted):
        return Axis(key="frames", unit=1, label="emulator frames")
    return Axis(key="step", unit=1, label="agent steps")


def time_axis(runs: Sequence[Run]) -> Axis:
    """Wall time in the unit that fits the longest run."""
    longest = max((run.last("seconds") or 0.0 for run in runs), default=0.0)
    units = ((48 * 3600, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))
    unit, name = next(((unit, name) for least, unit, name in units if longest >= least), (1, "seconds"))
    return Axis(key="seconds", unit=unit, label=f"wall time ({name})")


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most ``points`` points, each the mean of its neighbors; the last point stays where it is in time."""
    if len(x) <= points:
        return list(x), list(y)
    parts = np.array_split(np.arange(len(x)), points)
    values = np.asarray(y, dtype=float)
    return [float(x[part[-1]]) for part in parts], [float(values[part].mean()) for part in parts]


def _episode_scores(run: Run) -> list[tuple[float, float]]:
    """``(step, score)`` of every training episode that tells both."""
    rows = [(number(row, "step"), number(row, "score")) for row in run.episodes]
    return [(step, score) for step, score in rows if step is not None and score is not None]


def score_curve(run: Run, axis: Axis) -> tuple[list[float], list[float]]:
    """The moving mean of training scores: as logged, or made from the episodes where that is missing (steps only)."""
    x, y = run.series(axis.key, "score_mean")
    if not x and axis.key == "step":
        pairs = _episode_scores(run)
        total = np.concatenate([[0.0], np.cumsum([score for _, score in pairs])])
        end = np.arange(1, len(pairs) + 1)
        start = np.maximum(0, end - WINDOW)
        x, y = [step for step, _ in pairs], list((total[end] - total[start]) / (end - start)) if pairs else []
    x, y = thin(x, y)
    return [value / axis.unit for value in x], [float(value) for value in y]


def spread(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[np.ndarray, ...] | None:
    """Mean, lowest and highest of several curves as ``(x, mean, low, high)``, over the range that all of them cover.

    None if there is no such range. Beyond it a mean would jump wherever a run begins or ends.
    """
    curves = [curve for curve in curves if len(curve[0]) > 1]
    if len(curves) < 2:
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if not end > start:
        return None
    grid = np.linspace(start, end, POINTS)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def few_scores(run: Run) -> int:
    """How many different scores its training episodes have, 0 if that is more than `FEW_SCORES`."""
    different = {score for _, score in _episode_scores(run)}
    return len(different) if len(different) <= FEW_SCORES else 0


def episode_band(run: Run, axis: Axis, xs: Sequence[float]) -> tuple[list[float], list[float]]:
    """10th and 90th percentile of the last `WINDOW` training episodes at each ``xs``.

    Empty where there are too few episodes, or too few different scores.
    """
    steps, places = run.series("step", axis.key)
    pairs = _episode_scores(run)
    if len(steps) < 2 or len(pairs) < 10 or not xs or few_scores(run):
        return [], []
    at = np.interp([step for step, _ in pairs], steps, places) / axis.unit
    scores = np.asarray([score for _, score in pairs])
    ends = np.maximum(np.searchsorted(at, xs, side="right"), 1)
    parts = [np.quantile(scores[max(0, end - WINDOW) : end], [0.1, 0.9]) for end in ends]
    return [float(part[0]) for part in parts], [float(part[1]) for part in parts]


def _mean_line(group: Group, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Line | None:
    together = spread(curves)
    if together is None:
        return None
    x, mean, low, high = (list(map(float, part)) for part in together)
    name = "mean" if group.alone else f"{group.name} (mean)"
    return Line(name=name, x=x, y=mean, low=low, high=high, color=group.color)


def group_lines(group: Group, axis: Axis) -> Iterator[Line]:
    """A run alone with the spread of its episodes, or several thinly with their mean and the band between them."""
    curves = [score_curve(run, axis) for run in group.runs]
    mean = _mean_line(group, curves)
    if mean:
        yield mean
    names = group.run_names() if group.alone else [run.label for run in group.runs]
    for run, (x, y), color, name in zip(group.runs, curves, group.run_colors(), names, strict=True):
        if not x:
            continue
        low, high = ([], []) if len(group.runs) > 1 else episode_band(run, axis, x)
        yield Line(
            name=group.name if len(group.runs) == 1 else name,
            x=x,
            y=y,
            low=low,
            high=high,
            color=color,
            thin=bool(mean) and group.alone,
            faint=bool(mean) and not group.alone,
        )


def evaluation_interval(row: Row) -> tuple[float, float, float]:
    """Mean of an evaluation's scores with its 95% interval, as stored, or made from the scores where it is not."""
    scores, stored = numbers(row, "scores"), numbers(row, "ci95")
    low, high = stored if len(stored) == 2 else bootstrap_interval(scores)
    return float(np.mean(scores)), low, high


def _marks(group: Group, axis: Axis) -> Iterator[Mark]:
    for run, color in zip(group.runs, group.run_colors(), strict=True):
        steps, places = run.series("step", axis.key)
        # One mark per step and protocol: the evaluation of the most games, which is the last.
        for row in {(row["step"], row.get("protocol")): row for row in run.evaluations}.values():
            if steps:
                x = float(np.interp(float(row["step"]), steps, places)) / axis.unit
                mean, low, high = evaluation_interval(row)
                label = f"evaluation: {interval(mean, low, high)[0]}"
                yield Mark(name=f"{run.label}, evaluation", x=x, y=mean, low=low, high=high, color=color, label=label)


def learning_chart(groups: Sequence[Group], axis: Axis, title: str) -> Chart:
    """Score against ``axis`` for the groups of one environment, with evaluations and, for Atari, human and random."""
    env = groups[0].env
    pair = reference(env)
    rules = [Rule(name="random", y=pair[0]), Rule(name="human", y=pair[1])] if pair else []
    marks = [mark for group in groups for mark in _marks(group, axis)]
    lines = [line for group in groups for line in group_lines(group, axis)]
    if len(marks) > FEW_MARKS:
        marks = [replace(mark, label="") for mark in marks]
    if len([line for line in lines if not line.faint]) == 1:
        lines = [replace(line, name="last 100 games") for line in lines]
    return Chart(
        title=title,
        x_label=axis.label,
        y_label="score, moving mean of training episodes",
        lines=lines,
        marks=marks,
        rules=rules,
        named=True,
    )


def metric_chart(groups: Sequence[Group], axis: Axis, key: str, title: str) -> Chart:
    """One metric of every run against ``axis``: on a logarithmic scale if it is positive and spans over two decades."""
    lines: list[Line] = []
    for group in groups:
        curves = [thin(*run.series(axis.key, key)) for run in group.runs]
        curves = [([value / axis.unit for value in x], y) for x, y in curves]
        mean = None if group.alone else _mean_line(group, curves)
        names = group.run_names() if group.alone else [run.label for run in group.runs]
        for name, color, (x, y) in zip(names, group.run_colors(), curves, strict=True):
            name = group.name if len(group.runs) == 1 else name
            lines.append(Line(name=name, x=x, y=y, color=color, faint=mean is not None))
        if mean:
            lines.append(replace(mean, low=(), high=()))
    values = [value for line in lines for value in line.y]
    log = bool(values) and min(values) > 0 and max(values) > 100 * min(values)
    return Chart(title=title, x_label=axis.label, y_label=title, lines=lines, log_y=log, zero=not log)
