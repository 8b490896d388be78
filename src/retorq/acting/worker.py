"""What runs in an actor process of :mod:`retorq.acting.processes`: play, write rows into a free slot, say so."""

from __future__ import annotations

import json
import mmap
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from retorq.acting.messages import description, pack, write
from retorq.acting.remote import Player, Recipe, fault
from retorq.acting.shared import SharedWeights, plain
from retorq.ops.heap import keep_freed_memory
from retorq.types import UserError

BOOT = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('path'); "
    "from retorq.acting.worker import main; main(**a)"
)


def _die_with(parent: int) -> None:
    """End this process group soon after the parent is gone, even in the middle of a step."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _ask(pipe: Connection, free: list[int]) -> bool:
    """Take what the parent has said, waiting for it if no slot is free; False: it said quit."""
    while pipe.poll() or not free:
        told = json.loads(pipe.recv_bytes())
        if told == "quit":
            return False
        free.append(told)
    return True


def _serve(pipe: Connection, player: Player, memory: mmap.mmap, slots: int) -> None:
    size = len(memory) // slots
    free = list(range(slots))
    while _ask(pipe, free):
        message = player.message()
        told, placed, need = pack(message.chunks)
        if need > size:
            raise UserError(f"a message needs {need} bytes, and a slot has {size}; send fewer rows at a time.")
        slot = free.pop(0)
        write(memoryview(memory), placed, slot * size)
        answer = description(message, told) | {"slot": slot}
        pipe.send_bytes(json.dumps(answer, default=plain).encode())


def main(
    pipe: int,
    weights: int,
    memory: int,
    slots: int,
    parent: int,
    recipe: dict[str, Any],
    actor: int,
    incarnation: int,
    seed: int,
) -> None:
    """Play until the parent says quit or is gone."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    connection = Connection(pipe)
    player: Player | None = None
    with suppress(EOFError, OSError):  # the parent is gone
        try:
            made = Recipe(**recipe)
            player = Player(made, actor=actor, incarnation=incarnation, seed=seed)
            player.weights = SharedWeights(player.network, weights)
            connection.send_bytes(json.dumps({"ready": os.getpid()}).encode())
            _serve(connection, player, mmap.mmap(memory, 0), slots)
        except Exception as error:
            connection.send_bytes(json.dumps(fault(error)).encode())
        finally:
            if player is not None:
                player.close()
