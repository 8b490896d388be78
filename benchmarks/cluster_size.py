"""How many machines like this one reach the rates of Ape-X and R2D2: ``python benchmarks/cluster_size.py``.

It measures what one core acts and what an update costs here (``--measure``; else it reads
``benchmarks/results/cluster_costs.csv``), takes what one shard of the replay moves from ``shards_rates.csv``, and plays
a cluster through with these costs, event by event. For the published rates (Ape-X: 50,000 frames inserted and 19
batches of 512 learned per second, Horgan et al. 2018; R2D2: 5 updates of 64 sequences, and its 256 actors' frames,
Kapturowski et al. 2019) it looks for the fewest actors and shards. The learner is one process, as published: one row
has the one of the papers, which makes an update in time, and one has this machine's. This is arithmetic: nothing here
has run on more than one machine, and no network between machines is in it (``megabytes_per_second`` is what one would
have to carry).
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import sys
import time
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read

from retorq import api
from retorq.bench.made_up import atari_spec, batch
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.types import Leaf

RESULTS = Path(__file__).parent / "results"
COSTS, OUT, RATES = RESULTS / "cluster_costs.csv", RESULTS / "cluster_size.csv", RESULTS / "shards_rates.csv"
FRAME = 84 * 84
ROWS = 50  # of a message: what Ape-X sends at once
UNDER_WAY = 2  # messages of an actor that no shard has taken
AHEAD = 16  # batches the learner has asked for, as in Ape-X; with our three it would wait for shards this slow
CORES = 2  # of a machine
LEARNERS = ("as published", "this machine's")
LIMIT = 64  # shards, where the search ends


@dataclass(frozen=True)
class System:
    """Published rates per second, and the bytes of a window drawn from the replay."""

    steps: float
    updates: float
    batch: int
    window_rows: int
    stack: int

    @property
    def batch_bytes(self) -> int:
        """Bytes of a batch, as our shards send it."""
        return self.batch * self.window_rows * self.stack * FRAME


SYSTEMS = {
    # 360 actors of 139 frames a second; transitions of n = 3.
    "apex_dqn": System(steps=12_500.0, updates=19.0, batch=512, window_rows=4, stack=4),
    # 256 actors of 260 environment steps a second, read as frames: the 320 sequences learned per second are then 0.77
    # of those inserted, one every 40 steps, and the paper's replay ratio is 0.8. Sequences of 120 with n = 5.
    "r2d2": System(steps=16_640.0, updates=5.0, batch=64, window_rows=125, stack=4),
}


@dataclass(frozen=True)
class Costs:
    """What one core acts per second, what an update takes, and what a shard takes in and gives out per second."""

    actor_steps: float
    update_seconds: float
    shard_rows: float
    shard_bytes: float


def simulate(
    costs: Costs, system: System, *, actors: int, shards: int, seconds: float, seed: int = 0
) -> dict[str, float]:
    """Play ``seconds`` of a cluster through; returns steps inserted and updates per second, and how busy shards are.

    Actors fill messages, each in a time that varies by a fifth, and wait where two are under way. A shard serves
    inserts and draws one at a time, in the order they come. The learner has ``AHEAD`` batches on order, from any shard.
    """
    chance = np.random.default_rng(seed)
    free, busy = [0.0] * shards, [0.0] * shards  # when a shard is idle, and how long it has worked
    under_way, waiting = [0] * actors, [False] * actors
    inserted, updates, learner_free = 0, 0, 0.0
    insert, draw = ROWS / costs.shard_rows, system.batch_bytes / costs.shard_bytes
    events: list[tuple[float, int, str, int]] = []
    count = 0

    def at(when: float, what: str, who: int) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, what, who))

    def serve(shard: int, now: float, work: float) -> float:
        free[shard] = max(free[shard], now) + work
        busy[shard] += work
        return free[shard]

    def fill(actor: int, now: float) -> None:
        at(now + ROWS / costs.actor_steps * chance.uniform(0.8, 1.2), "filled", actor)

    for actor in range(actors):
        fill(actor, chance.uniform(0, ROWS / costs.actor_steps))
    for _ in range(AHEAD):
        at(0.0, "asked", int(chance.integers(shards)))
    while events and events[0][0] < seconds:
        now, _, what, who = heapq.heappop(events)
        if what == "filled":
            under_way[who] += 1
            at(serve(who % shards, now, insert), "taken", who)
            waiting[who] = under_way[who] >= UNDER_WAY
            if not waiting[who]:
                fill(who, now)
        elif what == "taken":
            inserted += ROWS
            under_way[who] -= 1
            if waiting[who]:
                waiting[who] = False
                fill(who, now)
        elif what == "asked":
            at(serve(who, now, draw), "drawn", who)
        elif what == "drawn":
            learner_free = max(learner_free, now) + costs.update_seconds
            at(learner_free, "learned", who)
        else:
            updates += 1
            at(now, "asked", int(chance.integers(shards)))
    return {
        "steps_per_second": inserted / seconds,
        "updates_per_second": updates / seconds,
        "busiest_shard": max(busy) / seconds,
    }


def fewest(costs: Costs, system: System, seconds: float) -> tuple[int, int]:
    """The actors and shards that together are fewest and reach 98% of both rates.

    Raises:
        SystemExit: No number of shards up to ``LIMIT`` does.
    """

    def reached(actors: int, shards: int) -> bool:
        got = simulate(costs, system, actors=actors, shards=shards, seconds=seconds)
        return got["steps_per_second"] >= 0.98 * system.steps and got["updates_per_second"] >= 0.98 * system.updates

    least = ceil(system.steps / costs.actor_steps)  # that never wait
    best: tuple[int, int] | None = None
    for shards in range(1, LIMIT + 1):
        most = 4 * least if best is None else sum(best) - shards - 1
        if most < least:
            break
        enough = next((n for n in range(least, most + 1, max(1, least // 20)) if reached(n, shards)), None)
        if enough is not None:
            best = (enough, shards)
    if best is None:
        raise SystemExit(f"no number of shards up to {LIMIT} reaches these rates")
    return best


def measured(name: str, repeats: int) -> dict[str, Any]:
    """What one core acts (one environment, one thread), and what an update of the published size takes."""
    made, system = made_by(), SYSTEMS[name]
    task = api.compose(
        "ALE/Pong-v5",
        agent=name,
        preset="atari",
        config={"num_envs": 1},
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    env = make("ALE/Pong-v5", columns=1, options=EnvOptions())
    actor = task.agent.actor(env, seed=0, total=10**9, tell_values=task.agent.tell_values, device="cpu")
    actor.collect(200)
    acting = []
    for _ in range(repeats):
        begun = time.perf_counter()
        actor.collect(200)
        acting.append(200 / (time.perf_counter() - begun))
    env.close()
    torch.set_num_threads(cores)
    learner = task.agent.learner(device="cpu", seed=0)
    spec, window = atari_spec(actions=task.agent.spec.actions), task.agent.window
    stacked = replace(spec, observation={"obs": Leaf(kind="image", shape=(system.stack, 84, 84), dtype="uint8")})
    made_up = batch(stacked, learner.online, window.burn_in + window.length + window.ahead, system.batch)
    learner.update(made_up, 0.0)
    learning = []
    for _ in range(repeats):
        begun = time.perf_counter()
        learner.update(made_up, 0.0)
        learning.append(time.perf_counter() - begun)
    return {
        "system": name,
        "actor_steps_per_second": round(statistics.median(acting), 1),
        "update_seconds": round(statistics.median(learning), 3),
        "threads": cores,
        "repeats": repeats,
        **made,
    }


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of the table: the papers' learner, and this machine's, with the same actors and shards."""
    system = SYSTEMS[name]
    (cost,) = [row for row in read(COSTS) if row["system"] == name]
    rate = {row["measure"]: row for row in read(RATES) if row["shards"] == "1"}
    here = Costs(
        actor_steps=float(cost["actor_steps_per_second"]),
        update_seconds=float(cost["update_seconds"]),
        shard_rows=float(rate["insert"]["per_shard_per_second"]),
        shard_bytes=1e6 * float(rate["sample"]["megabytes_per_second"]),
    )
    fast = Costs(here.actor_steps, 0.9 / system.updates, here.shard_rows, here.shard_bytes)
    actors, shards = fewest(fast, system, seconds=60.0)
    made = made_by()
    table = []
    for learner, costs in zip(LEARNERS, (fast, here), strict=True):
        got = simulate(costs, system, actors=actors, shards=shards, seconds=60.0)
        table.append(
            {
                "system": name,
                "learner": learner,
                "actors": actors,
                "shards": shards,
                "machines": ceil((actors + shards) / CORES) + 1,
                "update_seconds": round(costs.update_seconds, 3),
                "steps_per_second": round(got["steps_per_second"]),
                "published_steps": system.steps,
                "updates_per_second": round(got["updates_per_second"], 2),
                "published_updates": system.updates,
                "busiest_shard": round(got["busiest_shard"], 2),
                "megabytes_per_second": round(
                    (got["steps_per_second"] * FRAME + got["updates_per_second"] * system.batch_bytes) / 1e6
                ),
                **made,
            }
        )
    return table


def main() -> None:
    """Read the command line; measure, if asked to; and look for the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure this machine's costs first (some minutes)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    asked = parser.parse_args()
    for name in asked.systems:
        if asked.measure:
            put(COSTS, [measured(name, asked.repeats)], ("system",), {"system": SYSTEMS})
        for row in rows_of(name):
            put(OUT, [row], ("system", "learner"), {"system": SYSTEMS, "learner": LEARNERS})
            print(row, flush=True)


if __name__ == "__main__":
    main()
