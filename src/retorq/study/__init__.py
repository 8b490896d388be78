"""Studies: variants of agents on small tasks over several seeds, with their statistics (``retorq study NAME``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from retorq.arguments import read
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.study.design import Study, Task, Variant

NAMES: dict[str, str] = {
    "rainbow-ablations": "Rainbow, Rainbow without each of its parts, and plain DQN; 24 runs",
    "start-state": "R2D2 with five ways to start the memory of a replayed sequence; 100 runs",
    "state-refresh": "R2D2 with stored states that are computed anew while training, or not; 12 runs",
}
"""What ``retorq list studies`` shows, without loading torch; a test holds it against ``study.studies.STUDIES``."""


@dataclass(frozen=True)
class _Study:
    """Train variants of agents on tasks over several seeds; the same command again goes on where it stopped.

    Every run is an ordinary run folder, OUT/runs/TASK/VARIANT/SEED, of one thread. Statistics, pictures and a page
    (OUT/index.html) are written from the runs that are done.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """See: retorq list studies."""
    env: str | None = None
    """Another environment in place of the study's tasks, with its usual preset."""
    tasks: tuple[str, ...] = ()
    """Only these of the study's tasks."""
    variants: tuple[str, ...] = ()
    """Only these of the study's variants."""
    seeds: int | None = None
    """Seeds 0 to this number less one."""
    steps: int | None = None
    """Agent steps per run, instead of each task's."""
    games: int = 100
    """Games that evaluate the final weights."""
    workers: int = 1
    """Runs at a time."""
    out: Path | None = None
    """Folder of the study (runs/studies/NAME)."""
    dry_run: bool = False
    """List the runs and what is done, and stop."""


def run(words: list[str]) -> int:
    """The command ``retorq study``; returns the exit code.

    Raises:
        UserError: There is no such study, task, variant or environment, or a number is out of range.
        Refused: Runs of another configuration are in the folder.
    """
    asked = read(_Study, words, "retorq study")
    for name, value in (
        ("seeds", asked.seeds),
        ("steps", asked.steps),
        ("games", asked.games),
        ("workers", asked.workers),
    ):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give at least 1.")
    from retorq.study.design import jobs
    from retorq.study.page import write
    from retorq.study.work import check, done, work

    study, tasks, variants = _asked(asked)
    out = asked.out or Path("runs") / "studies" / study.name
    todo = jobs(tasks, variants, asked.seeds or study.seeds, out)
    check(todo)
    if asked.dry_run:
        for job in todo:
            state = "done" if done(job, study.burn_ins) else "-"
            print(f"{state:<6}{job.title:<44}{job.task.steps:>10,} steps  {job.path}")
        return 0

    def say(line: str) -> None:
        print(line, flush=True)

    code = work(todo, out=out, workers=asked.workers, games=asked.games, burn_ins=study.burn_ins, say=say)
    for path in write(study, todo, out):
        if path.name in ("table.csv", "index.html"):
            say(f"written to {path}")
    if code == 75:
        say("stopped; the same command goes on")
    return code


def _asked(asked: _Study) -> tuple[Study, list[Task], list[Variant]]:
    """The study, and the tasks and variants of it that are wanted."""
    from difflib import get_close_matches

    from retorq.envs.minatar import game_names
    from retorq.study.design import Task, chosen
    from retorq.study.studies import STUDIES

    if asked.name not in STUDIES:
        near = get_close_matches(asked.name, STUDIES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"study is {asked.name!r}, which does not exist; perhaps you meant {near!r} (retorq list studies)."
        )
    study = STUDIES[asked.name]
    tasks = list(study.tasks)
    if study.fallback is not None and not game_names():
        tasks = [study.fallback]
    if asked.env is not None:
        if asked.tasks:
            raise UserError("env and tasks are both given; env takes the place of the study's tasks, so leave one out.")
        known = [task for task in (*study.tasks, study.fallback) if task and task.env == asked.env and not task.kwargs]
        tasks = known or [Task(name=asked.env, env=asked.env, steps=asked.steps or 100_000)]
    tasks = chosen("tasks", tasks, asked.tasks)
    if asked.steps is not None:
        tasks = [replace(task, steps=asked.steps) for task in tasks]
    return study, tasks, chosen("variants", study.variants, asked.variants)
