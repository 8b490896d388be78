"""A learner that sends its gradients to parameter servers and fetches the weights from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from retorq.distributed.peers import Call, Peer
from retorq.learner import Learner, unpacked
from retorq.nn.network import Network
from retorq.ops.generators import put_back
from retorq.types import Batch, Tree

UNDERWAY = 4
"""Gradients a learner may have sent without an answer."""
LIMIT = 60.0
"""Seconds a server may take to answer."""


def slices(size: int, servers: int) -> list[slice]:
    """Equal shares of a vector of ``size`` weights, the first ones longer by one where they cannot be equal."""
    ends = np.cumsum([size // servers + (server < size % servers) for server in range(servers)])
    return [slice(int(end - length), int(end)) for end, length in zip(ends, np.diff(ends, prepend=0), strict=True)]


@dataclass
class Outliers:
    """Tells losses far above the running mean: more than ``deviations`` standard deviations (Gorila, section 4).

    The paper gives no details. Here mean and variance are those of all losses so far, the last ``HORIZON`` counting
    most; what is told as an outlier is among them, so that losses which stay high are soon let through.
    """

    HORIZON: ClassVar[int] = 1_000

    deviations: float
    warmup: int
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def outlying(self, loss: float) -> bool:
        """Whether this loss is an outlier among those before it; never during the first ``warmup``."""
        beyond = self.count >= self.warmup and loss > self.mean + self.deviations * sqrt(self.variance)
        self.count += 1
        share = 1 / min(self.count, self.HORIZON)
        off = loss - self.mean
        self.mean += share * off
        self.variance = (1 - share) * (self.variance + share * off**2)
        return beyond


class Servers:
    """The shards of a parameter server, as a learner knows them: fetch weights, send gradients.

    Args:
        peers: Each of a :class:`retorq.distributed.server.Server`, in the order of their slices.
    """

    def __init__(self, peers: Sequence[Peer]) -> None:
        self.peers = peers
        self.versions, self.copies = [-1] * len(peers), [-1] * len(peers)
        self._calls: deque[list[Call]] = deque()

    def fetch(self, online: Network, target: Network) -> None:
        """Copy what is newer into both networks."""
        told = [
            peer.ask("fetch", version, copies)
            for peer, version, copies in zip(self.peers, self.versions, self.copies, strict=True)
        ]
        answers = [call.take(LIMIT) for call in told]
        self.versions = [answer["version"] for answer in answers]
        self.copies = [answer["copies"] for answer in answers]
        for name, network in (("weights", online), ("target", target)):
            if any(answer[name] is not None for answer in answers):
                fill(network, [answer[name] for answer in answers])

    def send(self, gradient: np.ndarray, rate: float) -> None:
        """Send each shard its slice; waits while too many are under way."""
        while len(self._calls) >= UNDERWAY:
            self._settle()
        parts = slices(len(gradient), len(self.peers))
        self._calls.append(
            [
                peer.ask("apply", gradient[part], version, rate)
                for peer, part, version in zip(self.peers, parts, self.versions, strict=True)
            ]
        )

    def _settle(self) -> None:
        for call in self._calls.popleft():
            call.take(LIMIT)

    def settle(self) -> None:
        """Wait until all that was sent is answered."""
        while self._calls:
            self._settle()


def fill(network: Network, parts: Sequence[np.ndarray | None]) -> None:
    """Put the shards' slices of the weights into a network, in place; None leaves a slice as it is."""
    with torch.no_grad():
        vector = parameters_to_vector(network.parameters())
        for part, new in zip(slices(len(vector), len(parts)), parts, strict=True):
            if new is not None:
                vector[part] = torch.from_numpy(np.array(new))
        start = 0
        for parameter in network.parameters():  # whoever acts may share them
            parameter.copy_(vector[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


class Sending:
    """A learner whose updates are made elsewhere: the face of :class:`retorq.learner.Learner`, on top of one.

    Before each batch it fetches the weights; its clipped gradient goes to the servers, unless it is not finite or the
    loss an outlier.

    Args:
        learner: Computes the gradients.
        outliers: Tells which losses are none to learn from.
    """

    def __init__(self, learner: Learner, outliers: Outliers) -> None:
        self.learner, self.outliers = learner, outliers
        self.online, self.target, self.device = learner.online, learner.target, learner.device
        self.skipped_in_a_row = learner.skipped_in_a_row
        self.servers = Servers([])
        self.updates = self.sent = self.outlying = 0

    def fetch(self) -> None:
        """The newest weights."""
        self.servers.fetch(self.online, self.target)

    def update(self, batch: Batch, progress: float = 0.0) -> tuple[Tensor, Tensor, dict[str, Tensor], Tree]:
        """Send the gradient of one batch; returns what ``Learner.update`` does."""
        self.fetch()
        self.online.zero_grad(set_to_none=True)
        told, bad = self.learner.gradient(batch)
        self.skipped_in_a_row.copy_((self.skipped_in_a_row + 1) * bad)
        self.updates += 1
        if not bad:
            if self.outliers.outlying(abs(float(told["loss"]))):
                self.outlying += 1
            else:
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.online.parameters()]
                self.servers.send(parameters_to_vector(gradients).numpy(), self.learner.rate(progress))
                self.sent += 1
        return unpacked(told | {"skipped": self.skipped_in_a_row.clone()})

    def center(self, observation: Tree) -> None:
        """A mean image would be another one in every learner.

        Raises:
            ValueError: always.
        """
        raise ValueError("learners that share their weights cannot each have a mean image")

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The generator and the counts; weights are the servers'."""
        told = {name: getattr(self.outliers, name) for name in ("count", "mean", "variance")}
        counts = {name: getattr(self, name) for name in ("updates", "sent", "outlying")}
        return {"generator": self.learner.generator.get_state()}, counts | {"outliers": told}

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Put back ``state_dict``."""
        put_back(self.learner.generator, tensors["generator"])
        for name in ("updates", "sent", "outlying"):
            setattr(self, name, int(numbers[name]))
        for name, value in numbers["outliers"].items():
            setattr(self.outliers, name, value)
