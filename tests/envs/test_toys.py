"""The toys: their rules, their exact continuation, their ends."""

import gymnasium
import numpy as np
import pytest

from retorq.envs import toys
from retorq.envs.check import random_actions
from retorq.envs.generators import generator_state, restore_generator
from retorq.envs.options import EnvOptions
from retorq.types import UserError


def build(name, columns=5, seed=0, **kwargs):
    return toys.make_toy(name, columns=columns, seed=seed, options=EnvOptions(kwargs=kwargs))


@pytest.mark.parametrize("name", toys.names())
def test_leaves_flags_and_caps(name):
    env = build(name)
    generator = np.random.default_rng(1)
    observation = env.reset()
    elapsed, ended = np.zeros(5, int), np.zeros(5, bool)
    for _ in range(700):
        for key, leaf in env.spec.observation.items():
            assert observation[key].shape == (5, *leaf.shape)
            assert observation[key].dtype == leaf.dtype
        step = env.step(random_actions(env.spec, 5, generator))
        observation = step.observation
        elapsed = np.where(ended, 0, elapsed + 1)
        assert not (ended & (step.terminated | step.truncated | (step.reward != 0))).any()
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_array_equal(step.ended, step.terminated | step.truncated)
        assert (elapsed <= env.spec.max_steps).all()
        assert (step.ended | (elapsed < env.spec.max_steps)).all()
        assert step.final is None
        ended = step.ended
    assert env.render().dtype == np.uint8
    assert env.render().ndim == 3


