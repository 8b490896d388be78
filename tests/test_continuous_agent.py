"""An agent with continuous actions from outside: trained, stopped, resumed, with actors elsewhere, and filmed."""

import os
import signal

import numpy as np
import pytest
import torch

from retorq import api
from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.report.notes import load_notes
from retorq.report.record import record
from retorq.running.again import Tape
from retorq.running.film import film
from retorq.running.trainer import Trainer
from retorq.types import UserError

TINY = {
    "num_envs": 4,
    "critic_layers": (12, 8),
    "policy_layers": (12, 8),
    "batch_size": 8,
    "replay_size": 400,
    "replay_ratio": 2.0,
    "warmup": 100,
    "target_period": 5,
    "publish_period": 5,
}
RUN = {"log_every": 100, "tensorboard": False, "threads": 1}


def start(path, steps=600, env="pendulum", **more):
    return api.train(
        env, "apex_dpg", preset="toy", run=path, steps=steps, say=lambda line: None, **RUN, **(TINY | more)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = start(tmp_path_factory.mktemp("continuous") / "run")
    assert run.code == 0
    return run


def weights(run):
    return run.load().network.state_dict()


@pytest.mark.parametrize("env", ["pendulum", "Pendulum-v1"])
def test_a_stopped_run_goes_on(env, tmp_path, monkeypatch, capsys):
    """Exactly where the games can be saved; Gymnasium's cannot, and the run says so and goes on with new ones."""
    whole, plain = start(tmp_path / "whole", env=env), Trainer.step

    def stopped(self):
        plain(self)
        if self.steps >= 430:  # in the middle of the third games
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        cut = start(tmp_path / "cut", env=env)
    assert cut.code == api.RESUMABLE
    capsys.readouterr()
    again = api.resume(cut.path, say=lambda line: None, threads=1)
    assert (whole.code, again.code) == (0, 0)
    exact = env == "pendulum"
    assert ("new games were begun" in capsys.readouterr().out) is not exact
    same = [torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True)]
    assert all(same) if exact else not any(same)
    assert again.metrics[-1]["updates"] == whole.metrics[-1]["updates"] > 100


def test_actors_elsewhere_tell_what_they_think_and_learn_at_the_ratio(tmp_path, monkeypatch):
    told = []
    plain = Trainer.step

    def watched(self):
        plain(self)
        told.append(self.replay.storage.arrays["value"][:10].isfinite().float().mean().item())

    monkeypatch.setattr(Trainer, "step", watched)
    run = start(tmp_path / "run", pool="process", actors=2, steps=2_000)
    assert run.code == 0
    *_, last = run.metrics
    assert last["replay_ratio"] == pytest.approx(2.0, abs=0.2)
    assert last["skipped"] == 0
    assert max(told) == 1.0
    assert run.load().evaluate(episodes=3, seed=1)["episodes"] == 3


def test_the_run_goes_on_where_an_actor_was_killed_and_where_it_was_stopped(tmp_path, monkeypatch):
    """Both cut open games, in which what was done last is a row of numbers."""
    plain, killed = Trainer.step, []

    def broken(self):
        plain(self)
        if self.steps >= 700 and not killed:
            killed.append(True)
            self.pool._actors[0].process.kill()
        if self.steps >= 1_500:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", broken)
    where, actors = tmp_path / "run", {"pool": "process", "actors": 2, "steps": 2_000}
    run = start(where, **actors)
    assert run.code == 75
    assert run.metrics[-1]["actors_replaced"] == 1
    monkeypatch.setattr(Trainer, "step", plain)
    run = start(where, **actors)
    assert (run.code, run.metrics[-1]["step"]) == (0, pytest.approx(2_000, abs=50))


def test_the_first_errors_take_rewards_as_they_are():
    task = api.compose(
        "pendulum", agent="apex_dpg", preset="toy", config=TINY, options=EnvOptions(), device="cpu", seed=0
    )
    replay = task.agent.replay(device="cpu", seed=0)
    rows, none = 1 + task.agent.window.ahead, torch.zeros(1, dtype=torch.bool)
    told = {
        "reward": torch.full((rows, 1), -9.0),
        "terminated": none.expand(rows, 1),
        "last": none.expand(rows, 1),
        "value": torch.zeros(rows, 1),
        "highest": torch.zeros(rows, 1),
    }
    error, mask = replay.first_errors(told)
    total = -9.0 * sum(task.agent.config.gamma**k for k in range(task.agent.window.ahead))
    assert mask.all()
    assert error.item() == pytest.approx(-total)


def test_a_player_does_what_the_policy_says(trained):
    player, seen = trained.load(), np.array([0.6, -0.8, 1.5], np.float32)
    action, state = player.act(seen)
    assert (action.shape, action.dtype) == ((1,), np.float32)
    with torch.no_grad():
        wanted = player.network._head.policy(torch.from_numpy(seen)).numpy()
        value = player.network._head.critic(torch.from_numpy(seen), torch.from_numpy(wanted)).numpy()
    np.testing.assert_allclose(action, wanted, atol=1e-6)
    assert (state.elapsed, state.first) == (1, False)
    values, after = player.values(seen, state)
    np.testing.assert_allclose(values, [value], rtol=1e-5)
    assert after.action.tolist() == [0.0]
    again, _ = player.act(seen, state)
    np.testing.assert_array_equal(again, action)
    with pytest.raises(UserError, match="learns single values and no distribution"):
        player.distribution(seen)


def test_a_film_tells_the_value_of_what_the_policy_does(trained, tmp_path, monkeypatch):
    player, env = trained.load(), make("pendulum", columns=1, seed=5, render=True)
    actor = Actor(env, player.network, Fixed(columns=1, value=0.0), total=1, seed=5)
    moments = list(film(actor, longest=30, looking=True))
    assert [moment.action for moment in moments] == [-1] + [0] * 30
    assert all(moment.values.shape == (1,) for moment in moments)
    assert len({float(moment.values[0]) for moment in moments}) > 20
    monkeypatch.setattr("retorq.report.record.write_video", lambda path, pictures, fps: [*pictures])
    path = record(tmp_path / "film.mp4", iter(moments), spec=env.spec, length=30)
    assert load_notes(path).actions == ["the policy's"]


def test_a_game_of_an_evaluation_is_played_again(trained):
    player, tape = trained.load(), Tape()
    told = player.evaluate(protocol="greedy", episodes=4, seed=3, tape=tape)
    game = tape.game(2, told)
    assert game.actions.shape == (200, 4, 1)
    assert sum(moment.reward for moment in player.again(game)) == pytest.approx(told["scores"][2])


@pytest.mark.parametrize(("agent", "env"), [("dqn", "pendulum"), ("apex_dpg", "catch")])
def test_environments_of_other_actions_are_refused(agent, env):
    with pytest.raises(UserError, match=f"{env}.*{agent}"):
        api.compose(env, agent=agent, preset="toy", config={}, options=EnvOptions(), device="cpu", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_it_swings_the_pendulum_up(seed, tmp_path):
    """A policy that does nothing or acts at random has a score of about -1,200."""
    run = api.train(
        "pendulum",
        "apex_dpg",
        preset="toy",
        seed=seed,
        run=tmp_path / "run",
        steps=20_000,
        say=lambda line: None,
        **RUN,
    )
    assert run.load().evaluate(episodes=50, seed=100)["mean"] > -300
