"""The bundles and parameter servers of a run: what cannot be, where they run, and what each is built from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from retorq.acting.head_watch import HeadWatch
from retorq.agent import Bundles
from retorq.distributed.peers import Entry, Here, OnRay, Peer
from retorq.running.gorila import Gorila
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.running.train import RunOptions, Task

BUNDLE, SERVER = "retorq.remote:bundle", "retorq.distributed.server:Server"


def require_bundles(task: Task, run: RunOptions) -> None:
    """Refuse a run of bundles that cannot be.

    Raises:
        UserError: another pool, another number of actors, shards, a GPU, or a mean image of the warm-up.
    """
    bundles, agent = task.agent.bundles, task.agent.name
    if bundles is None:
        return
    wrong = {
        f"pool is {run.pool}, but the bundles of {agent} run on Ray or take turns; give --pool ray or --pool local": (
            run.pool == "process"
        ),
        f"actors is {run.actors}, but bundles is {bundles.count}, and each has one actor; give --actors "
        f"{bundles.count}": run.pool == "ray" and run.actors != bundles.count,
        f"replay_shards is {run.replay_shards}, but every bundle of {agent} has a replay of its own; leave it away": (
            run.replay_shards > 0
        ),
        f"device is {run.device}, but the learners of {agent} run on the CPU; give cpu": run.device != "cpu",
        f"center_images is true, but every bundle of {agent} would subtract a mean image of its own; set it to false": (
            task.agent.network.centered
        ),
        f"hz is {run.hz:g}, but a bundle of {agent} acts and learns in turns; leave hz away": run.hz > 0,
    }
    for sentence, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(f"{sentence}.")


def gorila(task: Task, run: RunOptions, watch: HeadWatch | None = None) -> Gorila:
    """What trains an agent with bundles: on the cluster that is watched over, else in turns in this process."""
    bundles = task.agent.bundles
    assert bundles is not None

    def start(bundle: int, incarnation: int) -> Peer:
        entry = bundle_entry(task, run, bundle, incarnation)
        if watch is None:
            made = entry.build()
            return Here(made, made.close)
        if incarnation:
            watch.require_to_start()
        return OnRay(watch.cluster.ray, entry, watch.require_here)

    def server() -> Peer:
        entry = server_entry(bundles)
        if watch is None:
            return Here(entry.build())
        # Without its weights no run can go on: no machine but the learner's must be able to lose them.
        return OnRay(watch.cluster.ray, entry, watch.require_here, node=watch.here)

    servers = [server() for _ in range(bundles.servers)]
    return Gorila(
        task.agent,
        servers,
        start,
        total=run.steps,
        rounds=1 if watch is None else run.actor_rows,
        time_limit=run.actor_time_limit,
        keeps_rows=watch is None,
        require=(lambda: None) if watch is None else watch.require,
        require_to_blame=(lambda: None) if watch is None else watch.require_to_blame,
    )


def server_entry(bundles: Bundles) -> Entry:
    """How to build a parameter server."""
    names = ("optimizer", "learning_rate", "optimizer_epsilon", "target_period", "max_staleness")
    return Entry(name=SERVER, arguments={name: getattr(bundles, name) for name in names})


def bundle_entry(task: Task, run: RunOptions, bundle: int, incarnation: int) -> Entry:
    """How to build one bundle: the agent, and which share of it this is."""
    drawing = np.random.SeedSequence([run.seed, bundle, incarnation]).generate_state(1)[0]
    arguments = {
        "env": task.env,
        "agent": task.agent.name,
        "preset": task.preset,
        "config": asdict(task.agent.config),
        "options": json.dumps(asdict(task.options)),
        "bundle": bundle,
        "total": run.steps,
        "seed": int(drawing) % 2**31,
    }
    return Entry(name=BUNDLE, arguments=arguments)
