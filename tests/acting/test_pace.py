"""Playing by the clock: the beat, what is late, and what is told of it."""

import numpy as np
import pytest
from tests.small import agent

from retorq.acting.pace import Paced, Punctuality, ahead
from retorq.envs.make import make
from retorq.running.train import RunOptions
from retorq.types import UserError


class Time:
    """A clock that moves when somebody waits."""

    def __init__(self):
        self.now, self.waits = 100.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.waits.append(round(seconds, 6))
        self.now += seconds


class Lasting:
    """Environments whose steps take time themselves."""

    spec, columns, seconds = None, 2, 0.0

    def __init__(self, time):
        self.time = time

    def reset(self, seed=None):
        return {}

    def step(self, action):
        self.time.now += self.seconds


def paced(hz=10.0):
    time = Time()
    env = Paced(Lasting(time), hz, clock=time.clock, sleep=time.sleep)
    env.reset()
    return env, time


def test_steps_come_on_the_beat_however_long_thinking_takes():
    env, time = paced()
    for thought in (0.02, 0.09, 0.0, 0.1):
        time.now += thought
        env.step(None)
    assert time.waits == [0.08, 0.01, 0.1, 0.0]
    assert time.now == pytest.approx(100.4)
    assert env.drain() == pytest.approx([0.02, 0.09, 0.0, 0.1])
    assert env.drain() == []


def test_after_a_late_action_the_beat_goes_on_from_there():
    env, time = paced()
    time.now += 0.35
    env.step(None)
    time.now += 0.04
    env.step(None)
    assert time.waits == [0.0, pytest.approx(0.06)]
    told = Punctuality(10.0)
    told.add(env.drain())
    assert told.late == 1


def test_a_game_that_keeps_time_itself_is_not_slowed_down():
    env, time = paced()
    env.env.seconds = 0.1
    for _ in range(5):
        time.now += 0.01
        env.step(None)
    assert time.waits[0] == pytest.approx(0.09)
    assert time.waits[1:] == [0.0] * 4
    told = Punctuality(10.0)
    told.add(env.drain())
    assert told.late == 0


def test_what_is_told_is_of_the_time_since_it_was_told_last():
    told = Punctuality(10.0)
    told.add([0.001] * 98 + [0.2, 0.3])
    assert told.told() == {"late_steps": 2.0, "action_ms_p99": pytest.approx(201.0, abs=1.1)}
    told.add([0.004])
    assert told.told() == {"late_steps": 2.0, "action_ms_p99": 4.0}
    assert told.told() == {"late_steps": 2.0}
    assert Punctuality(0.0).told() == {}


def test_an_actor_in_real_time_has_room_for_a_learner_that_pauses():
    assert ahead(3, 0.0, 10) == 3
    assert ahead(3, 15.0, 10) == 16  # ten seconds
    assert ahead(3, 1.0, 10) == 3


def test_pacing_changes_nothing_but_time():
    rows = []
    for hz in (0.0, 1e6):
        env = make("catch", columns=2, seed=5)
        actor = agent("catch").actor(Paced(env, hz) if hz else env, seed=5)
        rows.append(actor.collect(30))
        state = actor.env.state_dict()
        actor.env.load_state_dict(state)
        actor.env.close()
    for (_, one), (_, other) in zip(*rows, strict=True):
        for name in ("action", "reward", "last"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"hz": 15.0}, "hz is 15.0, but pool is local"),
        ({"hz": -1.0, "pool": "process", "actors": 1}, "hz is -1.0; give at least 0"),
        ({"hz": 0.1, "pool": "process", "actors": 1}, "a message takes 100 s, and actor_time_limit is 60 s"),
    ],
)
def test_mistakes(given, sentence):
    with pytest.raises(UserError, match=sentence):
        RunOptions(steps=10, **given)
