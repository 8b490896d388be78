"""Runs that lose Ray's head, or all of Ray on this host: what is saved, what is said, and how they go on."""

import importlib.util
import socket
import time

import psutil
import pytest
from tests.distributed.mortal import Mortal
from tests.small import SETTINGS, program

from retorq import api
from retorq.acting.node import PORTS, Node, NodeSettings
from retorq.acting.ray_settings import own_token
from retorq.distributed.sharded import ShardedReplay
from retorq.distributed.shards import Shards
from retorq.envs.make import make
from retorq.running import keeping
from retorq.running import train as training
from retorq.running.bundles import gorila
from retorq.running.checkpoint import newest
from retorq.running.gorila import Gorila
from retorq.running.shards import entry, snapshot
from retorq.running.trainer import Trainer
from retorq.types import Diverged, HeadLost, Stopped

RAY = importlib.util.find_spec("ray") is not None  # not to be imported before its settings are made
LIMIT = 120.0
OVER_TWO = training.RunOptions(steps=1, pool="ray", actors=1, replay_shards=2)
LOST = "a peer was lost while it was saved, and its next life holds something else"


class Elsewhere:
    """Runs with two shards that may be lost, in this process; ``refuses``: what starting one anew raises."""

    def __init__(self, monkeypatch):
        self.peers, self.refuses, self.deaths = {}, None, 0
        self.monkeypatch, self.chunks = monkeypatch, Trainer.chunks
        monkeypatch.setattr(training, "_trainer", self.trainer)
        monkeypatch.setattr(Trainer, "chunks", lambda trainer: self.dying(trainer))

    def trainer(self, task, run, folder, held):
        def shards(seed):
            def start(shard, life):
                if life and self.refuses is not None:
                    raise self.refuses
                self.peers[shard] = Mortal(entry(task, OVER_TWO, shard, life, seed).build())
                return self.peers[shard]

            watched = Shards(start, 2, snapshot=lambda shard: snapshot(folder, shard))
            return ShardedReplay(watched, batch_size=task.agent.batch_size, seed=seed)

        env = make(task.env, columns=task.agent.columns, seed=0, options=task.options)
        return Trainer(task.agent, env, total=run.steps, shards=shards)

    def dying(self, trainer):
        """A shard is lost between the index of a checkpoint and its rows."""
        if self.deaths and trainer.steps >= 80:
            self.deaths -= 1
            self.peers[1].dead = True
        return self.chunks(trainer)

    def lose(self, error):
        """All shards, at step 80, and none can be started anew."""
        plain = Trainer.step

        def step(trainer):
            plain(trainer)
            if trainer.steps >= 80:
                self.refuses = error
                for peer in self.peers.values():
                    peer.dead = True

        self.monkeypatch.setattr(Trainer, "step", step)
        return plain


def start(path, **settings):
    given = SETTINGS | {"preset": "toy", "steps": 140, "log_every": 20, "tensorboard": False, "threads": 1} | settings
    return api.train("memory", run=path, say=lambda line: None, **given)


@pytest.mark.parametrize("error", [HeadLost("Ray's head is gone"), Diverged("replay shard 0 died once more")])
def test_a_run_without_its_shards_is_saved_without_their_rows_and_goes_on(error, tmp_path, monkeypatch, capsys):
    elsewhere = Elsewhere(monkeypatch)
    plain = elsewhere.lose(error)
    with pytest.raises(type(error), match=str(error)) as caught:
        start(tmp_path)
    assert caught.value.exit_code == error.exit_code
    assert str(caught.value).endswith("on with the run." if error.exit_code == 75 else "once more")
    assert ("what was learned was saved" in str(caught.value)) is (error.exit_code == 75)
    found = newest(tmp_path / "checkpoints")
    updates = found.state["trainer"]["learner"]["updates"]
    assert (found.step, found.state["replay_saved"], updates > 2) == (82, False, True)
    monkeypatch.setattr(Trainer, "step", plain)
    elsewhere.refuses = None
    capsys.readouterr()
    done = start(tmp_path)
    out = capsys.readouterr().out
    assert (done.code, "going on at step 82" in out, "this checkpoint holds no replay" in out) == (0, True, True)
    assert done.metrics[-1]["updates"] > updates


