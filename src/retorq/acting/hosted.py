"""What runs in an actor process of Ray: play, and answer with one message."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import numpy as np
import torch

from retorq.acting.messages import Message, description, pack, write
from retorq.acting.remote import Player, Recipe, fault
from retorq.acting.shared import plain, tensors
from retorq.nn.network import Network
from retorq.ops.heap import keep_freed_memory


class Offered:
    """The newest weights the learner offers, fetched only by actors whose own are older.

    Offers come in a thread of their own while the actor plays, so that each message looks at the newest, however long
    its call had to wait. That thread may be late: a call names the edition that was offered before it and waits for it.
    An offer is let go of once its weights were fetched.
    """

    def __init__(self) -> None:
        self.edition, self.version, self.clock = -1, -1, 0
        self._where: list[Any] = []
        self._lock = threading.Condition()

    def offer(self, edition: int, version: int, where: list[Any]) -> None:
        """Note what there is: ``where`` holds the reference of ``edition``, weights of version ``version``."""
        with self._lock:
            self.edition, self.version, self._where = edition, version, where
            self._lock.notify_all()

    def wait(self, edition: int) -> None:
        """Return once ``edition``, or a newer one, was offered."""
        with self._lock:
            self._lock.wait_for(lambda: self.edition >= edition)

    def read(self, network: Network) -> int:
        """Fetch the newest weights into ``network``; returns their version."""
        import ray

        with self._lock:
            version, where, self._where = self.version, self._where, []
        if where:  # else they were fetched before, in the moment between two offers
            arrays = ray.get(where[0])
            with torch.no_grad():
                for tensor, array in zip(tensors(network), arrays, strict=True):
                    tensor.copy_(torch.from_numpy(np.array(array)))
        return version


class Hosted:
    """One actor; Ray makes a process of it.

    Args:
        recipe: What to play, as ``Recipe.as_json`` gives it.
        path: Where the learner's process finds modules.
        actor: Its number.
        incarnation: Which life of it this is.
        seed: Of environments, random actions and noise.
        offer: The weights to begin with, as ``Offered.offer`` takes them.
    """

    def __init__(
        self, recipe: dict[str, Any], path: list[str], actor: int, incarnation: int, seed: int, offer: list[Any]
    ) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        torch.set_num_threads(1)
        keep_freed_memory()
        self.offered = Offered()
        self.offered.offer(*offer)
        self._fault: dict[str, str] | None = None
        try:
            self.player = Player(Recipe(**recipe), actor=actor, incarnation=incarnation, seed=seed)
            self.player.weights = self.offered
        except Exception as error:
            self._fault = fault(error)

    def offer(self, edition: int, version: int, where: list[Any]) -> None:
        """Newer weights, which the next message looks at; runs beside ``play``."""
        self.offered.offer(edition, version, where)

    def play(self, clock: int, edition: int) -> tuple[str, np.ndarray]:
        """A message: its description as JSON, and the bytes of its rows; or what went wrong, and no bytes.

        Args:
            clock: Steps the learner has taken in.
            edition: Of the weights last offered when this was asked for; older ones are not played with.
        """
        self.offered.clock = clock
        self.offered.wait(edition)
        torch.set_flush_denormal(True)  # of this thread, which need not be the one that built the player
        try:
            if self._fault is None:
                return self._packed(self.player.message())
        except Exception as error:
            self._fault = fault(error)
        return json.dumps(self._fault), np.empty(0, np.uint8)

    def _packed(self, message: Message) -> tuple[str, np.ndarray]:
        told, placed, size = pack(message.chunks)
        memory = np.empty(size, np.uint8)
        write(memory, placed)
        return json.dumps(description(message, told) | {"host": _host()}, default=plain), memory


def _host() -> str:
    """Ray's id of the node this runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
