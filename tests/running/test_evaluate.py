"""Evaluation: which games count, what a score is, and what is written down."""

import json
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
from tests.small import Rule, Scripted, agent

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.running.evaluate import PROTOCOLS, evaluate, file_name, play, play_frames, protocol, record
from retorq.types import Episode, UserError


class LongAndShort(Scripted):
    """Column 0 plays games of 30 steps and score 30, the others of 2 steps and score 2; life losses in between."""

    def __init__(self, columns):
        super().__init__(columns, [{}])
        self._age = np.zeros(columns, int)
        self._over = np.zeros(columns, bool)

    def step(self, action):
        self._age = np.where(self._over, 0, self._age + 1)
        live = ~self._over
        ended = live & (self._age >= np.where(np.arange(self.columns) == 0, 30, 2))
        self._script = [{"reward": live * 1.0, "ended": ended, "terminated": ended | (live & (self._age % 7 == 6))}]
        self._over = ended
        return super().step(action)


def actor(columns=4):
    return Actor(LongAndShort(columns), Rule(3), Fixed(columns=columns, value=0.0), total=1)


def test_the_first_games_started_count_not_the_first_finished():
    """An evaluator that takes the first 8 finished would report short games only, mean 2."""
    games = play(actor(), 8)
    assert [game.score for game in games] == [30, 2, 2, 2, 2, 2, 2, 2]
    assert [game.length for game in games] == [30, 2, 2, 2, 2, 2, 2, 2]
    assert games[0].step == max(game.step for game in games)


def test_fewer_games_than_columns_and_more():
    assert [game.score for game in play(actor(), 1)] == [30]
    assert [game.score for game in play(actor(1), 3)] == [30, 30, 30]
    told = []
    play(actor(), 5, told.append)
    assert told == [1, 2, 3, 4, 5]


def test_scores_are_of_whole_games_though_lives_are_lost_in_them():
    assert [game.score for game in play(actor(1), 1)] == [30]  # five lives


def test_noise_is_off_for_the_evaluation_also_when_it_breaks_off():
    small, modes = agent("catch"), []
    plain = small.network.unroll

    def unroll(*row):
        modes.append(small.network.training)
        if len(modes) > 5:
            raise KeyboardInterrupt
        return plain(*row)

    small.network.unroll = unroll
    with pytest.raises(KeyboardInterrupt):
        evaluate(small, small.network, "catch", EnvOptions(), using=PROTOCOLS["greedy"])
    assert modes == 6 * [False]
    assert small.network.training


@pytest.mark.parametrize(("flicker", "dark"), [(0.0, 0.0), (0.5, 0.5), (0.99, 0.99)])
def test_an_agent_that_learned_in_the_dark_is_evaluated_there(flicker, dark):
    small, seen = agent("catch"), []
    plain = small.network.unroll
    small.network.unroll = lambda row, *rest: (seen.append(row.observation["obs"]), plain(row, *rest))[1]
    evaluate(small, small.network, "catch", EnvOptions(flicker=flicker), using=PROTOCOLS["greedy"], episodes=40)
    images = np.concatenate([image.flatten(0, 1).flatten(1).numpy() for image in seen])
    assert len(images) > 300
    assert np.mean(images.max(1) == 0) == pytest.approx(dark, abs=0.08 if 0 < dark < 1 else 0)


def test_games_within_a_number_of_steps():
    assert [game.length for game in play_frames(actor(1), 95)] == [30, 30, 30]
    assert [game.length for game in play_frames(actor(1), 89)] == [30, 30]


class CutInTheMiddle(LongAndShort):
    """The environment fails in the second game, and begins another."""

    def step(self, action):
        step = super().step(action)
        if self._time != 40:
            return step
        self._age[:] = 0
        return replace(step, broken=np.ones(1, bool), reward=np.zeros(1, np.float32))


