"""A run that was interrupted and resumed equals one that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.small import SETTINGS, command, flags

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.ops.generators import put_back
from retorq.running.checkpoint import newest
from retorq.running.log import WALL_CLOCK_FIELDS
from retorq.running.trainer import Trainer

STEPS = 140
# Interrupted at step 80, with 2 environments, a replay of 60 rows each that has been round once by the end.
RUN = {"steps": STEPS, "log_every": 25, "tensorboard": False, "threads": 1}
VARIANTS = [
    {"prioritized": False, "precision": "fp32"},
    {"prioritized": True, "precision": "fp32", "start_state": "zero"},
    {"prioritized": False, "precision": "bf16", "publish_period": 4, "quantile_layer": "separate"},
    {"prioritized": True, "precision": "bf16", "publish_period": 4},
    {
        "prioritized": True,
        "precision": "fp32",
        "sequences": "within",
        "start_state": "stored+burn_in",
        "burn_in": 3,
        "refresh": 1.5,
    },
    {"prioritized": False, "precision": "fp32", "sequences": "episode", "start_state": "zero"},
    {"prioritized": False, "precision": "bf16", "start_state": "whole", "replay_ratio": 2.0},
]
# Runs the command line, sends SIGNAL to itself when step 80 is done, and saves once at step 60 if told to.
DRIVER = """
import os, sys
from retorq import cli
from retorq.running import log, train, trainer
log._has_tensorboard = lambda: False  # its import takes seconds
number, words = int(sys.argv[1]), sys.argv[2:]
plain_step, plain_store, saved = trainer.Trainer.step, train.store, []
def step(self):
    plain_step(self)
    if self.steps >= 80:
        os.kill(os.getpid(), number)
def store(trainer, *rest, **how):
    if number != 9:
        return plain_store(trainer, *rest, **how)
    if trainer.steps >= 60 and not saved:
        saved.append(plain_store(trainer, *rest, **how))
