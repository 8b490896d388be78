"""A training run: what it leaves behind, and what it does when something fails."""

import json
import math
import signal
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.small import SETTINGS

from retorq import api
from retorq.acting import ray_settings
from retorq.running import keeping
from retorq.running.checkpoint import SaveFailed, newest
from retorq.running.train import RunOptions
from retorq.running.trainer import Trainer
from retorq.types import Diverged, Refused, UserError

RUN = {"steps": 60, "log_every": 20, "tensorboard": False, "threads": 1, "say": lambda line: None}


def start(path, env="memory", **settings):
    return api.train(env, preset="toy", run=path, **SETTINGS | RUN | settings)


def test_what_a_run_leaves_behind(tmp_path, capsys):
    lines = []
    run = start(tmp_path / "run", say=lines.append)
    assert run.code == 0
    assert {p.name for p in run.path.iterdir()} >= {
        "config.json",
        "command.txt",
        "versions.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "checkpoints",
    }
    wanted = "step frames seconds updates score_mean score_count steps_per_second updates_per_second loss epsilon"
    for row in run.metrics:
        assert row.keys() >= set(wanted.split()) | {"replay_ratio"}
    assert [row["step"] for row in run.metrics] == [20, 40, 60]
    assert run.metrics[0]["updates"] == 0
    assert run.metrics[-1]["updates"] > 0
    assert run.metrics[-1]["replay_ratio"] == pytest.approx(SETTINGS["replay_ratio"], abs=0.3)
    assert run.metrics[-1]["frames"] == 60
    games = [json.loads(line) for line in (run.path / "episodes.jsonl").read_text().splitlines()]
    assert run.metrics[-1]["episodes"] == len(games) > 0
    assert all(row["length"] == 11 for row in games)
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["config"]["memory_size"] == 8
    assert stored["config"]["steps"] == 60
    assert stored["environment"] == {"length": 10, "cap": 11}
    table = "\n".join(lines)
    for what in ("environment frames", "updates", "replay memory", "estimated time", "exploration", "run folder"):
        assert what in table
    assert "done: 60 steps" in capsys.readouterr().out


def fail_to_save(*_, **__):
    raise SaveFailed("the checkpoint of step 1 was not saved: No space left on device", 5_000)


def test_a_full_disk_does_not_stop_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keeping, "save", fail_to_save)
    assert start(tmp_path, checkpoint_seconds=0.0).code == 75
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("checkpoint not written: the checkpoint of step 1 was not saved: No space left") > 10
    assert "done: 60 steps" in out
    assert f"NOT saved, and there is no checkpoint yet go on with: retorq.resume({str(tmp_path)!r})" in out
    assert newest(tmp_path / "checkpoints") is None


def test_a_stopped_run_that_cannot_be_saved_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keeping, "save", fail_to_save)
    plain = Trainer.step

    def step(self):
        plain(self)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", step)
    assert start(tmp_path).code == 75
    assert "NOT saved, and there is no checkpoint yet" in capsys.readouterr().out


def test_checkpoints_are_written_on_their_period(tmp_path, monkeypatch):
    saved = []
    plain = keeping.save
    monkeypatch.setattr(keeping, "save", lambda folder, step, **rest: (saved.append(step), plain(folder, step, **rest)))
    start(tmp_path / "often", checkpoint_seconds=0.0, steps=10)
    assert saved == [2, 4, 6, 8, 10, 10]
    saved.clear()
    start(tmp_path / "seldom", steps=10)
    assert saved == [10]


def test_divergence_dumps_the_batch_and_keeps_what_was_learned(tmp_path, monkeypatch):
    plain = Trainer.step

    def step(self):
        if self.learner.updates >= 2:
            self.replay.storage.arrays["reward"].fill_(math.nan)
        plain(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Diverged, match="not finite in 5 updates in a row") as caught:
        start(tmp_path, steps=1000, clip_rewards="none", replay_ratio=8.0)
    assert caught.value.exit_code == 4
    dump = load_file(tmp_path / "diverged.safetensors")
    assert dump["reward"].isnan().any()
    assert dump.keys() >= {"reward", "action", "terminated", "last", "observation.obs"}
    found = newest(tmp_path / "checkpoints")
    assert found.state["trainer"]["learner"]["updates"] == 7
    assert all(value.isfinite().all() for value in found.tensors("learner").values() if value.is_floating_point())
    assert found.state["trainer"]["skipped"] == 5.0


@pytest.mark.parametrize("what", ["nan", "shape", "raise"])
def test_an_environment_that_fails_loses_nothing_learned(what, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    from retorq.envs.options import EnvOptions

    # Good for 44 steps of each of 2 environments, warm-up ends after 15: then it fails every time.
    options = EnvOptions(kwargs={"what": what, "at": 3}, workers="0")
    import sample_envs

    plain, count = sample_envs.Misbehaving._do, []

    def late(self):
        count.append(1)
        return plain(self) if len(count) > 20 else None

    monkeypatch.setattr(sample_envs.Misbehaving, "_do", late)
    kind = UserError if what == "shape" else Diverged
    with pytest.raises(kind):
        start(tmp_path, "sample_envs:Misbehaving", options=options, steps=5000)
    found = newest(tmp_path / "checkpoints")
    assert found.step > 50
    assert found.state["trainer"]["learner"]["updates"] > 0
    assert api.load(tmp_path).step == found.step


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"steps": 1.5}, "steps is 1.5; give a whole number"),
        ({"steps": 5, "seed": -1}, "seed is -1"),
        ({"steps": 5, "threads": "two"}, "threads is 'two'; give a whole number"),
        ({"steps": 5, "log_every": 0}, "log_every is 0"),
        ({"steps": 5, "checkpoint_seconds": float("nan")}, "checkpoint_seconds is nan"),
        ({"steps": 5, "device": "gpu"}, "device is 'gpu'; give cpu, cuda or cuda:N"),
    ],
)
def test_bad_run_options(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        RunOptions(**settings)


@pytest.mark.parametrize("changed", [{"gamma": 0.5}, {"seed": 9}])
def test_a_folder_of_another_run_refuses_before_anything_is_measured(changed, tmp_path, monkeypatch):
    start(tmp_path / "run", steps=10)
    monkeypatch.setattr(api, "introduce", lambda *given: pytest.fail("measured"))
    with pytest.raises(Refused, match="made with another config"):
        start(tmp_path / "run", steps=10, **changed)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'a\.txt'"):
        start(tmp_path / "notes", steps=10)


def test_a_cluster_that_cannot_be_joined_refuses_before_anything_is_measured_or_made(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "introduce", lambda *given: pytest.fail("measured"))
    monkeypatch.setattr(ray_settings, "version", lambda name: "2.60.0")
    cluster = {"pool": "ray", "actors": 2, "cluster": "127.0.0.1:1024", "cluster_token": str(tmp_path / "token")}
    with pytest.raises(UserError, match=r"token' does not exist; copy the head's token file to this host"):
        start(tmp_path / "run", **cluster)

    def missing(name):
        raise PackageNotFoundError

    monkeypatch.setattr(ray_settings, "version", missing)
    with pytest.raises(UserError, match="pool is 'ray', but Ray is not installed; run: pip install"):
        start(tmp_path / "run", pool="ray", actors=2)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_run_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(*given):
        raise Refused("too little memory")

    monkeypatch.setattr(api, "introduce", refuse)
    with pytest.raises(Refused):
        start(tmp_path / "run", steps=10)
    assert list(tmp_path.iterdir()) == []
