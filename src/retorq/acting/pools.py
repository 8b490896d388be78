"""Pools: who acts, and how rows and weights travel. The training loop knows only this protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Protocol

import torch

from retorq.acting.actor import Actor, Chunk
from retorq.nn.network import Network
from retorq.types import Episode


class ActorPool(Protocol):
    """Actors somewhere: asked for rows, told of new weights."""

    def receive(self) -> Iterable[Chunk]:
        """Rows that have arrived (a local pool acts now)."""

    def publish(self, network: Network, version: int) -> None:
        """Hand the network's weights to the actors."""

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""

    def close(self) -> None:
        """End all actors; safe to call twice."""


class LocalPool:
    """One actor in this process, alternating with the learner: deterministic, and the reference for other pools.

    In float32 the actor shares the learner's weights; in bfloat16 it has a rounded copy, refreshed by ``publish``, so
    that acting does not round eight million weights anew at every step.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def receive(self) -> list[Chunk]:
        """One vector step."""
        return self.actor.collect(1)

    def publish(self, network: Network, version: int) -> None:
        """Share (fp32) or round (bf16) the weights."""
        if self.actor.precision == "fp32":
            self.actor.network = network
            return
        if self.actor.network is network or next(self.actor.network.parameters()).dtype != torch.bfloat16:
            self.actor.network = _rounded(network)
            return
        with torch.no_grad():
            mine, theirs = self.actor.network, network
            torch._foreach_copy_([*mine.parameters(), *mine.buffers()], [*theirs.parameters(), *theirs.buffers()])

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        return self.actor.drain()

    def close(self) -> None:
        """Close the environments."""
        self.actor.env.close()


def _rounded(network: Network) -> Network:
    """A copy with weights in bfloat16. Buffers stay as they are: they are constants that the learner does not round."""
    rounded = copy.deepcopy(network).requires_grad_(False)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return rounded
