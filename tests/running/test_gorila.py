"""Bundles around parameter servers: taking turns they are deterministic, and no gradient goes uncounted."""

import importlib.util
import os
import signal
from itertools import pairwise

import psutil
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import retorq
from retorq import api
from retorq.distributed.gradients import Sending, Servers
from retorq.distributed.peers import Here, Lost
from retorq.envs.options import EnvOptions
from retorq.running.bundles import gorila, require_bundles
from retorq.running.gorila import Gorila
from retorq.running.train import RunOptions
from retorq.types import Diverged, HeadLost, Stopped, UserError

RAY = importlib.util.find_spec("ray") is not None  # not to be imported before its settings are made
TINY = {"num_envs": 4, "torso_hidden": (8,), "hidden_size": 8, "batch_size": 4, "warmup": 40, "target_period": 5}
TINY |= {"replay_size": 800, "replay_ratio": 2.0, "outlier_warmup": 20}


def task(**changes):
    return api.compose(
        "catch", agent="gorila", preset="toy", config=TINY | changes, options=EnvOptions(), device="cpu", seed=0
    )


def made(total=10_000, seed=0, **changes):
    return gorila(task(**changes), RunOptions(steps=total, seed=seed))


def trained(trainer, steps):
    while trainer.steps < steps:
        trainer.step()
    return trainer


def weights(trainer):
    return torch.cat([server.made.weights.detach() for server in trainer.servers])


def test_bundles_share_environments_replay_and_warm_up():
    trainer = made(bundles=2, warmup=41)
    for number, bundle in enumerate(trainer._bundles):
        there = bundle.peer.made.trainer
        assert (there.agent.columns, there.agent.capacity, there.agent.warmup) == (2, 400, 21)
        assert there.replay.storage.columns == 2
        assert there.pool.actor.env.columns == 2
        assert there.agent.explore.first == 2 * number
    trainer.step()
    assert trainer.steps == 4
    trainer.close()


def test_bundles_are_waited_for_until_each_has_answered():
    trainer = made()
    assert trainer.waiting == "bundles: 0 of 2 up"
    trained(trainer, 8)
    assert trainer.waiting == ""


def test_sharded_servers_make_the_same_weights_as_one_step_for_step():
    one, other = made(servers=1), made(servers=3)
    for _ in range(30):
        one.step()
        other.step()
        assert torch.equal(weights(one), weights(other))
    assert one.updates == other.updates > 20
    assert not torch.equal(weights(one), weights(made(servers=1)))
    assert not torch.equal(weights(one), weights(trained(made(servers=1, seed=1), one.steps)))


def test_bundles_that_take_turns_are_deterministic_and_never_late():
    one, other = trained(made(), 200), trained(made(), 200)
    assert torch.equal(weights(one), weights(other))
    counts = one.counts()
    assert counts == other.counts()
    assert counts["dropped"] == counts["staleness"] == 0
    assert counts["updates"] == counts["sent"] * len(one.servers) > 100
    # The replay ratio holds: rows trained, dropped or not, per step beyond the warm-up.
    assert (counts["sent"] + counts["outlying"]) * 4 == pytest.approx(2.0 * (one.steps - 40), abs=24)


class Slow(Servers):
    """A learner on a slow line: each gradient is sent when so many later ones have been computed."""

    late = 3

    def __init__(self, peers):
        super().__init__(peers)
        self.waiting = []

    def send(self, gradient, rate):
        self.waiting.append((gradient, list(self.versions), rate))
        if len(self.waiting) > self.late:
            gradient, self.versions, rate = self.waiting.pop(0)
            super().send(gradient, rate)


def logged(server):
    """Every gradient that comes to a server: how late it is, and whether it was taken."""
    apply, log = server.apply, []

    def logging(gradient, version, rate):
        late = server.updates - version
        log.append((late, apply(gradient, version, rate)))
        return log[-1][1]

    server.apply = logging
    return log


