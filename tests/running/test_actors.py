"""Runs whose actors are in other processes: they learn at the asked ratio, stop, and go on."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.small import SETTINGS, agent, command, flags

import retorq
from retorq import api
from retorq.acting.placement import Host
from retorq.acting.ray_pool import store_bytes
from retorq.acting.remote import Player
from retorq.envs.options import EnvOptions
from retorq.running.actors import ENTRY, actors, beside_bytes, cluster_for, recipes, row_bytes
from retorq.running.checkpoint import newest
from retorq.running.train import RunOptions, Task
from retorq.running.trainer import Trainer
from retorq.types import UserError


def task(**changes):
    return Task(env="memory", agent=agent("memory", **changes), options=EnvOptions(), preset="toy")


def test_environments_are_shared_out_equally():
    shares = recipes(task(num_envs=6), RunOptions(steps=100, pool="process", actors=3, actor_rows=7))
    assert [(share.first, share.columns, share.rows, share.entry) for share in shares] == [
        (0, 2, 7, ENTRY),
        (2, 2, 7, ENTRY),
        (4, 2, 7, ENTRY),
    ]
    json.dumps(shares[0].as_json())
    with pytest.raises(UserError, match=r"actors is 4, but num_envs is 6, .* divides num_envs"):
        actors(task(num_envs=6), RunOptions(steps=100, pool="process", actors=4))


def test_a_recipe_builds_the_same_agent_elsewhere():
    here = task()
    [share] = recipes(here, RunOptions(steps=100, pool="process", actors=1))
    there = share.build(5)
    assert str(there.network) == str(here.agent.network)
    assert there.explore == here.agent.explore
    assert (there.total, there.env.columns, there.seed) == (100, 2, 5)
    there.env.close()
    assert row_bytes(here.agent) > here.agent.layout.bytes_per_row()


class Joined:
    """A cluster that was joined."""

    ray, closed = None, False

    def __init__(self, *given):
        pass

    def close(self):
        Joined.closed = True


@pytest.mark.parametrize(
    ("name", "run"), [("recurrent_iqn", {}), ("recurrent_iqn", {"replay_shards": 2}), ("gorila", {})]
)
def test_a_cluster_without_room_for_what_is_under_way_is_refused_and_left(name, run, monkeypatch):
    """Rows and weights, batches of shards, gradients of bundles: each needs its part of the object store."""
    made = api.compose("memory", agent=name, preset="toy", config={}, options=EnvOptions(), device="cpu", seed=0)
    run = RunOptions(steps=100, pool="ray", actors=2, cluster="10.0.0.1:6379", **run)
    need = store_bytes(recipes(made, run), made.agent.network, row_bytes(made.agent)) + beside_bytes(made.agent, run)
    assert (beside_bytes(made.agent, run) > 0) is (name == "gorila" or run.replay_shards > 0)
    monkeypatch.setattr("retorq.running.actors.JoinedRay", Joined)
    host = Host(id="a", address="10.0.0.2", port=1, processors=1.0, store=need)
    monkeypatch.setattr("retorq.running.actors.hosts", lambda ray: [host])
    assert isinstance(cluster_for(made, run), Joined)
    assert not Joined.closed
    monkeypatch.setattr("retorq.running.actors.hosts", lambda ray: [host, replace(host, store=need - 1)])
    with pytest.raises(UserError, match=r"host 10.0.0.2 has \d+ MiB, and this run needs \d+ MiB; start it again with"):
        cluster_for(made, run)
    assert Joined.closed
    Joined.closed = False


class Still:
    """Weights that never change, at a given time of the run."""

    edition = version = 0
    clock = 37

    def read(self, network):
        return 0


def test_an_actor_elsewhere_plays_its_share_of_the_run():
    """Its rungs of the ladder by the run's clock, what it thought if that is asked for, states in half precision."""
    made = api.compose(
        "catch", agent="apex_dqn", preset="toy", config={"num_envs": 4}, options=EnvOptions(), device="cpu", seed=0
    )
    shares = recipes(made, RunOptions(steps=100, pool="process", actors=2, actor_rows=3))
    players = [Player(share, actor=number, incarnation=0, seed=number) for number, share in enumerate(shares)]
    whole = made.agent.explore.epsilon(37, 100)
    for number, player in enumerate(players):
        player.weights = Still()
        assert player.pool.actor.explore.epsilon(0, 100).tolist() == whole[2 * number : 2 * number + 2].tolist()
        message = player.message()
        assert {int(column) for columns, _ in message.chunks for column in columns} == {2 * number, 2 * number + 1}
        assert all({"value", "highest"} <= rows.extras.keys() for _, rows in message.chunks)
        player.close()
    [share] = recipes(task(), RunOptions(steps=100, pool="process", actors=1))
    player = Player(share, actor=0, incarnation=0, seed=0)
    player.weights = Still()
    states = [rows.extras[name] for _, rows in player.message().chunks for name in ("state.h", "state.c")]
    assert {state.dtype for state in states} == {torch.float16}
    player.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"actors": 2}, "actors is 2, but pool is local"),
        ({"actor_rows": 3}, "actor_rows is 3, but pool is local"),
        ({"pool": "process"}, "actors is 0; give the number of actors, at least 1"),
        ({"pool": "cloud"}, "pool is 'cloud'; give local, process or ray"),
        ({"pool": "process", "actors": 2, "actor_rows": 0}, "actor_rows is 0; give at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        RunOptions(steps=100, **wrong)


def test_a_run_with_actors_elsewhere_stops_and_goes_on(tmp_path):
    """All its steps are counted once, and each is learned from as often as asked."""
    run = tmp_path / "run"
    settings = {**SETTINGS, "num_envs": 4, "replay_size": 400, "replay_ratio": 2.0, "warmup": 60}
    words = [
        "train", "memory", "--agent", "recurrent_iqn", *flags(**settings), "--steps", 1500, "--run", run,
        "--pool", "process", "--actors", 2, "--actor-rows", 5, "--log-every", 100,
    ]  # fmt: skip
    code, _out, err = command(*words)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["step"] >= 1500
    learned = (last["step"] - 60) * 2.0
    assert last["updates"] * 8 == pytest.approx(learned, rel=0.05)  # batches of 2 sequences of 4
    assert all(one["step"] < other["step"] for one, other in pairwise(rows))
    episodes = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert {episode["column"] for episode in episodes} == {0, 1, 2, 3}

    code, _, err = command(*[2500 if word == 1500 else word for word in words])
    assert (code, "steps" in err) == (3, True)
    with pytest.raises(UserError, match="pool cannot change"):
        retorq.api.resume(run, pool="local")


def test_a_stopped_run_goes_on_with_new_games_and_says_so(tmp_path, monkeypatch, capsys):
    """Streams that were open are closed by the rows held back, so that no game is spliced to another."""
    settings = {**SETTINGS, "num_envs": 4, "replay_size": 4_000, "warmup": 60}
    settings |= {"preset": "toy", "pool": "process", "actors": 2, "actor_rows": 5, "log_every": 100, "steps": 1200}
    step = Trainer.step

    def stopping(self):
        step(self)
        if self.steps >= 500 and self.replay.storage.written.min() > 0:  # every column has played
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stopping)
    assert retorq.train("memory", run=tmp_path / "run", say=print, **settings).code == 75
    monkeypatch.setattr(Trainer, "step", step)
    seen = []
    load = Trainer.load

    def loading(self, *arguments, **keywords):
        exact = load(self, *arguments, **keywords)
        storage = self.replay.storage
        ends = [bool(storage.last(np.array([c]), storage.written[[c]] - 1)[0]) for c in range(4)]
        seen.append((exact, ends, self.steps))
        return exact

    monkeypatch.setattr(Trainer, "load", loading)
    assert retorq.train("memory", run=tmp_path / "run", say=print, **settings).code == 0
    [(exact, ends, steps)] = seen
    assert (exact, ends) == (False, [True] * 4)
    assert steps >= 500
    out = capsys.readouterr().out
    assert "going on at step" in out
    assert "new games were begun" in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] >= 1200