def test_a_game_that_was_cut_has_no_score():
    player = Actor(CutInTheMiddle(1), Rule(3), Fixed(columns=1, value=0.0), total=1)
    assert [(game.score, game.length) for game in play_frames(player, 75)] == [(30, 30), (30, 30)]


NO_OPS = {"noop_max": 30, "sticky": 0.0, "max_frames": 108_000}
STICKY = {"noop_max": 0, "sticky": 0.25, "max_frames": 108_000}
SHORT = {"noop_max": 30, "sticky": 0.0, "max_frames": 18_000}
ATARI = {"recurrent_iqn_2019": NO_OPS, "machado_2018": STICKY, "nature_2015": SHORT, "dqn_zoo": NO_OPS}


def test_the_published_protocols():
    """All numbers, with their sources: every score that is compared with a published one rests on them."""
    assert {name: (p.epsilon, p.episodes, p.frames, p.atari) for name, p in PROTOCOLS.items()} == {
        "recurrent_iqn_2019": (
            0.001,
            100,
            None,
            NO_OPS,
        ),  # RLtime's evaluation; no-ops and cap: van Hasselt et al. 2016
        "machado_2018": (0.001, 100, None, STICKY),  # sticky actions in the place of no-ops; games and epsilon as above
        "nature_2015": (0.05, 30, None, SHORT),  # Mnih et al. 2015, methods: 30 games of up to 5 minutes
        "dqn_zoo": (0.01, 0, 500_000, NO_OPS),  # dqn_zoo's flags: eval_exploration_epsilon, num_eval_frames
        "greedy": (0.0, 100, None, None),  # ours
    }


def test_protocols_by_name():
    assert protocol(None, "ALE/Pong-v5").name == "recurrent_iqn_2019"
    assert protocol(None, "catch").name == "greedy"
    with pytest.raises(UserError, match="perhaps you meant 'machado_2018'"):
        protocol("machado_2019", "ALE/Pong-v5")
    with pytest.raises(UserError, match="is for Atari, but the environment is 'catch'; use 'greedy'"):
        protocol("machado_2018", "catch")


def run(using, episodes=None, env="catch", **rest):
    small = agent(env, torso="flat")
    return evaluate(small, small.network, env, EnvOptions(), using=using, episodes=episodes, step=1234, **rest)


def test_the_record():
    told = run(protocol(None, "catch"), 5, seed=3)
    names = "agent env protocol step frames episodes epsilon scores lengths mean median ci95"
    assert told.keys() >= set(names.split())
    assert (told["agent"], told["env"], told["protocol"]) == ("recurrent_iqn", "catch", "greedy")
    assert (told["step"], told["frames"], told["episodes"], told["epsilon"]) == (1234, 1234, 5, 0.0)
    assert told["total_steps"] is None
    assert told["environment"].items() >= {"rows": 10, "flicker": 0.0, "stack": 1}.items()
    assert len(told["scores"]) == len(told["lengths"]) == 5
    assert set(told["scores"]) <= {-1.0, 1.0}
    assert told["mean"] == np.mean(told["scores"])
    assert told["ci95"][0] <= told["mean"] <= told["ci95"][1]
    assert "human_normalised" not in told
    json.dumps(told)
    assert told == run(protocol(None, "catch"), 5, seed=3)


def test_frames_are_counted_on_one_stream():
    told = run(replace(PROTOCOLS["dqn_zoo"], frames=300, atari=None))
    assert told["episodes"] == 33  # games of 9 steps; eight side by side would complete 32
    assert (told["lengths"], told["epsilon"]) == ([9] * 33, 0.01)
    with pytest.raises(UserError, match="episodes is 7; this protocol counts frames"):
        run(PROTOCOLS["dqn_zoo"], 7)
    for few in (0, -1):
        with pytest.raises(UserError, match=f"episodes is {few}; give 1 or more"):
            run(PROTOCOLS["greedy"], few)