trainer.Trainer.step, train.store = step, store
cli.main(words)
"""


def start(path, **settings):
    return api.train("memory", preset="toy", run=path, say=lambda line: None, **SETTINGS | RUN | settings)


def rows(path, name, without):
    lines = (path / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]


def episodes(path):
    return rows(path, "episodes.jsonl", set())


def assert_same(one, other):
    """Every part of the last checkpoint, every number beside them, every row of the diary."""
    a, b = newest(one / "checkpoints"), newest(other / "checkpoints")
    assert a.step == b.step >= STEPS
    assert set(a.parts) == set(b.parts) >= {"learner", "actor", "replay-index", "replay-00000000"}
    for part in a.parts:
        mine, theirs = a.tensors(part), b.tensors(part)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert tensor.dtype == theirs[name].dtype
            assert (
                tensor.numpy(force=True).tobytes() == theirs[name].numpy(force=True).tobytes()
                if (tensor.dtype != torch.bfloat16)
                else torch.equal(tensor, theirs[name])
            ), f"{part}: {name}"
    assert a.state["trainer"] == b.state["trainer"]
    assert rows(one, "metrics.jsonl", WALL_CLOCK_FIELDS) == rows(other, "metrics.jsonl", WALL_CLOCK_FIELDS)
    assert rows(one, "episodes.jsonl", {"seconds"}) == rows(other, "episodes.jsonl", {"seconds"})
    assert len(rows(one, "metrics.jsonl", set())) == 6
    return a


def stop_at(monkeypatch, step):
    """Ask the loop to stop as a signal would, in this process."""
    plain = Trainer.step

    def stepping(self):
        plain(self)
        if step <= self.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", stepping)


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_kind_of_run_goes_on_exactly(settings, tmp_path, monkeypatch):
    whole = start(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_at(patch, 80)
        cut = start(tmp_path / "cut", **settings)
    assert (whole.code, cut.code) == (0, api.RESUMABLE)
    assert newest(cut.path / "checkpoints").step in (80, 81)
    assert start(tmp_path / "cut", **settings).code == 0  # the same command goes on
    last = assert_same(whole.path, cut.path)
    learner, acting = last.tensors("learner"), last.tensors("actor")
    assert any(name.startswith("optimizer.exp_avg_sq") for name in learner)
    name = "core.lstm.weight_hidden" if "quantile_layer" in settings else "core.weight_hidden"
    assert not torch.equal(learner[f"online.{name}"], learner[f"target.{name}"])
    copies = [name for name in acting if name.startswith("acting.")]
    assert bool(copies) == (settings["precision"] == "bf16")


def interrupted(path, number, *extra):
    words = ["train", "memory", "--run", str(path), *flags(prioritized=True, precision="bf16", publish_period=4)]
    words += ["--steps", str(STEPS), "--log-every", "25", "--threads", "1", *extra]
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(int(number)), *words], capture_output=True, text=True, timeout=300
    )


def test_signals_and_sudden_death(tmp_path):
    """Ctrl-C and SIGTERM save and exit with 75; after kill -9 the last checkpoint goes on."""
    whole = start(tmp_path / "whole", prioritized=True, precision="bf16", publish_period=4)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        path = tmp_path / number.name
        ended = interrupted(path, number, *(["--checkpoint-seconds", "0"] if number == signal.SIGKILL else []))
        killed = number == signal.SIGKILL
        assert ended.returncode == (-9 if killed else 75), ended.stderr
        if killed:
            assert newest(path / "checkpoints").step < 80
        else:
            assert f"go on with: retorq resume {path}" in ended.stdout.replace("\n", "")
        assert api.resume(path, tensorboard=False, checkpoint_seconds=600.0, say=lambda line: None).code == 0
        assert_same(whole.path, path)


def test_a_finished_run_has_nothing_to_do(tmp_path, capsys):
    start(tmp_path / "run", steps=40)
    before = (tmp_path / "run/metrics.jsonl").read_bytes(), (tmp_path / "run/episodes.jsonl").read_bytes()
    assert start(tmp_path / "run", steps=40).code == 0
    assert before == ((tmp_path / "run/metrics.jsonl").read_bytes(), (tmp_path / "run/episodes.jsonl").read_bytes())
    assert "going on at step 40 of 40" in capsys.readouterr().out


def test_a_checkpoint_of_another_kind_of_device_goes_on_with_new_random_numbers(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 80)
        start(tmp_path / "run")
    monkeypatch.setattr("retorq.learner.put_back", lambda generator, state: put_back(generator, state[:16]))
    assert start(tmp_path / "run").code == 0
    assert "of another kind of device: its random numbers cannot go on" in capsys.readouterr().out


def test_without_its_replay_a_run_refills_it_and_says_so(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 80)
        start(tmp_path / "run", save_replay=False)
    found = newest(tmp_path / "run/checkpoints")
    assert not [name for name in found.parts if name.startswith("replay-0")]
    updates, seen = found.state["trainer"]["learner"]["updates"], []
    plain = Trainer.step

    def stepping(self):
        plain(self)
        seen.append((self.steps, self.learner.updates))

    monkeypatch.setattr(Trainer, "step", stepping)
    assert start(tmp_path / "run", save_replay=False).code == 0
    assert "holds no replay: it is refilled" in capsys.readouterr().out
    refilled = found.step + SETTINGS["warmup"]
    assert {count for step, count in seen if step < refilled} == {updates}
    assert seen[-1][1] > updates


def test_a_checkpoint_without_a_replay_can_still_get_one(tmp_path, monkeypatch):
    """Stopped again while it refills: the second resume goes on refilling where the first left off."""
    with monkeypatch.context() as patch:
        stop_at(patch, 60)
        start(tmp_path / "run", save_replay=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 70)
        start(tmp_path / "run")
    found = newest(tmp_path / "run/checkpoints")
    assert found.state["trainer"]["refill"] in (90, 91)
    assert start(tmp_path / "run").code == 0


def test_environments_that_cannot_be_saved_begin_new_games_and_the_run_says_so(tmp_path, monkeypatch, capsys):
    settings = {**SETTINGS, **RUN, "options": EnvOptions(), "say": lambda line: None}
    with monkeypatch.context() as patch:
        stop_at(patch, 75)
        api.train("CartPole-v1", preset="toy", run=tmp_path, **settings)
    capsys.readouterr()
    assert api.train("CartPole-v1", preset="toy", run=tmp_path, **settings).code == 0
    assert "but the environments, which cannot be saved: new games were begun" in capsys.readouterr().out
    cut = [row for row in episodes(tmp_path) if row["cut"]]
    assert {row["column"] for row in cut} == {0, 1}
    assert all(row["step"] in (75, 76) for row in cut)


def trainers_state(trainer):
    """Every tensor of a checkpoint, the replay's included, by part, and the numbers beside them."""
    chunks = {name: tensors() for name, (_, tensors) in trainer.replay.chunks().items()}
    parts = trainer.tensors() | chunks
    return {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in parts.items()}, trainer.numbers()


