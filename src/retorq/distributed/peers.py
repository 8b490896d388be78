"""Peers: objects in this process or on Ray, called one after the other; whoever calls learns when one is lost.

A peer is built from an entry's name and plain values, and answers the calls of one caller in the order they were made.
Nothing is retried: what a call has done when its peer is lost, nobody knows.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from retorq.ops.heap import keep_freed_memory
from retorq.types import UserError

START_LIMIT = 180.0
"""Seconds a peer may take to start and answer its first call: imports, its network, its memory."""


class Lost(ConnectionError):
    """A peer is gone, or silent for too long. The text goes on after its name: "died (...)"."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to build a peer anywhere: ``module:function``, called with ``arguments``, which are plain JSON."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """Make it."""
        module, _, function = self.name.partition(":")
        return getattr(importlib.import_module(module), function)(**self.arguments)


Bytes = dict[str, tuple[str, tuple[int, ...], np.ndarray]]
"""Tensors on their way, by name: data type, shape and bytes."""


def as_bytes(tensors: Mapping[str, Tensor]) -> Bytes:
    """Tensors as plain arrays, since Ray cannot pass on tensors of every kind."""
    return {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape), t.cpu().reshape(-1).view(torch.uint8).numpy())
        for name, t in tensors.items()
    }


def as_tensors(told: Bytes) -> dict[str, Tensor]:
    """The tensors again, in memory of their own."""
    return {
        name: torch.from_numpy(np.array(flat)).view(getattr(torch, dtype)).reshape(shape)
        for name, (dtype, shape, flat) in told.items()
    }


class Call(Protocol):
    """A call under way."""

    @property
    def done(self) -> bool:
        """Whether an answer, or the news that there will be none, is here."""

    def take(self, limit: float) -> Any:
        """Wait for the answer.

        Raises:
            Lost: the peer failed, or ``limit`` seconds went by.
            UserError: what the peer raised.
        """


class Peer(Protocol):
    """Somebody who can be called."""

    def ask(self, method: str, *arguments: Any) -> Call:
        """Begin a call."""

    def close(self) -> None:
        """End the peer; safe to call twice."""


class Here:
    """A peer in this process: a call is done when it has been made. Deterministic, and the reference for the other."""

    def __init__(self, made: Any, end: Callable[[], None] = lambda: None) -> None:
        self.made, self.end = made, end

    def ask(self, method: str, *arguments: Any) -> Call:
        """Make the call."""
        return _Answered(getattr(self.made, method)(*arguments))

    def close(self) -> None:
        """Do what ends it."""
        self.end()


@dataclass(frozen=True)
class _Answered:
    answer: Any
    done: bool = True

    def take(self, limit: float) -> Any:
        return self.answer


class Host:
    """What runs in a process of Ray: one peer."""

    def __init__(self, name: str, arguments: dict[str, Any], path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        keep_freed_memory()
        self.made = Entry(name=name, arguments=arguments).build()

    def call(self, method: str, *arguments: Any) -> Any:
        """Pass a call on."""
        return getattr(self.made, method)(*arguments)


def _anywhere() -> None:
    """No look at all."""


class OnRay:
    """A peer in a process of Ray, from construction to ``close``.

    Args:
        ray: The module.
        entry: How to build it.
        require: Called before Ray is asked for anything; raises where it is gone from this host, since Ray would end
            this program then without a word. It stays behind when the peer is passed on to another process.
        node: Ray's id of the node it must be on; empty: peers are spread over all nodes.
    """

    def __init__(
        self, ray: ModuleType, entry: Entry, require: Callable[[], None] = _anywhere, *, node: str = ""
    ) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray, self.require = ray, require
        require()
        where = NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
        # Ray places an actor that asks for nothing at random: it asks for one byte.
        host = ray.remote(num_cpus=0, memory=1, max_restarts=0, max_task_retries=0, scheduling_strategy=where)(Host)
        self.handle = host.remote(entry.name, entry.arguments, sys.path)

    def ask(self, method: str, *arguments: Any) -> Call:
        """Begin a call; large arrays travel through Ray's object store, and are gone from it with the answer."""
        self.require()
        return Reference(self.ray, self.handle.call.remote(method, *arguments), self.require)

    def __getstate__(self) -> dict[str, Any]:
        """What is passed on."""
        return self.__dict__ | {"require": _anywhere}

    def close(self) -> None:
        """End the process."""
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.handle, no_restart=True)


@dataclass(frozen=True)
class Reference:
    """A call to a peer on Ray."""

    ray: ModuleType
    reference: Any
    require: Callable[[], None] = _anywhere

    @property
    def done(self) -> bool:
        """Whether it is answered."""
        self.require()
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def take(self, limit: float) -> Any:
        """Wait for the answer; its arrays lie in the object store and cannot be written to."""
        errors, begun = self.ray.exceptions, time.monotonic()
        self.require()
        try:
            return self.ray.get(self.reference, timeout=limit)
        except errors.GetTimeoutError as error:
            told = "lost its answer on the way" if time.monotonic() - begun < limit else f"sent nothing for {limit:g} s"
            raise Lost(told) from error
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UserError):
                raise cause from error
            raise Lost(f"raised {type(cause).__name__}: {cause}") from error
        except errors.ActorUnavailableError as error:
            raise Lost("cannot be reached (its process or its machine is gone)") from error
        except errors.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Lost(f"died ({lines[0].rstrip('.')})") from error
