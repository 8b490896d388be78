"""A learner step as a CUDA graph: recorded once, then replayed without Python and without launch costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from retorq.types import Batch


class Captured:
    """``step(batch)`` recorded on static copies of the batch's tensors.

    ``step`` must be a function of tensors only: static shapes, no transfer to the host, random numbers from
    ``generator``. It has to have run a few times before (on any batch), so that what it creates lazily exists.
    """

    def __init__(self, step: Callable[[Batch], dict[str, Tensor]], batch: Batch, generator: torch.Generator) -> None:
        self.batch = _like(batch)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = step(self.batch)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Replay on this batch's contents; the outputs are copies."""
        for static, fresh in zip(leaves(self.batch), leaves(batch), strict=True):
            static.copy_(fresh, non_blocking=True)
        self.graph.replay()
        return {name: value.clone() for name, value in self.outputs.items()}


def leaves(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in a fixed order."""
    found: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        found.append(value)
        return value

    batch.trajectory.map(note)
    return [*found, *(batch.state[name] for name in sorted(batch.state)), batch.weight]


def _like(batch: Batch) -> Batch:
    """A batch of own memory with the same contents."""
    return replace(
        batch,
        trajectory=batch.trajectory.map(lambda a: a.clone()),
        state={name: value.clone() for name, value in batch.state.items()},
        weight=batch.weight.clone(),
    )
