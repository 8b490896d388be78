"""A shard of a parameter server: some of the weights, the optimizer that changes them, and too-old gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from retorq.distributed.peers import Bytes, as_bytes, as_tensors
from retorq.learner import Rule, made_optimizer


class Server:
    """A slice of all weights as one vector (Gorila, Nair et al. 2015; DistBelief, Dean et al. 2012).

    A gradient says by which ``version`` of the weights it was computed: the number of updates this shard had made. If
    it has made more than ``max_staleness`` since then, the gradient is dropped and counted. So
    ``updates + dropped`` is the number of gradients that ever came.

    Every ``target_period`` updates the weights are copied to the target's, so that all learners have the same target.

    Args:
        optimizer: Its name.
        learning_rate: Where a gradient says nothing else.
        optimizer_epsilon: The optimizer's epsilon.
        target_period: Updates between copies into the target.
        max_staleness: Updates by which a gradient may be late.
    """

    def __init__(
        self,
        *,
        optimizer: Rule,
        learning_rate: float,
        optimizer_epsilon: float,
        target_period: int,
        max_staleness: int,
    ) -> None:
        self.target_period, self.max_staleness = target_period, max_staleness
        self._rule = optimizer, learning_rate, optimizer_epsilon
        self.updates = self.dropped = self.copies = self.staleness = self.oldest = 0
        self.begin(np.empty(0, np.float32))

    def begin(self, weights: np.ndarray) -> None:
        """Hold these weights ``[n]``, before any update."""
        self.weights = torch.nn.Parameter(torch.from_numpy(np.array(weights, np.float32)))
        self.target = self.weights.detach().clone()
        name, rate, epsilon = self._rule
        self.optimizer = made_optimizer(name, [{"params": [self.weights], "rate": rate}], epsilon, torch.device("cpu"))

    def fetch(self, version: int, copies: int) -> dict[str, Any]:
        """The version, and the weights if they are newer than ``version``; the same of the target and its copies."""
        return {
            "version": self.updates,
            "weights": self.weights.detach().numpy().copy() if self.updates != version else None,
            "copies": self.copies,
            "target": self.target.numpy().copy() if self.copies != copies else None,
        }

    def apply(self, gradient: np.ndarray, version: int, rate: float) -> bool:
        """One update by ``gradient [n]``, with the learning rate ``rate``; False if it is too old."""
        late = self.updates - version
        self.staleness += late
        self.oldest = max(self.oldest, late)
        if late > self.max_staleness:
            self.dropped += 1
            return False
        self.weights.grad = torch.from_numpy(np.array(gradient))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.target_period == 0:
            self.target.copy_(self.weights.detach())
            self.copies += 1
        return True

    def told(self) -> dict[str, int]:
        """Updates made, gradients dropped, how late all were together, and how late the latest was, in updates."""
        return {name: getattr(self, name) for name in ("updates", "dropped", "staleness", "oldest")}

    def state_dict(self) -> tuple[Bytes, dict[str, int]]:
        """Weights, target and the optimizer's state, and the counts."""
        moments = {f"optimizer.{name}": torch.as_tensor(v) for name, v in self.optimizer.state[self.weights].items()}
        tensors = {"weights": self.weights.detach(), "target": self.target, **moments}
        return as_bytes({name: value.clone() for name, value in tensors.items()}), self.told() | {"copies": self.copies}

    def load(self, told: Bytes, counts: Mapping[str, int]) -> None:
        """Put back ``state_dict``."""
        tensors = as_tensors(told)
        self.begin(tensors["weights"].numpy())
        self.target = tensors["target"]
        moments = {name.removeprefix("optimizer."): v for name, v in tensors.items() if name.startswith("optimizer.")}
        if moments:
            self.optimizer.state[self.weights] = moments
        for name in ("updates", "dropped", "staleness", "oldest", "copies"):
            setattr(self, name, int(counts[name]))
