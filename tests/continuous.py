"""What tests of agents with continuous actions share: small networks, and batches of random rows."""

import numpy as np
import torch

from retorq.nn.cores import Stateless
from retorq.nn.heads import PolicyCritic
from retorq.nn.network import Extras, Network
from retorq.nn.policy import Critic, Policy
from retorq.nn.torsos import Torso
from retorq.types import Batch, EnvSpec, Inputs, Leaf, Trajectory


def spec(actions=1, size=4):
    leaf = Leaf(kind="vector", shape=(size,), dtype="float32")
    return EnvSpec(id="Reach-v0", observation={"obs": leaf}, actions=actions, continuous=True)


def make_network(seed, *, actions=1, size=4, hidden=(7, 6), activation="relu", action_layer=2, squash="tanh"):
    """A policy and a critic of a hundred weights."""
    torch.manual_seed(seed)
    policy = Policy(size, hidden, actions, activation=activation, squash=squash)
    critic = Critic(size, hidden, actions, activation=activation, action_layer=action_layer)
    torso = Torso(spec(actions, size).observation)
    return Network(torso, Stateless(torso.size), PolicyCritic(policy, critic), Extras(actions=actions))


def batch(seed, *, columns=16, rows=4, actions=1, size=4):
    """Windows of random rows; half of the games end in them, by termination or a time limit, never at row 0."""
    chance = np.random.default_rng(seed)
    shape = (rows, columns)
    ended = (np.arange(rows)[:, None] == chance.integers(0, 2 * rows, columns)[None, :])[:-1]
    over = ended & (chance.random((rows - 1, columns)) < 0.5)
    none = np.zeros((1, columns), bool)
    last = np.concatenate([none, ended])
    zeros = np.zeros(shape, np.float32)
    rows_of = Trajectory(
        inputs=Inputs(
            observation={"obs": chance.normal(size=(*shape, size)).astype(np.float32)},
            previous_action=np.zeros((*shape, actions), np.float32),
            previous_reward=zeros,
            elapsed=zeros.astype(np.int32),
            first=np.zeros(shape, bool),
        ),
        action=chance.uniform(-1, 1, (*shape, actions)).astype(np.float32),
        reward=np.where(last, 0, chance.normal(size=shape)).astype(np.float32),
        terminated=np.concatenate([over, none]),
        truncated=np.concatenate([ended & ~over, none]),
        last=last,
    )
    return Batch(
        trajectory=rows_of.map(torch.from_numpy),
        state={},
        weight=torch.ones(columns),
        keys=np.zeros((columns, 2), np.int64),
    )
