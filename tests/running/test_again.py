"""Games of an evaluation played again: the same game, told apart from any other, and chosen by its score."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small import Scripted, agent

from retorq.envs.options import EnvOptions
from retorq.running.again import Tape, choose, film_again
from retorq.running.evaluate import PROTOCOLS, Protocol, evaluate
from retorq.types import UserError

SHAKY = replace(PROTOCOLS["greedy"], epsilon=0.4)
SHORT = Protocol(
    name="short", summary="", epsilon=0.4, episodes=4, atari={"noop_max": 30, "sticky": 0.25, "max_frames": 600}
)


def played(env, options=None, using=SHAKY, episodes=40):
    options, tape = options or EnvOptions(), Tape()
    torso = "minatar" if env.startswith("MinAtar") else "nature" if env.startswith("ALE") else "flat"
    small = agent(env, torso=torso, options=options)
    record = evaluate(small, small.network, env, options, using=using, episodes=episodes, seed=3, tape=tape)
    return small, tape, record


@pytest.mark.parametrize(
    ("env", "package", "options", "using", "episodes"),
    [
        ("catch", None, EnvOptions(flicker=0.3), SHAKY, 40),
        ("tmaze", None, EnvOptions(), SHAKY, 40),
        ("CartPole-v1", "pygame", EnvOptions(flicker=0.3), SHAKY, 40),
        ("CartPole-v1", "pygame", EnvOptions(vector=True), SHAKY, 6),
        ("MinAtar/Breakout-v1", "minatar", EnvOptions(max_episode_steps=40), SHAKY, 40),
        ("ALE/Breakout-v5", "ale_py", EnvOptions(), SHORT, 4),
    ],
)
def test_a_game_is_the_same_when_it_is_played_again(env, package, options, using, episodes):
    if package:
        pytest.importorskip(package)
    small, tape, record = played(env, options, using, episodes)
    plain = evaluate(small, small.network, env, options, using=using, episodes=episodes, seed=3)
    assert record == plain
    assert len(set(zip(record["scores"], record["lengths"], strict=True))) > 1, "games that look alike prove nothing"
    for number in {0, 1, episodes // 2, episodes - 1}:
        moments = list(film_again(small, small.network, tape.game(number, record)))
        assert len(moments) == record["lengths"][number] + 1
        assert sum(moment.reward for moment in moments) == record["scores"][number]
        assert moments[0].action == -1
        assert all(moment.values is not None for moment in moments[:-1])
        assert len({moment.picture.tobytes() for moment in moments}) > 1


def test_what_is_told_is_what_the_agent_thought(monkeypatch):
    """In a greedy evaluation the action with the highest value is the one that was done."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))  # acting and looking see the same
    small, tape, record = played("tmaze", using=PROTOCOLS["greedy"])
    for number in (0, 35):
        moments = list(film_again(small, small.network, tape.game(number, record)))
        assert [moment.values.argmax() for moment in moments[:-1]] == [moment.action for moment in moments[1:]]


def test_where_games_begin():
    """Column 1 breaks off in its first game, whose number the next one takes; the others end after 2 and 3 steps."""
    script = [
        {"broken": [False, True, False]},
        {"ended": [True, False, False], "reward": [1, 0, 0]},
        {"ended": [False, False, True], "reward": [0, 0, 2]},
        {"ended": [False, True, False], "reward": [0, 3, 0]},
        {"ended": [True, False, False], "reward": [4, 0, 0]},
        {"ended": [False, False, True], "reward": [0, 0, 5]},
    ]
    tape = Tape()
    env = tape.over(Scripted(3, script), env="scripted", options=EnvOptions(), seed=0)
    env.reset(0)
    for _ in script:
        env.step(np.zeros(3, np.int64))
    begins = tape._begins()
    assert [begins[number] for number in range(6)] == [(0, 0), (1, 1), (2, 0), (0, 3), (2, 4), (1, 5)]
    record = {"scores": [1, 3, 2, 4, 5], "lengths": [2, 3, 3, 2, 2]}
    game = tape.game(4, record)
    assert (game.column, game.begin, game.score, game.length, game.number) == (2, 4, 5.0, 2, 4)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_next_game_begins_where_the_environment_says(mode):
    from tests.envs.sample_envs import CountingVector

    from retorq.envs.vector import GymVector

    tape = Tape()
    inner = GymVector(CountingVector(2, mode), name="counting", seed=0, options=EnvOptions())
    env = tape.over(inner, env="counting", options=EnvOptions(), seed=0)
    seen, elapsed = [env.reset(0)["obs"].copy()], []
    for _ in range(25):
        seen.append(env.step(np.zeros(2, np.int64)).observation["obs"].copy())
    for column, begin in tape._begins().values():
        if begin < len(seen):
            elapsed.append(seen[begin][column][1])
    assert len(elapsed) > 4
    assert set(elapsed) == {0.0}, "the second number of an observation counts the steps of its game"


def test_an_environment_that_does_not_repeat_itself_is_not_filmed():
    small, tape, record = played("catch")
    game = tape.game(3, record)
    with pytest.raises(UserError, match=r"game 3 of catch went differently .*; --video another films one more"):
        list(film_again(small, small.network, replace(game, score=-game.score)))


def test_games_are_chosen_by_name_and_number():
    scores = [3.0, -1.0, 7.0, 7.0, -1.0, 4.0]
    assert choose(["best", "worst", "median"], scores) == {2: "best", 1: "worst", 0: "median"}
    assert choose(["5", "best", "2"], scores) == {5: "", 2: "best"}
    assert choose(["best", "worst", "median"], [1.0] * 5) == {0: "best, worst and median"}
    assert choose(["worst", "median"], [2.0, 1.0, 1.0]) == {1: "worst and median"}
    assert choose([], []) == {}
    with pytest.raises(UserError, match="video is '6', but 6 games were played; give 0 to 5"):
        choose(["6"], scores)
    with pytest.raises(UserError, match="video is 'best', but no game was completed"):
        choose(["best"], [])
