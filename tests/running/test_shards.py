"""Runs whose replay is in shards: what is refused, what is counted when one is killed, and how they go on."""

import copy
import importlib.util
import os
import signal
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from tests.algorithms.agents import MODULES
from tests.algorithms.test_training import settings
from tests.replay.test_storage import ATARI
from tests.small import SETTINGS, agent

import retorq
from retorq import api
from retorq.acting.head_watch import HeadWatch
from retorq.algorithms import CONTINUOUS, apex_dqn
from retorq.distributed.peers import Entry, Here, Lost, OnRay
from retorq.distributed.sharded import AHEAD, ShardedReplay
from retorq.distributed.shards import UNDERWAY, Shards
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.running.actors import beside_bytes
from retorq.running.checkpoint import newest
from retorq.running.folder import RunFolder
from retorq.running.shards import entry, require_shards, snapshot
from retorq.running.train import RunOptions, Task
from retorq.running.trainer import Trainer, merged
from retorq.types import UserError

RAY = importlib.util.find_spec("ray") is not None  # not to be imported before its settings are made
SHARDED = {"pool": "ray", "actors": 2, "replay_shards": 2}


def task(**changes):
    return Task(env="memory", agent=agent("memory", **changes), options=EnvOptions(), preset="toy")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_envs": 1}, "replay_shards is 2, but num_envs is 1, .* give at most 1"),
        ({"refresh": 1.0}, "replay_shards is 2, but refresh is 1, .* set refresh to 0"),
        ({"start_state": "whole"}, "replay_shards is 2, but start_state is 'whole', .* set start_state to zero"),
    ],
)
def test_a_replay_that_cannot_be_divided_is_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        require_shards(task(**settings), RunOptions(steps=100, **SHARDED))
    require_shards(task(**settings), RunOptions(steps=100, pool="ray", actors=1))


@pytest.mark.parametrize("pool", ["local", "process"])
def test_shards_run_on_ray_alone(pool):
    with pytest.raises(UserError, match=f"replay_shards is 2, but pool is {pool}"):
        RunOptions(steps=100, pool=pool, actors=0 if pool == "local" else 2, replay_shards=2)


def test_a_run_without_shards_is_the_same_run_as_ever():
    assert "replay_shards" not in RunOptions(steps=100, pool="ray", actors=2).identity
    assert RunOptions(steps=100, **SHARDED).identity["replay_shards"] == 2


def test_shards_hold_as_many_rows_of_each_environment_as_one_replay_would():
    here, run = task(num_envs=5, replay_size=500), RunOptions(steps=100, **SHARDED)
    whole = here.agent.replay(device="cpu", seed=0)
    shards = [entry(here, run, shard, 0, 7).build() for shard in range(2)]
    assert [shard.replay.storage.columns for shard in shards] == [3, 2]
    assert {shard.replay.storage.rows for shard in shards} == {whole.storage.rows}
    assert {shard.replay.window for shard in shards} == {whole.window}
    seeds = {entry(here, run, shard, life, 7).arguments["seed"] for shard in range(2) for life in range(3)}
    assert len(seeds) == 6


AGENTS = [name for name in MODULES if name != "gorila"]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_learns_from_shards(name):
    """Shards in this process, built as they are elsewhere; of every agent all rows arrive and weights move."""
    config = settings(name, num_envs=3, replay_size=180)
    env = "pendulum" if name in CONTINUOUS else "catch"
    made = api.compose(env, agent=name, preset="toy", config=config, options=EnvOptions(), device="cpu", seed=0)
    run, before = RunOptions(steps=150, **SHARDED), copy.deepcopy(made.agent.network.state_dict())

    def shards(seed):
        held = Shards(lambda shard, life: Here(entry(made, run, shard, life, seed).build()), 2)
        return ShardedReplay(held, batch_size=made.agent.batch_size, seed=seed)

    trainer = Trainer(made.agent, make(env, columns=3), total=150, shards=shards)
    while not trainer.done:
        trainer.step()
    trainer.replay.shards.settle()
    assert trainer.updates * made.agent.rows_per_update == pytest.approx(0.8 * 102, abs=made.agent.rows_per_update)
    means = trainer.means()
    assert np.isfinite(means["loss"])
    assert means["skipped"] == 0
    after = trainer.learner.online.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    received = sum(told.received for told in trainer.replay.shards.told)
    assert received == sum(held.sent for held in trainer.replay.shards) >= 150
    prioritized = made.agent.config.prioritized
    weights = {tuple(trainer.replay.sample(made.agent.batch_size).weight.tolist()) for _ in range(4)}
    assert (weights != {(1.0,) * made.agent.batch_size}) is prioritized
    trainer.close()


