"""Atari: what is a lost life, what is the end of a game, and the numpy twin."""

import sys
from subprocess import run

import numpy as np
import pytest

from retorq.envs.atari import Atari, game_names, rom_of
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.types import UserError

pytest.importorskip("ale_py", reason="ale_py is not installed: pip install retorq[atari]")


def test_names_and_old_names():
    assert rom_of("ALE/MsPacman-v5") == rom_of("MsPacmanNoFrameskip-v4") == rom_of("MsPacman-v4") == "ms_pacman"
    assert rom_of("ALE/Pong-v5") == "pong"
    assert rom_of("ALE/Ponk-v5") is None
    assert rom_of("CartPole-v1") is None
    assert "ALE/Pong-v5" in game_names()
    assert "ALE/Combat-v5" not in game_names()


def test_spec_tells_everything():
    options = EnvOptions(frame_size=40, max_frames=1002, grayscale=False)
    spec = Atari("pong", columns=1, seed=0, options=options, training=True).spec
    assert spec.observation["obs"].shape == (3, 40, 40)
    assert (spec.actions, spec.max_steps, spec.frames_per_step) == (6, 251, 4)
    assert spec.action_names[:2] == ("noop", "fire")


def test_the_defaults_are_the_published_preprocessing():
    """Mnih et al. (2015), extended data table 1 and Methods, unless a comment says otherwise."""
    spec = Atari("pong", columns=1, seed=0, options=EnvOptions(), training=True).spec
    assert spec.settings == {
        "frame_skip": 4,  # action repeat
        "frame_size": 84,
        "grayscale": True,  # luminance
        "max_pool": 2,  # over a frame and the one before
        "noop_max": 30,
        "sticky": 0.0,  # there were none; Machado et al. (2018) have 0.25
        "full_actions": False,
        "life_loss": True,  # an end of the episode while training (Methods)
        "max_frames": 108_000,  # 30 minutes at 60 Hz (van Hasselt et al. 2016)
        "fire_reset": False,  # not done
        "flicker": 0.0,  # Hausknecht & Stone (2015) have 0.5
        "reward": "raw",  # clipped in the loss
    }
    assert (spec.observation["obs"].shape, spec.frames_per_step, spec.max_steps) == ((1, 84, 84), 4, 27_000)


def test_what_is_asked_for_is_in_the_settings():
    asked = {
        "frame_skip": 3, "frame_size": 40, "grayscale": False, "noop_max": 7, "sticky": 0.25, "full_actions": True,
        "life_loss": False, "max_frames": 1002, "fire_reset": True, "flicker": 0.5,
    }  # fmt: skip
    spec = Atari("pong", columns=1, seed=0, options=EnvOptions(**asked), training=True).spec
    assert spec.settings == asked | {"max_pool": 2, "reward": "raw"}


@pytest.mark.parametrize("rom", ["breakout", "pong", "seaquest", "qbert", "space_invaders", "montezuma_revenge"])
def test_an_end_is_always_followed_by_a_new_game_and_a_lost_life_never(rom):
    env = Atari(rom, columns=4, seed=1, options=EnvOptions(max_frames=1200), training=True)
    env.reset()
    generator = np.random.default_rng(0)
    games = lives = 0
    frame, ended = env._frame, np.zeros(4, bool)
    for _ in range(330):
        step = env.step(generator.integers(env.spec.actions, size=4))
        assert step.broken is None
        np.testing.assert_array_equal(env._frame < frame, ended)
        assert not (ended & (step.terminated | step.truncated | step.ended | (step.reward != 0))).any()
        frame, ended = env._frame, step.ended
        games += step.ended.sum()
        lives += (step.terminated & ~step.ended).sum()
    assert games > 0
    assert (lives > 0) == (rom != "pong")


def test_evaluation_does_not_end_with_a_life():
    env = Atari("breakout", columns=4, seed=1, options=EnvOptions(), training=False)
    env.reset()
    generator = np.random.default_rng(0)
    steps = [env.step(generator.integers(4, size=4)) for _ in range(300)]
    assert any(step.ended.any() for step in steps)
    assert all((step.terminated == step.ended).all() for step in steps)


def test_the_cap_truncates_at_its_step_and_keeps_observations_intact():
    env = Atari("pong", columns=2, seed=0, options=EnvOptions(max_frames=42), training=True)
    first = env.reset()["obs"]
    kept = first.copy()
    flags = [env.step(np.zeros(2, np.int64)) for _ in range(13)]
    assert [bool(step.truncated[0]) for step in flags] == [False] * 10 + [True] + [False] * 2
    assert not any(step.terminated.any() for step in flags)
    np.testing.assert_array_equal(first, kept)


class Scripted:
    """Stands in for the emulators: says lives, frame numbers and flags as written down."""

    def __init__(self, rows):
        self._rows = iter(rows)

    def step(self, action):
        lives, frame, terminated, truncated = next(self._rows)
        info = {"lives": np.array([lives]), "episode_frame_number": np.array([frame])}
        flags = np.array([terminated]), np.array([truncated])
        return np.zeros((1, 1, 84, 84), np.uint8), np.ones(1, np.int32), *flags, info


def scripted(rows, lives=3):
    env = Atari("breakout", columns=1, seed=0, options=EnvOptions(max_frames=16), training=True)
    env.reset()
    env._env, env._lives, env._frame = Scripted(rows), np.array([lives]), np.array([0])
    return [env.step(np.zeros(1, np.int64)) for _ in rows]


