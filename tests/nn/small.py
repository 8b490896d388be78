"""Small networks, inputs and batches that the tests of networks, losses and learner share."""

import numpy as np
import torch
from torch import nn

from retorq.nn.cores import LSTM, QuantileLSTM, Stateless
from retorq.nn.heads import ImplicitQuantile, Scalar
from retorq.nn.network import Extras, Network
from retorq.nn.torsos import Torso
from retorq.types import Batch, Inputs, Leaf, Trajectory
from retorq.values import Quantiles

ACTIONS, SIZE, HIDDEN, SAMPLES = 3, 4, 6, 5
OBSERVATION = {"obs": Leaf(kind="vector", shape=(SIZE,), dtype="float32")}


class Midpoints(ImplicitQuantile):
    """A head whose fractions are always the midpoints of ``samples`` equal parts, so that twins need no generator."""

    def forward(self, features, samples=None, generator=None):
        count = samples or self.samples
        tau = ((torch.arange(count, device=features.x.device) + 0.5) / count).expand(*features.x.shape[:2], count)
        return Quantiles(self.streams(features.x.unsqueeze(2) * self.embedding(tau)), tau)


def make_core(kind, inputs=SIZE, samples=SAMPLES):
    if kind == "none":
        return Stateless(inputs)
    return LSTM(inputs, HIDDEN) if kind == "after" else QuantileLSTM(inputs, HIDDEN, samples, kind, 4)


def make_network(kind="after", head="midpoints", *, seed=0, dueling=True, extras=True, clip="sign"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torso = Torso(OBSERVATION)
        more = Extras(actions=ACTIONS, action=extras, reward=extras, time=extras, time_scale=20.0, clip=clip)
        core = make_core(kind, torso.size + more.size)
        if head == "scalar":
            last = Scalar(core.size, 7, ACTIONS, dueling=dueling)
        else:
            cls = Midpoints if head == "midpoints" and kind in ("none", "after") else ImplicitQuantile
            embed = kind in ("none", "after")
            last = cls(core.size, 7, ACTIONS, samples=SAMPLES, dueling=dueling, embed=embed, cosines=4)
        network = Network(torso, core, last, more)
        for name, weight in network.named_parameters():
            if "_head" in name:  # far from zero, so that actions differ clearly
                nn.init.normal_(weight, std=0.6)
    return network


def make_inputs(rows, columns, seed=0, first=None):
    draw = np.random.default_rng(seed)
    first = np.zeros((rows, columns), bool) if first is None else np.asarray(first)
    return Inputs(
        observation={"obs": torch.from_numpy(draw.normal(size=(rows, columns, SIZE)).astype(np.float32))},
        previous_action=torch.from_numpy(draw.integers(0, ACTIONS, (rows, columns))),
        previous_reward=torch.from_numpy(draw.normal(size=(rows, columns)).astype(np.float32) * 2),
        elapsed=torch.from_numpy(draw.integers(0, 30, (rows, columns)).astype(np.int32)),
        first=torch.from_numpy(first),
    )


def make_flags(rows, columns, draw, rate=0.2):
    """Streams by the convention: an end, then the final row, then the first of the next game; some lives are lost."""
    first, terminated, truncated, last = (np.zeros((rows + 2, columns), bool) for _ in range(4))
    for b in range(columns):
        t = 0
        while t < rows:
            kind = draw.random()
            if kind < rate / 2:  # a lost life: the game goes on, memory starts afresh
                terminated[t, b] = first[t + 1, b] = True
                t += 1
            elif kind < 3 * rate / 2:
                (terminated if kind < rate else truncated)[t, b] = True
                last[t + 1, b] = first[t + 2, b] = True
                t += 2
            else:
                t += 1
    return tuple(x[:rows] for x in (first, terminated, truncated, last))


def make_batch(network, rows, columns, seed=0, *, rate=0.2, scale=1.5):
    draw = np.random.default_rng(seed)
    first, terminated, truncated, last = make_flags(rows, columns, draw, rate)
    state = {
        name: torch.from_numpy(draw.random(value.shape).astype(np.float32) * 0.8)
        for name, value in network.initial_state(columns).items()
    }
    return Batch(
        trajectory=Trajectory(
            inputs=make_inputs(rows, columns, seed + 1, first),
            action=torch.from_numpy(draw.integers(0, ACTIONS, (rows, columns))),
            reward=torch.from_numpy(draw.normal(size=(rows, columns)).astype(np.float32) * scale),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            last=torch.from_numpy(last),
        ),
        state=state,
        weight=torch.from_numpy(draw.uniform(0.3, 1, columns).astype(np.float32)),
        keys=np.zeros((columns, 2), np.int64),
    )


def gradients(network):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}


def assert_trees_close(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)
