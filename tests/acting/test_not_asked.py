"""A network is not asked where nobody wants its answer, and the game is the same."""

import numpy as np
import pytest
from tests.small import agent

from retorq import api
from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions


def dqn():
    return api.compose("catch", agent="dqn", preset="toy", config={}, options=EnvOptions(), device="cpu", seed=0).agent


def played(network, epsilon, **settings):
    """The actions of 60 steps of two columns, and how often the network was asked."""
    asked, unroll = [], network.unroll
    network.unroll = lambda *row: (asked.append(1), unroll(*row))[1]
    explore = Fixed(columns=2, value=epsilon)
    actor = Actor(make("catch", columns=2), network, explore, total=100, seed=1, **settings)
    return np.concatenate([rows.action[0] for _, rows in actor.collect(60)]).tolist(), len(asked)


def test_not_where_all_actions_are_random():
    actions, asked = played(dqn().network, 1.0)
    assert asked == 0
    assert set(actions) == {0, 1, 2}


@pytest.mark.parametrize("settings", [{"tell_values": True}, {}])
def test_a_memory_moves_on_and_values_are_told_all_the_same(settings):
    network = (dqn() if settings else agent("catch", torso="flat")).network
    actions, asked = played(network, 1.0, **settings)
    assert asked == 60
    assert actions == played(dqn().network, 1.0)[0]


def test_one_column_that_does_not_explore_is_enough():
    actions, asked = played(dqn().network, 0.5)
    assert 35 < asked < 55  # three quarters of 60 in the mean
    assert actions == played(dqn().network, 0.5, tell_values=True)[0]