@pytest.mark.parametrize("bound", [5, 20])
def test_gradients_of_a_slow_learner_are_dropped_and_all_are_counted(bound):
    """Of two learners that take turns one is three of its batches late, which is more than three updates."""
    trainer = made(max_staleness=bound, servers=2, outlier_warmup=10_000)
    slow = trainer._bundles[1].peer.made.learner
    slow.servers = Slow(trainer.servers)
    logs = [logged(server.made) for server in trainer.servers]
    trained(trainer, 400)
    counts, waiting = trainer.counts(), len(slow.servers.waiting)
    sent = [bundle.sent for bundle in trainer._bundles]
    assert waiting == 3
    assert sum(late > 3 for late, _ in logs[0]) > 30
    for server, log in zip(trainer.servers, logs, strict=True):
        told = server.made.told()
        assert len(log) == told["updates"] + told["dropped"] == sum(sent) - waiting
        assert [taken for _, taken in log] == [late <= bound for late, _ in log]
        assert told["updates"] == sum(taken for _, taken in log)
        assert (told["staleness"], told["oldest"]) == (sum(late for late, _ in log), max(late for late, _ in log))
    assert (counts["dropped"] > 30) is (bound == 5)
    assert (counts["dropped"] == 0) is (bound == 20)
    assert trainer.updates == counts["updates"] / 2
    told = trainer.told()
    assert told["gradients_stale"] == counts["dropped"] / 2
    assert told["staleness_highest"] == counts["oldest"]
    assert told["staleness"] == pytest.approx(counts["staleness"] / (counts["updates"] + counts["dropped"]))


def test_outlying_losses_are_dropped_and_counted(monkeypatch):
    trainer = made(outlier_warmup=10, outlier_deviations=2.0)
    gradient = Sending.update
    worst = []

    def update(self, batch, progress=0.0):
        before = self.outlying
        told = gradient(self, batch, progress)
        if self.outlying > before:
            worst.append(float(told[2]["loss"]))
        return told

    monkeypatch.setattr(Sending, "update", update)
    trained(trainer, 600)
    counts = trainer.counts()
    assert counts["outlying"] == len(worst) > 0
    computed = sum(bundle.peer.made.trainer.updates for bundle in trainer._bundles)
    assert counts["sent"] + counts["outlying"] == computed
    assert trainer.told()["gradients_outlying"] == len(worst)


def test_a_gradient_that_is_not_finite_is_not_sent():
    trainer = trained(made(), 60)
    there = trainer._bundles[0].peer.made
    sent, computed = there.learner.sent, there.trainer.updates
    there.trainer.replay.storage.arrays["reward"].fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite in 5 updates in a row"):
        trained(trainer, 400)
    finite = there.trainer.updates - computed - int(there.learner.skipped_in_a_row)
    assert there.learner.sent - sent <= finite
    assert weights(trainer).isfinite().all()


def test_metrics_are_means_over_all_updates_of_all_bundles(monkeypatch):
    trainer = trained(made(replay_ratio=3.0), 60)  # one or two updates a turn
    trainer.means()
    seen = []
    gradient = Sending.update

    def update(self, batch, progress=0.0):
        told = gradient(self, batch, progress)
        seen.append(float(told[2]["loss"]))
        return told

    monkeypatch.setattr(Sending, "update", update)
    trained(trainer, 120)
    means = trainer.means()
    assert means["loss"] == pytest.approx(sum(seen) / len(seen))
    assert means["skipped"] == 0
    assert trainer.means() == {}


def test_every_bundle_acts_with_the_newest_weights():
    """Those of the servers when its step begins, whoever made the last update."""
    trainer, seen = trained(made(), 100), []
    for bundle in trainer._bundles:
        there = bundle.peer.made

        def stepping(there=there, step=there.trainer.step):
            acting = parameters_to_vector(there.trainer.pool.actor.network.parameters())
            seen.append(torch.equal(acting, weights(trainer)))
            step()

        there.trainer.step = stepping
    trained(trainer, 160)
    assert len(seen) > 20
    assert all(seen)


