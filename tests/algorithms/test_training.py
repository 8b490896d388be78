"""Every agent trains, is saved and continued, and evaluated, on toys of every kind of observation."""

import os
import signal

import pytest
import torch
from tests.algorithms.agents import CONTINUOUS, MODULES, RECURRENT, names

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.running.gorila import Gorila
from retorq.running.log import WALL_CLOCK_FIELDS
from retorq.running.trainer import Trainer

STEPS = 120
RUN = {"steps": STEPS, "log_every": 30, "tensorboard": False, "threads": 1, "save_replay": True}
TINY = {
    "num_envs": 2,
    "torso_hidden": (8,),
    "memory_size": 8,
    "hidden_size": 8,
    "samples": 4,
    "target_samples": 5,
    "action_samples": 3,
    "cosines": 4,
    "quantiles": 5,
    "atoms": 7,
    "batch_size": 2,
    "sequence_length": 4,
    "burn_in": 2,
    "state_period": 2,
    "replay_size": 120,
    "replay_ratio": 0.8,
    "warmup": 50,
    "target_period": 5,
    "epsilon_steps": 20,
    "bundles": 2,
    "servers": 2,
    "critic_layers": (8, 8),
    "policy_layers": (8, 8),
}
TOYS = {name: ["pendulum"] if name in CONTINUOUS else ["catch", "masked_cartpole"] for name in MODULES}
VARIANTS = [
    *((name, {}) for name in MODULES),
    ("dqn", {"munchausen": True, "dueling": True, "prioritized": True}),
    ("iqn", {"munchausen": True, "risk": "cvar", "noisy": True}),
    ("drqn", {"start_state": "whole"}),
    ("r2d2", {"start_state": "zero+burn_in", "sequences": "any"}),
    ("recurrent_iqn", {"sequences": "within", "refresh": 1.0, "prioritized": True}),
    ("apex_dpg", {"actor_clip": "param", "evict_exponent": -2.0, "actor_priorities": False, "precision": "bf16"}),
    ("apex_dpg", {"prioritized": False, "action_layer": 1, "anneal_learning_rate": True}),
]


def settings(agent, **more):
    return {name: value for name, value in TINY.items() if name in names(agent)} | more


def start(agent, env, path, **more):
    return api.train(env, agent, preset="toy", run=path, say=lambda line: None, **RUN, **settings(agent, **more))


def fresh(agent, env, **more):
    """The weights before any update."""
    task = api.compose(
        env, agent=agent, preset="toy", config=settings(agent, **more), options=EnvOptions(), device="cpu", seed=0
    )
    return task.agent.network.state_dict()


def weights(run):
    return run.load().network.state_dict()


def diary(run):
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK_FIELDS} for row in run.metrics]


@pytest.mark.parametrize(("agent", "env"), [(agent, env) for agent, toys in TOYS.items() for env in toys])
def test_every_agent_trains_on_images_and_on_numbers(agent, env, tmp_path):
    run = start(agent, env, tmp_path / "run")
    assert run.code == 0
    before, after = fresh(agent, env), weights(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(before)  # every weight learns
    *_, last = run.metrics
    assert last["updates"] >= 7
    assert last["skipped"] == 0
    for name in ("loss", "td", "q_mean", "gradient_norm"):
        assert torch.isfinite(torch.tensor(last[name])), name
    assert last["loss"] > 0
    noisy = agent in ("noisy_dqn", "rainbow")
    assert ("noise" in last) is noisy
    assert ("end_mass" in last) is (agent in ("c51", "rainbow"))
    assert last["epsilon"] == 0 if noisy else last["epsilon"] > 0
    measured = [row for row in run.metrics if "delta_q_initial" in row]
    assert bool(measured) is (agent in RECURRENT)
    # At the far end of a window only where its game goes on as far, which those drawn here need not do.
    assert all(row[name] >= 0 for row in measured for name in row if name.startswith("delta_q"))
    record = run.load().evaluate(protocol="greedy", episodes=2, seed=1)
    assert record["agent"] == agent
    assert len(record["scores"]) == 2
    assert record == run.load().evaluate(protocol="greedy", episodes=2, seed=1)


@pytest.mark.parametrize(("agent", "more"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_every_agent_goes_on_exactly(agent, more, tmp_path, monkeypatch):
    env = "pendulum" if agent in CONTINUOUS else "memory"
    whole = start(agent, env, tmp_path / "whole", **more)
    kind = Gorila if agent == "gorila" else Trainer
    plain = kind.step

    def stopped(self):
        plain(self)
        if self.steps >= 90:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", stopped)
        cut = start(agent, env, tmp_path / "cut", **more)
    assert (whole.code, cut.code) == (0, api.RESUMABLE)
    cut = api.resume(cut.path, say=lambda line: None, threads=1)
    assert cut.code == 0
    one, other, before = weights(whole), weights(cut), fresh(agent, env, **more)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], before[name]) for name in one)
    assert diary(whole) == diary(cut)