def test_atari_goes_on_with_all_but_the_games_and_says_so(tmp_path, monkeypatch, capsys):
    """Learner, replay, counters and generators to the bit; one row per column ends the game that was under way."""
    pytest.importorskip("ale_py")
    settings = SETTINGS | RUN | {"steps": 60, "warmup": 20, "torso": "nature", "prioritized": True}
    begun, plain = [], Trainer.step

    def first_looked_at(self):
        if not begun:
            begun.append(trainers_state(self))
        plain(self)

    with monkeypatch.context() as patch:
        stop_at(patch, 40)
        api.train("ALE/Pong-v5", preset="toy", run=tmp_path, say=lambda line: None, **settings)
    saved = newest(tmp_path / "checkpoints")
    assert (saved.step, saved.state["trainer"]["learner"]["updates"]) == (40, 3)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", first_looked_at)
        assert api.resume(tmp_path, say=lambda line: None).code == 0
    out = capsys.readouterr().out
    assert "going on at step 40 of 60" in out
    assert "everything is as it was but the environments, which cannot be saved: new games were begun" in out
    [(tensors, numbers)] = begun
    assert tensors["learner"].keys() == saved.tensors("learner").keys()
    for name, value in saved.tensors("learner").items():
        assert torch.equal(tensors["learner"][name], value), name
    for name, value in saved.state["trainer"].items():
        assert name in ("actor", "replay") or numbers[name] == value, name
    index = saved.tensors("replay-index")
    assert index.pop("written").tolist() == [20, 20]
    assert tensors["replay-index"].pop("written").tolist() == [21, 21]
    assert tensors["replay-index"].keys() == index.keys() >= {"priorities.leaves", "sum.loss"}
    assert all(torch.equal(tensors["replay-index"][name], value) for name, value in index.items())
    assert numbers["replay"] == saved.state["trainer"]["replay"]
    assert numbers["actor"]["steps"] == 40
    held, before, hand = tensors["replay-00000000"], saved.tensors("replay-00000000"), saved.tensors("actor")
    assert before["observation.obs"].shape == (20, 2, 1, 84, 84)
    assert all(torch.equal(held[name][: len(value)], value) for name, value in before.items())
    assert held["flags"][20:].tolist() == [[0b1100] * 2]  # truncated, last
    assert torch.equal(held["observation.obs"][20], hand["observation.obs"])
    assert held["elapsed"][20].tolist() == hand["now.elapsed"].tolist() == [20, 20]
    cut = [(row["column"], row["step"], row["length"]) for row in episodes(tmp_path) if row["cut"]]
    assert cut == [(0, 40, 20), (1, 40, 20)]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, capsys):
    """One flipped bit, or a file cut short: the earlier checkpoint goes on, and the run says so."""
    for name, damage in (
        ("flipped", lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:]),
        ("cut", lambda data: data[: len(data) // 2]),
    ):
        path = tmp_path / name
        for at in (50, 80):
            with monkeypatch.context() as patch:
                stop_at(patch, at)
                start(path)
        steps = sorted(int(p.name) for p in (path / "checkpoints").iterdir())
        file = path / "checkpoints" / str(steps[-1]) / "learner.safetensors"
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(damage(content))
        capsys.readouterr()
        code, out, _ = command("resume", path)
        out = " ".join(out.split())
        assert code == 0
        assert f"/{steps[-1]} is passed over" in out.replace("/ ", "/")
        assert f"going on at step {steps[0]} of {STEPS}" in out


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 50)
        start(tmp_path / "run")
    (manifest,) = Path(tmp_path / "run/checkpoints").glob("*/MANIFEST.json")
    manifest.write_text("{}")
    code, _, err = command("resume", tmp_path / "run")
    assert code == 3
    assert "no checkpoint in" in err
    assert "Traceback" not in err