class Weighed(Here):
    """A peer in this process that notes the bytes of the largest call of each kind, with its answer."""

    def __init__(self, made):
        super().__init__(made)
        self.most = {}

    def ask(self, method, *arguments):
        call = super().ask(method, *arguments)
        self.most[method] = max(self.most.get(method, 0), nbytes(arguments) + nbytes(call.answer))
        return call


def nbytes(value):
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    return sum(map(nbytes, value)) if isinstance(value, (list, tuple)) else getattr(value, "nbytes", 0)


@pytest.mark.parametrize("name", ["apex_dqn", "r2d2"])
def test_the_store_has_room_for_what_shards_have_under_way(name):
    """Counted before a run begins, and weighed here: batches, rows, and pieces and priorities of all shards."""
    config = settings(name, num_envs=6, replay_size=900, prioritized=True)
    made = api.compose("catch", agent=name, preset="toy", config=config, options=EnvOptions(), device="cpu", seed=0)
    run, peers = RunOptions(steps=900, actor_rows=1, **SHARDED), []

    def shards(seed):
        def start(shard, life):
            peers.append(Weighed(entry(made, run, shard, life, seed).build()))
            return peers[-1]

        return ShardedReplay(Shards(start, 2), batch_size=made.agent.batch_size, seed=seed)

    trainer = Trainer(made.agent, make("catch", columns=6), total=900, shards=shards)
    while not trainer.done:
        trainer.step()
    for _, tensors in trainer.replay.chunks().values():
        tensors()
    trainer.replay.state_dict()
    for peer in peers:
        one = {"piece": 0, "state_dict": 0, "sample": 0, "extend": 0} | peer.most
        need = 2 * max(one["piece"], one["state_dict"]) + AHEAD * one["sample"] + UNDERWAY * one["extend"]
        assert min(one[what] for what in ("piece", "state_dict", "sample", "extend")) > 0
        assert need < beside_bytes(made.agent, run) < 5 * need
    assert beside_bytes(made.agent, RunOptions(steps=900, pool="ray", actors=2)) == 0


def test_the_published_preset_of_apex_asks_for_what_a_usual_store_has():
    """Two shards of two million rows: batches of 59 MB, and no piece of a gigabyte."""
    made, run = apex_dqn.make(apex_dqn.atari(), ATARI), RunOptions(steps=1, pool="ray", actors=360, replay_shards=2)
    batch = made.batch_size * made.window.rows * made.stack * made.layout.bytes_per_row()
    assert 5 * batch + 2 * made.layout.piece_rows(180) * 180 * made.layout.bytes_per_row() < beside_bytes(made, run)
    assert beside_bytes(made, run) < 700 << 20


class Asking:
    """Somebody to call in another process."""

    def answer(self, what):
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "mistake":
            raise UserError("game is 'chess'; give another.")
        return np.full(100_000, int(what))


@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_a_peer_on_ray_answers_in_order_until_it_is_lost(monkeypatch):
    from pathlib import Path

    from retorq.acting.cluster import LocalRay

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    cluster = LocalRay()
    try:
        peer = OnRay(cluster.ray, Entry(name="tests.running.test_shards:Asking"))
        calls = [peer.ask("answer", str(number)) for number in range(5)]
        assert [call.take(180)[0] for call in calls] == [0, 1, 2, 3, 4]
        assert calls[-1].done
        with pytest.raises(UserError, match="game is 'chess'"):
            peer.ask("answer", "mistake").take(60)
        with pytest.raises(Lost, match="raised ValueError: invalid literal"):
            peer.ask("answer", "nothing").take(60)
        before, after = peer.ask("answer", "die"), peer.ask("answer", "1")
        for call in (before, after):
            with pytest.raises(Lost, match="died "):
                call.take(60)
        peer.close()
        peer.close()
    finally:
        cluster.close()


def counts(run):
    """Rows received by the shards and rows lost, of the newest checkpoint, and its state of the replay."""
    found = newest(run / "checkpoints")
    arrays = {name: value.numpy() for name, value in found.tensors("replay-index").items()}
    state = merged(arrays, found.state["trainer"]["replay"])
    held = sum(shard["received"] for shard in state["shards"].values())
    return held, state["lost"]["rows_gone"] + sum(shard["passed"] for shard in state["shards"].values()), state


