"""Pools: who acts, and how rows and weights travel. The training loop knows only this protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from retorq.acting.actor import Actor, Chunk
from retorq.nn.network import Network
from retorq.types import Episode


class ActorPool(Protocol):
    """Actors somewhere: asked for rows, told of new weights.

    Of every column, each row comes once and in order, whatever happens to its actor. Rows handed out are valid until
    the next ``receive``.
    """

    steps: int
    """Agent steps handed out so far, all columns together."""
    replaced: int
    """How many actors were lost and replaced since the run began."""

    def receive(self, *, wait: bool = True) -> Iterable[Chunk]:
        """Rows that have arrived (a local pool acts now); none if nothing came within a moment.

        Without ``wait`` only what is there already.
        """

    def publish(self, network: Network, version: int) -> None:
        """Hand the network's weights to the actors."""

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""

    def faults(self) -> list[str]:
        """What went wrong with actors and environments since the last call and what was done, a sentence each."""

    def told(self) -> dict[str, float]:
        """What belongs into a row of metrics: what was lost, and how late actions came."""

    @property
    def waiting(self) -> str:
        """Who is waited for before all act, in a few words; empty: nobody."""

    @property
    def late(self) -> int | None:
        """Actions that came too late since the run began; None where nobody plays by the clock."""

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain numbers for a checkpoint."""

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> bool:
        """Put back ``state_dict``, after ``publish``; False if games must begin anew: then store what ``cut`` gives."""

    def cut(self) -> list[Chunk]:
        """The rows that end all open games."""

    def close(self) -> None:
        """End all actors; safe to call twice."""


class LocalPool:
    """One actor in this process, alternating with the learner: deterministic, and the reference for other pools.

    In float32 the actor shares the learner's weights; in bfloat16 it has a rounded copy, refreshed by ``publish``, so
    that acting does not round eight million weights anew at every step.
    """

    replaced = 0
    late = None
    waiting = ""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Agent steps acted so far, all columns together."""
        return self.actor.steps

    def receive(self, *, wait: bool = True) -> list[Chunk]:
        """One vector step, whether anybody waits or not."""
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

    def faults(self) -> list[str]:
        """Environments that were replaced; an actor in this process fails with the run."""
        return sentences(self.actor.faults())

    def told(self) -> dict[str, float]:
        """Environments replaced since the run began, if any; acting waits for learning."""
        count = self.actor.environments_replaced
        return {"environments_replaced": float(count)} if count else {}

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The actor's state, and its rounded weights where it has a copy of its own."""
        tensors, numbers = self.actor.state_dict()
        if self.actor.precision != "fp32":
            tensors |= {f"acting.{name}": value.cpu() for name, value in self.actor.network.state_dict().items()}
        return tensors, numbers

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> bool:
        """Put back ``state_dict``; False if the environments could not be."""
        acting = {name.removeprefix("acting."): v for name, v in tensors.items() if name.startswith("acting.")}
        if acting:
            self.actor.network.load_state_dict(acting)
        return self.actor.load_state_dict(tensors, numbers)

    def cut(self) -> list[Chunk]:
        """Close every open stream and begin new games."""
        return self.actor.cut()

    def close(self) -> None:
        """Close the environments."""
        self.actor.env.close()


def sentences(faults: Iterable[tuple[int, str]]) -> list[str]:
    """What is told of environments that were replaced, by their columns."""
    return [f"environment {column} {what}" for column, what in faults]


def _rounded(network: Network) -> Network:
    """A copy with weights in bfloat16. Buffers stay as they are: they are constants that the learner does not round."""
    rounded = copy.deepcopy(network).requires_grad_(False)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return rounded
