"""Runs of a study: what is done is not done again, signals stop politely, failures do not stop the others."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from retorq.running.signals import StopSignal
from retorq.study import work as module
from retorq.study.design import jobs
from retorq.study.work import DELTA_Q, check, done, evaluated, one, work
from retorq.types import Refused, UserError


def act(job, codes, log):
    """The process of a pretended run: an evaluation, a failure, or one that waits to be stopped."""
    code = codes.get((job.variant, job.seed), 0)
    if code == "wait":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
        log.with_suffix(".waits").touch()
        time.sleep(60)
    if code == 0:
        (job.path / "eval").mkdir(parents=True)
        (job.path / "eval" / "1-greedy.json").write_text(json.dumps({"mean": 0.5}))
    log.write_text(f"working\nretorq: a reason for {code}\n")
    os._exit(code)


@pytest.fixture
def starter():
    """Starts pretended runs and counts them; ``codes`` tells which ends how."""

    class Starter:
        def __init__(self):
            self.codes, self.started = {}, []

        def __call__(self, job, games, burn_ins, log):
            self.started.append((job.task.name, job.variant, job.seed))
            process = multiprocessing.get_context("fork").Process(target=act, args=(job, self.codes, log))
            process.start()
            return process

    return Starter()


def some(study, out, seeds=1):
    return jobs(study.tasks[:1], study.variants, seeds, out)


def test_what_is_done_is_not_done_again(small, tmp_path, starter):
    said = []
    todo = some(small, tmp_path)
    assert work(todo, out=tmp_path, workers=2, games=3, say=said.append, start=starter) == 0
    assert sorted(starter.started) == sorted(("recall 3", variant.name, 0) for variant in small.variants)
    assert said[0].startswith("3 runs, 0 of them done before")
    assert [line[:7] for line in said[1:]] == ["[  1/3]", "[  2/3]", "[  3/3]"]
    assert all(": 0.5, " in line for line in said[1:])
    assert work(some(small, tmp_path, seeds=2), out=tmp_path, workers=1, games=3, say=said.append, start=starter) == 0
    assert starter.started[3:] == [("recall 3", variant.name, 1) for variant in small.variants]


def test_a_failure_is_told_and_the_others_go_on(small, tmp_path, starter):
    starter.codes = {("zero", 0): 4, ("stored", 0): 2}
    said = []
    assert work(some(small, tmp_path), out=tmp_path, workers=1, games=3, say=said.append, start=starter) == 4
    assert "failed (a reason for 4)" in said[1]
    assert "failed (a reason for 2)" in said[2]
    assert "[  1/3] recall 3, stored+burn_in, seed 0: 0.5" in said[3]


def test_a_signal_stops_the_running_ones_and_starts_no_other(small, tmp_path, starter):
    starter.codes = {("zero", 0): "wait", ("stored", 0): "wait"}
    stop, said = StopSignal(), []

    def begin(job, games, burn_ins, log):
        process = starter(job, games, burn_ins, log)
        if len(starter.started) == 2:
            for _ in range(2_000):
                if len(list((tmp_path / "logs").glob("*.waits"))) == 2:
                    break
                time.sleep(0.01)
            stop.set()
        return process

    assert work(some(small, tmp_path), out=tmp_path, workers=2, games=3, say=said.append, stop=stop, start=begin) == 75
    assert [variant for _, variant, _ in starter.started] == ["zero", "stored"]
    assert [line.split(": ")[1].split(",")[0] for line in said[1:]] == ["stopped", "stopped"]
    starter.codes = {}
    assert work(some(small, tmp_path), out=tmp_path, workers=2, games=3, say=said.append, start=starter) == 0
    assert len(starter.started) == 5


def test_no_process_is_left_behind(small, tmp_path, starter):
    starter.codes = {("zero", 0): "wait"}
    processes = []

    def begin(job, games, burn_ins, log):
        if processes:
            raise RuntimeError("no more processes")
        processes.append(starter(job, games, burn_ins, log))
        return processes[-1]

    with pytest.raises(RuntimeError, match="no more"):
        work(some(small, tmp_path), out=tmp_path, workers=2, games=3, say=print, start=begin)
    assert processes[0].exitcode == -signal.SIGKILL


def test_one_run_trains_evaluates_and_measures(small, tmp_path, capsys):
    job = some(small, tmp_path)[2]
    assert not done(job, small.burn_ins)
    assert one(job, 5, small.burn_ins) == 0
    record = json.loads(evaluated(job).read_text())
    assert (record["episodes"], record["seed"], record["protocol"]) == (5, module.EVALUATION_SEED, "greedy")
    rows = json.loads((job.path / DELTA_Q).read_text())
    assert [(r["start"], r["burn_in"]) for r in rows] == [(s, b) for b in (0, 2) for s in ("zero", "stored")]
    assert done(job, small.burn_ins)
    before = sorted((path, path.stat().st_mtime_ns) for path in job.path.rglob("*"))
    assert one(job, 5, small.burn_ins) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in job.path.rglob("*")) == before
    assert check([job]) is None


def test_a_run_of_another_configuration_is_refused_before_any_begins(small, tmp_path, capsys):
    job = some(small, tmp_path)[0]
    one(job, 2, ())
    changed = some(
        type(small)(**{**vars(small), "tasks": (type(job.task)(**{**vars(job.task), "steps": 300}),)}), tmp_path
    )[0]
    with pytest.raises(Refused, match=r"config\.steps: 200 → 300; choose another folder with --out"):
        check([changed])


def test_a_setting_that_makes_no_sense_is_told_before_any_run(small, tmp_path):
    job = some(small, tmp_path)[0]
    wrong = type(job)(**{**vars(job), "settings": {**job.settings, "gamma": 2.0}})
    with pytest.raises(UserError, match="gamma is 2"):
        check([wrong])
    assert not job.path.exists()


@pytest.mark.slow
def test_the_process_of_a_run(small, tmp_path):
    """A new interpreter: its output is in the log, its exit code that of the run, and ours to stop."""
    said = []
    todo = some(small, tmp_path)[:1]
    assert work(todo, out=tmp_path, workers=1, games=2, say=said.append) == 0
    assert "[  1/1] recall 3, zero, seed 0" in said[1]
    (log,) = (tmp_path / "logs").iterdir()
    assert "done: 200 steps" in log.read_text()


def test_a_quick_look_at_a_run_is_no_result_of_the_study(pretended):
    """`retorq eval` in a folder of the study leaves what the study counts as it is."""
    job = pretended[0]
    mine = evaluated(job)
    for name in ("200-greedy-1games.json", "200-greedy-100games-seed7.json"):
        (job.path / "eval" / name).write_text(json.dumps({"mean": -9.0}))
        os.utime(job.path / "eval" / name, (2e9, 2e9))
    assert evaluated(job) == mine
