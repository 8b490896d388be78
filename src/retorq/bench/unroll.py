"""Milliseconds forward and backward of DRQN's network, by stacked frames and by the length of the unroll."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from retorq.bench.machine import Setup, spread, wait
from retorq.bench.made_up import atari_spec
from retorq.bench.table import Row
from retorq.nn.cores import LSTM, Stateless
from retorq.nn.heads import Scalar
from retorq.nn.network import Extras, Network
from retorq.nn.torsos import Torso
from retorq.types import EnvSpec, Inputs


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed: sequences in a batch, stacked frames, lengths of the unroll (0: no recurrence, one row each)."""

    batch: int = 32
    frames: tuple[int, ...] = (1, 4, 10)
    unrolls: tuple[int, ...] = (0, 1, 10, 30)
    units: int = 512
    pixels: int = 84
    repeats: int = 11


FULL = Sizes()
QUICK = Sizes(batch=2, frames=(1, 2), unrolls=(0, 2), units=8, pixels=36, repeats=3)
Case = tuple[int, int]  # frames, unroll


def measure(setup: Setup, sizes: Sizes | None = None) -> list[Row]:
    """One row per number of frames and length of the unroll; medians of interleaved repeats, of the batch as a whole.

    After the table of timings of Hausknecht and Stone 2015 (appendix): the convolutions of Nature DQN, an LSTM of 512
    units or nothing, a hidden layer of 512 and the action values (theirs has no hidden layer after the LSTM).
    ``forward`` records what backward needs, as learning does; ``backward`` goes from the sum of the values to all
    weights.
    """
    sizes = sizes or (QUICK if setup.quick else FULL)
    cases = {case: prepared(case, sizes, setup.device) for case in product(sizes.frames, sizes.unrolls)}
    forward: dict[Case, list[float]] = {case: [] for case in cases}
    backward: dict[Case, list[float]] = {case: [] for case in cases}
    order = list(cases)
    for turn in range(2 + sizes.repeats):
        shift = turn % len(order)
        for case in order[shift:] + order[:shift]:
            seconds = timed(*cases[case], setup.device)
            if turn >= 2:
                forward[case].append(1e3 * seconds[0])
                backward[case].append(1e3 * seconds[1])
    return [
        {
            "core": "lstm" if unroll else "none",
            "frames": frames,
            "unroll": max(1, unroll),
            "batch": sizes.batch,
            **spread(forward[frames, unroll], "forward_ms"),
            **spread(backward[frames, unroll], "backward_ms"),
            "repeats": sizes.repeats,
        }
        for frames, unroll in cases
    ]


def prepared(case: Case, sizes: Sizes, device: str) -> tuple[Network, Callable[[], Tensor]]:
    """The network of a case, and its forward pass over a batch, which gives the sum of all action values."""
    frames, unroll = case
    torch.manual_seed(0)
    spec = atari_spec(size=sizes.pixels)
    torso = Torso(spec.observation, convolutions="nature", stack=frames)
    core = LSTM(torso.size, sizes.units) if unroll else Stateless(torso.size)
    head = Scalar(core.size, sizes.units, spec.actions)
    network = Network(torso, core, head, Extras(actions=spec.actions)).to(device)
    inputs = rows(spec, max(1, unroll), sizes.batch, frames).map(lambda a: a.to(device))
    state = network.initial_state(sizes.batch, device)

    def forward() -> Tensor:
        values, _ = network(inputs, state)
        total: Tensor = values.mean().sum()
        return total

    return network, forward


def rows(spec: EnvSpec, unroll: int, batch: int, frames: int) -> Inputs:
    """Random pixels ``[unroll, batch, frames, H, W]`` of one game each, as a network would see them."""
    (name, leaf), *_ = spec.observation.items()
    generator = torch.Generator().manual_seed(0)
    shape = (unroll, batch)
    first = torch.zeros(shape, dtype=torch.bool)
    first[0] = True
    return Inputs(
        observation={
            name: torch.randint(256, (*shape, frames, *leaf.shape[1:]), generator=generator, dtype=torch.uint8)
        },
        previous_action=torch.zeros(shape, dtype=torch.int64),
        previous_reward=torch.zeros(shape),
        elapsed=torch.arange(unroll, dtype=torch.int32)[:, None].expand(shape),
        first=first,
    )


def timed(network: Network, forward: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Seconds of one forward and of one backward pass."""
    network.zero_grad(set_to_none=True)
    wait(device)
    start = time.perf_counter()
    total = forward()
    wait(device)
    between = time.perf_counter()
    total.backward()  # type: ignore[no-untyped-call]
    wait(device)
    return between - start, time.perf_counter() - between