def test_an_actor_that_is_killed_is_told_and_counted(tmp_path, monkeypatch, capsys):
    settings = {**SETTINGS, "num_envs": 4, "replay_size": 4_000, "warmup": 60}
    settings |= {"preset": "toy", "pool": "process", "actors": 2, "actor_rows": 5, "log_every": 100, "steps": 1500}
    step, killed = Trainer.step, []

    def stepping(self):
        step(self)
        if self.steps >= 500 and not killed:
            killed.append(self.pool._actors[1].process.pid)
            os.kill(killed[0], signal.SIGKILL)
            os.waitid(os.P_PID, killed[0], os.WEXITED | os.WNOWAIT)  # dead before the run goes on, and ends

    monkeypatch.setattr(Trainer, "step", stepping)
    run = retorq.train("memory", run=tmp_path / "run", say=print, **settings)
    assert run.code == 0
    told = "actor 1 was killed by SIGKILL (out of memory or a crash in native code); its games were cut"
    assert told in capsys.readouterr().out
    assert run.metrics[-1]["actors_replaced"] == 1
    assert "actors_replaced" not in run.metrics[0]
    assert newest(tmp_path / "run" / "checkpoints").state["trainer"]["actor"]["replaced"] == 1


def test_a_run_in_real_time_tells_what_came_late(tmp_path):
    options = {"preset": "toy", "steps": 60, "log_every": 20, "tensorboard": False, "threads": 1}
    run = retorq.train(
        "memory", run=tmp_path / "run", pool="process", actors=1, actor_rows=5, hz=1e5, say=print, **SETTINGS | options
    )
    assert run.code == 0
    *_, last = run.metrics
    assert last["late_steps"] > 10  # nobody thinks in a hundred thousandth of a second
    assert sum(row.get("action_ms_p99", 0.0) for row in run.metrics) > 0.01
    again = api.resume(run.path, say=lambda line: None, threads=1)
    assert again.code == 0
