"""What runs in a worker process: one environment, told over a pipe, its observations in shared memory.

The process imports neither torch nor the main program. Messages from the parent are one letter and an int64:
``r`` reset with a seed (-1: none), ``s`` step with an action, ``a`` step with so many float32 numbers, which follow,
``m`` the size of the shared memory, ``q`` quit. Answers are JSON: the environment's description first, then per
message ``{}``, ``{"r", "t", "c"}`` or ``{"fault", ...}``.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from retorq.envs.cell import Cell
from retorq.envs.guard import FAULTS
from retorq.envs.options import options_from_json
from retorq.types import Diverged, Leaf, UserError

MESSAGE = struct.Struct("=cq")


def places(leaves: dict[str, Leaf], columns: int) -> tuple[dict[str, tuple[int, Leaf]], int]:
    """Offset in bytes of each leaf's ``[B, ...]`` array in the shared memory, and its whole size."""
    offset, found = 0, {}
    for name, leaf in leaves.items():
        found[name] = (offset, leaf)
        size = columns * int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        offset += -(-size // 64) * 64
    return found, max(offset, 64)


def shared_arrays(memory: mmap.mmap, leaves: dict[str, Leaf], columns: int) -> dict[str, np.ndarray]:
    """Views ``[B, ...]`` of the shared memory, one per leaf."""
    return {
        name: np.ndarray((columns, *leaf.shape), leaf.dtype, buffer=memory, offset=offset)
        for name, (offset, leaf) in places(leaves, columns)[0].items()
    }


def _die_with(parent: int) -> None:
    """End this process group soon after the parent is gone, even in the middle of a step."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def _fault(error: BaseException) -> dict[str, Any]:
    if isinstance(error, UserError):
        return {"fault": "diverged" if isinstance(error, Diverged) else "user", "text": str(error)}
    return {"fault": "raised", "text": f"raised {type(error).__name__}: {error}"}


def _serve(pipe: Connection, memory_file: int, env: str, column: int, columns: int, options: str) -> None:
    def send(answer: dict[str, Any]) -> None:
        pipe.send_bytes(json.dumps(answer).encode())

    try:
        cell = Cell(env, options_from_json(options))
    except FAULTS as error:
        return send(_fault(error))
    send({"spec": asdict(cell.spec)})
    leaves = dict(cell.spec.observation)
    arrays: dict[str, np.ndarray] = {}
    while True:
        message = pipe.recv_bytes()
        letter, value = MESSAGE.unpack_from(message)
        answer: dict[str, Any] = {}
        try:
            if letter == b"q":
                return cell.close()
            if letter == b"m":
                arrays = shared_arrays(mmap.mmap(memory_file, value), leaves, columns)
                continue
            if letter == b"r":
                tree = cell.reset(None if value < 0 else value)
            else:
                action = np.frombuffer(message, np.float32, value, MESSAGE.size) if letter == b"a" else value
                tree, reward, terminated, truncated = cell.step(action)
                answer = {"r": float(reward), "t": bool(terminated), "c": bool(truncated)}
            for name, part in tree.items():
                arrays[name][column] = part
        except FAULTS as error:
            answer = _fault(error)
        send(answer)


def main(pipe_file: int, memory_file: int, parent: int, arguments: dict[str, Any]) -> None:
    """Serve one environment until the parent says quit or is gone."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, OSError):  # the parent is gone
        _serve(Connection(pipe_file), memory_file, **arguments)
