"""A study whose rows outlive its run folders: what is in benchmarks/results is not run again.

``retorq study NAME`` needs its run folders to know what is done. Here the csv files do: after every run its rows are
put into NAME-scores.csv and NAME-curves.csv (and NAME-delta_q.csv), and NAME-table.csv is made anew from all of them.
``--draw`` makes pictures and tables for docs/studies from these files alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.rows import made_by, numbers, put, read, write

from retorq.study.design import Job, Study, Task, jobs
from retorq.study.page import text_tables
from retorq.study.pictures import pictures
from retorq.study.results import MEASURES, Told, discrepancy_table, statistics_table, told
from retorq.study.studies import STUDIES
from retorq.study.work import check, work
from retorq.types import UserError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
KEYS = {
    "scores": ("task", "variant", "seed"),
    "curves": ("task", "variant", "seed", "step"),
    "delta_q": ("task", "variant", "seed", "start", "burn_in"),
}
TEXTS = ("study", "task", "environment", "variant", "start", "commit", "machine")


def keep(study: Study, done: Sequence[Job], results: Path, by: dict[str, str]) -> None:
    """Put the rows of runs that are done into the csv files, and make the table of statistics anew."""
    order: dict[str, Sequence[str]] = {
        "task": [task.name for task in study.tasks],
        "variant": [v.name for v in study.variants],
        "start": ("zero", "stored"),
    }
    found = told(study.name, done)
    rows = {
        "scores": [row | by for row in found.scores],
        "curves": found.curves,
        "delta_q": [row | by for row in found.discrepancies],
    }
    for kind, key in KEYS.items():
        if rows[kind]:
            names = {name: values for name, values in order.items() if name in key}
            put(results / f"{study.name}-{kind}.csv", rows[kind], key, names)
    if table := statistics(study, kept(study, results)):
        write(results / f"{study.name}-table.csv", table)


def kept(study: Study, results: Path) -> Told:
    """What the csv files hold."""
    rows = {
        kind: [row | {"seed": int(row["seed"])} for row in numbers(results / f"{study.name}-{kind}.csv", TEXTS)]
        for kind in KEYS
    }
    return Told(scores=rows["scores"], curves=rows["curves"], discrepancies=rows["delta_q"])


def tasks_of(study: Study, found: Told) -> list[Task]:
    """The tasks that have runs."""
    return [task for task in study.tasks if any(row["task"] == task.name for row in found.scores)]


def statistics(study: Study, found: Told) -> list[Mapping[str, Any]]:
    """The table of statistics."""
    names = [variant.name for variant in study.variants]
    return [*statistics_table(found.scores, tasks_of(study, found), names, study.reference)]


def short_table(study: Study, results: Path) -> str:
    """The scores of every task by variant, for docs/studies: interquartile means with their intervals.

    Below each, where there are several runs: the probability that one of the reference beats one of the variant.
    """
    rows = {(row["measure"], row["task"], row["variant"]): row for row in statistics(study, kept(study, results))}
    names = [variant.name for variant in study.variants]
    lines = ["| task | score | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for measure, task in dict.fromkeys((measure, task) for measure, task, _ in rows):
        cells = [_cell(rows.get((measure, task, name))) for name in names]
        lines.append(f"| {task} | {MEASURES[measure]} | " + " | ".join(cells) + " |")
        cells = [_better(rows.get((measure, task, name))) for name in names]
        if any(cell != "-" for cell in cells):
            lines.append(f"| | {study.reference} better | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def short_discrepancies(study: Study, results: Path) -> str:
    """Delta-Q at the end of the learned rows by variant, for docs/studies: medians over seeds, where there are any."""
    table = discrepancy_table(kept(study, results).discrepancies)
    names = [variant.name for variant in study.variants]
    found = {(row["task"], row["start"], row["burn_in"], row["trained with"]): row["final"] for row in table}
    lines = ["| task | memory starts | rows of burn-in | " + " | ".join(names) + " |", "|---" * (len(names) + 3) + "|"]
    for task, start, burn_in in dict.fromkeys(key[:3] for key in found):
        values = [found.get((task, start, burn_in, name)) for name in names]
        if any(value is not None for value in values):
            cells = ["-" if value is None else f"{value:.3g}" for value in values]
            begins = "at zero" if start == "zero" else "as stored"
            lines.append(f"| {task} | {begins} | {burn_in:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    numbers = [f"{row[name]:.3g}" for name in ("iqm", "iqm_low", "iqm_high")]
    return "{} ({} to {})".format(*numbers) if row["runs"] > 1 else f"{numbers[0]} (one run)"


def _better(row: Mapping[str, Any] | None) -> str:
    if row is None or row["reference_better"] is None:
        return "-"
    return "{:.2g} ({:.2g} to {:.2g})".format(*(row[f"reference_better{end}"] for end in ("", "_low", "_high")))


def show(study: Study, results: Path, folder: Path) -> None:
    """Draw what the csv files hold into ``folder``, and print their tables in Markdown."""
    found = kept(study, results)
    print(short_table(study, results))
    if found.discrepancies:
        print(short_discrepancies(study, results))
    table = statistics(study, found)
    drawn = pictures(found, table, tasks_of(study, found), [variant.name for variant in study.variants])
    for name, text in drawn.items():
        (folder / f"{study.name}-{name}.svg").write_text(text)
    print(text_tables(table, found), end="")


def run(name: str, words: Sequence[str]) -> int:
    """Do what the csv files of a study lack; the exit code."""
    study = STUDIES[name]
    parser = argparse.ArgumentParser(description=study.summary)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=study.seeds, help="seeds 0 to this number less one")
    parser.add_argument("--tasks", nargs="+", choices=[task.name for task in study.tasks])
    parser.add_argument("--games", type=int, default=100, help="games that evaluate the final weights")
    parser.add_argument("--steps", type=int, help="per run, instead of each task's: shows that all of it runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the csv files")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "studies" / name, help="folder of the runs")
    parser.add_argument("--draw", action="store_true", help="pictures into docs/pictures and tables; nothing is run")
    asked = parser.parse_args(words)
    if asked.draw:
        show(study, asked.results, PICTURES)
        return 0
    if asked.steps is not None and asked.results == RESULTS:
        parser.error(
            "runs of other lengths do not belong into benchmarks/results; name other folders (--results, --out)"
        )
    by, results = made_by(), asked.results
    tasks = [task for task in study.tasks if asked.tasks is None or task.name in asked.tasks]
    if asked.steps is not None:
        tasks = [replace(task, steps=asked.steps) for task in tasks]
    scored, curved = (
        {(row["task"], row["variant"], row["seed"]) for row in read(results / f"{name}-{kind}.csv")}
        for kind in ("scores", "curves")
    )
    every = {(j.task.name, j.variant, str(j.seed)): j for j in jobs(tasks, study.variants, asked.seeds, asked.out)}
    todo = [job for key, job in every.items() if key not in scored]
    todo += [job for key, job in every.items() if key in scored - curved]  # runs from before curves were kept
    try:
        check(todo)

        def say(line: str) -> None:
            print(line, flush=True)
            keep(study, todo, results, by)

        return work(todo, out=asked.out, workers=asked.workers, games=asked.games, burn_ins=study.burn_ins, say=say)
    except UserError as error:
        sys.exit(f"retorq: {error}")