def test_a_run_that_can_save_nothing_says_so(tmp_path, monkeypatch):
    elsewhere = Elsewhere(monkeypatch)
    elsewhere.lose(HeadLost("Ray's head is gone"))

    def full(*given, **settings):
        raise keeping.SaveFailed("no space left", 5_000)

    monkeypatch.setattr(keeping, "save", full)
    with pytest.raises(HeadLost, match="Ray's head is gone; NOT saved, and there is no checkpoint yet") as caught:
        start(tmp_path)
    assert caught.value.exit_code == 75


def test_a_head_that_is_lost_before_the_first_step_is_told_alike(tmp_path, monkeypatch):
    def lost(*given):
        raise HeadLost("Ray's head is gone")

    monkeypatch.setattr(training, "_trainer", lost)
    with pytest.raises(
        HeadLost, match=r"Ray's head is gone; NOT saved, .*Start the cluster, and the same command begins"
    ):
        start(tmp_path)


BEGINS = "Start the cluster, and the same command begins anew."


@pytest.mark.parametrize(
    ("head", "seconds", "left"),
    [
        (False, 600.0, "parameter server 0 was struck by lightning, and the weights it held are gone; there is no "),
        (False, 0.0, "parameter server 0 was struck by lightning, and the weights it held are gone; the same command "),
        (True, 600.0, f"Ray has ended on this host; NOT saved, and there is no checkpoint yet. {BEGINS}"),
    ],
)
def test_weights_that_are_lost_end_the_run_in_one_sentence(head, seconds, left, tmp_path, monkeypatch, capsys):
    def build(task, run, folder, held):
        return gorila(task, run)

    def step(trainer):
        plain(trainer)
        if trainer.steps >= 60 and seconds:
            lose(trainer)

    def lose(trainer):
        trainer.servers[0] = Mortal(trainer.servers[0].made)
        trainer.servers[0].close()
        if head:
            trainer.require = trainer.require_to_blame = gone

    def gone():
        raise HeadLost("Ray has ended on this host")

    plain = Gorila.step
    monkeypatch.setattr(training, "_trainer", build)
    monkeypatch.setattr(Gorila, "step", step)
    small = {"num_envs": 4, "torso_hidden": (8,), "hidden_size": 8, "batch_size": 4, "warmup": 40, "replay_size": 800}
    given = {"steps": 400, "preset": "toy", "tensorboard": False, "threads": 1, "checkpoint_seconds": seconds}
    if not seconds:  # lost while a checkpoint is written, and there is one already
        tensors = Gorila.tensors
        monkeypatch.setattr(Gorila, "tensors", lambda t, alone=False: (t.steps >= 60 and lose(t), tensors(t, alone))[1])
    with pytest.raises(Stopped) as caught:
        api.train("catch", "gorila", run=tmp_path, say=lambda line: None, **small, **given)
    assert caught.value.exit_code == 75
    assert str(caught.value).startswith(left)
    if not seconds:
        assert str(caught.value).endswith(f"from the checkpoint of step {newest(tmp_path / 'checkpoints').step}.")
    assert "checkpoint" not in capsys.readouterr().out


def test_a_checkpoint_never_mixes_two_lives_of_a_shard(tmp_path, monkeypatch, capsys):
    """The index would be of one, and the rows of the other; the next checkpoint is whole."""
    elsewhere = Elsewhere(monkeypatch)
    elsewhere.deaths = 1
    assert start(tmp_path, checkpoint_seconds=0.0, steps=100).code == 0
    out = capsys.readouterr().out
    assert out.count(f"checkpoint not written: {LOST}") == 1
    assert newest(tmp_path / "checkpoints").state["replay_saved"]


@pytest.mark.parametrize("deaths", [1, 2])
def test_the_last_checkpoint_is_tried_again_and_then_leaves_the_shards_out(deaths, tmp_path, monkeypatch, capsys):
    elsewhere = Elsewhere(monkeypatch)
    elsewhere.deaths = deaths
    assert start(tmp_path, steps=100).code == 0
    found = newest(tmp_path / "checkpoints")
    assert (found.step, found.state["replay_saved"]) == (100, deaths == 1)
    assert (f"the checkpoint leaves out what runs elsewhere: {LOST}" in capsys.readouterr().out) is (deaths == 2)