def test_a_life_lost_at_the_cap_ends_the_game():
    steps = scripted([(3, 4, False, False), (2, 8, True, False), (2, 12, False, False), (1, 16, True, False)])
    assert [(bool(s.terminated[0]), bool(s.ended[0])) for s in steps] == [
        (False, False),
        (True, False),
        (False, False),
        (True, True),
    ]


def test_a_restart_nobody_announced_cuts_the_stream():
    steps = scripted([(2, 4, True, False), (5, 1, False, False), (5, 5, False, False)])
    assert steps[0].broken is None
    assert steps[1].broken.all()
    assert not steps[1].reward.any()
    assert steps[2].broken is None


def test_seeds_repeat_and_differ():
    def play(seed):
        env = Atari("breakout", columns=2, seed=seed, options=EnvOptions(sticky=0.25), training=True)
        frames = [env.reset()["obs"]]
        frames += [env.step(np.array([t % 4, t % 3])).observation["obs"] for t in range(40)]
        return np.stack(frames)

    first = play(5)
    np.testing.assert_array_equal(first, play(5))
    assert (first != play(6)).any()


@pytest.mark.parametrize(
    ("rom", "options"),
    [
        ("breakout", EnvOptions(noop_max=0)),
        ("breakout", EnvOptions(noop_max=30)),
        ("seaquest", EnvOptions(noop_max=5, sticky=0.25, max_frames=1201, frame_size=50)),
        ("pong", EnvOptions(noop_max=3, grayscale=False, frame_skip=3, fire_reset=True)),
    ],
)
def test_the_numpy_twin_sees_the_same_game(rom, options):
    from retorq.envs.atari_single import AtariSingle

    fast = Atari(rom, columns=1, seed=4, options=options, training=True)
    slow = AtariSingle(rom, seed=4, options=options, training=True)
    assert fast.spec == slow.spec
    generator = np.random.default_rng(1)
    pairs = [(fast.reset()["obs"], slow.reset()["obs"])]
    ends = 0
    for _ in range(450):
        action = generator.integers(fast.spec.actions, size=1)
        a, b = fast.step(action), slow.step(action)
        for name in ("reward", "terminated", "truncated", "ended"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        ends += a.ended.sum()
        pairs.append((a.observation["obs"], b.observation["obs"]))
    assert ends > 0 or rom == "pong"
    gap = max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)
    assert gap <= 1
    assert slow.render().shape == (210, 160, 3)


def test_without_ale_py_the_remedy_is_named():
    code = "import sys; sys.modules['ale_py'] = None\nfrom retorq.envs.make import make\nmake('ALE/Pong-v5', columns=1)"
    done = run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=False)
    assert "UserError: Atari games need the package ale_py; install it with: pip install retorq[atari]" in done.stderr


def test_options_are_checked():
    with pytest.raises(UserError, match=r"env\.sticky is 1\.5; give a probability"):
        EnvOptions(sticky=1.5)
    with pytest.raises(UserError, match=r"env\.kwargs is .* not JSON"):
        EnvOptions(kwargs="length=3")
    with pytest.raises(UserError, match=r"env\.resize is 40, but ALE/Pong-v5 cannot use that option"):
        Atari("pong", columns=1, seed=0, options=EnvOptions(resize=40), training=True)


def test_flickering_pong_hides_whole_screens_and_nothing_else():
    """Hausknecht and Stone (2015), section 5: at every step, with probability 0.5; the game goes on as it would."""
    games = [make("ALE/Pong-v5", columns=4, seed=3, options=EnvOptions(flicker=chance)) for chance in (0.5, 0.0)]
    actions = np.random.default_rng(0).integers(6, size=(60, 4))
    shown, whole = ([env.reset()["obs"]] + [env.step(action).observation["obs"] for action in actions] for env in games)
    shown, whole = np.stack(shown), np.stack(whole)
    assert whole.any(axis=(2, 3, 4)).all()
    seen = shown.any(axis=(2, 3, 4))
    assert abs(seen.mean() - 0.5) < 0.1  # 244 screens: three standard errors
    np.testing.assert_array_equal(shown[seen], whole[seen])
    rewards = [[env.step(np.full(4, 2)).reward for _ in range(40)] for env in games]
    np.testing.assert_array_equal(*rewards)
    assert np.any(rewards[0])
    for env in games:
        env.close()


@pytest.mark.parametrize(("most", "expected"), [(0, {0}), (3, {0, 1, 2, 3})])
def test_games_start_after_up_to_so_many_no_ops(most, expected):
    env = Atari("seaquest", columns=4, seed=0, options=EnvOptions(noop_max=most), training=True)
    seen = set()
    for seed in range(4):
        _, told = env._env.reset(seed=seed)
        seen |= set(np.asarray(told["episode_frame_number"]).tolist())
    assert seen == expected
    env.close()


@pytest.mark.parametrize(("full", "count"), [(False, 6), (True, 18)])
def test_the_emulator_knows_as_many_actions_as_the_agent(full, count):
    env = Atari("pong", columns=1, seed=0, options=EnvOptions(full_actions=full), training=True)
    assert env.spec.actions == env._env.single_action_space.n == count
    env.close()
