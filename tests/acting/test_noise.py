"""Noisy layers draw noise wherever an agent learns and acts: in the target, in rounded copies, in other processes.

With their noise off, agents without an epsilon (Rainbow, Noisy DQN) would not explore at all.
"""

import pytest
import torch
from tests.acting.test_actor import actor_of
from tests.acting.test_supervised import Still
from tests.test_learning import composed

from retorq.acting.pools import LocalPool
from retorq.acting.remote import Player, Recipe
from retorq.envs.make import make
from retorq.nn.noisy import NoisyLinear
from retorq.running.plan import _made_up

SMALL = {"num_envs": 2, "hidden_size": 4, "batch_size": 2}


def elsewhere(*, seed: int):
    """What an actor in another process is built from."""
    return actor_of(make("memory", columns=2, seed=seed), composed("memory", "rainbow", **SMALL).network, seed=seed)


@pytest.fixture
def drawn(monkeypatch):
    """The layers whose noise was drawn, in order."""
    layers, plain = [], NoisyLinear.draw
    monkeypatch.setattr(
        NoisyLinear, "draw", lambda self, generator=None: (layers.append(self), plain(self, generator))[1]
    )
    return layers


def noisy(network):
    return [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]


@pytest.mark.parametrize("agent", ["rainbow", "noisy_dqn"])
def test_in_online_and_target_network_of_a_learner(drawn, agent):
    made = composed("memory", agent, **SMALL)
    learner = made.learner(device="cpu")
    learner.update(_made_up(made, torch.device("cpu")))
    for network in (learner.online, learner.target):
        assert noisy(network)
        assert set(noisy(network)) <= set(drawn)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_an_actor_of_this_process(drawn, precision):
    network = composed("memory", "rainbow", **SMALL).network
    pool = LocalPool(actor_of(make("memory", columns=2), network, precision=precision))
    for version in range(2):
        pool.publish(network, version)
        drawn.clear()
        pool.receive()
        assert set(drawn) == set(noisy(pool.actor.network))
    assert (pool.actor.network is network) is (precision == "fp32")
    pool.close()


def test_in_an_actor_of_another_process(drawn):
    player = Player(Recipe(entry=f"{__name__}:elsewhere", columns=2, rows=2), actor=0, incarnation=0, seed=1)
    player.weights = Still()
    player.message()
    assert drawn
    assert set(drawn) == set(noisy(player.pool.actor.network))
    player.close()
