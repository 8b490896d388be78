"""From names to environments: ids, the user's own, unknown names, real games."""

import re

import numpy as np
import pytest

from retorq.envs.columns import Columns, InProcess
from retorq.envs.make import EnvOptions, check, describe, make, make_column, toy_names
from retorq.envs.processes import Processes
from retorq.types import UserError


@pytest.mark.parametrize(
    ("env", "offered"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("Taxi-v17", "Taxi-v4"),
        ("cacth", "catch"),
        ("two_door", "two_doors"),
    ],
)
def test_unknown_names_offer_the_nearest(env, offered):
    with pytest.raises(UserError, match=f"env is '{env}', which is not known; did you mean .*{offered}"):
        make(env, columns=1)


def test_unknown_games_offer_games():
    pytest.importorskip("ale_py", reason="ale_py is not installed: pip install retorq[atari]")
    with pytest.raises(UserError, match="did you mean ALE/Pong-v5"):
        make("ALE/Ponk-v5", columns=1)
    with pytest.raises(UserError, match=r"did you mean .*ALE/Pong-v5"):
        make("Pong", columns=1)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ("zzzzzz", "which is not known; see `retorq list envs`"),
        ("no_such_module:Env", "the module 'no_such_module' cannot be imported"),
        ("sample_envs:Countin", "has no class or function 'Countin'; did you mean Counting"),
        ("sample_envs:LENGTHS", "has no class or function 'LENGTHS'"),
        ("collections:OrderedDict", "made a OrderedDict; it must make a gymnasium.Env"),
        ("Blackjack-v1", r"is Tuple\(Discrete"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(env, sentence):
    with pytest.raises(UserError, match=sentence):
        make(env, columns=1, options=EnvOptions(workers="0"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sticky": 0.25}, "env.sticky is 0.25, but CartPole-v1 cannot use that option"),
        ({"kwargs": {"gravity": 3}}, "could not be built with env.kwargs .*TypeError"),
        ({"workers": "many"}, "env.workers is 'many'; give auto, 0 or each"),
        ({"max_episode_steps": -1}, "env.max_episode_steps is -1; give 0 or more"),
    ],
)
def test_wrong_options_are_said_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        make("CartPole-v1", columns=1, options=EnvOptions(**options))


@pytest.mark.parametrize(
    ("env", "options", "sentence"),
    [
        ("CartPole-v1", {"vector": True, "workers": "each"}, "env.workers is 'each'.* turn env.vector off or leave"),
        ("CartPole-v1", {"vector": True, "step_time_limit": 3.0}, "env.step_time_limit is 3.0.*no worker processes"),
        ("sample_envs:CountingVector", {"workers": "0"}, "env.workers is '0'.* give single environments or leave"),
        ("CartPole-v1", {"step_time_limit": 3.0}, "env.step_time_limit is 3.0.* set env.workers to each or leave"),
        ("sample_envs:Counting", {"workers": "0", "step_time_limit": 3.0}, "env.step_time_limit is 3.0.*Counting runs"),
        ("CartPole-v1", {"resize": 10}, "env.resize is 10.*no part of the observation is an image"),
        ("CartPole-v1", {"grayscale": False}, "env.grayscale is False.*no part of the observation is an image"),
        ("sample_envs:Counting", {"resize": 10}, "env.resize is 10.*no part of the observation is an image"),
    ],
)
def test_options_that_would_do_nothing_are_refused(env, options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}") as caught:
        make(env, columns=1, options=EnvOptions(**options))
    assert re.search(r", which would do nothing: .* or leave \w+ out\.$", str(caught.value))


@pytest.mark.parametrize(
    ("env", "options", "settings"),
    [
        ("CartPole-v1", {}, {"workers": "0"}),
        ("CartPole-v1", {"workers": "each", "step_time_limit": 3.0}, {"workers": "each", "step_time_limit": 3.0}),
        ("CartPole-v1", {"vector": True}, {"vector": True, "autoreset": "NextStep"}),
        ("sample_envs:CountingVector", {}, {"vector": True, "autoreset": "NextStep"}),
        ("CartPole-v1", {"flicker": 0.5}, {"workers": "0", "flicker": 0.5}),
    ],
)
def test_the_settings_told_are_those_that_have_an_effect(env, options, settings):
    made = make(env, columns=1, options=EnvOptions(**options))
    assert made.spec.settings == {"flicker": 0.0, "kwargs": "{}", "max_episode_steps": 0} | settings
    made.close()


def test_flicker_of_a_toy_is_among_its_settings():
    assert describe("catch", EnvOptions(flicker=0.5)).settings["flicker"] == 0.5


def test_ids_without_a_vector_environment_say_so():
    with pytest.raises(UserError, match=r"env.vector is on, but Acrobot-v1 has no vector environment"):
        make("Acrobot-v1", columns=1, options=EnvOptions(vector=True))


def test_known_fast_environments_stay_in_this_process_and_others_do_not():
    fast = make("CartPole-v1", columns=1)
    slow = make("sample_envs:Counting", columns=1)
    assert isinstance(fast, Columns)
    assert isinstance(fast._backend, InProcess)
    assert isinstance(slow._backend, Processes)
    slow.close()
    fast.close()


@pytest.mark.parametrize("env", ["CartPole-v1", "sample_envs:Counting"])
def test_worker_processes_give_the_same_as_this_process(env):
    def play(workers):
        made = make(env, columns=3, seed=5, options=EnvOptions(workers=workers))
        generator = np.random.default_rng(0)
        rows = [made.reset()["obs"]]
        for _ in range(60):
            step = made.step(generator.integers(made.spec.actions, size=3))
            rows += [step.observation["obs"], step.reward, step.terminated, step.truncated, step.ended]
        again = made.reset()["obs"]
        made.close()
        return rows, again

    (here, here_again), (there, there_again) = play("0"), play("each")
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(here_again, there_again)
    assert (here_again != here[0]).any()


@pytest.mark.parametrize("env", ["CartPole-v1", "sample_envs:Misbehaving"])
def test_episodes_can_be_cut_short(env):
    made = make(env, columns=1, options=EnvOptions(max_episode_steps=2, workers="0"))
    assert made.spec.max_steps == 2
    made.reset()
    flags = [bool(made.step(np.zeros(1, np.int64)).truncated[0]) for _ in range(6)]
    assert flags == [False, True, False, False, True, False]


def test_pictures():
    for env in ("catch", "CartPole-v1", "sample_envs:Misbehaving"):
        if env == "CartPole-v1":
            pytest.importorskip("pygame", reason="CartPole-v1 draws with pygame")
        made = make(env, columns=1, render=True)
        made.reset()
        made.step(np.zeros(1, np.int64))
        picture = made.render()
        assert picture.dtype == np.uint8
        assert picture.shape[2:] == (3,)
        made.close()
        pictures = make_column(env, columns=3, column=2, seed=0, options=EnvOptions())
        pictures.reset()
        assert (pictures.render(2) if pictures.columns > 1 else pictures.render()).shape == picture.shape
        pictures.close()
    with pytest.raises(UserError, match="render was asked for with 2 environments"):
        make("catch", columns=2, render=True)
    with pytest.raises(UserError, match="0 environments were asked for"):
        make("catch", columns=0)


@pytest.mark.parametrize("env", ["catch", "sample_envs:Counting", "MinAtar/Breakout-v1"])
def test_a_column_alone_sees_what_it_sees_among_others(env):
    if env.startswith("MinAtar"):
        pytest.importorskip("minatar")
    options = EnvOptions(flicker=0.5, **({"workers": "0"} if ":" in env else {}))
    many = make(env, columns=3, seed=7, options=options)
    one = make_column(env, columns=3, column=2, seed=7, options=options)
    here = 2 if one.columns > 1 else 0
    generator, seen = np.random.default_rng(0), []
    pairs = [(many.reset(7), one.reset(7))]
    for _ in range(30):
        action = generator.integers(many.spec.actions, size=3)
        steps = many.step(action), one.step(action if here else action[2:])
        assert steps[0].reward[2] == steps[1].reward[here]
        pairs.append((steps[0].observation, steps[1].observation))
    for a, b in pairs:
        (name,) = a
        np.testing.assert_array_equal(a[name][2], b[name][here])
        seen.append(bool(a[name][2].any()))
    assert 5 < sum(seen) < 26


def test_describe_and_check():
    assert describe("memory", EnvOptions(kwargs={"length": 4})).max_steps == 5
    assert describe("CartPole-v1").observation["obs"].shape == (4,)
    assert set(toy_names()) == {"catch", "memory", "tmaze", "two_doors", "chain", "masked_cartpole", "pendulum"}
    assert all(good for good, _ in check("catch"))
    findings = check("sample_envs:Misbehaving", EnvOptions(kwargs={"what": "nan"}, workers="0"))
    assert [good for good, _ in findings] == [True, False]
    assert "containing nan" in findings[1][1]
    ((good, sentence),) = check("cacth")
    assert not good
    assert "did you mean catch" in sentence


@pytest.mark.parametrize("workers", ["0", "each"])
def test_vizdoom(workers):
    pytest.importorskip("vizdoom", reason="vizdoom is not installed: pip install retorq[vizdoom]")
    made = make("VizdoomBasic-v1", columns=2, options=EnvOptions(resize=40, workers=workers))
    assert {name: leaf.shape for name, leaf in made.spec.observation.items()} == {
        "gamevariables": (1,),
        "screen": (1, 40, 40),
    }
    observation = made.reset()
    assert observation["screen"].shape == (2, 1, 40, 40)
    assert observation["screen"].std() > 5
    steps = [made.step(np.full(2, 1 + t % 3)) for t in range(5)]
    assert any(step.reward.any() for step in steps)
    made.close()


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"frame_skip": "4"}, "env.frame_skip is '4'; give a whole number"),
        ({"noop_max": 2.5}, "env.noop_max is 2.5; give a whole number"),
        ({"noop_max": 3_601}, "env.noop_max is 3601; give at most 3,600 frames"),
        ({"life_loss": "no"}, "env.life_loss is 'no'; give true or false"),
        ({"sticky": True}, "env.sticky is True; give a number"),
        ({"drop": 3}, "env.drop is 3; give a text"),
    ],
)
def test_options_of_the_wrong_type(change, wanted):
    with pytest.raises(UserError, match=re.escape(wanted)):
        EnvOptions(**change)
