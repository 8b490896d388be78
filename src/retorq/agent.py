"""Agent: the bill of materials of one algorithm. A record, not a builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from retorq.acting.actor import Actor
from retorq.acting.explore import Explore
from retorq.learner import Learner, Rule
from retorq.nn.network import Network
from retorq.replay.replay import Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec, VectorEnv


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """How an agent is divided into bundles of actor, replay and learner around a parameter server (Gorila).

    ``servers`` shards make the updates, with this optimizer; they drop gradients that are more than ``max_staleness``
    updates late. Learners drop those of losses beyond ``outlier_deviations`` standard deviations, once they have seen
    ``outlier_warmup``.
    """

    count: int
    servers: int
    max_staleness: int
    outlier_deviations: float
    outlier_warmup: int
    optimizer: Rule
    learning_rate: float
    optimizer_epsilon: float
    target_period: int


@dataclass(frozen=True, kw_only=True)
class Agent:
    """What an algorithm file composes and the training loop runs.

    ``learner(device=, seed=)`` and ``replay(device=, seed=)`` make those parts (replay allocates its memory then).
    ``samples_per_step`` is the replay ratio: rows trained per step acted. ``warmup`` is in agent steps;
    ``publish_period`` in updates. ``refresh`` is how many rows have their stored recurrent states computed anew per row
    trained (0: none); ``discrepancy_period`` is in updates: how often what stale states do to the values is measured
    (``losses.discrepancy``; 0: never). ``tell_values``: actors write down their values, for first priorities;
    ``trim_period`` is in updates: how often the replay is cut back to its capacity (0: it never holds more);
    ``bundles``: how it is divided, where several learners share its weights; ``surplus`` is the share of its capacity
    that it has memory for beyond it. ``notes`` are sentences about choices made by themselves, printed when a run
    starts.
    """

    name: str
    config: Any
    spec: EnvSpec
    network: Network
    learner: Callable[..., Learner]
    replay: Callable[..., Replay]
    explore: Explore
    layout: Layout
    window: Window
    columns: int
    batch_size: int
    samples_per_step: float
    warmup: int
    capacity: int
    publish_period: int = 1
    stack: int = 1
    action_samples: int | None = None
    precision: str = "fp32"
    refresh: float = 0.0
    discrepancy_period: int = 100
    tell_values: bool = False
    trim_period: int = 0
    bundles: Bundles | None = None
    surplus: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def rescale(self) -> float:
        """The epsilon of the rescaling that its values are in; 0: they are in units of return."""
        return float(getattr(self.config, "rescale_epsilon", 0.0))  # a policy's critic has none

    @property
    def environment(self) -> dict[str, Any]:
        """Every setting in effect of what it sees and earns; where there are images, how many are stacked, too."""
        images = any(leaf.kind == "image" for leaf in self.spec.observation.values())
        return {**self.spec.settings, **({"stack": self.stack} if images else {})}

    def actor(
        self,
        env: VectorEnv,
        *,
        seed: int,
        total: int = 1,
        network: Network | None = None,
        explore: Explore | None = None,
        tell_values: bool = False,
        device: torch.device | str = "cpu",
    ) -> Actor:
        """Who plays ``env`` as this agent does; another ``network`` or exploration where they are given."""
        return Actor(
            env,
            network or self.network,
            explore or self.explore,
            total=total,
            stack=self.stack,
            samples=self.action_samples,
            precision=self.precision,
            tell_values=tell_values,
            device=device,
            seed=seed,
        )

    @property
    def rows_per_update(self) -> int:
        """Rows an update trains on (burn-in and target rows are not counted)."""
        return self.batch_size * self.window.length
