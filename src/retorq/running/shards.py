"""The replay of a run in shards: where they run, what each is built from, and where a lost one finds its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from retorq.acting.head_watch import HeadWatch
from retorq.distributed.peers import Entry, OnRay, Peer
from retorq.distributed.sharded import ShardedReplay
from retorq.distributed.shards import Shards, Snapshot
from retorq.running.checkpoint import newest
from retorq.running.folder import RunFolder
from retorq.running.trainer import ReplayMaker, merged
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.running.train import RunOptions, Task

ENTRY = "retorq.remote:shard"


def require_shards(task: Task, run: RunOptions) -> None:
    """Refuse a replay that cannot be divided as asked.

    Raises:
        UserError: there are fewer environments than shards, or the replay does what only a whole one can.
    """
    agent = task.agent
    if not run.replay_shards:
        return
    if run.replay_shards > agent.columns:
        raise UserError(
            f"replay_shards is {run.replay_shards}, but num_envs is {agent.columns}, and an environment's rows lie in "
            f"one shard; give at most {agent.columns}."
        )
    if agent.refresh > 0:
        raise UserError(
            f"replay_shards is {run.replay_shards}, but refresh is {agent.refresh:g}, which needs the stored states at "
            "hand; set refresh to 0 or leave replay_shards away."
        )
    if getattr(agent.config, "draw", "row") == "walk":
        raise UserError(
            f"replay_shards is {run.replay_shards}, but start_state is 'whole', which walks through games one by one; "
            "set start_state to zero or stored, or leave replay_shards away."
        )


def shards(task: Task, run: RunOptions, folder: RunFolder, watch: HeadWatch) -> ReplayMaker:
    """What makes a :class:`ShardedReplay` of a seed."""

    def make(seed: int) -> ShardedReplay:
        def start(shard: int, incarnation: int) -> Peer:
            if incarnation:
                watch.require_to_start()
            return OnRay(watch.cluster.ray, entry(task, run, shard, incarnation, seed), watch.require_here)

        held = Shards(start, run.replay_shards, time_limit=run.actor_time_limit, snapshot=partial(snapshot, folder))
        return ShardedReplay(held, batch_size=task.agent.batch_size, seed=seed, device=run.device)

    return make


def entry(task: Task, run: RunOptions, shard: int, incarnation: int, seed: int) -> Entry:
    """How to build one shard: the agent's replay, with this shard's share of the columns."""
    drawing = np.random.SeedSequence([seed, shard, incarnation]).generate_state(1)[0]
    arguments = {
        "env": task.env,
        "agent": task.agent.name,
        "preset": task.preset,
        "config": asdict(task.agent.config),
        "options": json.dumps(asdict(task.options)),
        "columns": len(range(shard, task.agent.columns, run.replay_shards)),
        "seed": int(drawing) % 2**31,
    }
    return Entry(name=ENTRY, arguments=arguments)


def snapshot(folder: RunFolder, shard: int) -> Snapshot | None:
    """What the newest good checkpoint of the run holds of a shard."""
    found = newest(folder.checkpoints, run=folder.id, warn=lambda sentence: None)
    if found is None or not found.state["replay_saved"]:
        return None
    arrays = {name: value.numpy() for name, value in found.tensors("replay-index").items()}
    state = merged(arrays, found.state["trainer"]["replay"])["shards"][str(shard)]
    mine = [name for name in found.parts if name.startswith(f"replay-{shard}-")]

    def piece(name: str) -> Callable[[], dict[str, Tensor]]:
        return lambda: found.tensors(name)

    return Snapshot(step=found.step, state=state, pieces=[(f"replay-{n.rsplit('-', 1)[1]}", piece(n)) for n in mine])
