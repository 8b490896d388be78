"""Measuring this machine: ``retorq bench WHAT``, and the functions behind the scripts in ``benchmarks/``."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import tyro

from retorq.arguments import read
from retorq.types import UserError

WHAT: dict[str, str] = {
    "learner": "retorq.bench.learner",
    "acting": "retorq.bench.acting",
    "end-to-end": "retorq.bench.end_to_end",
    "replay": "retorq.bench.replay",
    "memory": "retorq.bench.memory",
    "unroll": "retorq.bench.unroll",
}
"""What can be measured: module whose ``measure(Setup)`` returns the rows of the table."""

MINUTES = {"learner": 3, "acting": 1, "end-to-end": 4, "replay": 2, "memory": 2, "unroll": 3}
"""How long each takes on two cores, roughly."""


@dataclass(frozen=True)
class _Bench:
    """Measure this machine: learner, acting, end-to-end, replay, memory, unroll, or all of them.

    Other programs must rest meanwhile. What each number means: docs/benchmarks.md.
    """

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")]
    """learner, acting, end-to-end, replay, memory, unroll, or all."""
    json: bool = False
    """Print the rows as JSON and nothing else."""
    out: Path | None = None
    """Folder to write the table to, as WHAT.csv."""
    quick: bool = False
    """Tiny sizes: shows that everything runs; the numbers mean nothing."""
    device: str = "cpu"
    """Where to learn and act: cpu or cuda."""
    threads: int = 0
    """CPU threads of PyTorch; 0: as many as there are cores."""


def run(words: list[str]) -> int:
    """The command ``retorq bench``; returns the exit code.

    Raises:
        UserError: There is nothing of that name to measure, or the device does not exist.
    """
    asked = read(_Bench, words, "retorq bench")
    if asked.what not in (*WHAT, "all"):
        near = get_close_matches(asked.what, [*WHAT, "all"], n=1, cutoff=0.0)[0]
        raise UserError(f"WHAT is {asked.what!r}, which cannot be measured; perhaps you meant {near!r}.")
    from retorq.bench import table
    from retorq.bench.machine import Setup, begin, facts

    if asked.out is not None:
        _require_folder(asked.out)
    setup = Setup(quick=asked.quick, device=asked.device, threads=asked.threads)
    begin(setup)
    results: dict[str, list[table.Row]] = {}
    for name in WHAT if asked.what == "all" else (asked.what,):
        took = "a few seconds" if asked.quick else f"about {MINUTES[name]} min on two cores"
        print(f"measuring {name} ({took})", file=sys.stderr, flush=True)
        results[name] = importlib.import_module(WHAT[name]).measure(setup)
        if asked.out is not None:
            table.write(asked.out / f"{name}.csv", results[name], facts(setup))
        if not asked.json:
            print(table.text(name, results[name], facts(setup)), flush=True)
    if asked.json:
        print(json.dumps({"machine": facts(setup), "results": results}))
    return 0


def _require_folder(out: Path) -> None:
    """Make the folder before anything is measured for it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(
            f"out is {str(out)!r}, where nothing can be written ({error.strerror}); name another folder."
        ) from error