def shard_processes():
    names = [(child, " ".join(child.cmdline())) for child in psutil.Process().children(recursive=True)]
    return [child for child, name in names if name.startswith("ray::Host") and "Hosted" not in name]


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_a_run_whose_shards_are_killed_counts_every_row_stops_and_goes_on(tmp_path, monkeypatch, capsys):
    """After a checkpoint both are killed; the run is stopped; the same command goes on, and counts go on, too."""
    settings = {**SETTINGS, **SHARDED, "num_envs": 4, "replay_size": 4_000, "warmup": 60, "preset": "toy"}
    settings |= {"actor_rows": 5, "log_every": 100, "steps": 20_000, "checkpoint_seconds": 1.0, "prioritized": True}
    run, step, extend = tmp_path / "run", Trainer.step, ShardedReplay.extend
    seen = SimpleNamespace(sent=0, killed=0, saved=0)

    def counting(self, columns, rows):
        seen.sent += rows.rows * rows.columns
        extend(self, columns, rows)

    def stepping(self):
        step(self)
        found = sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*")) if run.exists() else []
        if found and 200 <= found[-1] <= self.steps - 60 and not seen.killed:
            seen.killed, seen.saved = self.steps, found[-1]
            for process in shard_processes():
                process.kill()
        if seen.killed and self.replay.shards.replaced == 2 and self.steps > seen.killed + 300:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ShardedReplay, "extend", counting)
    monkeypatch.setattr(Trainer, "step", stepping)
    assert retorq.train("memory", run=run, say=print, **settings).code == 75
    out = capsys.readouterr().out
    assert out.count(f"it is being started anew as of step {seen.saved:,}: ") == 2

    held, lost, state = counts(run)
    assert held + lost == seen.sent
    assert lost > 0
    assert state["lost"]["replaced"] == 2
    assert state["lost"]["windows_lost"] > 0

    def ending(self):
        step(self)
        if self.steps > seen.killed + 1_000:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", ending)
    again = retorq.train("memory", run=run, say=print, **settings)
    assert again.code == 75
    assert sum(counts(run)[:2]) == seen.sent
    last = again.metrics[-1]
    assert last["shards_replaced"] == 2
    assert last["rows_lost"] >= lost
    assert last["shard0_inserts_per_second"] > 0
    assert np.isfinite(last["loss"])
    assert last["replay_ratio"] == pytest.approx(settings["replay_ratio"], rel=0.1)
    with pytest.raises(UserError, match="replay_shards cannot change"):
        retorq.resume(run, replay_shards=3)


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_the_object_store_never_holds_more_than_what_is_under_way(tmp_path, monkeypatch):
    """Looked at in a run of batches of a megabyte, 200 of them, in a store of 100 MiB and more."""
    settings = {**SHARDED, "num_envs": 4, "replay_size": 40_000, "warmup": 2_000, "batch_size": 4_096, "steps": 2_200}
    settings |= {"preset": "toy", "replay_ratio": 4_096.0, "log_every": 2_000, "threads": 1, "checkpoint_seconds": 5.0}
    learn, used = Trainer._learn, []

    def learning(self):
        learn(self)
        ray = self.pool._ray
        total = ray.cluster_resources()["object_store_memory"]
        used.append(total - ray.available_resources().get("object_store_memory", 0.0))
        if self.updates >= 200:
            self.total = self.steps

    monkeypatch.setattr(Trainer, "_learn", learning)
    assert retorq.train("catch", "apex_dqn", run=tmp_path / "run", say=print, **settings).code in (0, 75)
    made = api.compose(
        "catch",
        agent="apex_dqn",
        preset="toy",
        config={k: settings[k] for k in ("num_envs", "replay_size", "warmup", "batch_size")},
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )
    assert 0 < max(used) <= beside_bytes(made.agent, RunOptions(steps=1, **SHARDED))


@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_a_checkpoint_gives_each_shard_its_rows_back(tmp_path, monkeypatch):
    """And the run looked at Ray with one watch, for actors and shards alike."""
    watches, init = [], HeadWatch.__init__

    def watching(self, cluster):
        watches.append(self)
        init(self, cluster)

    monkeypatch.setattr(HeadWatch, "__init__", watching)
    settings = {**SETTINGS, **SHARDED, "num_envs": 3, "actors": 1, "warmup": 60, "preset": "toy"}
    settings |= {"steps": 200, "log_every": 100}
    done = retorq.train("memory", run=tmp_path / "run", say=lambda line: None, **settings)
    assert done.code == 0
    [watch] = watches
    assert not any(thread.is_alive() for thread in watch._threads)
    here = task(num_envs=3)
    for shard, columns in enumerate((2, 1)):
        there = entry(here, RunOptions(steps=100, **SHARDED), shard, 0, 7).build()
        found = snapshot(RunFolder.open(tmp_path / "run", lock=False), shard)
        there.load(found.state)
        for name, tensors in found.pieces:
            there.restore(name, {field: value.numpy() for field, value in tensors().items()})
        assert there.received == int(there.replay.storage.written.sum()) + columns  # one row of each held back
        seen = there.replay.sample(2).trajectory
        assert torch.equal(seen.inputs.elapsed[1:] == 0, seen.last[:-1])