def test_atari_scores_are_compared_with_humans():
    small = agent("catch", torso="flat")
    games = [Episode(score=score, length=10, column=0, step=10) for score in (14.6, 14.6, -20.7)]
    told = record(small, "ALE/Pong-v5", 4, PROTOCOLS["recurrent_iqn_2019"], games, step=50, seed=1)
    assert told["frames"] == 200
    assert told["median"] == 14.6
    assert told["human_normalised"] == pytest.approx((told["mean"] + 20.7) / (14.6 + 20.7), abs=1e-3)
    empty = record(small, "ALE/Pong-v5", 4, PROTOCOLS["dqn_zoo"], [], step=50, seed=1)
    assert (empty["mean"], empty["ci95"], empty["episodes"]) == (None, None, 0)
    json.dumps(empty)


@pytest.mark.parametrize("name", [name for name, using in PROTOCOLS.items() if using.atari])
def test_atari_protocols_set_the_emulator(name, monkeypatch):
    from retorq.running import evaluate as module

    asked, as_trained = [], []

    def made(*given, **named):
        bound = signature(make).bind(*given, **named)
        bound.apply_defaults()
        asked.append(bound.arguments["options"])
        as_trained.append(bound.arguments["training"])
        return LongAndShort(bound.arguments["columns"])

    monkeypatch.setattr(module, "make", made)
    small = agent("catch")
    told = evaluate(
        small,
        Rule(3),
        "ALE/Pong-v5",
        EnvOptions(sticky=0.1, noop_max=3, max_frames=99, frame_size=50),
        using=replace(PROTOCOLS[name], frames=PROTOCOLS[name].frames and 400),
        episodes=None if PROTOCOLS[name].frames else 2,
    )
    assert asked == [EnvOptions(frame_size=50, **ATARI[name])]
    assert told["environment"]["sticky"] == asked[0].sticky
    assert as_trained == [True]  # a lost life clears the memory here too, if it did in training


def test_evaluation_acts_as_the_agent_was_composed(monkeypatch):
    told = {}

    class Stop(Exception):
        pass

    def recorded(env, network, explore, **given):
        told.update(given, columns=explore.columns, epsilon=float(explore.epsilon(0, 1)[0]))
        raise Stop

    monkeypatch.setattr("retorq.agent.Actor", recorded)
    composed = replace(agent("catch", precision="bf16", action_samples=5), stack=3)
    with pytest.raises(Stop):
        evaluate(composed, composed.network, "catch", EnvOptions(), using=PROTOCOLS["greedy"], episodes=2, seed=4)
    wanted = {"stack": 3, "samples": 5, "precision": "bf16", "seed": 4, "columns": 2, "epsilon": 0.0}
    assert {name: told[name] for name in wanted} == wanted


@pytest.mark.parametrize("per_step", [1, 4])
def test_a_budget_in_frames_is_divided_by_the_frames_of_a_step(monkeypatch, per_step):
    played = []
    monkeypatch.setattr("retorq.running.evaluate.play_frames", lambda actor, steps, say: played.append(steps) or [])
    known = make("memory", columns=1)
    known.spec = replace(known.spec, frames_per_step=per_step)
    monkeypatch.setattr("retorq.running.evaluate.make", lambda *given, **options: known)
    small = agent("memory")
    using = replace(PROTOCOLS["dqn_zoo"], atari=None, frames=200)
    evaluate(small, small.network, "memory", EnvOptions(), using=using)
    assert played == [200 // per_step]


def test_one_game_has_no_interval():
    assert run(protocol(None, "catch"), 1)["ci95"] is None
    assert len(run(protocol(None, "catch"), 2)["ci95"]) == 2


def test_the_files_name_tells_evaluations_apart():
    told = {"step": 40, "protocol": "greedy", "episodes": 100}
    assert file_name(told) == "40-greedy-100games.json"
    assert file_name(told | {"episodes": 5}, seed=7) == "40-greedy-5games-seed7.json"
    assert file_name(told | {"protocol": "dqn_zoo", "episodes": 3}) == "40-dqn_zoo-500000frames.json"
