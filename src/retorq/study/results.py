"""From the run folders of a study to raw scores and to a table of statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retorq.bench.table import Row, rounded
from retorq.report.curves import Axis, score_curve, thin
from retorq.report.runs import Run, load_run
from retorq.study import statistics
from retorq.study.design import Job, Task
from retorq.study.work import DELTA_Q, evaluated

MEASURES = {"final": "final weights", "average": "over training"}
"""What is compared: the mean score of the final weights, and that of the games of the whole training (its speed)."""
TOGETHER = "all tasks"
Scores = dict[tuple[str, str], dict[int, float]]
"""``(task, variant)`` to the score of each seed."""
STEPS = Axis(key="step", unit=1, label="agent steps")
POINTS = 30
"""Most points of a learning curve in a csv."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the runs of a study that are done tell: rows of :func:`scores`, :func:`curves` and :func:`discrepancies`."""

    scores: Sequence[Row]
    curves: Sequence[Row] = ()
    discrepancies: Sequence[Row] = ()


def told(study: str, jobs: Sequence[Job]) -> Told:
    """All that the run folders hold."""
    return Told(scores=scores(study, jobs), curves=curves(jobs), discrepancies=discrepancies(jobs))


def scores(study: str, jobs: Sequence[Job]) -> list[Row]:
    """One row per run that is done: raw scores, not normalized."""
    rows: list[Row] = []
    for job in jobs:
        path = evaluated(job)
        if path is None:
            continue
        record, run = json.loads(path.read_text()), load_run(job.path)
        rows.append(
            {
                "study": study,
                "task": job.task.name,
                "environment": job.task.env,
                "variant": job.variant,
                "seed": job.seed,
                "steps": job.task.steps,
                "updates": int(run.last("updates") or 0),
                "games": record["episodes"],
                "final": rounded(record["mean"]),
                "lowest": rounded(min(record["scores"])),
                **_training(run),
                "minutes": rounded((run.last("seconds") or 0.0) / 60, 3),
            }
        )
    return rows


def _training(run: Run) -> Row:
    """Mean over training of the moving mean of its games, the highest it reached, and where it ended."""
    _, curve = run.series("step", "score_mean")
    if not curve:
        return {"average": None, "best_while_training": None, "last_while_training": None}
    return {
        "average": rounded(float(np.mean(curve))),
        "best_while_training": rounded(max(curve)),
        "last_while_training": rounded(curve[-1]),
    }


def curves(jobs: Sequence[Job]) -> list[Row]:
    """The learning curve of every run that is done: the moving mean of its training games by agent steps."""
    rows: list[Row] = []
    for job in jobs:
        if evaluated(job) is None:
            continue
        about: Row = {"task": job.task.name, "variant": job.variant, "seed": job.seed}
        points = zip(*thin(*score_curve(load_run(job.path), STEPS), POINTS), strict=True)
        rows += [about | {"step": int(step), "score": rounded(score)} for step, score in points]
    return rows


def discrepancies(jobs: Sequence[Job]) -> list[Row]:
    """Delta-Q of every run that has been measured: one row per kind of start and length of the burn-in."""
    rows: list[Row] = []
    for job in jobs:
        if (job.path / DELTA_Q).exists():
            about: Row = {"task": job.task.name, "variant": job.variant, "seed": job.seed}
            rows += [about | row for row in json.loads((job.path / DELTA_Q).read_text())]
    return rows


def discrepancy_table(rows: Sequence[Row]) -> list[Row]:
    """Medians over seeds of ``discrepancies``, None where no run's games were long enough.

    Not means: Delta-Q is divided by the largest value, and a run whose values are near 0 can have any.
    """
    kinds = list(dict.fromkeys((r["task"], r["variant"], r["start"], r["burn_in"]) for r in rows))
    table: list[Row] = []
    for task, variant, start, burn_in in kinds:
        same = [
            r for r in rows if (r["task"], r["variant"], r["start"], r["burn_in"]) == (task, variant, start, burn_in)
        ]
        row: Row = {"task": task, "trained with": variant, "start": start, "burn_in": burn_in, "runs": len(same)}
        for name in ("initial", "final"):
            values = [value for r in same if isinstance(value := r[name], float)]
            row[name] = rounded(float(np.median(values)), 3) if values else None
        table.append(row)
    return table


def statistics_table(
    rows: Sequence[Row], tasks: Sequence[Task], variants: Sequence[str], reference: str, resamples: int = 2_000
) -> list[Row]:
    """Interquartile mean with its interval, median and mean of every variant, and how probably ``reference`` beats it.

    One row per measure, task and variant that has runs. Where there are several tasks and each tells its chance and
    best, also for all of them together, with 0 at chance and 1 at the best; only variants with runs of every task.
    """
    table: list[Row] = []
    for measure in MEASURES:
        found = by_seed(rows, measure)
        for task in tasks:
            table += _of_tasks(measure, [task.name], task.name, found, variants, reference, resamples)
        if len(tasks) > 1 and all(task.chance is not None and task.best is not None for task in tasks):
            ours = {key: _normalized(values, tasks, key[0]) for key, values in found.items()}
            table += _of_tasks(measure, [t.name for t in tasks], TOGETHER, ours, variants, reference, resamples)
    return table


def by_seed(rows: Sequence[Row], measure: str) -> Scores:
    """The raw scores of one measure."""
    found: Scores = {}
    for row in rows:
        value, seed = row[measure], row["seed"]
        if value is not None:
            assert isinstance(seed, int)
            found.setdefault((str(row["task"]), str(row["variant"])), {})[seed] = float(value)
    return found


def _normalized(values: dict[int, float], tasks: Sequence[Task], name: str) -> dict[int, float]:
    task = next(task for task in tasks if task.name == name)
    assert task.chance is not None
    assert task.best is not None
    return {seed: (value - task.chance) / (task.best - task.chance) for seed, value in values.items()}


def _of_tasks(
    measure: str,
    tasks: Sequence[str],
    title: str,
    found: Scores,
    variants: Sequence[str],
    reference: str,
    resamples: int,
) -> list[Row]:
    def arrays(variant: str) -> list[statistics.Floats]:
        return [np.array(list(found.get((task, variant), {}).values()), np.float64) for task in tasks]

    table: list[Row] = []
    for variant in variants:
        runs = arrays(variant)
        if not all(task.size for task in runs):
            continue
        low, high = statistics.interval(statistics.iqm, runs, resamples=resamples)
        row: Row = {
            "measure": measure,
            "task": title,
            "variant": variant,
            "runs": int(sum(task.size for task in runs)),
            "iqm": rounded(statistics.value(statistics.iqm, runs)),
            "iqm_low": rounded(low),
            "iqm_high": rounded(high),
            "median": rounded(statistics.value(statistics.median, runs)),
            "mean": rounded(statistics.value(statistics.mean, runs)),
        }
        table.append(row | _improvement(arrays(reference), runs, variant == reference, resamples))
    return table


def _improvement(
    ours: list[statistics.Floats], theirs: list[statistics.Floats], same: bool, resamples: int
) -> dict[str, Any]:
    """How probably a run of the reference beats one of the variant."""
    names = ("reference_better", "reference_better_low", "reference_better_high")
    if same or not all(task.size for task in ours):
        return dict.fromkeys(names)
    low, high = statistics.probability_interval(ours, theirs, resamples=resamples)
    values = (statistics.probability(ours, theirs), low, high)
    return {name: rounded(value, 3) for name, value in zip(names, values, strict=True)}
