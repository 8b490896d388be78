"""Memory that processes share: the published weights, and slots that messages travel in. No names, no files left."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HEADER = 64  # bytes before the weights: turn, version, clock, all int64
PATIENCE = 10.0
"""Seconds that a reader waits for weights that are being written."""


def unnamed_file(size: int) -> int:
    """A file descriptor of ``size`` bytes in memory, gone with the last process that holds it, whatever ends them."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("retorq")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


def tensors(network: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers in a fixed order: what acting depends on."""
    yield from network.parameters()
    yield from network.buffers()


def size(network: nn.Module) -> int:
    """Bytes that ``SharedWeights`` needs for a network."""
    return HEADER + sum(-(-tensor.nbytes // HEADER) * HEADER for tensor in tensors(network))


class SharedWeights:
    """A network's weights with their version, written by one process and read by many, never read half-written.

    The writer counts ``turn`` up before and after it writes; a reader that finds it odd or changed reads again. (There
    is no memory barrier: this relies on processors that keep the order of writes, as those of the x86 family do.)

    Args:
        network: Gives the order, shapes and data types.
        file: Descriptor of shared memory of ``size(network)`` bytes.
    """

    def __init__(self, network: nn.Module, file: int) -> None:
        self._memory = mmap.mmap(file, size(network))
        self._head = np.ndarray((3,), np.int64, buffer=self._memory)
        self._places: list[Tensor] = []
        offset = HEADER
        for tensor in tensors(network):
            flat = torch.frombuffer(self._memory, dtype=tensor.dtype, count=max(1, prod(tensor.shape)), offset=offset)
            self._places.append(flat[: prod(tensor.shape)].view(tensor.shape))
            offset += -(-tensor.nbytes // HEADER) * HEADER

    @property
    def edition(self) -> int:
        """Another number whenever weights were written, be it under the same version."""
        return int(self._head[0])

    @property
    def version(self) -> int:
        """Of the weights that are there now."""
        return int(self._head[1])

    @property
    def clock(self) -> int:
        """Agent steps of the whole run, as the writer last told."""
        return int(self._head[2])

    def tick(self, steps: int) -> None:
        """Tell the readers how many agent steps the run has done."""
        self._head[2] = steps

    def write(self, network: nn.Module, version: int) -> None:
        """Publish ``network`` as ``version``."""
        self._head[0] |= 1
        with torch.no_grad():
            for place, tensor in zip(self._places, tensors(network), strict=True):
                place.copy_(tensor)
        self._head[1] = version
        self._head[0] += 1  # not in a ``finally``: half-written weights must not count as whole

    def read(self, network: nn.Module) -> int:
        """Copy the weights into ``network``; returns their version.

        Raises:
            TimeoutError: the writer never finished (it is gone).
        """
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            before = int(self._head[0])
            if before % 2 == 0:
                with torch.no_grad():
                    for place, tensor in zip(self._places, tensors(network), strict=True):
                        tensor.copy_(place)
                version = self.version
                if int(self._head[0]) == before:
                    return version
            time.sleep(0.0005)
        raise TimeoutError("the published weights stayed half-written")

    def close(self) -> None:
        """Let go of the memory."""
        self._places, self._head = [], np.zeros(3, np.int64)
        with suppress(BufferError):  # somebody still looks at it
            self._memory.close()


def plain(value: Any) -> Any:
    """For ``json.dumps(default=...)``: numpy numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} is not JSON")
