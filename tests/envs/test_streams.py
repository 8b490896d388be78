"""The three ways in which vector environments start new episodes give byte-identical streams of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.counting import everywhere, single

from retorq.envs.columns import Columns
from retorq.envs.flicker import Flicker
from retorq.envs.make import EnvOptions, make
from retorq.envs.vector import GymVector


def choose(salt, column, count, actions):
    """The behavior under test-control: a fixed function of the column and of how many actions it has done."""
    return (salt + 31 * column + 17 * count * count) % actions


def stream(env, rows, salt=0):
    """Per column the first ``rows`` rows (observation, action, reward, terminated, truncated, last) as bytes."""
    columns = env.columns
    told = [[] for _ in range(columns)]
    done = np.zeros(columns, int)
    waiting = np.zeros(columns, bool)
    observation = env.reset()

    def bytes_of(tree, column):
        return {name: array[column].tobytes() for name, array in tree.items()}

    while min(map(len, told)) < rows:
        action = np.array([choose(salt, column, done[column], env.spec.actions) for column in range(columns)])
        step = env.step(action)
        for column in range(columns):
            if waiting[column]:  # the final observation of an episode; its action is ignored
                told[column].append((bytes_of(observation, column), 0, 0.0, False, False, True))
                assert (step.reward[column], step.terminated[column], step.truncated[column]) == (0, False, False)
                continue
            done[column] += 1
            flags = bool(step.terminated[column]), bool(step.truncated[column])
            reward = float(step.reward[column])
            told[column].append((bytes_of(observation, column), int(action[column]), reward, *flags, False))
            if step.final is not None and step.ended[column]:
                told[column].append((bytes_of(step.final, column), 0, 0.0, False, False, True))
        waiting = step.ended.copy() if step.final is None else np.zeros(columns, bool)
        observation = step.observation
    return [rows_of[:rows] for rows_of in told]


@settings(max_examples=25, deadline=None)
@given(
    starts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    salt=st.integers(0, 1000),
    flicker=st.sampled_from([0.0, 0.4]),
)
def test_every_autoreset_mode_gives_the_same_bytes(starts, salt, flicker):
    told = [stream(Flicker(env, flicker, 3) if flicker else env, 40, salt) for env in everywhere(starts)]
    for other in told[1:]:
        assert other == told[0]


def test_the_stream_is_what_the_counting_environment_says():
    """The reference itself, against the definition: episode and step numbers, all ends present."""
    (rows,) = stream(single([0]), 15)
    seen = [np.frombuffer(row[0]["obs"], np.float32) for row in rows]
    assert [tuple(value[:2]) for value in seen] == [
        *[(0, t) for t in range(4)],
        *[(1, t) for t in range(2)],
        *[(2, t) for t in range(6)],
        *[(3, t) for t in range(3)],
    ]
    assert [index for index, row in enumerate(rows) if row[5]] == [3, 5, 11, 14]
    assert [index for index, row in enumerate(rows) if row[3]] == [2, 10, 13]  # 13: terminated and truncated
    assert [index for index, row in enumerate(rows) if row[4]] == [4]
    # The environment's actions start at 2; rows store them from 0.
    assert all(row[2] == 10 * (row[1] + 2) + seen[index][1] + 1 for index, row in enumerate(rows) if not row[5])


@pytest.mark.parametrize("env", ["sample_envs:CountingVector", "sample_envs:counting_vector"])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_make_finds_vector_environments(env, mode):
    made = make(env, columns=2, options=EnvOptions(kwargs={"mode": mode}))
    assert isinstance(made, GymVector)
    assert made.spec.settings["autoreset"] == mode
    assert len(stream(made, 20)[1]) == 20


def test_an_ids_own_vector_environment_and_single_ones_agree():
    own = make("CartPole-v1", columns=2, options=EnvOptions(vector=True))
    apart = make("CartPole-v1", columns=2)
    assert isinstance(own, GymVector)
    assert isinstance(apart, Columns)
    assert (own.spec.observation, own.spec.actions, own.spec.max_steps) == (
        apart.spec.observation,
        apart.spec.actions,
        apart.spec.max_steps,
    )
    own.close()


def test_flicker_zeroes_whole_observations_at_its_rate_and_can_be_resumed():
    env = make("catch", columns=50, options=EnvOptions(flicker=0.3))
    seen = [env.reset()["obs"]]
    seen += [env.step(np.ones(50, np.int64)).observation["obs"] for _ in range(100)]
    blank = ~np.stack(seen).any(axis=(2, 3, 4))
    assert abs(blank.mean() - 0.3) < 0.03
    assert 0 < blank[0].sum() < 50
    state = env.state_dict()
    wanted = [env.step(np.ones(50, np.int64)).observation["obs"] for _ in range(20)]
    other = make("catch", columns=50, seed=8, options=EnvOptions(flicker=0.3))
    other.load_state_dict(state)
    np.testing.assert_array_equal(wanted, [other.step(np.ones(50, np.int64)).observation["obs"] for _ in range(20)])


def test_a_vector_environment_without_its_mode_is_refused():
    from sample_envs import CountingVector

    from retorq.types import UserError

    vector = CountingVector(2)
    vector.metadata = {}
    with pytest.raises(UserError, match="announces the autoreset mode None"):
        GymVector(vector, name="counting", seed=0, options=EnvOptions())
