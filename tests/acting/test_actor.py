"""The actor writes down what happened: every row, every end, memory and score."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.envs.counting import everywhere, ours
from tests.small import Rule, Scripted, agent

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.acting.pools import LocalPool
from retorq.envs.flicker import Flicker
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.replay.replay import Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window


@pytest.fixture
def sample_envs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))


def actor_of(env, network=None, epsilon=0.0, **keywords):
    network = network or Rule(env.spec.actions)
    return Actor(env, network, Fixed(columns=env.columns, value=epsilon), total=1000, **keywords)


def counting(mode):
    return ours(mode, [0, 1, 2])


class Salted(Rule):
    """Another fixed function of the row for every ``salt``."""

    def __init__(self, actions, salt):
        super().__init__(actions)
        self.salt = salt

    def unroll(self, inputs, state, generator=None):
        chosen, state = super().unroll(inputs, state)
        return (chosen + self.salt * (inputs.elapsed + 1) ** 2 + self.salt // 7) % self.actions, state


def recorded(env, rows, salt=0, epsilon=0.0):
    """A replay filled until every column holds ``rows`` rows: bytes per field and column, and games per column."""
    actor = actor_of(env, Salted(env.spec.actions, salt), epsilon)
    replay = Replay(
        layout=Layout(spec=env.spec, state={"count": (1,)}),
        window=Window(length=2, ahead=1),
        columns=env.columns,
        capacity=4 * rows * env.columns,
    )
    while replay.storage.written.min() < rows:
        for columns, chunk in actor.collect(1):
            replay.extend(columns, chunk)
    arrays = replay.storage.arrays | replay.storage.states
    told = {name: [array[:rows, c].numpy().tobytes() for c in range(env.columns)] for name, array in arrays.items()}
    games = [[(e.score, e.length) for e in actor.episodes if e.column == c] for c in range(env.columns)]
    return told, games


@pytest.mark.usefixtures("sample_envs")
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    starts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    salt=st.integers(0, 1000),
    flicker=st.sampled_from([0.0, 0.4]),
)
def test_every_way_to_reset_fills_the_replay_with_the_same_bytes(starts, salt, flicker):
    """Observations, actions, rewards, flags, clocks and recurrent states, and what is told of games."""
    doors = [Flicker(env, flicker, 3) if flicker else env for env in everywhere(starts)]
    wanted, games = recorded(doors[0], 30, salt)
    assert wanted.keys() >= {"observation.obs", "action", "reward", "flags", "elapsed", "previous_reward", "count"}
    for door in doors[1:]:
        told, others = recorded(door, 30, salt)
        assert told.keys() == wanted.keys()
        for name in wanted:
            assert told[name] == wanted[name], name
        for one, other in zip(games, others, strict=True):
            common = min(len(one), len(other))
            assert common >= 3  # none has more than 7 steps
            assert one[:common] == other[:common]


@pytest.mark.usefixtures("sample_envs")
def test_where_actions_are_drawn_the_bytes_are_the_same_until_a_game_ends():
    """Over a final observation one way draws numbers that nobody uses, another does not: from there on they differ."""
    starts = [0, 3]  # first games of 3 and of 2 steps
    (one, _), (other, _) = (recorded(ours(mode, starts), 60, epsilon=0.7) for mode in ("NextStep", "SameStep"))
    for name in one:
        size = len(one[name][0]) // 60
        assert [told[: 3 * size] for told in one[name]] == [told[: 3 * size] for told in other[name]], name
    assert one["action"] != other["action"]


@pytest.mark.usefixtures("sample_envs")
def test_scores_and_lengths_of_games():
    from sample_envs import LENGTHS

    actor = actor_of(counting("NextStep"))
    rewards = [[] for _ in range(3)]
    for _ in range(80):
        for columns, rows in actor.collect(1):
            for at, column in enumerate(columns):
                rewards[column].append((float(rows.reward[0, at]), bool(rows.last[0, at])))
    for column in range(3):
        games, score, length = [], 0.0, 0
        for reward, last in rewards[column]:
            if last:
                games.append((score, length))
                score, length = 0.0, 0
            else:
                score, length = score + reward, length + 1
        told = [(e.score, e.length) for e in actor.episodes if e.column == column]
        assert told[: len(games)] == games
        assert [length for _, length in told[:5]] == [LENGTHS[(column + k) % 8] for k in range(5)]
    assert actor.steps == sum(not last for column in rewards for _, last in column)
    assert [e.step for e in actor.episodes] == sorted(e.step for e in actor.episodes)
    assert len(actor.drain()) > 0
    assert actor.drain() == []


class Always(Rule):
    """Does action 2, so that a previous action of 0 means none."""

    def head(self, features, samples=None, generator=None):
        return super().head(torch.full_like(features, 2))


def rows_of(script, columns=1, epsilon=0.0):
    actor = actor_of(Scripted(columns, script), Always(3), epsilon=epsilon)
    told = [[] for _ in range(columns)]
    for where, rows in actor.collect(len(script)):
        for at, column in enumerate(where):
            seen = rows.inputs
            told[column].append(
                {
                    "elapsed": int(seen.elapsed[0, at]),
                    "first": bool(seen.first[0, at]),
                    "previous": (int(seen.previous_action[0, at]), float(seen.previous_reward[0, at])),
                    "action": int(rows.action[0, at]),
                    "reward": float(rows.reward[0, at]),
                    "ends": "".join(
                        letter for letter in ("terminated", "truncated", "last") if getattr(rows, letter)[0, at]
                    ),
                    "count": float(rows.extras["state.count"][0, at, 0]),
                }
            )
    return told, actor


def test_a_lost_life_starts_an_episode_but_no_game():
    """Memory, previous action and reward start afresh; the clock of the game and its score go on."""
    script = [{"reward": [1.0]}, {"reward": [2.0], "terminated": [True]}, {"reward": [4.0]}]
    script += [{"reward": [8.0], "terminated": [True], "ended": [True]}, {"reward": [16.0]}, {"reward": [32.0]}]
    (rows,), actor = rows_of(script)
    assert [row["first"] for row in rows] == [True, False, True, False, False, True]
    assert [row["elapsed"] for row in rows] == [0, 1, 2, 3, 4, 0]
    assert [row["ends"] for row in rows] == ["", "terminated", "", "terminated", "last", ""]
    assert [row["action"] for row in rows] == [2, 2, 2, 2, 0, 2]  # the final row's is nobody's
    assert [row["previous"] for row in rows] == [(0, 0.0), (2, 1.0), (0, 0.0), (2, 4.0), (2, 8.0), (0, 0.0)]
    assert [row["reward"] for row in rows] == [1.0, 2.0, 4.0, 8.0, 0.0, 32.0]  # the reset's reward is nobody's
    assert [row["count"] for row in rows] == [0, 1, 0, 1, 2, 0]
    assert [(e.score, e.length, e.cut) for e in actor.episodes] == [(15.0, 4, False)]


def test_previous_action_is_the_one_done_also_where_it_is_random():
    told, _ = rows_of([{"reward": [0.5, 0.5]}] * 30, columns=2, epsilon=1.0)
    for rows in told:
        assert len({row["action"] for row in rows}) == 3
        for before, after in pairwise(rows):
            assert after["previous"] == (before["action"], 0.5)


def test_memory_moves_on_also_where_the_action_is_random():
    told, _ = rows_of([{}] * 10, epsilon=1.0)
    assert [row["count"] for row in told[0]] == list(range(10))


def test_a_broken_environment_cuts_its_stream_alone():
    script = [{"reward": [1.0, 1.0]}] * 2 + [{"reward": [5.0, 1.0], "broken": [True, False]}, {"reward": [3.0, 1.0]}]
    told, actor = rows_of(script, columns=2)
    broken, healthy = told
    assert [row["ends"] for row in broken] == ["", "", "truncatedlast", ""]
    assert [row["reward"] for row in broken] == [1.0, 1.0, 0.0, 3.0]
    assert [row["first"] for row in broken] == [True, False, False, True]
    assert [row["elapsed"] for row in broken] == [0, 1, 2, 0]
    assert broken[3]["previous"] == (0, 0.0)
    assert broken[3]["count"] == 0
    assert [row["ends"] for row in healthy] == [""] * 4
    assert [row["elapsed"] for row in healthy] == [0, 1, 2, 3]
    assert [(e.score, e.length, e.column, e.cut) for e in actor.episodes] == [(2.0, 2, 0, True)]
    assert actor.steps == 7


def test_closing_open_streams_begins_new_games():
    actor = actor_of(Scripted(2, [{"reward": [1.0, 1.0]}, {"ended": [True, False], "terminated": [True, False]}]))
    actor.collect(2)
    ((columns, rows),) = actor.cut()
    assert columns.tolist() == [0, 1]
    assert rows.last.all()
    assert not rows.terminated.any()
    assert rows.inputs.elapsed.tolist() == [[2, 2]]
    assert [(e.column, e.cut) for e in actor.episodes] == [(0, False), (1, True)]
    ((_, following),) = actor.collect(1)
    assert following.inputs.first.all()
    assert following.inputs.elapsed.tolist() == [[0, 0]]


@pytest.mark.parametrize("mode", ["after", "inner", "outer", "separate"])
def test_an_unroll_from_stored_states_repeats_what_the_actor_saw(mode, monkeypatch):
    """With unchanged weights, from every state on the grid, across ends of games, given the same fractions."""
    small = agent("memory", options=EnvOptions(kwargs='{"length": 3}'), quantile_layer=mode)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))
    env = make("memory", columns=2, options=EnvOptions(kwargs='{"length": 3}'))
    layout = replace(small.layout, state_dtype=torch.float32)
    replay = Replay(layout=layout, window=Window(length=6, ahead=2, period=2), columns=2, capacity=200)
    actor, values = actor_of(env, small.network, epsilon=0.3), []
    for _ in range(60):
        ((columns, rows),) = actor.collect(1)
        replay.extend(columns, rows)
        values.append(actor.values)
    batch = replay.sample(40)
    assert batch.trajectory.last.any()
    with torch.no_grad():
        told, _ = small.network(batch.trajectory.inputs, batch.state)
    for b, (column, start) in enumerate(batch.keys):
        for t in range(8):
            torch.testing.assert_close(told.mean()[t, b], values[start + t][column], atol=1e-6, rtol=1e-5)


def test_stacked_images_are_those_of_the_game():
    env = make("catch", columns=2)
    network = Rule(3)
    seen = []
    plain = network.unroll
    network.unroll = lambda inputs, state, generator=None: (
        seen.append(inputs.observation["obs"][0].clone()),
        plain(inputs, state),
    )[1]
    actor = actor_of(env, network, stack=3)
    layout = Layout(spec=env.spec, state={})
    replay = Replay(layout=layout, window=Window(length=30, ahead=1, margin=2), columns=2, capacity=200, stack=3)
    for _ in range(31):
        for columns, rows in actor.collect(1):
            replay.extend(columns, rows)
    batch = replay.sample(4)
    for b, (column, start) in enumerate(batch.keys):
        for t in range(31):
            assert torch.equal(batch.trajectory.inputs.observation["obs"][t, b], seen[start + t][column])


def test_acts_by_the_preferences_of_the_network_with_its_own_samples_and_generator():
    """Not by the mean of the values where the two differ, as they do under a risk."""
    network, asked = Rule(3), []

    def preferences(features, samples, generator):
        asked.append((samples, generator))
        return -network.head(features).mean()

    network.preferences = preferences
    actor = actor_of(make("catch", columns=4), network, samples=5)
    for _ in range(10):
        ((_, rows),) = actor.collect(1)
        assert (actor.values <= 0).all()
        expected = np.where(rows.last[0], 0, actor.values.argmax(-1).numpy())
        np.testing.assert_array_equal(rows.action[0], expected)
    assert asked == 10 * [(5, actor.fractions)]


def test_noise_stays_on_in_an_actor_that_explores():
    small = agent("catch", torso="flat")
    actor = actor_of(make("catch", columns=2), small.network)
    modes = []
    plain = small.network.unroll
    small.network.unroll = lambda *row: (modes.append(small.network.training), plain(*row))[1]
    actor.collect(3)
    assert modes == 3 * [True]


def test_a_saved_actor_goes_on_exactly():
    small = agent("catch", torso="flat")
    one, other = (actor_of(make("catch", columns=2, seed=s), small.network, 0.5, seed=s) for s in (1, 2))
    one.collect(13)
    assert other.load_state_dict(*one.state_dict())
    for (_, a), (_, b) in zip(one.collect(20), other.collect(20), strict=True):
        for name in ("action", "reward", "last", "terminated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.extras["state.h"], b.extras["state.h"])
    assert one.steps == other.steps


def test_the_pool_shares_float32_weights_and_rounds_others_only_when_told():
    small = agent("memory", precision="bf16")
    weight = next(small.network.parameters())
    pools = {
        precision: LocalPool(actor_of(make("memory", columns=2), small.network, precision=precision))
        for precision in ("fp32", "bf16")
    }
    for pool in pools.values():
        pool.publish(small.network, 0)
    assert pools["fp32"].actor.network is small.network
    copy = next(pools["bf16"].actor.network.parameters())
    assert copy.dtype == torch.bfloat16
    with torch.no_grad():
        weight.add_(1.0)
    assert not torch.equal(copy, weight.to(torch.bfloat16))
    pools["bf16"].publish(small.network, 1)
    assert torch.equal(next(pools["bf16"].actor.network.parameters()), weight.to(torch.bfloat16))
    assert len(pools["bf16"].receive()) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_new_weights_leave_the_memory_as_it_is(precision):
    """An actor goes on with what it remembers by older weights (R2D2's staleness); a new one begins at games alone."""
    small = agent("memory", precision=precision)
    pool = LocalPool(actor_of(make("memory", columns=2), small.network, precision=precision))
    for version in range(4):
        before = {name: value.clone() for name, value in pool.actor.state.items()}
        with torch.no_grad():
            next(small.network.parameters()).add_(0.1)
        pool.publish(small.network, version)
        assert all(torch.equal(pool.actor.state[name], value) for name, value in before.items())
        assert all(value.any() for value in before.values())
        assert bool(before) is (version > 0)
        pool.receive()


def test_the_rounded_copy_rounds_weights_and_no_constants():
    """The cosines' multiples and the mean image are what the learner uses, else it acts with another embedding."""
    small = agent("catch", precision="bf16", center_images=True)
    observation = {"obs": torch.rand(3, 2, *small.spec.observation["obs"].shape)}
    small.network.center(observation)
    pool = LocalPool(Actor(make("catch", columns=2), small.network, small.explore, total=100, precision="bf16"))
    pool.publish(small.network, 0)
    rounded = dict(pool.actor.network.named_buffers())
    assert {name.rsplit(".", 1)[1] for name in rounded} >= {"multiples", "mean"}
    for name, value in small.network.named_buffers():
        assert torch.equal(rounded[name], value), name
    assert all(p.dtype == torch.bfloat16 for p in pool.actor.network.parameters())


@pytest.mark.usefixtures("sample_envs")
def test_what_explores_does_not_draw_the_numbers_of_the_environments():
    """Environments may draw from ``default_rng`` of the seed they are given."""
    actor = actor_of(counting("NextStep"), seed=5)
    assert not np.isin(actor.generator.random(64), np.random.default_rng(5).random(4096)).any()


def test_columns_explore_each_by_itself():
    env = make("memory", columns=64)
    actor = Actor(env, agent("memory").network, Fixed(columns=64, value=0.5), total=100, seed=1)
    actor.start()
    greedy = actor.network.preferences(*_features(actor)).argmax(-1)[0].numpy()
    differs = actor.act() != greedy
    assert 5 < differs.sum() < 45  # a quarter of 64 in the mean: half explore, half of these differ


def _features(actor):
    features, _ = actor.network.unroll(actor._inputs(), actor.state, torch.Generator().manual_seed(0))
    return features, None, torch.Generator().manual_seed(0)


@pytest.mark.usefixtures("sample_envs")
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_an_actor_tells_what_it_thought_of_each_row(mode):
    """The value of the action taken, random or not, and of the best one; nothing where nobody acted."""
    env = counting(mode)
    actor = actor_of(env, epsilon=0.5, tell_values=True)
    silent = 0
    for _ in range(60):
        for columns, rows in actor.collect(1):
            value, highest = rows.extras["value"][0], rows.extras["highest"][0]
            assert value.dtype == highest.dtype == np.float32
            if len(columns) == env.columns and not np.isnan(highest).any():
                live = ~rows.last[0]
                taken = actor.values.numpy()[np.arange(env.columns), rows.action[0]]
                np.testing.assert_array_equal(value[live], taken[live])
                np.testing.assert_array_equal(highest, actor.values.numpy().max(-1))
            else:
                silent += 1
                assert np.isnan(value).all()
                assert rows.last.all()
    assert (silent > 0) is (mode == "SameStep")
    [(_, ending)] = actor.cut()
    assert np.isnan(ending.extras["highest"]).all()
    assert "value" not in actor_of(counting(mode)).collect(1)[0][1].extras
