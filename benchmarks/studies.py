"""A study whose rows outlive its run folders: what is in benchmarks/results is not run again.

``retorq study NAME`` needs its run folders to know what is done. Here the csv files do: after every run its rows are
put into NAME-scores.csv (and NAME-delta_q.csv), and NAME-table.csv is made anew from all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import made_by, numbers, put, read, write

from retorq.study.design import Job, Study, jobs
from retorq.study.results import discrepancies, scores, statistics_table
from retorq.study.studies import STUDIES
from retorq.study.work import check, work
from retorq.types import UserError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEXTS = ("study", "task", "environment", "variant", "start", "commit", "machine")


def keep(study: Study, done: Sequence[Job], results: Path, by: dict[str, str]) -> None:
    """Put the rows of runs that are done into the csv files, and make the table of statistics anew."""
    order = {"task": [task.name for task in study.tasks], "variant": [v.name for v in study.variants]}
    of_runs, of_starts = results / f"{study.name}-scores.csv", results / f"{study.name}-delta_q.csv"
    put(of_runs, [row | by for row in scores(study.name, done)], ("task", "variant", "seed"), order)
    if found := discrepancies(done):
        key = ("task", "variant", "seed", "start", "burn_in")
        put(of_starts, [row | by for row in found], key, order | {"start": ("zero", "stored")})
    rows = [row | {"seed": int(row["seed"])} for row in numbers(of_runs, TEXTS)]
    tasks = [task for task in study.tasks if any(row["task"] == task.name for row in rows)]
    if rows:
        table = statistics_table(rows, tasks, order["variant"], study.reference)
        write(results / f"{study.name}-table.csv", table)


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
    asked = parser.parse_args(words)
    if asked.steps is not None and asked.results == RESULTS:
        parser.error(
            "runs of other lengths do not belong into benchmarks/results; name other folders (--results, --out)"
        )
    by, results = made_by(), asked.results
    tasks = [task for task in study.tasks if asked.tasks is None or task.name in asked.tasks]
    if asked.steps is not None:
        tasks = [replace(task, steps=asked.steps) for task in tasks]
    there = {(row["task"], row["variant"], row["seed"]) for row in read(results / f"{name}-scores.csv")}
    every = jobs(tasks, study.variants, asked.seeds, asked.out)
    todo = [job for job in every if (job.task.name, job.variant, str(job.seed)) not in there]
    try:
        check(todo)

        def say(line: str) -> None:
            print(line, flush=True)
            keep(study, todo, results, by)

        return work(todo, out=asked.out, workers=asked.workers, games=asked.games, burn_ins=study.burn_ins, say=say)
    except UserError as error:
        sys.exit(f"retorq: {error}")
