"""The Python surface: train, load, act, evaluate."""

import json
from dataclasses import fields, replace

import gymnasium
import numpy as np
import pytest
import torch
from tests.small import SETTINGS, agent, command, flags

import retorq
from retorq import api
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.types import EnvSpec, Leaf, Refused, UserError

RUN = {"steps": 40, "log_every": 20, "tensorboard": False, "threads": 1, "preset": "toy", "say": lambda line: None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return retorq.train("memory", run=tmp_path_factory.mktemp("run") / "one", **SETTINGS | RUN)


def test_a_loaded_agent_is_the_trained_one(trained):
    player = retorq.load(trained.path)
    assert player.step == 40
    again = retorq.load(trained.path)
    for a, b in zip(player.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = agent("memory").network
    assert not all(torch.equal(a, b) for a, b in zip(player.network.parameters(), fresh.parameters(), strict=True))
    assert [row["step"] for row in trained.metrics] == [20, 40]


def test_acting_step_by_step_equals_one_unroll(trained, monkeypatch):
    """What the network sees in ``act`` is what it would see of these rows in a replay."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))
    player = trained.load()
    seen = []
    plain = player.network.unroll
    monkeypatch.setattr(player.network, "unroll", lambda row, *rest: (seen.append(row), plain(row, *rest))[1])
    env, state, reward = make("memory", columns=1, seed=1), None, 0.0
    observation, actions, values = env.reset(), [], []
    for _ in range(11):
        value, _ = player.values(observation["obs"][0], state, reward=reward)
        action, state = player.act({"obs": observation["obs"][0]}, state, reward=reward)
        step = env.step(np.array([action]))
        observation, reward = step.observation, float(step.reward[0]) + 0.25
        actions.append(action)
        values.append(value)
        assert action == value.argmax()
    rows = seen[::2]
    assert [bool(row.first) for row in rows] == [True] + [False] * 10
    assert [int(row.elapsed) for row in rows] == list(range(11))
    assert [int(row.previous_action) for row in rows] == [0, *actions[:-1]]
    assert [float(row.previous_reward) for row in rows] == [0.0] + [0.25] * 10
    joined = replace(
        rows[0],
        observation={"obs": torch.cat([row.observation["obs"] for row in rows])},
        **{
            name: torch.cat([getattr(row, name) for row in rows])
            for name in ("previous_action", "previous_reward", "elapsed", "first")
        },
    )
    with torch.no_grad():
        features, _ = plain(joined, player.network.initial_state(1))
        told = player.network.head(features).mean()[:, 0]
    np.testing.assert_allclose(np.stack(values), told.numpy(), atol=1e-6)


def test_a_player_stacks_images_as_an_actor_does(monkeypatch):
    task = api.compose(
        "catch", agent="dqn", preset="toy", config={"stack": 3}, options=EnvOptions(), device="cpu", seed=0
    )
    player, seen = api.Player(task, step=0), []
    plain = player.network.unroll
    monkeypatch.setattr(player.network, "unroll", lambda row, *rest: (seen.append(row), plain(row, *rest))[1])
    game, state = make("catch", columns=1, seed=4), None
    observation = game.reset()["obs"]
    for _ in range(6):
        action, state = player.act(observation[0], state)
        observation = game.step(np.array([action])).observation["obs"]
    mine, seen[:] = [row.observation["obs"] for row in seen], []
    task.agent.actor(make("catch", columns=1, seed=4), seed=4, explore=Fixed(columns=1, value=0.0)).collect(6)
    assert len(mine) == len(seen) == 6
    for told, row in zip(mine, seen, strict=True):
        assert torch.equal(told, row.observation["obs"])
    assert [int(row.sum() > 0) for row in mine[0][0, 0]] == [0, 0, 1]
    assert all(int(row.sum()) > 0 for row in mine[2][0, 0])


def test_evaluation_and_pictures(trained):
    player = trained.load()
    assert player.evaluate(episodes=2)["episodes"] == 2
    frames = list(player.watch(seed=2))
    assert len(frames) == 12  # where the game begins, and after each step
    assert len(list(player.watch(seed=2, longest=4))) == 5
    assert frames[0].dtype == np.uint8
    assert frames[0].shape[2] == 3


@pytest.mark.parametrize("training", [True, False])
def test_a_player_silences_noise_while_it_plays_and_only_then(trained, monkeypatch, training):
    player, modes = trained.load(), []
    plain = player.network.unroll
    monkeypatch.setattr(player.network, "unroll", lambda *row: (modes.append(player.network.training), plain(*row))[1])
    player.network.train(training)
    observation = np.zeros(player.agent.spec.observation["obs"].shape, np.float32)
    for ask in (player.values, player.distribution):
        ask(observation)
        assert player.network.training is training
    player.evaluate(episodes=1)
    assert player.network.training is training
    for _ in player.watch(longest=3):
        assert player.network.training is training
    assert len(modes) > 4
    assert not any(modes)


def test_values_are_what_the_network_would_act_by(trained, monkeypatch):
    player = trained.load()
    told = torch.arange(float(player.agent.spec.actions)).neg()[None, None]
    monkeypatch.setattr(player.network, "preferences", lambda features, samples, generator: told)
    observation = np.zeros(player.agent.spec.observation["obs"].shape, np.float32)
    assert player.values(observation)[0].tolist() == told[0, 0].tolist()
    assert player.act(observation)[0] == 0


def test_resume_by_the_same_call_and_by_name(trained):
    assert retorq.train("memory", run=trained.path, **SETTINGS | RUN).code == 0
    with pytest.raises(Refused, match=r"config.gamma: 0.99 → 0.9"):
        retorq.train("memory", run=trained.path, **SETTINGS | RUN | {"gamma": 0.9})
    with pytest.raises(Refused, match="seed"):
        retorq.train("memory", run=trained.path, **SETTINGS | RUN | {"seed": 3})


def test_one_seed_gives_one_run(trained, tmp_path):
    other = retorq.train("memory", run=tmp_path / "two", **SETTINGS | RUN)
    third = retorq.train("memory", run=tmp_path / "three", **SETTINGS | RUN | {"seed": 1})
    loss = [run.metrics[-1]["loss"] for run in (trained, other, third)]
    assert loss[0] == loss[1] != loss[2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gama": 0.9}, "field 'gama' does not exist in recurrent_iqn; perhaps you meant 'gamma'"),
        ({"agent": "dqm"}, "agent is 'dqm'"),
        ({"preset": "toys"}, "preset is 'toys', which recurrent_iqn does not have; perhaps you meant 'toy'"),
        ({"samples": "many"}, "samples is 'many'; give a whole number"),
        ({"samples": 2.5}, "samples is 2.5; give a whole number"),
        ({"double": "yes"}, "double is 'yes'; give true or false"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"steps": "ten"}, "steps is 'ten'; give a whole number"),
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"threads": 1.5}, "threads is 1.5; give a whole number"),
    ],
)
def test_mistakes(change, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        retorq.train("memory", run=tmp_path / "run", **SETTINGS | RUN | change)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        retorq.load(tmp_path)
    from retorq.running.folder import RunFolder
    from retorq.running.train import RunOptions, Task, stored_config

    task = Task(env="memory", agent=agent(), options=EnvOptions(), preset="toy")
    RunFolder.create(
        tmp_path / "run",
        agent="recurrent_iqn",
        env="memory",
        seed=0,
        options={f.name: getattr(EnvOptions(), f.name) for f in fields(EnvOptions)},
        config=stored_config(task, RunOptions(steps=10)),
    ).close()
    with pytest.raises(UserError, match="has no checkpoint yet; train it first"):
        retorq.load(tmp_path / "run")


def test_default_presets():
    def spec(leaf):
        return EnvSpec(id="x", observation={"obs": leaf}, actions=2)

    large = spec(Leaf(kind="image", shape=(1, 84, 84), dtype="uint8"))
    assert api.default_preset(large, "cuda:0") == "atari"
    assert api.default_preset(large, "cpu") == "laptop"
    assert api.default_preset(spec(Leaf(kind="image", shape=(1, 10, 10), dtype="uint8")), "cuda") == "toy"
    assert api.default_preset(spec(Leaf(kind="vector", shape=(4,), dtype="float32")), "cpu") == "toy"
    assert api.default_preset(replace(large, continuous=True), "cuda") == "toy"


def test_an_observation_of_another_kind_is_refused(trained):
    with pytest.raises(UserError, match=r"observation has the shapes .*; give .*channels first"):
        retorq.load(trained.path).act(np.zeros((7, 3)))


def test_evaluation_on_other_spaces_is_refused(trained):
    with pytest.raises(UserError, match=r"env 'catch' has observations .* this agent was trained on 'memory'"):
        retorq.load(trained.path).evaluate(env="catch")


@pytest.mark.parametrize("change", [{"treads": 3}, {"steps": 10}])
def test_a_resume_takes_only_what_may_change(trained, change):
    with pytest.raises(UserError, match=f"{next(iter(change))} cannot change when a run is resumed; what can: "):
        retorq.resume(trained.path, **change)


@pytest.mark.parametrize("seed", [-1, 10**20, "a"])
def test_a_seed_that_no_generator_takes(seed, tmp_path):
    with pytest.raises(UserError, match=r"seed is .* give a whole number of at least 0"):
        retorq.train("memory", seed=seed, run=tmp_path / "run", **SETTINGS | RUN)


def test_a_run_of_another_version_is_refused_with_a_sentence(trained, tmp_path):
    stored = json.loads((trained.path / "config.json").read_text())
    stored["options"]["frame_stretch"] = 3
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(Refused, match=r"frame_stretch.*versions\.json"):
        retorq.load(tmp_path)


def test_a_run_of_another_version_is_refused(tmp_path):
    folder = tmp_path / "run"
    command("train", "memory", *flags(), "--steps", 60, "--run", folder)
    stored = json.loads((folder / "config.json").read_text())
    stored["config"]["old_field"] = stored["config"].pop("gamma")
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(Refused, match="another version of retorq, whose recurrent_iqn differs in gamma, old_field"):
        retorq.load(folder)


def test_what_train_returned_is_a_run(trained):
    assert retorq.load(trained).step == 40
    assert retorq.resume(trained, say=lambda line: None).path == trained.path


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"env": gymnasium.make("CartPole-v1")}, r"env is <.*>; give its id, or module:Class, as text\."),
        ({"agent": None}, r"agent is None; give a name, as text\."),
        ({"preset": 0}, r"preset is 0; give a name, as text\."),
        ({"options": {}}, r"options is \{\}; give retorq\.EnvOptions\(\.\.\.\)\."),
        ({"options": {"flicker": 0.5}}, r"options is .*; give retorq\.EnvOptions\(\.\.\.\)\."),
    ],
)
def test_what_is_no_name_is_refused_with_a_sentence(given, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        retorq.train(**{"env": "memory", "run": tmp_path / "run"} | SETTINGS | RUN | given)
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_refused_with_a_sentence():
    for function in (retorq.load, retorq.resume):
        with pytest.raises(UserError, match=r"run is 3; give a run folder's path, or what retorq\.train returned\."):
            function(3)


def test_the_callers_random_numbers_go_on(trained):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    retorq.load(trained.path)
    assert torch.equal(torch.rand(3), wanted)


def test_an_environment_with_other_observations_than_before_is_refused(tmp_path, monkeypatch):
    (tmp_path / "shifty.py").write_text(SHIFTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    how = RUN | {"env": "shifty:Shifty", "agent": "dqn", "run": tmp_path / "run", "warmup": 10, "num_envs": 1}
    run = retorq.train(**how)
    monkeypatch.setenv("SHIFTY", "4")
    for again in (lambda: retorq.load(run), lambda: retorq.resume(run, say=print), lambda: retorq.train(**how)):
        with pytest.raises(
            Refused, match=r"do not fit: .* is \(.*3\) in the checkpoint and \(.*4\) for the environment"
        ):
            again()


SHIFTY = """
import os
import gymnasium, numpy as np

class Shifty(gymnasium.Env):
    def __init__(self):
        self.size = int(os.environ.get("SHIFTY", "3"))
        self.observation_space = gymnasium.spaces.Box(-1, 1, (self.size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.size, np.float32), {}

    def step(self, action):
        return np.zeros(self.size, np.float32), 0.0, bool(action), False, {}
"""