@pytest.mark.parametrize("name", toys.names())
def test_saved_and_restored_it_goes_on_bit_for_bit(name):
    def play(env, steps, generator):
        return [env.step(random_actions(env.spec, 5, generator)) for _ in range(steps)]

    first, second = build(name), build(name, seed=9)
    first.reset()
    play(first, 37, np.random.default_rng(2))
    state = first.state_dict()
    assert all(isinstance(value, np.ndarray) for value in state.values())
    wanted = play(first, 200, np.random.default_rng(3))
    second.load_state_dict(state)
    for a, b in zip(wanted, play(second, 200, np.random.default_rng(3)), strict=True):
        for field in ("reward", "terminated", "truncated", "ended"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        np.testing.assert_array_equal(a.observation["obs"], b.observation["obs"])


@pytest.mark.parametrize("draws", [0, 1, 2, 3])
def test_generators_continue_in_the_middle_of_a_word(draws):
    generator, other = np.random.default_rng(1), np.random.default_rng(2)
    generator.integers(5, size=draws)
    restore_generator(other, generator_state(generator))
    np.testing.assert_array_equal(generator.integers(5, size=20), other.integers(5, size=20))


def test_catch_follows_its_rules():
    env = build("catch", columns=64)
    board = env.reset()["obs"]
    assert board.shape == (64, 1, 10, 5)
    assert set(np.unique(board)) == {0, 255}
    ball = board[:, 0, 0].argmax(axis=1)
    assert set(ball) == {0, 1, 2, 3, 4}
    for row in range(1, 10):
        paddle = board[:, 0, 9].argmax(axis=1)
        step = env.step(1 + np.sign(ball - paddle))
        board = step.observation["obs"]
        if row < 9:
            assert (board[:, 0, row].argmax(axis=1) == ball).all()
            assert not step.ended.any()
    assert step.terminated.all()
    assert (step.reward == 1).all()


def test_catch_missed_costs_one():
    env = build("catch", columns=64)
    ball = env.reset()["obs"][:, 0, 0].argmax(axis=1)
    for _ in range(9):
        step = env.step(np.zeros(64, np.int64))
    np.testing.assert_array_equal(step.reward, np.where(ball == 0, 1, -1))


def test_catch_hides_its_ball_when_asked():
    shown, hidden = build("catch", columns=64), build("catch", columns=64, shown=1)
    a, b = shown.reset(seed=3)["obs"], hidden.reset(seed=3)["obs"]
    np.testing.assert_array_equal(a, b)
    for row in range(1, 10):
        action = np.full(64, row % 3)
        one, other = shown.step(action), hidden.step(action)
        for field in ("reward", "terminated", "ended"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        a, b = one.observation["obs"], other.observation["obs"]
        np.testing.assert_array_equal(a[:, 0, 9] >= b[:, 0, 9], True)
        assert not b[:, 0, :9].any()
        assert (b.sum((1, 2, 3)) == 255).all()  # the paddle alone
    with pytest.raises(UserError, match="sets shown to 11 for catch"):
        build("catch", shown=11)


@pytest.mark.parametrize("corridor", [1, 10])
def test_the_way_through_the_maze(corridor):
    env = build("tmaze", columns=200, corridor=corridor)
    sign = env.reset()["obs"]
    assert {tuple(row) for row in sign} == {(1, 1, 0), (0, 1, 1)}
    south = sign[:, 2] == 1
    for place in range(1, corridor + 1):
        step = env.step(np.ones(200, np.int64))
        assert not step.reward.any()
        assert not step.ended.any()
        assert (step.observation["obs"] == ([0, 1, 0] if place == corridor else [1, 0, 1])).all()
    turn = 2 * (np.arange(200) % 2)
    step = env.step(turn)
    np.testing.assert_allclose(step.reward, np.where((turn == 2) == south, 4.0, -0.1), rtol=1e-6)
    assert step.terminated.all()
    fresh = env.step(turn)
    assert not fresh.reward.any()
    assert set(map(tuple, fresh.observation["obs"])) == {(1, 1, 0), (0, 1, 1)}
    assert abs(np.mean((fresh.observation["obs"][:, 2] == 1) == south) - 0.5) < 0.2


def test_standing_still_in_the_maze_costs_and_its_start_shows_the_sign_again():
    env = build("tmaze", columns=4, corridor=2, cap=7)
    sign = env.reset()["obs"].copy()
    seen, paid = [], []
    for action in (3, 0, 1, 2, 3, 1, 1):  # wall, wall, east, wall, back, east, east: the junction, and the cap
        step = env.step(np.full(4, action))
        seen.append(step.observation["obs"])
        paid.append(round(float(step.reward[0]), 6))
    assert paid == [-0.1, -0.1, 0.0, -0.1, 0.0, 0.0, 0.0]
    for t in (0, 1, 4):
        np.testing.assert_array_equal(seen[t], sign)
    for t in (2, 3, 5):
        assert (seen[t] == [1, 0, 1]).all()
    assert step.truncated.all()
    env = build("tmaze", columns=4, corridor=2, cap=7)
    env.reset()
    for action in (1, 1, 1):  # a wall behind the junction
        step = env.step(np.full(4, action))
    assert (step.reward == np.float32(-0.1)).all()
    assert not step.ended.any()
    with pytest.raises(UserError, match="sets corridor to 0 for tmaze"):
        build("tmaze", corridor=0)


@pytest.mark.parametrize("length", [1, 10])
def test_memory_shows_its_cue_once_and_asks_once(length):
    env = build("memory", columns=400, length=length)
    seen = [env.reset()["obs"]]
    cue = seen[0][:, 0].copy()
    assert set(cue) == {-1.0, 1.0}
    for t in range(length):
        step = env.step(np.full(400, t % 2))
        assert not step.ended.any()
        assert not step.reward.any()
        seen.append(step.observation["obs"])
    # From step 1 on, nothing seen differs between columns: no part of the cue is left.
    for t, observation in enumerate(seen[1:], start=1):
        assert (observation == [0.0, float(t == length)]).all()
    answers = np.arange(400) % 2
    step = env.step(answers)
    np.testing.assert_array_equal(step.reward, np.where(2 * answers - 1 == cue, 1, -1))
    assert step.terminated.all()
    fresh = env.step(answers).observation["obs"][:, 0]
    assert abs(np.mean(fresh * cue)) < 0.2  # the next cue does not follow from the last


def test_two_doors_have_the_returns_they_promise():
    values, probabilities = zip(*map(toys.two_doors_returns, (0, 1)), strict=True)
    assert [float(v @ p) for v, p in zip(values, probabilities, strict=True)] == pytest.approx([1.0, 1.0])
    env = build("two_doors", columns=4000)
    env.reset()
    door = np.arange(4000) % 2
    step = env.step(door)
    assert not step.reward.any()
    np.testing.assert_array_equal(step.observation["obs"].argmax(axis=1), door + 1)
    step = env.step(1 - door)
    assert step.terminated.all()
    for which in (0, 1):
        found, counts = np.unique(step.reward[door == which], return_counts=True)
        np.testing.assert_allclose(found, np.sort(values[which]))
        np.testing.assert_allclose(counts / 2000, probabilities[which], atol=0.04)


def test_chain_pays_at_the_end_and_truncates():
    env = build("chain", columns=2, length=4, cap=6)
    env.reset()
    rewards = [env.step(np.array([1, 0])) for _ in range(6)]
    assert [round(float(s.reward[0]), 6) for s in rewards] == [-0.1, -0.1, 1.0, 0.0, -0.1, -0.1]
    assert [bool(s.terminated[0]) for s in rewards] == [False, False, True, False, False, False]
    assert [bool(s.truncated[1]) for s in rewards] == [False] * 5 + [True]


def test_masked_cartpole_moves_like_gymnasiums():
    env = build("masked_cartpole", columns=1, seed=3)
    env.reset()
    other = gymnasium.make("CartPole-v1").unwrapped
    other.reset()
    generator = np.random.default_rng(0)
    checked = 0
    for _ in range(300):
        other.state, other.steps_beyond_terminated = env.state["pole"][0].copy(), None
        action = int(generator.integers(2))
        step = env.step(np.array([action]))
        if not env._pending[0] and env._elapsed[0] == 0:
            continue
        state, reward, terminated, _, _ = other.step(action)
        np.testing.assert_allclose(env.state["pole"][0], state, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(step.observation["obs"][0], state[::2] / [2.4, np.radians(12)], rtol=1e-5, atol=1e-6)
        assert (reward, terminated) == (step.reward[0], step.terminated[0])
        checked += 1
    assert checked > 200


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="names 'size', but memory takes length"):
        build("memory", size=3)
    with pytest.raises(UserError, match="sets length to 0 for memory"):
        build("memory", length=0)
    with pytest.raises(UserError, match=r"sets length to 2\.5"):
        build("memory", length=2.5)
    with pytest.raises(UserError, match=r"env\.sticky is 0\.25, but catch cannot use"):
        toys.make_toy("catch", columns=1, seed=0, options=EnvOptions(sticky=0.25))
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.2"):
        build("catch").step(np.full(5, 3))
    saved = build("catch", columns=3)
    saved.reset()
    with pytest.raises(UserError, match="has 3 columns, this one 5"):
        build("catch").load_state_dict(saved.state_dict())


def test_the_pendulum_moves_like_gymnasiums():
    env = build("pendulum", columns=1, seed=3)
    reference = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    generator = np.random.default_rng(0)
    env.reset()
    reference.reset(seed=0)
    assert (env.spec.actions, env.spec.continuous, env.spec.max_steps) == (1, True, reference.spec.max_episode_steps)
    assert reference.action_space.high.tolist() == [2.0]
    for step in range(1, 201):
        reference.unwrapped.state = np.array([env.state["angle"][0], env.state["spin"][0]])
        action = generator.uniform(-1, 1, (1, 1)).astype(np.float32)
        ours, (seen, reward, over, cut, _) = env.step(action), reference.step(2 * action[0])
        np.testing.assert_allclose(ours.observation["obs"][0], seen, rtol=1e-5, atol=1e-6)
        assert ours.reward[0] == pytest.approx(float(reward), rel=1e-5)
        assert (bool(ours.terminated[0]), bool(ours.truncated[0])) == (over, cut) == (False, step == 200)


def test_pendulums_begin_anywhere():
    env = build("pendulum", columns=4000)
    env.reset()
    for name, bound in (("angle", np.pi), ("spin", 1.0)):
        value = env.state[name] / bound
        assert (np.abs(value) <= 1).all()
        np.testing.assert_allclose(np.quantile(value, (0.1, 0.5, 0.9)), (-0.8, 0.0, 0.8), atol=0.05)
