"""MinAtar: the same games as the package's own wrapper, bit for bit; exact continuation; caps; sentences."""

import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest

from retorq.envs import listing, minatar
from retorq.envs.columns import Columns, InProcess
from retorq.envs.make import EnvOptions, check, describe, make
from retorq.types import UserError

GAMES = minatar.game_names(installed=False)
needs_minatar = pytest.mark.skipif(
    not minatar.game_names(), reason="minatar is not installed: pip install 'retorq[minatar]'"
)


def build(env, columns=4, seed=0, **options):
    return minatar.MinAtar(env, columns=columns, seed=seed, options=EnvOptions(**options))


def play(env, steps, seed=2):
    generator = np.random.default_rng(seed)
    return [env.step(generator.integers(env.spec.actions, size=env.columns)) for _ in range(steps)]


def same(steps, others):
    for a, b in zip(steps, others, strict=True):
        for field in ("reward", "terminated", "truncated", "ended"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        np.testing.assert_array_equal(a.observation["obs"], b.observation["obs"])


def twin(env, columns, seed, options):
    """The package's Gymnasium wrapper behind the door that any Gymnasium environment gets."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("MPLBACKEND", "agg")
        from minatar.gym import register_envs

        register_envs()
    return Columns(InProcess(env, columns=columns, options=options), columns=columns, seed=seed)


@needs_minatar
@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        *((game, {}) for game in GAMES),
        ("MinAtar/Breakout-v1", {"use_minimal_action_set": False, "sticky_action_prob": 0.5}),
        ("MinAtar/Asterix-v1", {"difficulty_ramping": False}),
    ],
)
def test_the_games_are_those_of_the_packages_own_wrapper(env, kwargs):
    pytest.importorskip("matplotlib", reason="the package's own wrapper imports matplotlib")
    options = EnvOptions(max_episode_steps=300, kwargs=kwargs)
    ours, theirs = minatar.MinAtar(env, columns=4, seed=7, options=options), twin(env, 4, 7, options)
    assert dict(ours.spec.observation) == dict(theirs.spec.observation)
    assert (ours.spec.actions, ours.spec.max_steps) == (theirs.spec.actions, theirs.spec.max_steps)
    np.testing.assert_array_equal(ours.reset()["obs"], theirs.reset()["obs"])
    played = play(ours, 900)
    same(played, play(theirs, 900))
    assert any(step.ended.any() for step in played)


@needs_minatar
@pytest.mark.parametrize("env", GAMES)
def test_saved_and_restored_it_goes_on_bit_for_bit(env):
    first, second = build(env, max_episode_steps=200), build(env, seed=9, max_episode_steps=200)
    first.reset()
    play(first, 333)
    state = first.state_dict()
    assert {value.dtype.name for value in state.values()} <= {"uint8", "int64", "bool"}
    wanted = play(first, 500, seed=3)
    second.load_state_dict(state)
    same(wanted, play(second, 500, seed=3))
    with pytest.raises(UserError, match="has 4 columns, this one 2; continue with the number"):
        build(env, columns=2).load_state_dict(state)


@needs_minatar
def test_seeds_decide_everything_and_resets_go_on():
    same(play(build("MinAtar/Asterix-v1", seed=4), 200), play(build("MinAtar/Asterix-v1", seed=4), 200))
    env = build("MinAtar/Freeway-v1")
    first, second, again = env.reset(5)["obs"], env.reset()["obs"], env.reset(5)["obs"]
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert all((first[0] != first[column]).any() for column in (1, 2, 3))


@needs_minatar
@pytest.mark.parametrize(
    ("env", "actions", "channels"), list(zip(GAMES, (5, 3, 3, 6, 4), (4, 4, 7, 10, 6), strict=True))
)
def test_what_an_agent_is_told(env, actions, channels):
    spec = describe(env)
    leaf = spec.observation["obs"]
    assert (leaf.kind, leaf.shape, leaf.dtype) == ("image", (channels, 10, 10), "uint8")
    assert (spec.actions, len(spec.action_names), spec.max_steps, spec.frames_per_step) == (actions, actions, 5000, 1)
    assert describe(env.replace("v1", "v0")).actions == 6
    everything = describe(env, EnvOptions(kwargs={"use_minimal_action_set": False, "sticky_action_prob": 0.25}))
    assert everything.action_names == ("noop", "left", "up", "right", "down", "fire")
    assert spec.settings["sticky_action_prob"] == 0.1
    assert everything.settings["sticky_action_prob"] == 0.25
    assert spec.settings["difficulty_ramping"] is True
    assert spec.settings["use_minimal_action_set"] is True
    assert set(np.unique(build(env).reset()["obs"])) == {0, 255}


@needs_minatar
def test_sticky_actions_repeat_the_last_one_at_their_rate():
    """Before the first action nothing was done: where the paddle of Breakout stays, the action stuck."""
    env = build("MinAtar/Breakout-v1", columns=1500, kwargs={"sticky_action_prob": 0.3})
    env.reset()
    place = env.step(np.full(1500, 1)).observation["obs"][:, 0, 9].argmax(axis=1)
    assert set(place) == {3, 4}
    assert abs((place == 4).mean() - 0.3) < 0.04
    after = env.step(np.full(1500, 2)).observation["obs"][:, 0, 9].argmax(axis=1) - place
    assert set(after[place == 3]) == {-1, 1}  # the action done is repeated, not the one asked for
    assert set(after[place == 4]) == {0, 1}


@needs_minatar
def test_a_cap_truncates_and_the_game_before_it_does_not():
    env = build("MinAtar/Freeway-v1", max_episode_steps=7)
    env.reset()
    flags = [(step.truncated.all(), step.terminated.any(), step.ended.all()) for step in play(env, 16)]
    ends = [index for index, flag in enumerate(flags) if flag == (True, False, True)]
    assert ends == [6, 14]  # the step after an end answers with the reset
    assert all(flag == (False, False, False) for index, flag in enumerate(flags) if index not in ends)


@needs_minatar
def test_ramping_can_be_turned_off():
    def crowd(ramping):
        env = build("MinAtar/Asterix-v1", columns=8, kwargs={"difficulty_ramping": ramping})
        env.reset()
        for game in env._games:
            game._spawn_entity = lambda: None  # nobody dies: only the clocks run
        play(env, 900)
        return [game.spawn_speed for game in env._games]

    assert crowd(False) == [10] * 8
    assert max(crowd(True)) < 5


@needs_minatar
def test_pictures_doctor_and_lists():
    made = make("MinAtar/SpaceInvaders-v1", columns=1, render=True)
    made.reset()
    picture = made.render()
    assert (picture.shape, picture.dtype) == ((320, 320, 3), np.uint8)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3  # ground, cannon, aliens (drawn by their direction)
    assert all(good for good, _ in check("MinAtar/Breakout-v1"))
    assert set(GAMES) <= {name for name, _ in listing.games()}
    flickering = make("MinAtar/Breakout-v1", columns=3, options=EnvOptions(flicker=1.0))
    assert not flickering.reset()["obs"].any()


def test_without_the_package_one_sentence_tells_how_to_get_it(monkeypatch):
    monkeypatch.setattr(minatar.importlib.util, "find_spec", lambda name: None)
    minatar._rules.cache_clear()
    with pytest.raises(UserError, match=r"need the package minatar; install it with: pip install 'retorq\[minatar\]'"):
        make("MinAtar/Breakout-v1", columns=1)
    about = dict(listing.environments())["MinAtar/NAME-v1"]
    assert about == "Atari on a 10x10 grid, not installed: pip install 'retorq[minatar]'"


@needs_minatar
@pytest.mark.parametrize(("number", "good"), [("1.0.10", False), ("1.0.11", True), ("1.1", True), ("unknown", True)])
def test_a_version_with_the_wrong_seaquest_is_refused(monkeypatch, number, good):
    monkeypatch.setattr(minatar, "_version", lambda: number)
    minatar._rules.cache_clear()
    if good:
        assert describe("MinAtar/Seaquest-v1").settings["minatar"] == number
    else:
        with pytest.raises(UserError, match=r"minatar is 1\.0\.10, whose Seaquest is wrong; install 1\.0\.11"):
            describe("MinAtar/Seaquest-v1")


@needs_minatar
@pytest.mark.parametrize(
    ("env", "options", "sentence"),
    [
        ("MinAtar/Breakot-v1", {}, "did you mean MinAtar/Breakout-v1"),
        ("MinAtar/Breakout-v2", {}, "did you mean MinAtar/Breakout-v1"),
        ("MinAtar/Breakout", {}, "did you mean MinAtar/Breakout-v1"),
        ("MinAtar/Breakout-v1", {"sticky": 0.25}, "env.sticky is 0.25, but MinAtar/Breakout-v1 cannot use"),
        (
            "MinAtar/Breakout-v1",
            {"kwargs": {"size": 3}},
            "names 'size', but MinAtar/Breakout-v1 takes sticky_action_prob",
        ),
        ("MinAtar/Breakout-v1", {"kwargs": {"sticky_action_prob": 2}}, "to 2; MinAtar/Breakout-v1 takes a probability"),
        ("MinAtar/Breakout-v1", {"kwargs": {"sticky_action_prob": True}}, "to True; .* takes a probability"),
        ("MinAtar/Breakout-v1", {"kwargs": {"difficulty_ramping": 1}}, "to 1; MinAtar/Breakout-v1 takes true or false"),
    ],
)
def test_mistakes_are_said_in_a_sentence(env, options, sentence):
    with pytest.raises(UserError, match=sentence):
        make(env, columns=1, options=EnvOptions(**options))


@needs_minatar
def test_playing_loads_neither_torch_nor_what_the_package_draws_with():
    code = (
        "import sys, numpy\nfrom retorq.envs.make import make\n"
        "env = make('MinAtar/Breakout-v1', columns=2)\nenv.reset()\n"
        "env.step(numpy.array([0, 1]))\n"
        "print(*{'torch', 'matplotlib', 'pandas', 'seaborn', 'minatar'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr[-500:] or run.stdout


def test_the_door_needs_no_package_to_be_imported():
    assert importlib.util.find_spec("retorq.envs.minatar") is not None
    assert minatar.game_of("CartPole-v1") is None
    assert minatar.game_of("MinAtar/SpaceInvaders-v0") == "space_invaders"
