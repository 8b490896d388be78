"""Who acts in a run: environments in this process, or a pool of actors in others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from retorq.acting.cluster import JoinedRay, LocalRay, RayCluster, hosts, require_cluster
from retorq.acting.head_watch import HeadWatch
from retorq.acting.placement import Host
from retorq.acting.pools import ActorPool
from retorq.acting.processes import ProcessPool
from retorq.acting.ray_settings import require_installed
from retorq.acting.remote import Recipe
from retorq.agent import Agent
from retorq.distributed.gradients import UNDERWAY as GRADIENTS
from retorq.distributed.sharded import AHEAD
from retorq.distributed.shards import UNDERWAY
from retorq.envs.make import make
from retorq.nn.network import Network
from retorq.running.trainer import PoolMaker
from retorq.types import UserError, VectorEnv

if TYPE_CHECKING:
    from retorq.running.train import RunOptions, Task

ENTRY = "retorq.remote:actor"


def recipes(task: Task, run: RunOptions) -> list[Recipe]:
    """What each of ``run.actors`` plays: equal shares of the agent's environments.

    Raises:
        UserError: they cannot be shared out equally.
    """
    columns, left = divmod(task.agent.columns, run.actors)
    if left:
        raise UserError(
            f"actors is {run.actors}, but num_envs is {task.agent.columns}, which cannot be shared out equally; give "
            "a number of actors that divides num_envs."
        )
    arguments = {
        "env": task.env,
        "agent": task.agent.name,
        "preset": task.preset,
        "config": asdict(task.agent.config),
        "options": json.dumps(asdict(task.options)),
        "columns": columns,
        "total": run.steps,
    }
    return [
        Recipe(entry=ENTRY, arguments=arguments, first=actor * columns, columns=columns, rows=run.actor_rows, hz=run.hz)
        for actor in range(run.actors)
    ]


def row_bytes(agent: Agent) -> int:
    """Upper bound of what a row of one column takes in a message: its fields, its recurrent state, its description."""
    return int(agent.layout.bytes_per_row()) + 2 * sum(prod(s) for s in agent.layout.state.values()) + 1_536


def require_pool(run: RunOptions) -> None:
    """Refuse a pool that could not be started, as far as that is soon known: before anything is measured or made.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be joined.
    """
    if run.pool == "ray":
        require_installed("pool is 'ray', but ")
    if run.cluster:
        require_cluster(run.cluster, Path(run.cluster_token))


def cluster_for(task: Task, run: RunOptions) -> RayCluster | None:
    """Ray, where the run asks for it: joined, or started here with room for all that is under way.

    Raises:
        UserError: Ray cannot be started or joined, or a host's object store is too small.
    """
    if run.pool != "ray":
        return None
    from retorq.acting.ray_pool import store_bytes

    messages = store_bytes(recipes(task, run), task.agent.network, row_bytes(task.agent))
    store = messages + beside_bytes(task.agent, run)
    if not run.cluster:
        return LocalRay(store=store)
    joined = JoinedRay(run.cluster, Path(run.cluster_token))
    try:
        require_store(hosts(joined.ray), store)
    except BaseException:
        joined.close()
        raise
    return joined


def require_store(nodes: Sequence[Host], store: int) -> None:
    """Refuse a cluster of which a host has less room for objects than ``store`` bytes."""
    for host in nodes:
        if host.store < store:
            raise UserError(
                f"the object store of host {host.address} has {host.store >> 20} MiB, and this run needs "
                f"{-(-store >> 20)} MiB; start it again with --store {-(-store >> 20)}."
            )


def beside_bytes(agent: Agent, run: RunOptions) -> int:
    """Room that the object store needs for what shards of the replay, or bundles, have under way.

    Shards: batches, messages for them, and of each a piece of its rows or its priorities, since all may be given their
    last snapshots at once. Bundles: gradients, the weights that each fetches, and the servers' state.
    """
    if agent.bundles is not None:
        weights = sum(parameter.nbytes for parameter in agent.network.parameters())
        return weights * (agent.bundles.count * (GRADIENTS + 2) + 4)
    if not run.replay_shards:
        return 0
    row, columns = int(agent.layout.bytes_per_row() + 128), -(-agent.columns // run.replay_shards)
    batch = row * agent.stack * agent.window.rows * agent.batch_size
    message = run.actor_rows * agent.columns // run.actors * row_bytes(agent)
    rows = int(agent.capacity // agent.columns * (1 + agent.surplus)) + agent.window.period
    piece = min(rows, agent.layout.piece_rows(columns)) * columns * row
    priorities = 2 * 8 * columns * (rows if agent.window.within else -(-rows // agent.window.period))
    return (AHEAD + 2) * batch + 2 * UNDERWAY * message + run.replay_shards * max(piece, priorities)


def actors(task: Task, run: RunOptions, watch: HeadWatch | None = None) -> VectorEnv | PoolMaker:
    """What a :class:`retorq.running.trainer.Trainer` acts with; ``watch``: over its cluster, of the pool ``ray``."""
    if run.pool == "local":
        return make(task.env, columns=task.agent.columns, seed=run.seed, options=task.options)
    shares = recipes(task, run)

    def pool(network: Network, seed: int) -> ActorPool:
        size = row_bytes(task.agent)
        if run.pool == "process":
            return ProcessPool(shares, network, bytes_per_row=size, seed=seed, time_limit=run.actor_time_limit)
        from retorq.acting.ray_pool import RayPool

        return RayPool(shares, network, bytes_per_row=size, seed=seed, time_limit=run.actor_time_limit, watch=watch)

    return pool