@pytest.mark.parametrize("anneal", [True, False])
def test_gradients_come_with_the_learning_rate_of_their_time(anneal):
    """Which falls to 0 over the run where that is asked for."""
    trainer, rates = made(total=400, anneal_learning_rate=anneal, learning_rate=0.01), []
    server = trainer.servers[0].made
    apply = server.apply

    def noting(gradient, version, rate):
        rates.append(rate)
        return apply(gradient, version, rate)

    server.apply = noting
    trained(trainer, 400)
    assert all(later <= rate for rate, later in pairwise(rates))
    assert 0.008 < rates[0] <= 0.01
    assert (rates[-1] < 0.0005) is anneal
    assert (set(rates) == {0.01}) is not anneal


def test_games_are_told_with_the_columns_of_the_run():
    trainer = trained(made(), 200)
    episodes = trainer.drain()
    assert {episode.column for episode in episodes} == {0, 1, 2, 3}
    assert trainer.drain() == []
    assert all(0 < episode.step <= 204 for episode in episodes)


class Mortal(Here):
    """A bundle that may be lost."""

    dead = False

    def ask(self, method, *arguments):
        return Gone() if self.dead else super().ask(method, *arguments)


class Gone:
    done = True

    def take(self, limit):
        raise Lost("was struck by lightning")


def test_a_bundle_that_is_lost_is_started_anew_and_its_gradients_stay_counted():
    trainer = made()
    old = trainer._bundles[1]
    old.peer = Mortal(old.peer.made)
    trained(trainer, 200)
    before, sent = trainer.counts(), old.sent
    assert sent > 0
    old.peer.dead = True
    trainer.step()
    [told] = trainer.faults()
    assert told == "bundle 1 was struck by lightning; it was started anew, with new games and an empty replay"
    assert trainer._bundles[1].sent == 0
    assert trainer.counts()["sent"] >= before["sent"]
    trained(trainer, 400)
    assert trainer.counts()["updates"] == trainer.counts()["sent"] * len(trainer.servers)
    assert trainer.told()["bundles_replaced"] == 1
    assert trainer._bundles[1].sent > 0

    trainer.most_restarts = 1
    trainer._bundles[1].peer = Mortal(trainer._bundles[1].peer.made)
    trainer._bundles[1].peer.dead = True
    with pytest.raises(Diverged, match="bundle 1 was struck by lightning, and had been started anew 1 times"):
        trained(trainer, 500)


def test_a_parameter_server_that_is_lost_ends_the_run():
    trainer = trained(made(), 60)
    trainer.servers[1] = Mortal(trainer.servers[1].made)
    trainer.servers[1].dead = True
    with pytest.raises(Stopped, match=r"parameter server 1 was struck by lightning, and the weights it held are gone$"):
        trainer._server(1, "told")
    with pytest.raises(Stopped, match="parameter server 1"):
        trainer.tensors()


def test_no_server_is_blamed_where_ray_is_gone():
    trainer = trained(made(), 60)
    trainer.servers[0] = Mortal(trainer.servers[0].made)
    trainer.servers[0].dead = True

    def gone():
        raise HeadLost("Ray has ended on this host")

    trainer.require_to_blame = gone
    with pytest.raises(HeadLost, match="Ray has ended on this host"):
        trainer.step()


def test_a_bundle_that_is_lost_while_it_is_saved_is_named():
    trainer = trained(made(), 60)
    trainer._bundles[1].peer = Mortal(trainer._bundles[1].peer.made)
    trainer._bundles[1].peer.dead = True
    with pytest.raises(Lost, match="bundle 1 was struck by lightning"):
        trainer.tensors()


def test_a_bundle_that_fails_for_want_of_a_server_is_not_started_anew():
    """The run ends as one that can go on, and not as one whose bundle has failed too often."""
    trainer = trained(made(), 60)
    server, bundle = Mortal(trainer.servers[1].made), Mortal(trainer._bundles[0].peer.made)
    trainer.servers[1], trainer._bundles[0].peer = server, bundle
    server.dead = bundle.dead = True
    with pytest.raises(Stopped, match="parameter server 1 was struck by lightning"):
        trainer.step()
    assert trainer.replaced == 0


