"""Runs in which an environment fails: a line that says so, and a count in metrics.jsonl from then on."""

import json
from pathlib import Path

import pytest
from tests.small import SETTINGS

import retorq
from retorq import api
from retorq.envs.options import EnvOptions
from retorq.running.bundles import gorila
from retorq.running.checkpoint import newest
from retorq.running.train import RunOptions

LINE = "raised RuntimeError: the bridge fell down; its game was cut and it was replaced"


@pytest.fixture
def options(monkeypatch, tmp_path):
    """Of environments of which the first that comes to its third step fails."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    return EnvOptions(kwargs={"marker": str(tmp_path / "failed")}, workers="0")


@pytest.mark.parametrize(
    "pool", [{"pool": "local"}, {"pool": "process", "actors": 1, "actor_rows": 5}], ids=["local", "process"]
)
def test_an_environment_that_is_replaced_is_told_and_counted(tmp_path, capsys, options, pool):
    settings = SETTINGS | {"preset": "toy", "log_every": 20, "tensorboard": False, "threads": 1} | pool
    run = retorq.train("sample_envs:FailsOnce", run=tmp_path / "run", steps=100, options=options, **settings)
    assert run.code == 0
    assert capsys.readouterr().out.count(f"environment 0 {LINE}") == 1
    assert {row["environments_replaced"] for row in run.metrics} == {1.0}
    games = [json.loads(line) for line in (run.path / "episodes.jsonl").read_text().splitlines()]
    assert [game["length"] for game in games if game.get("cut")][:1] == [2]
    assert newest(run.path / "checkpoints").state["trainer"]["actor"]["environments_replaced"] == 1


def test_bundles_tell_of_theirs(options):
    tiny = {"num_envs": 4, "bundles": 2, "servers": 1, "torso_hidden": (8,), "hidden_size": 8, "batch_size": 4}
    tiny |= {"warmup": 40, "replay_size": 800}
    task = api.compose(
        "sample_envs:FailsOnce", agent="gorila", preset="toy", config=tiny, options=options, device="cpu", seed=0
    )
    trainer, other = (gorila(task, RunOptions(steps=1_000)) for _ in range(2))
    assert "environments_replaced" not in trainer.told()
    told = []
    while trainer.steps < 60:
        trainer.step()
        told += trainer.faults()
    assert told == [f"bundle 0, environment 0 {LINE}"]
    assert trainer.told()["environments_replaced"] == 1
    tensors = trainer.tensors()
    other.load(tensors.__getitem__, tensors, trainer.numbers(), rows=False)
    assert other.told()["environments_replaced"] == 1
    del (numbers := trainer.numbers())["environments_replaced"]  # as in checkpoints of before
    other.load(tensors.__getitem__, tensors, numbers, rows=False)
    trainer.close()
    other.close()
