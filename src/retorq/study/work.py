"""Doing the runs of a study: each in a process of its own, several at a time, resumable, stopped politely."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from retorq import api
from retorq.running.evaluate import protocol
from retorq.running.folder import RunFolder, differences
from retorq.running.signals import StopSignal
from retorq.running.train import RESUMABLE, RunOptions, stored_config
from retorq.study.design import Job, slug
from retorq.study.discrepancy import measure
from retorq.types import Refused, UserError

EVALUATION_SEED = 10_000
DELTA_Q = "delta_q.json"
Start = Callable[[Job, int, Sequence[int], Path], BaseProcess]


def evaluated(job: Job) -> Path | None:
    """The record of the finished run's evaluation, None where there is none yet; ``retorq eval`` names its own more."""
    found = [path for path in job.path.glob("eval/*.json") if re.fullmatch(r"\d+-\w+\.json", path.name)]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def done(job: Job, burn_ins: Sequence[int]) -> bool:
    """Whether nothing is left to do."""
    return evaluated(job) is not None and (not burn_ins or (job.path / DELTA_Q).exists())


def check(jobs: Sequence[Job]) -> None:
    """Compose every agent, so that a wrong setting is told before anything runs, and compare with what is there.

    Raises:
        UserError: A setting makes no sense.
        Refused: A run folder that is there is of another configuration.
    """
    asked: dict[tuple[str, str], dict[str, object]] = {}
    for job in jobs:
        kind = (job.task.name, job.variant)
        if kind not in asked:
            task = api.compose(
                job.task.env,
                agent=job.agent,
                preset=job.task.preset,
                config=job.settings,
                options=job.task.options,
                device="cpu",
                seed=0,
            )
            config = stored_config(task, _options(job))
            asked[kind] = {"agent": job.agent, "env": job.task.env, "options": asdict(task.options), "config": config}
        if (job.path / "config.json").exists():
            stored = RunFolder.open(job.path, lock=False).stored
            wanted = json.loads(json.dumps(asked[kind]))
            if found := differences({name: stored.get(name) for name in wanted}, wanted):
                fields = "; ".join(f"{field}: {was!r} → {now!r}" for field, was, now in found)
                raise Refused(
                    f"run {str(job.path)!r} was made with another config (stored → asked): {fields}; choose another "
                    "folder with --out, or ask for the stored values."
                )


def _options(job: Job) -> RunOptions:
    return RunOptions(
        steps=job.task.steps,
        seed=job.seed,
        threads=1,
        log_every=api.log_period(job.task.steps),
        tensorboard=False,
    )


def one(job: Job, games: int, burn_ins: Sequence[int]) -> int:
    """Train, or go on; then evaluate the final weights by the environment's usual protocol. Returns the exit code."""
    if evaluated(job) is None:
        asked = _options(job)
        run = api.train(
            job.task.env,
            job.agent,
            steps=asked.steps,
            seed=asked.seed,
            run=job.path,
            preset=job.task.preset,
            options=job.task.options,
            threads=asked.threads,
            log_every=asked.log_every,
            tensorboard=False,
            **job.settings,
        )
        if run.code:
            return run.code
        player = run.load()
        using = protocol(None, job.task.env)
        count = None if using.frames else games
        record = player.evaluate(protocol=using.name, episodes=count, seed=EVALUATION_SEED + job.seed)
        _write(job.path / "eval" / f"{player.step}-{using.name}.json", record)
    if burn_ins and not (job.path / DELTA_Q).exists():
        _write(job.path / DELTA_Q, measure(job.path, burn_ins, seed=job.seed))
    return 0


def _write(path: Path, value: object) -> None:
    """Whole or not at all: what is there counts as done."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.rename(path)


def _child(job: Job, games: int, burn_ins: Sequence[int], log: str) -> None:
    """The process of one run; what it says goes into ``log``, its last line being the reason of a failure."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        code = one(job, games, burn_ins)
    except UserError as error:
        print(f"retorq: {error}", flush=True)
        code = error.exit_code
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def work(
    jobs: Sequence[Job],
    *,
    out: Path,
    workers: int,
    games: int,
    burn_ins: Sequence[int] = (),
    say: Callable[[str], None] = print,
    stop: StopSignal | None = None,
    start: Start | None = None,
) -> int:
    """Do what is not done yet, ``workers`` runs at a time; the exit code.

    0: all is done; 75: stopped by a signal, the same call goes on; else the code of the first run that failed, while
    the others were done. ``start`` begins the process of a run (default: a new interpreter).
    """
    begin = start if start is not None else _started
    waiting = [job for job in jobs if not done(job, burn_ins)]
    (out / "logs").mkdir(parents=True, exist_ok=True)
    say(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them done before; what they say is in {out / 'logs'}")
    running: dict[int, tuple[BaseProcess, Job, float]] = {}
    finished, failure, asked_to_stop = len(jobs) - len(waiting), 0, False
    with stop if stop is not None else StopSignal() as stopping:
        try:
            while running or (waiting and not stopping):
                while waiting and len(running) < workers and not stopping:
                    job = waiting.pop(0)
                    process = begin(job, games, burn_ins, _log(out, job))
                    running[process.sentinel] = process, job, time.monotonic()
                if stopping and not asked_to_stop:
                    asked_to_stop = True
                    for process, _, _ in running.values():
                        process.terminate()
                for sentinel in wait(list(running), timeout=0.5):
                    assert isinstance(sentinel, int)
                    process, job, since = running.pop(sentinel)
                    process.join()
                    code = process.exitcode or 0
                    finished += code == 0
                    if code and not stopping:
                        failure = failure or (code if code > 0 else 1)
                    minutes = (time.monotonic() - since) / 60
                    told = _told(job, code, _log(out, job))
                    say(f"[{finished:>3}/{len(jobs)}] {job.title}: {told}, {minutes:.1f} min")
        finally:
            for process, _, _ in running.values():
                process.kill()
                process.join()
    return RESUMABLE if stopping and finished < len(jobs) else failure


def _log(out: Path, job: Job) -> Path:
    return out / "logs" / f"{slug(job.task.name)}-{slug(job.variant)}-{job.seed}.txt"


def _started(job: Job, games: int, burn_ins: Sequence[int], log: Path) -> BaseProcess:
    """A new process, not forked: PyTorch's threads do not survive a fork."""
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(job, games, tuple(burn_ins), str(log)))
    with _ctrl_c_ignored():
        process.start()
    return process


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes begun here leave Ctrl-C, which a terminal sends to all, to us: else it would end them as they start.

    While they train it reaches them, and makes them save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(job: Job, code: int, log: Path) -> str:
    record = evaluated(job)
    if code == 0 and record is not None:
        return f"{json.loads(record.read_text())['mean']:.3g}"
    if code == RESUMABLE or code < 0:
        return "stopped"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "no reason given")
    return f"failed ({last.removeprefix('retorq: ')})"
