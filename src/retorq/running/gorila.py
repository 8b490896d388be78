"""The bundles of a run and their parameter servers, as one trainer: the face of :class:`Trainer` for ``train.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.utils import parameters_to_vector

from retorq.agent import Agent
from retorq.distributed.gradients import fill, slices
from retorq.distributed.peers import START_LIMIT, Call, Lost, Peer, as_bytes, as_tensors
from retorq.types import Batch, Diverged, Episode, Stopped

PATIENCE = 0.1
"""Seconds that ``step`` waits for a bundle before it gives the loop a chance to look at signals."""
_SAVED = ("steps", "replaced", "environments_replaced", "_gone", "_sums", "_computed", "_before")


@dataclass
class _Bundle:
    """One bundle as the run knows it: its call under way, since when, and its counts of gradients."""

    peer: Peer
    call: Call | None = None
    since: float = 0.0
    heard: bool = False
    sent: int = 0
    outlying: int = 0


class Gorila:
    """Bundles that play and learn beside each other, and the servers that hold their weights (Nair et al. 2015).

    With peers in this process, bundles take turns of one step each, which is deterministic and resumes exactly. On Ray
    nobody waits for anybody; a bundle that is lost is started anew with an empty replay.

    Args:
        agent: With ``bundles``.
        servers: Where its weights are held, each a :class:`retorq.distributed.server.Server`.
        start: ``(bundle, incarnation) -> Peer``, of a :class:`retorq.running.bundle.Bundle`.
        total: Agent steps of the whole run.
        rounds: Vector steps of one turn.
        time_limit: Seconds a turn may take.
        most_restarts: How often one bundle is started anew before the run is given up.
        keeps_rows: Whether checkpoints hold the replays.
        require: Raises :class:`HeadLost` where bundles could not be started any more; called again and again.
        require_to_blame: The same before a server is said to be lost, which may take seconds.
    """

    last_batch: Batch | None = None
    late: int | None = None

    def __init__(
        self,
        agent: Agent,
        servers: Sequence[Peer],
        start: Callable[[int, int], Peer],
        *,
        total: int,
        rounds: int = 1,
        time_limit: float = 60.0,
        most_restarts: int = 10,
        keeps_rows: bool = True,
        require: Callable[[], None] = lambda: None,
        require_to_blame: Callable[[], None] = lambda: None,
    ) -> None:
        assert agent.bundles is not None
        self.agent, self.servers, self.start, self.total = agent, servers, start, total
        self.rounds, self.time_limit, self.most_restarts = rounds, time_limit, most_restarts
        self.keeps_rows, self.require, self.require_to_blame = keeps_rows, require, require_to_blame
        self.steps = self.updates = self.replaced = self.environments_replaced = 0
        self._restarts = [0] * agent.bundles.count
        self._gone = {"sent": 0, "outlying": 0}  # counts of bundles that were lost
        self._sums: dict[str, float] = {}
        self._computed = 0.0
        self._before = {"updates": 0, "dropped": 0, "staleness": 0}  # of all servers, at the last row of metrics
        self._episodes: list[Episode] = []
        self._faults: list[str] = []
        weights = parameters_to_vector(agent.network.parameters()).detach().numpy()
        for server, part in enumerate(slices(len(weights), len(servers))):
            self._server(server, "begin", weights[part])
        self._bundles = [self._begun(bundle, 0) for bundle in range(agent.bundles.count)]

    def _ask(self, peer: Peer, method: str, *arguments: Any) -> Any:
        return peer.ask(method, *arguments).take(START_LIMIT)

    def _begun(self, bundle: int, incarnation: int) -> _Bundle:
        peer = self.start(bundle, incarnation)
        peer.ask("connect", list(self.servers))
        return _Bundle(peer)

    reseeded = False
    """Bundles learn on the CPU: their random numbers can always go on."""

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.steps >= self.total

    @property
    def waiting(self) -> str:
        """Which bundles are waited for: those that have answered nothing yet; empty: none."""
        up = sum(bundle.heard for bundle in self._bundles)
        return "" if up == len(self._bundles) else f"bundles: {up} of {len(self._bundles)} up"

    @property
    def epsilon(self) -> float:
        """Mean exploration over the environments, now."""
        return float(self.agent.explore.epsilon(self.steps, self.total).mean())

    def step(self) -> None:
        """A turn of every bundle that has none under way, and what has been answered.

        Raises:
            Stopped: a parameter server is lost, or Ray is (``HeadLost``).
            Diverged: updates keep failing, or a bundle has been started anew too often.
        """
        until = time.monotonic() + PATIENCE
        heard = False
        while not heard and time.monotonic() < until:
            self.require()
            for number, bundle in enumerate(self._bundles):
                if bundle.call is None:
                    bundle.call, bundle.since = bundle.peer.ask("play", self.rounds, self.steps), time.monotonic()
                if bundle.call.done or time.monotonic() - bundle.since > self._limit(bundle):
                    heard = True
                    self._hear(number, bundle)
            if not heard:
                time.sleep(PATIENCE / 50)
        self.updates = int(self._server(0, "told")["updates"])

    def _limit(self, bundle: _Bundle) -> float:
        return self.time_limit if bundle.heard else START_LIMIT

    def _hear(self, number: int, bundle: _Bundle) -> None:
        """Take the answer of a bundle, and wait for it as long as that may take."""
        assert bundle.call is not None
        call, bundle.call = bundle.call, None
        try:
            told = call.take(max(0.0, bundle.since + self._limit(bundle) - time.monotonic()))
        except Lost as lost:
            for server in range(len(self.servers)):  # without one, no bundle can go on
                self._server(server, "told")
            self._replace(number, str(lost))
            return
        bundle.heard, bundle.sent, bundle.outlying = True, told["sent"], told["outlying"]
        self.steps += told["steps"]
        self._episodes += [
            replace(Episode(**episode), step=self.steps, column=episode["column"] + number * self._columns)
            for episode in told["episodes"]
        ]
        self.environments_replaced += len(told["faults"])
        self._faults += [f"bundle {number}, {fault}" for fault in told["faults"]]
        for name, mean in told["means"].items():
            weight = 1.0 if name == "skipped" else told["computed"]
            self._sums[name] = self._sums.get(name, 0.0) + weight * mean
        self._computed += told["computed"]

    @property
    def _columns(self) -> int:
        return self.agent.columns // len(self._bundles)

    def _server(self, server: int, method: str, *arguments: Any) -> Any:
        try:
            return self._ask(self.servers[server], method, *arguments)
        except Lost as lost:
            self.require_to_blame()  # what it died of may be that Ray is gone
            raise Stopped(f"parameter server {server} {lost}, and the weights it held are gone") from lost

    def _bundle(self, number: int, method: str, *arguments: Any) -> Any:
        try:
            return self._ask(self._bundles[number].peer, method, *arguments)
        except Lost as lost:
            raise Lost(f"bundle {number} {lost}") from lost

    def _replace(self, number: int, reason: str) -> None:
        bundle = self._bundles[number]
        bundle.peer.close()
        self._restarts[number] += 1
        self.replaced += 1
        if self._restarts[number] > self.most_restarts:
            raise Diverged(
                f"bundle {number} {reason}, and had been started anew {self.most_restarts} times before; look at what "
                "ends it, then go on with the last checkpoint."
            )
        self._faults.append(f"bundle {number} {reason}; it was started anew, with new games and an empty replay")
        for name in self._gone:
            self._gone[name] += getattr(bundle, name)
        self._bundles[number] = self._begun(number, self._restarts[number])

    def counts(self) -> dict[str, int]:
        """Gradients since the run began: ``sent`` and ``outlying`` by the learners; of the servers' told, all added up.

        Each gradient sent comes to all ``len(servers)`` servers, so that ``updates + dropped = len(servers) * sent``.
        """
        told = [self._server(server, "told") for server in range(len(self.servers))]
        of_servers = {name: sum(one[name] for one in told) for name in ("updates", "dropped", "staleness")}
        of_bundles = {name: self._gone[name] + sum(getattr(b, name) for b in self._bundles) for name in self._gone}
        return of_servers | of_bundles | {"oldest": max(one["oldest"] for one in told)}

    def means(self) -> dict[str, float]:
        """Means of the learners' metrics since the last call, over all updates computed."""
        sums, count = self._sums, self._computed
        skipped = {"skipped": sums.pop("skipped")} if "skipped" in sums else {}
        self._sums, self._computed = {}, 0.0
        return {name: value / max(1.0, count) for name, value in sums.items()} | skipped

    def told(self) -> dict[str, float]:
        """Gradients sent and dropped since the run began, and how late they came since the last call, in updates.

        A gradient that some servers dropped as too old counts in ``gradients_stale`` as their share of all.
        """
        counts = self.counts()
        came = sum(counts[name] - self._before[name] for name in ("updates", "dropped"))
        late = counts["staleness"] - self._before["staleness"]
        self._before = {name: counts[name] for name in self._before}
        told = {
            "gradients_sent": counts["sent"],
            "gradients_stale": counts["dropped"] / len(self.servers),
            "gradients_outlying": counts["outlying"],
            "staleness": late / max(1, came),
            "staleness_highest": counts["oldest"],
        }
        lost = {"bundles_replaced": self.replaced, "environments_replaced": self.environments_replaced}
        told |= {name: count for name, count in lost.items() if count}
        return {name: float(value) for name, value in told.items()}

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        done, self._episodes = self._episodes, []
        return done

    def faults(self) -> list[str]:
        """What went wrong since the last call and what was done, a sentence each."""
        told, self._faults = self._faults, []
        return told

    def _settled(self) -> range:
        """All bundles by number, with no turn under way."""
        for number, bundle in enumerate(self._bundles):
            if bundle.call is not None:
                self._hear(number, bundle)
        return range(len(self._bundles))

    @property
    def lives(self) -> tuple[int, ...]:
        """How often each bundle has been started anew: a checkpoint must not mix two lives of one."""
        return tuple(self._restarts)

    def tensors(self, alone: bool = False) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold as tensors, by part: every server, every bundle, and the weights in one.

        Args:
            alone: Leave the bundles out, which may be out of reach: those that resume begin empty.

        Raises:
            Lost: a bundle is gone.
            Stopped: a server is, or Ray.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for number in [] if alone else self._settled():
            saved = self._bundle(number, "save")[0]
            parts |= {f"bundle{number}-{name}": as_tensors(part) for name, part in saved.items()}
        servers = [as_tensors(self._server(server, "state_dict")[0]) for server in range(len(self.servers))]
        fill(self.agent.network, [tensors["weights"].numpy() for tensors in servers])
        weights = {f"online.{name}": value.detach().clone() for name, value in self.agent.network.state_dict().items()}
        return parts | {f"server{number}": tensors for number, tensors in enumerate(servers)} | {"learner": weights}

    def numbers(self, alone: bool = False) -> dict[str, Any]:
        """What a checkpoint must hold as plain JSON; ``alone`` as for ``tensors``."""
        return {
            **{name: getattr(self, name) for name in _SAVED},
            "servers": [self._server(server, "state_dict")[1] for server in range(len(self.servers))],
            "bundles": [] if alone else [self._bundle(number, "save")[1] for number in self._settled()],
            "counts": [[bundle.sent, bundle.outlying] for bundle in self._bundles],
        }

    def chunks(self) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The rows of all replays in pieces for a checkpoint, where it holds them."""
        if not self.keeps_rows:
            return {}
        pieces: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {}
        for number in self._settled():
            for name, fingerprint in self._bundle(number, "chunks"):
                pieces[f"bundle{number}-{name}"] = (fingerprint, partial(self._piece, number, name))
        return pieces

    def _piece(self, number: int, name: str) -> dict[str, Tensor]:
        return as_tensors(self._bundle(number, "piece", name))

    def load(
        self,
        read: Callable[[str], Mapping[str, Tensor]],
        parts: Iterable[str],
        numbers: Mapping[str, Any],
        *,
        rows: bool,
    ) -> bool:
        """Put everything back; False if new games had to be begun. Without ``rows`` the replays start empty.

        Bundles that the checkpoint does not hold begin anew, and their counts are those of bundles that were lost.
        """
        for number in range(len(self.servers)):
            self._server(number, "load", as_bytes(read(f"server{number}")), numbers["servers"][number])
        for name in _SAVED:
            setattr(self, name, numbers.get(name, getattr(self, name)))  # checkpoints of before do not have all
        exact = bool(numbers["bundles"])
        for number, bundle in enumerate(self._bundles):
            if not numbers["bundles"]:
                sent, outlying = numbers["counts"][number]
                self._gone = {"sent": self._gone["sent"] + sent, "outlying": self._gone["outlying"] + outlying}
                continue
            prefix = f"bundle{number}-"
            mine = {name.removeprefix(prefix): as_bytes(read(name)) for name in parts if name.startswith(prefix)}
            exact &= self._bundle(number, "load", mine, numbers["bundles"][number], rows)
            bundle.sent, bundle.outlying = numbers["counts"][number]
        self.updates = int(self._server(0, "told")["updates"])
        return exact

    def close(self) -> None:
        """End all bundles and servers; safe to call twice."""
        for peer in (*(bundle.peer for bundle in self._bundles), *self.servers):
            peer.close()
