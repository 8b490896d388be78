"""Actors in processes of their own: rows come through shared memory, weights are pulled from it.

An actor is a fresh interpreter (never a fork) in a process group of its own. Each has a few slots in shared memory; it
fills a free one, says so over a pipe, and goes on with the next. A slot is free again once its rows are stored, so an
actor whose learner is slow waits, and nothing ever grows.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Chunk
from retorq.acting.messages import Inbox, Message, Streams, episodes_from_json, unpack
from retorq.acting.remote import Recipe
from retorq.acting.shared import SharedWeights, size, unnamed_file
from retorq.acting.worker import _BOOT
from retorq.nn.network import Network
from retorq.types import Diverged, Episode, UserError

START_LIMIT = 180.0
"""Seconds an actor may take to start: imports, its environments, its network."""
PATIENCE = 0.1
"""Seconds that ``receive`` waits for rows before it gives the loop a chance to look at signals."""
SLOTS = 3


@dataclass
class _Process:
    """One actor: its process, its pipe, its slots, and when it was last heard or answered."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    heard: float
    ready: bool = False
    in_hand: int = 0  # slots that hold rows not yet stored


class ProcessPool:
    """Actors in processes, supervised: one that dies, hangs or loses its environment is started anew.

    Args:
        recipes: One per actor; together they cover the run's columns.
        network: The learner's, for the layout of the weights.
        bytes_per_row: Upper bound of what a row of one column takes in a message.
        seed: One seed for all actors.
        time_limit: Seconds an actor may take for a message.
        most_restarts: How often one actor is started anew before the run is given up.
    """

    def __init__(
        self,
        recipes: list[Recipe],
        network: Network,
        *,
        bytes_per_row: int,
        seed: int = 0,
        time_limit: float = 60.0,
        most_restarts: int = 10,
    ) -> None:
        self.recipes, self.seed, self.time_limit, self.most_restarts = recipes, seed, time_limit, most_restarts
        self.steps = 0
        self.versions = [-1] * len(recipes)
        """Version of the weights that each actor last acted with."""
        self.restarts = [0] * len(recipes)
        self.inbox, self.streams = Inbox(len(recipes)), Streams()
        self._weights_file = unnamed_file(size(network))
        self._weights = SharedWeights(network, self._weights_file)
        self._slot = [_slot_bytes(recipe, bytes_per_row) for recipe in recipes]
        self._files = [unnamed_file(SLOTS * slot) for slot in self._slot]
        self._memories = [mmap.mmap(file, 0) for file in self._files]
        self._actors: list[_Process | None] = [None] * len(recipes)
        self._episodes: list[Episode] = []
        self._faults: list[str] = []
        self._closing: list[Chunk] = []
        self._arrived: deque[tuple[int, dict[str, Any]]] = deque()
        self._to_free: tuple[int, int] | None = None
        self._published = False

    def publish(self, network: Network, version: int) -> None:
        """Write the weights where the actors look for them; the first call starts the actors."""
        self._weights.write(network, version)
        if not self._published:
            self._published = True
            for actor in range(len(self.recipes)):
                self._start(actor)

    def _start(self, actor: int) -> None:
        ours, theirs = Pipe()
        incarnation = self.inbox.begin(actor)
        seed = np.random.SeedSequence([self.seed, actor, incarnation, self.steps]).generate_state(1)[0]
        told = {
            "path": sys.path,
            "pipe": theirs.fileno(),
            "weights": self._weights_file,
            "memory": self._files[actor],
            "slots": SLOTS,
            "parent": os.getpid(),
            "recipe": self.recipes[actor].as_json(),
            "actor": actor,
            "incarnation": incarnation,
            "seed": int(seed) % 2**31,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(told)],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._weights_file, self._files[actor]),
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._actors[actor] = _Process(process, ours, time.monotonic())

    def receive(self) -> list[Chunk]:
        """The rows of one message, or none if none came within ``PATIENCE`` seconds; views until the next call.

        Raises:
            UserError: an actor found something wrong that a restart would not change.
            Diverged: an actor has been started anew too often.
        """
        self._free()
        self._supervise()
        chunks, self._closing = self._closing, []
        if not chunks:
            self._listen()
            while self._arrived and not chunks:
                chunks = self._stored(*self._arrived.popleft())
        self.steps += sum(int((~np.asarray(rows.last, bool)).sum()) for _, rows in chunks)
        self._weights.tick(self.steps)
        return chunks

    def _listen(self) -> None:
        """Take one message of every actor that has sent any, so that none is served twice before the others."""
        if self._arrived:
            return
        pipes = {held.pipe: actor for actor, held in enumerate(self._actors) if held is not None}
        for pipe in wait(list(pipes), PATIENCE):
            actor = pipes[pipe]  # type: ignore[index]
            held = self._actors[actor]
            assert held is not None
            try:
                told = json.loads(held.pipe.recv_bytes())
            except (EOFError, OSError):
                self._replace(actor, self._cause_of_death(held))
                continue
            held.heard = time.monotonic()
            if "fault" in told:
                if told["fault"] == "user":
                    raise UserError(told["text"])
                self._replace(actor, told["text"])
            elif "ready" in told:
                held.ready = True
            else:
                held.in_hand += 1
                self._arrived.append((actor, told))

    def _stored(self, actor: int, told: dict[str, Any]) -> list[Chunk]:
        """The rows of a message, ready for the replay."""
        message = Message(
            actor=actor,
            incarnation=self.inbox.incarnations[actor],
            number=told["number"],
            chunks=unpack(told["chunks"], memoryview(self._memories[actor]), told["slot"] * self._slot[actor]),
            episodes=episodes_from_json(told["episodes"]),
            version=told["version"],
        )
        self._to_free = (actor, told["slot"])
        chunks: list[Chunk] = []
        for ordered in self.inbox.accept(message):
            self.versions[actor] = ordered.version
            self._episodes += [replace(episode, step=self.steps) for episode in ordered.episodes]
            chunks += self.streams.push(ordered.chunks)
        return chunks

    def _free(self) -> None:
        """Give the slot of the last message back to its actor."""
        if self._to_free is None:
            return
        (actor, slot), self._to_free = self._to_free, None
        held = self._actors[actor]
        if held is None:
            return
        with suppress(OSError):  # it is dead; listening will say so
            held.pipe.send_bytes(json.dumps(slot).encode())
        held.in_hand -= 1
        held.heard = time.monotonic()

    def _supervise(self) -> None:
        """Replace actors that hang: silent for too long although they have a free slot."""
        now = time.monotonic()
        for actor, held in enumerate(self._actors):
            if held is None or held.in_hand >= SLOTS:
                continue
            limit = self.time_limit if held.ready else START_LIMIT
            if now - held.heard > limit and not held.pipe.poll():
                self._replace(actor, f"sent nothing for {limit:g} s")

    def _cause_of_death(self, held: _Process) -> str:
        try:
            code = held.process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code >= 0:
            return f"ended its process with exit code {code}"
        return f"was killed by {signal.Signals(-code).name} (out of memory or a crash in native code)"

    def _replace(self, actor: int, reason: str) -> None:
        """End an actor, cut its streams, and start its next incarnation."""
        self._kill(actor)
        self._arrived = deque(entry for entry in self._arrived if entry[0] != actor)
        if self._to_free is not None and self._to_free[0] == actor:
            self._to_free = None
        recipe = self.recipes[actor]
        self._closing += self.streams.cut(range(recipe.first, recipe.first + recipe.columns))
        self.restarts[actor] += 1
        if self.restarts[actor] > self.most_restarts:
            raise Diverged(
                f"actor {actor} {reason}, and had been started anew {self.most_restarts} times before; look at what "
                "ends it, then go on with the last checkpoint."
            )
        self._faults.append(f"actor {actor} {reason}; its games were cut and it was started anew")
        self._start(actor)

    def _kill(self, actor: int) -> None:
        held, self._actors[actor] = self._actors[actor], None
        if held is None:
            return
        held.pipe.close()
        with suppress(ProcessLookupError):
            os.killpg(held.process.pid, signal.SIGKILL)
        held.process.wait()

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        done, self._episodes = self._episodes, []
        return done

    def faults(self) -> list[str]:
        """What went wrong since the last call and what was done, a sentence each."""
        told, self._faults = self._faults, []
        return told

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The rows held back and the counters; games and generators of the actors are not kept."""
        held = {f"streams.{name}": value for name, value in self.streams.state_dict().items()}
        return held, {"steps": self.steps, "incarnations": list(self.inbox.incarnations)}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> bool:
        """Put back what ``state_dict`` gave; False: the games begin anew, see ``cut``."""
        self.steps = int(numbers["steps"])
        prefix = "streams."
        self.streams.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return False

    def cut(self) -> list[Chunk]:
        """End all streams with the rows held back (after a resume)."""
        return self.streams.cut(range(sum(recipe.columns for recipe in self.recipes)))

    def close(self) -> None:
        """Ask every actor to end, and kill those that have not after two seconds."""
        for held in self._actors:
            if held is not None:
                with suppress(OSError):
                    held.pipe.send_bytes(b'"quit"')
        deadline = time.monotonic() + 2.0
        for actor, held in enumerate(self._actors):
            if held is not None:
                with suppress(subprocess.TimeoutExpired):
                    held.process.wait(max(0.0, deadline - time.monotonic()))
                self._kill(actor)
        for file in (self._weights_file, *self._files):
            if file >= 0:
                os.close(file)
        self._weights.close()
        self._files, self._memories, self._weights_file = [], [], -1


def _slot_bytes(recipe: Recipe, bytes_per_row: int) -> int:
    """Room for a message: every row, and as many final rows of games (SAME_STEP), with 64 KiB to spare."""
    need = 2 * recipe.rows * recipe.columns * bytes_per_row + 65_536
    return -(-need // mmap.PAGESIZE) * mmap.PAGESIZE
