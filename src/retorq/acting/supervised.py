"""What pools of actors elsewhere have in common: rows in order, games, and actors that are replaced when they fail."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Chunk
from retorq.acting.messages import Inbox, Message, Streams, episodes_from_json, unpack
from retorq.acting.pace import Punctuality
from retorq.acting.pools import sentences
from retorq.acting.remote import Recipe
from retorq.acting.tally import Tally
from retorq.types import Diverged, Episode

START_LIMIT = 180.0
"""Seconds an actor may take to start: imports, its environments, its network."""
PATIENCE = 0.1
"""Seconds that ``receive`` waits for rows before it gives the loop a chance to look at signals."""
FORGIVEN = 600.0
"""Seconds an actor must have played since it was started for its earlier restarts to count no more."""


class Supervised(ABC):
    """Actors elsewhere; one that dies, hangs or loses its environment is replaced by its next incarnation.

    Args:
        recipes: One per actor; together they cover the run's columns.
        seed: One seed for all actors.
        time_limit: Seconds an actor may take for a message.
        most_restarts: How often one actor is started anew before the run is given up; whoever has played for
            ``FORGIVEN`` seconds has all of them again.
    """

    def __init__(self, recipes: list[Recipe], *, seed: int, time_limit: float, most_restarts: int) -> None:
        self.recipes, self.seed, self.time_limit, self.most_restarts = recipes, seed, time_limit, most_restarts
        self.columns = sum(recipe.columns for recipe in recipes)
        self.steps = 0
        self.versions = [-1] * len(recipes)
        """Version of the weights that each actor last acted with."""
        self.restarts = [0] * len(recipes)
        """How often each actor was started anew, without those that are forgiven."""
        self.replaced = self.environments_replaced = 0
        self.inbox, self.streams, self.tally = Inbox(len(recipes)), Streams(), Tally(self.columns)
        self.punctuality = Punctuality(max((recipe.hz for recipe in recipes), default=0.0))
        self._begun = [0.0] * len(recipes)
        self._played = [0.0] * len(recipes)  # seconds from the start of an actor to its last message
        self._started = False  # actors start with the first ``receive``: what a resume puts back is there by then
        self._episodes: list[Episode] = []
        self._faults: list[str] = []
        self._closing: list[Chunk] = []

    @abstractmethod
    def _start(self, actor: int) -> None:
        """Start the next incarnation of ``actor``."""

    @abstractmethod
    def _kill(self, actor: int) -> None:
        """End ``actor`` with all that it started; nothing if it is gone."""

    @abstractmethod
    def _next(self, patience: float) -> list[Chunk]:
        """The rows of the next message, or none if none comes within so many seconds."""

    @abstractmethod
    def _before(self) -> None:
        """What is to be done before the next message."""

    def receive(self, *, wait: bool = True) -> list[Chunk]:
        """The rows of one message, or none if none came within ``PATIENCE`` seconds; views until the next call.

        Without ``wait`` none if none is there.

        Raises:
            UserError: an actor found something wrong that a restart would not change.
            Diverged: an actor has been started anew too often.
        """
        if not self._started:
            self._started = True
            for actor in range(len(self.recipes)):
                self._start(actor)
        self._before()
        chunks, self._closing = self._closing, []
        if not chunks:
            chunks = self._next(PATIENCE if wait else 0.0)
        self.steps += sum(int((~np.asarray(rows.last, bool)).sum()) for _, rows in chunks)
        return chunks

    def _incarnate(self, actor: int) -> tuple[int, int]:
        """The number of the actor's next incarnation, and a seed for it."""
        incarnation = self.inbox.begin(actor)
        self._begun[actor], self._played[actor] = time.monotonic(), 0.0
        seed = np.random.SeedSequence([self.seed, actor, incarnation, self.steps]).generate_state(1)[0]
        return incarnation, int(seed) % 2**31

    def _accept(self, actor: int, told: Mapping[str, Any], memory: Any, start: int = 0) -> list[Chunk]:
        """The rows of a message, and of those that waited for it, as they go into the replay."""
        message = Message(
            actor=actor,
            incarnation=told["incarnation"],
            number=told["number"],
            chunks=unpack(told["chunks"], memory, start),
            episodes=episodes_from_json(told["episodes"]),
            version=told["version"],
            latencies=told["latencies"],
            faults=[(column, what) for column, what in told["faults"]],
        )
        chunks: list[Chunk] = []
        for ordered in self.inbox.accept(message):
            self.versions[actor] = ordered.version
            self.punctuality.add(ordered.latencies)
            self.environments_replaced += len(ordered.faults)
            self._faults += sentences(ordered.faults)
            self._played[actor] = time.monotonic() - self._begun[actor]
            self._episodes += [replace(episode, step=self.steps) for episode in ordered.episodes]
            chunks += self.streams.push(ordered.chunks)
        self.tally.add(chunks)
        return chunks

    def _end(self, actor: int) -> bool:
        """End an actor and cut its streams; its games are told as far as they came. Returns whether any was open."""
        self._kill(actor)
        recipe = self.recipes[actor]
        before = len(self._episodes)
        self._closing += self._cut(range(recipe.first, recipe.first + recipe.columns))
        return len(self._episodes) > before

    def _cut(self, columns: Iterable[int]) -> list[Chunk]:
        """End streams; a game that was open counts as cut, without the action that was never answered."""
        for column, elapsed in self.streams.open(columns):
            self._episodes.append(
                Episode(
                    score=float(self.tally.scores[column]), length=elapsed, column=column, step=self.steps, cut=True
                )
            )
        chunks = self.streams.cut(columns)
        self.tally.add(chunks)
        return chunks

    def _replace(self, actor: int, reason: str, *, blamed: bool = True) -> None:
        """End an actor, cut its streams, and start its next incarnation; ``blamed``: it may be what fails."""
        cut = self._end(actor)
        if self._played[actor] >= FORGIVEN:
            self.restarts[actor] = 0
        self.restarts[actor] += int(blamed)
        self.replaced += 1
        if self.restarts[actor] > self.most_restarts:
            raise Diverged(
                f"actor {actor} {reason}, and had been started anew {self.most_restarts} times before; look at what "
                "ends it, then go on with the last checkpoint."
            )
        self._faults.append(f"actor {actor} {reason}; {'its games were cut and ' * cut}it was started anew")
        self._start(actor)

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        done, self._episodes = self._episodes, []
        return done

    def faults(self) -> list[str]:
        """What went wrong since the last call and what was done, a sentence each."""
        told, self._faults = self._faults, []
        return told

    def told(self) -> dict[str, float]:
        """For a row of metrics: who was replaced since the run began, if any, and how late actions come."""
        counted = {"actors_replaced": self.replaced, "environments_replaced": self.environments_replaced}
        return {name: float(count) for name, count in counted.items() if count} | self.punctuality.told()

    @property
    def waiting(self) -> str:
        """Which actors are waited for: those that have sent nothing yet; empty when all have."""
        up = sum(version >= 0 for version in self.versions)
        return "" if up == len(self.versions) else f"actors: {up} of {len(self.versions)} up"

    @property
    def late(self) -> int | None:
        """Actions that came too late since the run began; None where nobody plays by the clock."""
        return self.punctuality.late if self.punctuality.hz else None

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The rows held back and the counters; games and generators of the actors are not kept."""
        state = self.streams.state_dict()
        for chunk in self._closing:  # taken out of the streams, and not yet handed out
            waiting = Streams()
            waiting.push([chunk])
            state |= waiting.state_dict()
        counted = {"steps": self.steps, "replaced": self.replaced, "late": self.punctuality.late}
        counted["environments_replaced"] = self.environments_replaced
        return state, counted | {"scores": self.tally.scores.tolist()}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> bool:
        """Put back what ``state_dict`` gave; False: the games begin anew, see ``cut``."""
        self.steps, self.replaced = int(numbers["steps"]), int(numbers.get("replaced", 0))
        self.environments_replaced = int(numbers.get("environments_replaced", 0))
        self.punctuality.late = int(numbers.get("late", 0))
        self.streams.load_state_dict(tensors)
        self.tally.scores[:] = numbers.get("scores", 0.0)
        return False

    def cut(self) -> list[Chunk]:
        """End all streams with the rows held back (after a resume)."""
        return self._cut(range(self.columns))


def message_bytes(recipe: Recipe, bytes_per_row: int) -> int:
    """Room for a message: every row, and as many final rows of games (SAME_STEP), with 64 KiB to spare."""
    return 2 * recipe.rows * recipe.columns * bytes_per_row + 65_536
