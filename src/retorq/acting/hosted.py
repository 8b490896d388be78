"""What runs in an actor process of Ray: play, and answer with one message."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

from retorq.acting.messages import Message, description, pack, write
from retorq.acting.remote import Player, Recipe, fault
from retorq.acting.shared import plain, tensors
from retorq.nn.network import Network


class Offered:
    """The newest weights the learner offers, fetched only by actors whose own are older."""

    def __init__(self) -> None:
        self.edition, self.version, self.clock = -1, -1, 0
        self._where: list[Any] = []

    def offer(self, edition: int, version: int, clock: int, where: list[Any]) -> None:
        """Note what there is: ``where`` holds the reference of ``edition``, weights of version ``version``."""
        self.edition, self.version, self.clock, self._where = edition, version, clock, where

    def read(self, network: Network) -> int:
        """Fetch the newest weights into ``network``; returns their version."""
        import ray

        arrays = ray.get(self._where[0])
        with torch.no_grad():
            for tensor, array in zip(tensors(network), arrays, strict=True):
                tensor.copy_(torch.from_numpy(np.array(array)))
        return self.version


class Hosted:
    """One actor; Ray makes a process of it.

    Args:
        recipe: What to play, as ``Recipe.as_json`` gives it.
        path: Where the learner's process finds modules.
        actor: Its number.
        incarnation: Which life of it this is.
        seed: Of environments, random actions and noise.
    """

    def __init__(self, recipe: dict[str, Any], path: list[str], actor: int, incarnation: int, seed: int) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.offered = Offered()
        self._fault: dict[str, str] | None = None
        try:
            self.player = Player(Recipe(**recipe), actor=actor, incarnation=incarnation, seed=seed)
            self.player.weights = self.offered
        except Exception as error:
            self._fault = fault(error)

    def play(self, edition: int, version: int, clock: int, where: list[Any]) -> tuple[str, np.ndarray]:
        """A message: its description as JSON, and the bytes of its rows; or what went wrong, and no bytes."""
        self.offered.offer(edition, version, clock, where)
        try:
            if self._fault is None:
                return _packed(self.player.message())
        except Exception as error:
            self._fault = fault(error)
        return json.dumps(self._fault), np.empty(0, np.uint8)


def _packed(message: Message) -> tuple[str, np.ndarray]:
    told, placed, size = pack(message.chunks)
    memory = np.empty(size, np.uint8)
    write(memory, placed)
    return json.dumps(description(message, told), default=plain), memory