def test_a_lost_head_ends_the_run_and_the_servers_alone_are_enough_to_go_on():
    """Bundles that are not in a checkpoint begin anew, and no gradient is forgotten."""
    one, other = trained(made(), 200), made(seed=1)

    def lost():
        raise HeadLost("Ray's head is gone")

    one.require = lost
    with pytest.raises(HeadLost):
        one.step()
    for bundle in one._bundles:
        bundle.peer = Mortal(bundle.peer.made)
        bundle.peer.dead = True
    parts, numbers = one.tensors(alone=True), one.numbers(alone=True)
    assert parts.keys() == {"server0", "server1", "learner"}
    assert other.load(parts.__getitem__, parts, numbers, rows=False) is False
    assert torch.equal(weights(other), weights(one))
    assert (other.steps, other.counts()) == (one.steps, one.counts())
    trained(other, 400)
    counts = other.counts()
    assert counts["updates"] == counts["sent"] * len(other.servers) > 2 * one.counts()["sent"]


@pytest.mark.parametrize(
    ("settings", "run", "sentence"),
    [
        ({}, {"pool": "process", "actors": 2}, "pool is process, .* give --pool ray or --pool local"),
        ({}, {"pool": "ray", "actors": 3}, "actors is 3, but bundles is 2, .* give --actors 2"),
        ({}, {"pool": "ray", "actors": 2, "replay_shards": 1}, "replay_shards is 1, .* leave it away"),
        ({"center_images": True}, {}, "center_images is true, .* set it to false"),
    ],
)
def test_runs_that_cannot_be_are_refused(settings, run, sentence):
    with pytest.raises(UserError, match=sentence):
        require_bundles(task(**settings), RunOptions(steps=100, **run))
    require_bundles(task(), RunOptions(steps=100, pool="ray", actors=2))


def test_environments_that_cannot_be_shared_are_refused():
    with pytest.raises(UserError, match="num_envs is 5, which 2 bundles cannot share equally"):
        task(num_envs=5)


def bundle_processes():
    return [child for child in psutil.Process().children(recursive=True) if "ray::Host" in " ".join(child.cmdline())]


@pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")
def test_bundles_on_ray_learn_lose_a_bundle_stop_and_go_on(tmp_path, monkeypatch, capsys):
    """Counts of gradients agree at every checkpoint, also across a resume."""
    settings = TINY | {"preset": "toy", "pool": "ray", "actors": 2, "actor_rows": 5, "log_every": 100, "threads": 1}
    step, load, seen = Gorila.step, Gorila.load, {}

    def stepping(self):
        step(self)
        if self.steps >= 400 and "killed" not in seen:
            seen["killed"] = True
            self._bundles[0].peer.close()
        if self.steps >= 900:
            os.kill(os.getpid(), signal.SIGINT)

    def agreeing(self):
        counts = self.counts()
        # A bundle that was killed may have sent what it told nobody.
        assert counts["updates"] + counts["dropped"] >= counts["sent"] * len(self.servers)
        return counts

    def tensors(self, alone=False):
        made = plain(self, alone)
        seen["counts"] = agreeing(self)
        return made

    def loading(self, *arguments, **keywords):
        exact = load(self, *arguments, **keywords)
        seen["loaded"] = agreeing(self)
        return exact

    plain = Gorila.tensors
    monkeypatch.setattr(Gorila, "step", stepping)
    monkeypatch.setattr(Gorila, "tensors", tensors)
    monkeypatch.setattr(Gorila, "load", loading)
    run = retorq.train("catch", "gorila", run=tmp_path / "run", steps=1_500, say=print, **settings)
    assert run.code == 75
    assert "bundle 0 died" in capsys.readouterr().out
    before = seen["counts"]
    monkeypatch.setattr(Gorila, "step", step)
    again = retorq.train("catch", "gorila", run=tmp_path / "run", steps=1_500, say=print, **settings)
    assert again.code == 0
    assert seen["loaded"] == before
    assert "this checkpoint holds no replay" in capsys.readouterr().out
    last = again.metrics[-1]
    assert last["bundles_replaced"] == 1
    assert last["updates"] > before["updates"] / 2
    assert last["step"] >= 1_500
    assert last["gradients_sent"] > before["sent"]
    assert again.load().evaluate(protocol="greedy", episodes=2)["mean"] >= -1
