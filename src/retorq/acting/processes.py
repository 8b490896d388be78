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
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from retorq.acting.actor import Chunk
from retorq.acting.pace import ahead
from retorq.acting.remote import Recipe
from retorq.acting.shared import SharedWeights, size, unnamed_file
from retorq.acting.supervised import START_LIMIT, Supervised, message_bytes
from retorq.acting.worker import BOOT
from retorq.nn.network import Network
from retorq.types import UserError

SLOTS = 3
"""Messages that an actor may have under way, if it does not play by the clock."""


@dataclass
class _Process:
    """One actor: its process, its pipe, its slots, and when it was last heard or answered."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    heard: float
    ready: bool = False
    in_hand: int = 0  # slots that hold rows not yet stored


class ProcessPool(Supervised):
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
        super().__init__(recipes, seed=seed, time_limit=time_limit, most_restarts=most_restarts)
        self._weights_file = unnamed_file(size(network))
        self._weights = SharedWeights(network, self._weights_file)
        self._slot = [_slot_bytes(recipe, bytes_per_row) for recipe in recipes]
        self._slots = [ahead(SLOTS, recipe.hz, recipe.rows) for recipe in recipes]
        self._files = [unnamed_file(slots * slot) for slots, slot in zip(self._slots, self._slot, strict=True)]
        self._memories = [mmap.mmap(file, 0) for file in self._files]
        self._actors: list[_Process | None] = [None] * len(recipes)
        self._arrived: deque[tuple[int, dict[str, Any]]] = deque()
        self._to_free: tuple[int, int] | None = None

    def publish(self, network: Network, version: int) -> None:
        """Write the weights where the actors look for them."""
        self._weights.write(network, version)

    def _start(self, actor: int) -> None:
        self._weights.tick(self.steps)
        ours, theirs = Pipe()
        incarnation, seed = self._incarnate(actor)
        told = {
            "path": sys.path,
            "pipe": theirs.fileno(),
            "weights": self._weights_file,
            "memory": self._files[actor],
            "slots": self._slots[actor],
            "parent": os.getpid(),
            "recipe": self.recipes[actor].as_json(),
            "actor": actor,
            "incarnation": incarnation,
            "seed": seed,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(told)],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._weights_file, self._files[actor]),
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._actors[actor] = _Process(process, ours, time.monotonic())

    def _before(self) -> None:
        self._free()
        self._supervise()
        self._weights.tick(self.steps)

    def _next(self, patience: float) -> list[Chunk]:
        self._listen(patience)
        if not self._arrived:
            return []
        actor, told = self._arrived.popleft()
        self._to_free = (actor, told["slot"])
        return self._accept(actor, told, memoryview(self._memories[actor]), told["slot"] * self._slot[actor])

    def _listen(self, patience: float) -> None:
        """Take one message of every actor that has sent any, so that none is served twice before the others."""
        if self._arrived:
            return
        pipes = {held.pipe: actor for actor, held in enumerate(self._actors) if held is not None}
        for pipe in wait(list(pipes), patience):
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
            if held is None or held.in_hand >= self._slots[actor]:
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
        return f"was killed by {_signal_name(-code)} (out of memory or a crash in native code)"

    def _kill(self, actor: int) -> None:
        held, self._actors[actor] = self._actors[actor], None
        self._arrived = deque(entry for entry in self._arrived if entry[0] != actor)
        if self._to_free is not None and self._to_free[0] == actor:
            self._to_free = None
        if held is None:
            return
        held.pipe.close()
        with suppress(ProcessLookupError):
            os.killpg(held.process.pid, signal.SIGKILL)
        held.process.wait()

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


def _signal_name(number: int) -> str:
    """Of real-time signals only the first and the last have a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _slot_bytes(recipe: Recipe, bytes_per_row: int) -> int:
    """Room for a message, in whole pages."""
    return -(-message_bytes(recipe, bytes_per_row) // mmap.PAGESIZE) * mmap.PAGESIZE
