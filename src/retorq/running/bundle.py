"""One bundle of several: an actor, a replay and a learner that sends its gradients to parameter servers (Gorila)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from retorq.acting.remote import Part
from retorq.agent import Agent
from retorq.distributed.gradients import Outliers, Sending, Servers
from retorq.distributed.peers import Bytes, Peer, as_bytes, as_tensors
from retorq.learner import Learner
from retorq.running.trainer import Trainer
from retorq.types import VectorEnv


class Bundle:
    """A trainer of an equal share of the environments, the replay and the warm-up, with weights from elsewhere.

    Args:
        agent: The whole run's, with ``bundles``.
        env: This bundle's share of the environments.
        number: Which bundle it is.
        total: Agent steps of the whole run.
        seed: Of everything random in it.
    """

    def __init__(self, agent: Agent, env: VectorEnv, *, number: int, total: int, seed: int) -> None:
        assert agent.bundles is not None
        self.settings, self.clock, columns = agent.bundles, 0, env.columns
        capacity = agent.capacity // agent.columns * columns
        share = replace(
            agent,
            columns=columns,
            capacity=capacity,
            warmup=-(-agent.warmup // agent.bundles.count),
            replay=partial(agent.replay, columns=columns, capacity=capacity),
            explore=Part(whole=agent.explore, first=number * columns, columns=columns, clock=lambda: self.clock),
        )
        steps = max(1, total // agent.bundles.count)
        self.trainer = Trainer(share, env, total=steps, seed=seed, learner=self._sending)

    def _sending(self, learner: Learner) -> Sending:
        settings = self.settings
        outliers = Outliers(deviations=settings.outlier_deviations, warmup=settings.outlier_warmup)
        self.learner = Sending(learner, outliers)
        return self.learner

    def connect(self, servers: Sequence[Peer]) -> None:
        """Learn with these servers from now on."""
        self.learner.servers = Servers(servers)

    def play(self, rounds: int, clock: int) -> dict[str, Any]:
        """``rounds`` vector steps, with the learning they pay for, at agent step ``clock`` of the run.

        Returns:
            What happened since the last call: steps, games, faults, updates computed with the means of their metrics;
            and the counts of gradients since the bundle began.
        """
        trainer, self.clock = self.trainer, clock
        steps, updates = trainer.steps, trainer.updates
        for _ in range(rounds):
            self.learner.fetch()
            if trainer.agent.precision != "fp32":
                trainer.pool.publish(self.learner.online, updates)  # what acts is a rounded copy
            trainer.step()
        self.learner.servers.settle()
        return {
            "steps": trainer.steps - steps,
            "computed": trainer.updates - updates,
            "means": trainer.means(),
            "episodes": [asdict(episode) for episode in trainer.drain()],
            "faults": trainer.faults(),
            "sent": self.learner.sent,
            "outlying": self.learner.outlying,
        }

    def save(self) -> tuple[dict[str, Bytes], dict[str, Any]]:
        """Tensors by part and plain numbers, without the replay's rows."""
        return {name: as_bytes(part) for name, part in self.trainer.tensors().items()}, self.trainer.numbers()

    def chunks(self) -> list[tuple[str, str]]:
        """Name and fingerprint of each piece of the replay's rows."""
        return [(name, fingerprint) for name, (fingerprint, _) in self.trainer.chunks().items()]

    def piece(self, name: str) -> Bytes:
        """One of these pieces."""
        return as_bytes(self.trainer.chunks()[name][1]())

    def load(self, parts: Mapping[str, Bytes], numbers: Mapping[str, Any], rows: bool) -> bool:
        """Put everything back; without ``rows`` the replay starts empty. False if new games were begun."""
        return self.trainer.load(lambda name: as_tensors(parts[name]), parts, numbers, rows=rows)

    def close(self) -> None:
        """Close the environments."""
        self.trainer.close()
