"""Made-up experience of the right shapes: random pixels, games that end now and then, in a well-formed stream."""

from __future__ import annotations

import numpy as np
import torch

from retorq.nn.network import Network
from retorq.types import Batch, EnvSpec, Inputs, Leaf, Trajectory


def atari_spec(actions: int = 18, size: int = 84) -> EnvSpec:
    """An Atari game's shapes without an emulator: one gray image, the full action set."""
    leaf = Leaf(kind="image", shape=(1, size, size), dtype="uint8")
    return EnvSpec(id="made-up", observation={"obs": leaf}, actions=actions, max_steps=27_000, frames_per_step=4)


def trajectory(spec: EnvSpec, rows: int, columns: int, *, seed: int = 0, ends: float = 0.005) -> Trajectory:
    """Rows ``[rows, columns]`` as numpy arrays; a game ends after a row with probability ``ends``.

    The row after an end is ``last``, the one after that ``first``, as in a stream of an environment.
    """
    generator = np.random.default_rng(seed)
    shape = (rows, columns)
    ended = generator.random(shape) < ends
    last = np.zeros(shape, bool)
    for t in range(1, rows):
        ended[t] &= ~ended[t - 1]  # a final row cannot end a game once more
        last[t] = ended[t - 1]
    first = np.zeros(shape, bool)
    first[1:] = last[:-1]
    action = generator.integers(spec.actions, size=shape)
    reward = generator.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=shape).astype(np.float32)
    before = np.concatenate([np.zeros((1, columns), np.int64), action[:-1]])
    earned = np.concatenate([np.zeros((1, columns), np.float32), reward[:-1]])
    (name, leaf), *_ = spec.observation.items()
    return Trajectory(
        inputs=Inputs(
            observation={name: generator.integers(256, size=(*shape, *leaf.shape), dtype=np.uint8)},
            previous_action=np.where(first, 0, before),
            previous_reward=np.where(first, 0, earned).astype(np.float32),
            elapsed=np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], shape).copy(),
            first=first,
        ),
        action=action,
        reward=reward,
        terminated=ended,
        truncated=np.zeros(shape, bool),
        last=last,
    )


def batch(
    spec: EnvSpec, network: Network, rows: int, columns: int, *, device: str = "cpu", ends: float = 0.005
) -> Batch:
    """Windows as a replay would hand them out."""
    stream = trajectory(spec, rows, columns, ends=ends)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (0.1 * torch.randn(value.shape, generator=generator)).to(device)
        for name, value in network.initial_state(columns).items()
    }
    return Batch(
        trajectory=stream.map(lambda a: torch.from_numpy(a).to(device)),
        state=state,
        weight=torch.ones(columns, device=device),
        keys=np.zeros((columns, 2), np.int64),
    )
