"""Agents learn from observations of every kind, one by one and together: trained, resumed and evaluated."""

import os
import signal

import pytest
import torch
from tests.algorithms.test_training import RUN, settings

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.running.checkpoint import newest
from retorq.running.trainer import Trainer

ENV = "tests.envs.senses:Senses"
LEAVES = {
    "screen": ("image", (3, 8, 8)),
    "gamevariables": ("vector", (2,)),
    "weapon": ("discrete", ()),
    "buttons": ("binary", (4,)),
}


def start(agent, path, kind="", **more):
    return api.train(
        ENV,
        agent,
        preset="toy",
        run=path,
        say=lambda line: None,
        options=EnvOptions(kwargs={"kind": kind}, workers="0") if kind else EnvOptions(),
        **RUN | settings(agent) | more,
    )


def places(seen):
    """Where the lamp is lit, as each part of the observation tells it, for arrays ``[..., *shape]``."""
    return {
        "screen": seen["screen"][..., 0, 0, :6:2].argmax(-1),
        "gamevariables": seen["gamevariables"][..., 0].long(),
        "weapon": seen["weapon"].long(),
        "buttons": seen["buttons"][..., 0].long() + 2 * seen["buttons"][..., 1].long(),
    }


@pytest.mark.parametrize(("agent", "kind"), [("dqn", ""), ("recurrent_iqn", ""), *(("dqn", kind) for kind in LEAVES)])
def test_agents_train_resume_and_play_on_every_kind_of_observation(agent, kind, tmp_path, monkeypatch, capsys):
    plain = Trainer.step

    def stopped(self):
        plain(self)
        if self.steps >= 90:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        assert start(agent, tmp_path / "run", kind).code == api.RESUMABLE
    before = newest(tmp_path / "run" / "checkpoints").tensors("learner")
    run = api.resume(tmp_path / "run", say=lambda line: None, threads=1)
    assert run.code == 0
    assert "new games were begun" in capsys.readouterr().out
    player = run.load()
    leaves = {name: (leaf.kind, leaf.shape) for name, leaf in player.agent.spec.observation.items()}
    assert leaves == ({"obs": LEAVES[kind]} if kind else LEAVES)
    for name, weight in player.network.state_dict().items():
        assert not torch.equal(weight, before[f"online.{name}"]), name
    record = player.evaluate(protocol="greedy", episodes=3, seed=1)
    assert record == run.load().evaluate(protocol="greedy", episodes=3, seed=1)
    assert record["lengths"] == [6, 6, 6]


def test_every_part_of_an_observation_is_stored_beside_the_others_and_counts(tmp_path):
    run = start("dqn", tmp_path / "run")
    rows = newest(run.path / "checkpoints").tensors("replay-00000000")
    seen = {name: rows[f"observation.{name}"] for name in LEAVES}
    written = (seen["screen"].flatten(2) > 0).any(-1)
    assert written.sum() > 100
    told = places(seen)
    for name in LEAVES:
        assert torch.equal(told[name][written], told["weapon"][written]), name
    assert set(told["weapon"][written].tolist()) == {0, 1, 2}
    player, observation = run.load(), {name: value[0, 0].numpy() for name, value in seen.items()}
    values, _ = player.values(observation)
    for name, value in observation.items():
        changed, _ = player.values(observation | {name: (value + 1) % 3})
        assert (changed != values).any(), name
