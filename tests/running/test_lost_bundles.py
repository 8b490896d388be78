"""Bundles and parameter servers that are lost: what goes on, what ends the run, and what stays counted."""

import importlib.util
import os
import signal

import psutil
import pytest
import torch
from tests.running.bundled import TINY, made, trained, weights

import retorq
from retorq.distributed.peers import Here, Lost
from retorq.running.gorila import Gorila
from retorq.types import Diverged, HeadLost, Stopped

RAY = importlib.util.find_spec("ray") is not None  # not to be imported before its settings are made


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


def bundle_processes():
    return [child for child in psutil.Process().children(recursive=True) if "ray::Host" in " ".join(child.cmdline())]


@pytest.mark.slow
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
