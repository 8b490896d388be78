"""What plays elsewhere: a recipe for an actor as plain data, and the loop that turns its steps into messages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from retorq.acting.actor import Actor, Chunk
from retorq.acting.explore import Explore
from retorq.acting.messages import Message, joined
from retorq.acting.pace import Paced
from retorq.acting.pools import LocalPool
from retorq.nn.network import Network
from retorq.types import Diverged, Trajectory, UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build one actor anywhere, from names and plain values: no code and no object travels.

    ``entry`` is ``module:function``, called with ``arguments`` and ``seed=``; it returns an :class:`Actor` of
    ``columns`` columns, which are ``first .. first + columns - 1`` of the run's. ``hz`` above 0: it plays by the clock,
    so many steps of each column per second.
    """

    entry: str
    arguments: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    columns: int = 1
    rows: int = 10
    hz: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def build(self, seed: int) -> Actor:
        """Make the actor."""
        module, _, function = self.entry.partition(":")
        made: Actor = getattr(importlib.import_module(module), function)(**self.arguments, seed=seed)
        if made.env.columns != self.columns:
            made.env.close()
            raise ValueError(f"{self.entry} made {made.env.columns} columns, and {self.columns} were asked for")
        return made


@dataclass(frozen=True, kw_only=True)
class Part:
    """One actor's share of an exploration over all columns of a run, by the run's clock instead of the actor's own."""

    whole: Explore
    first: int
    columns: int
    clock: Callable[[], int]

    def epsilon(self, step: int, total: int) -> np.ndarray:
        """``[columns]``; ``step``, the actor's own, is not used."""
        return self.whole.epsilon(self.clock(), total)[self.first : self.first + self.columns]

    @property
    def sentence(self) -> str:
        """One line."""
        return self.whole.sentence


class Weights(Protocol):
    """Where an actor elsewhere looks for newer weights, and for the run's clock."""

    @property
    def edition(self) -> int:
        """Another number whenever weights were published, be it under the same version."""

    @property
    def clock(self) -> int:
        """Agent steps of the whole run."""

    def read(self, network: Network) -> int:
        """Copy the newest weights into ``network``; returns their version."""


class Player:
    """Plays one actor and writes its messages; weights are pulled before each, where there are newer ones.

    ``weights`` must be set before the first message: where they come from may depend on the network built here.
    """

    weights: Weights

    def __init__(self, recipe: Recipe, *, actor: int, incarnation: int, seed: int) -> None:
        self.recipe, self.actor, self.incarnation = recipe, actor, incarnation
        playing = recipe.build(seed)
        playing.explore = Part(
            whole=playing.explore, first=recipe.first, columns=recipe.columns, clock=lambda: self.weights.clock
        )
        self.paced: Paced | None = None
        if recipe.hz:
            playing.env = self.paced = Paced(playing.env, recipe.hz)
        self.network = playing.network  # in float32; what acts may be a rounded copy
        self.pool = LocalPool(playing)
        self.edition, self.version, self.number = -1, -1, 0

    def message(self) -> Message:
        """Do ``recipe.rows`` vector steps."""
        edition = self.weights.edition
        if edition != self.edition:
            self.edition, self.version = edition, self.weights.read(self.network)
            self.pool.publish(self.network, self.version)
        chunks: list[Chunk] = []
        for _ in range(self.recipe.rows):
            chunks += self.pool.receive()
        chunks = [(columns, _halved(rows)) for columns, rows in joined(chunks)]
        episodes = [replace(e, column=e.column + self.recipe.first) for e in self.pool.drain()]
        self.number += 1
        return Message(
            actor=self.actor,
            incarnation=self.incarnation,
            number=self.number - 1,
            chunks=[(columns + self.recipe.first, rows) for columns, rows in chunks],
            episodes=episodes,
            version=self.version,
            latencies=self.paced.drain() if self.paced is not None else [],
            faults=[(column + self.recipe.first, what) for column, what in self.pool.actor.faults()],
        )

    def close(self) -> None:
        """Close the environments."""
        self.pool.close()


def fault(error: Exception) -> dict[str, str]:
    """What an actor answers where it cannot go on: of a user's mistake a restart changes nothing."""
    if isinstance(error, UserError) and not isinstance(error, Diverged):
        return {"fault": "user", "text": str(error)}
    return {"fault": "raised", "text": f"raised {type(error).__name__}: {error}"}


def _halved(rows: Trajectory) -> Trajectory:
    """Recurrent states in half precision, as the replay stores them."""
    extras = {
        name: value.half() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in rows.extras.items()
    }
    return replace(rows, extras=extras)