SHARDED = ["--agent", "apex_dqn", "--replay-shards", 2, "--num-envs", 4, "--warmup", 60]
BUNDLES = ["--agent", "gorila", "--num-envs", 4, "--warmup", 40]


def run(folder, agent, steps):
    """The same command each time."""
    words = ["train", "catch", "--preset", "toy", "--steps", steps, "--run", folder, "--threads", 1, "--log-every", 100]
    words += ["--pool", "ray", "--actors", 2, "--actor-rows", 5, *agent]
    return program(*words)


def until_it_learns(program, folder):
    """Wait for the second row of metrics: the warm-up is over."""
    end = time.monotonic() + LIMIT
    metrics = folder / "metrics.jsonl"
    while not metrics.is_file() or metrics.read_text().count("\n") < 3:
        assert time.monotonic() < end
        assert program.poll() is None, program.stdout.read()
        time.sleep(0.1)


def kill(program, names):
    found = [child for child in psutil.Process(program.pid).children(recursive=True) if child.name() in names]
    assert len(found) == len(names)
    for child in found:
        child.kill()


ALL, HEAD, HERE = ("gcs_server", "raylet"), ("gcs_server",), ("raylet",)
AGAIN = "Start the cluster and go on with the run."


@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
@pytest.mark.parametrize(
    ("agent", "killed", "replay", "said"),
    [
        pytest.param(SHARDED, ALL, False, "what was learned was saved", marks=pytest.mark.slow),
        pytest.param(SHARDED, HERE, False, "what was learned was saved", marks=pytest.mark.slow),
        pytest.param(SHARDED, HEAD, True, "what was learned was saved", marks=pytest.mark.slow),
        pytest.param(BUNDLES, HEAD, False, "what was learned was saved", marks=pytest.mark.slow),
        pytest.param(BUNDLES, ALL, None, "NOT saved, and there is no checkpoint yet", marks=pytest.mark.slow),
    ],
)
def test_what_can_be_reached_is_saved_and_said_to_be(agent, killed, replay, said, tmp_path):
    """Shards that are out of reach are left out; the weights of servers that are gone are lost."""
    program = run(tmp_path, agent, 10**6)
    until_it_learns(program, tmp_path)
    kill(program, killed)
    begun = time.monotonic()
    out, _ = program.communicate(timeout=LIMIT)
    assert (program.returncode, "Traceback" in out) == (75, False), out
    assert out.splitlines()[-1].endswith(f"; {said}. {BEGINS if replay is None else AGAIN}")
    assert time.monotonic() - begun < 40
    found = newest(tmp_path / "checkpoints")
    if replay is None:
        assert found is None
        return
    assert found.state["replay_saved"] is replay
    assert found.step >= 200


def own_address():
    """One of this host's own that is not the loopback, or none."""
    entries = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    found = [entry.address for entry in entries if entry.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), None)


@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_a_head_that_is_ended_in_order_leaves_the_learner_time_to_save(tmp_path):
    address = own_address()
    if address is None:
        pytest.skip("this host has the loopback address alone")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(own_token())
    port = next(port for port in range(21_000, 60_000, 7) if all(free(address, port + more) for more in range(PORTS)))
    node = Node(NodeSettings(address=address, port=port, head=None, processors=1, store=200 << 20, token=token))
    try:
        end = time.monotonic() + LIMIT
        while not node.ready:
            assert node.alive, node.why
            assert time.monotonic() < end
            time.sleep(0.1)
        words = ["--agent", "apex_dqn", "--num-envs", 4, "--cluster", f"{address}:{port}", "--cluster-token", token]
        learner = run(tmp_path / "run", words, 10**6)
        until_it_learns(learner, tmp_path / "run")
    finally:
        node.close()
    out, _ = learner.communicate(timeout=LIMIT)
    assert (learner.returncode, "Traceback" in out) == (75, False), out
    assert out.splitlines()[-1].endswith(f"; what was learned was saved. {AGAIN}")
    assert newest(tmp_path / "run" / "checkpoints").state["replay_saved"]


def free(address, port):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) != 0
