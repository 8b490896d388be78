"""A filmed game is the game that would have been played, and tells what the agent made of each picture."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.small import SETTINGS, agent

from retorq import api
from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.running.distributions import FRACTIONS
from retorq.running.film import film
from retorq.types import UserError
from retorq.values import Scalars

LAYERS = ("after", "outer", "inner", "separate")


def player(env="memory", **settings):
    task = api.compose(
        env,
        agent="recurrent_iqn",
        preset="toy",
        config=SETTINGS | settings,
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )
    return api.Player(task, step=0)


def moments(looking, longest=100, **settings):
    made = agent("memory", **settings)
    env = make("memory", columns=1, seed=5, render=True)
    actor = Actor(env, made.network, Fixed(columns=1, value=0.5), total=1, samples=4, seed=5)
    return list(film(actor, longest=longest, looking=looking)), actor


def test_looking_does_not_change_the_game():
    plain, _ = moments(False)
    told, actor = moments(True)
    assert [(m.action, m.reward) for m in plain] == [(m.action, m.reward) for m in told]
    assert all((a.picture == b.picture).all() for a, b in zip(plain, told, strict=True))
    assert all(m.values is None and m.distribution is None for m in plain)
    assert len(told) == 12  # a cue before any action, ten steps, an answer
    assert (told[0].action, told[0].reward) == (-1, 0.0)
    assert (told[0].picture != told[1].picture).any(), "the cue is seen at the start only"
    (episode,) = actor.drain()
    assert sum(m.reward for m in told) == episode.score
    assert all(m.values.shape == (2,) for m in told[:-1])
    assert told[-1].values is None is told[-1].distribution


def test_a_film_that_is_cut_tells_to_its_end():
    told, _ = moments(True, longest=4)
    assert len(told) == 5
    assert told[-1].values is not None


def test_what_is_told_belongs_to_the_picture_beside_it(monkeypatch):
    """Picture t shows row t, so it tells what the player thinks after seeing rows 0 to t."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))
    told, _ = moments(True, quantile_layer="after")
    one = player(quantile_layer="after")
    env = make("memory", columns=1, seed=5)
    observation, state, reward = env.reset(5), None, 0.0
    for moment, after in pairwise(told):
        found, state = one.distribution(observation["obs"][0], state, reward=reward)
        np.testing.assert_allclose(found.mean(), moment.distribution.mean(), atol=1e-6)
        np.testing.assert_allclose(moment.distribution.mean(), moment.values, atol=1e-6)
        state.action = after.action
        step = env.step(np.array([after.action]))
        observation, reward = step.observation, float(step.reward[0])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_player_tells_distributions(layer):
    one = player(quantile_layer=layer)
    seen = np.zeros(2, np.float32)
    torch.manual_seed(0)
    found, after = one.distribution(seen)
    assert found.values.shape == found.probabilities.shape == (2, FRACTIONS)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    values, also = one.values(seen)
    assert (after.elapsed, after.first) == (also.elapsed, also.first) == (1, False)
    assert set(after.memory) == set(also.memory)
    np.testing.assert_allclose(found.mean(), values, atol=0.1)
    one.distribution(seen, after)


def test_single_values_are_no_distribution(monkeypatch):
    one = player(quantile_layer="after")
    monkeypatch.setattr(one.network, "head", lambda features, *_: Scalars(features.x[..., :2]))
    with pytest.raises(UserError, match=r"agent is 'recurrent_iqn', which learns single values .* use values\(\)"):
        one.distribution(np.zeros(2, np.float32))


def test_noise_is_off_in_what_is_played_and_in_what_is_told():
    """As in an evaluation; afterwards the network is as it was."""
    task = api.compose("catch", agent="noisy_dqn", preset="toy", config={}, options=EnvOptions(), device="cpu", seed=0)
    one = api.Player(task, step=0)
    network, modes = one.network, []
    assert network.noisy
    assert network.training
    plain = network.head
    network.head = lambda *given, **more: (modes.append(network.training), plain(*given, **more))[1]
    told = list(one.film(seed=2, longest=4))
    assert len(told) == 5
    assert len(modes) >= 9  # looked at and played
    assert not any(modes)
    assert network.training
