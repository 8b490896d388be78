"""The replay in shards: what a run makes of losing all its actors and shards, and how fast rows and batches travel.

``python benchmarks/shards.py killed [--seeds 3]`` trains Ape-X on ``catch`` with two actors and two shards on Ray. Each
of the four is killed once within 20 seconds after the last of them came up; the final weights are evaluated greedily
over 100 games. One row per run in ``benchmarks/results/shards_killed.csv``; rows that are there are not made again.

``python benchmarks/shards.py rates`` measures one and two shards of made-up frames and writes
``benchmarks/results/shards_rates.csv``: medians of interleaved repeats, all on this machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch

import retorq
from retorq.acting.cluster import STORE, LocalRay
from retorq.bench.made_up import atari_spec, trajectory
from retorq.distributed.peers import Entry, OnRay
from retorq.distributed.shard import Shard
from retorq.distributed.sharded import ShardedReplay
from retorq.distributed.shards import Shards
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read

RESULTS = Path(__file__).parent / "results"
KILLED, RATES = RESULTS / "shards_killed.csv", RESULTS / "shards_rates.csv"
STEPS, EACH = 15_000, 5.0  # seconds from one kill to the next
COLUMNS, ROWS, BATCH, MESSAGES, BATCHES, REPEATS = 16, 10, 512, 60, 20, 5


def processes(kind: str) -> list[psutil.Process]:
    """The run's processes of Ray that hold an actor (``Hosted``) or a shard (``Host``), oldest first."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            name = child.cmdline()[0].split(".")[0].split()[0]
        except (psutil.Error, IndexError):
            continue
        if name == f"ray::{kind}":
            found.append(child)
    return sorted(found, key=lambda process: process.create_time())


class Killer(threading.Thread):
    """Waits until two actors and two shards are there, and then kills one after the other."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        """When, after all were there."""
        self.over = False

    def run(self) -> None:
        """Until all four are dead, or the run is over."""
        victims: list[psutil.Process] = []
        while not self.over and len(victims) < 4:
            actors, shards = processes("Hosted"), processes("Host")
            victims = [*actors, *shards] if len(actors) == len(shards) == 2 else []
            time.sleep(0.1)
        begun = time.monotonic()
        for number, at in enumerate((0, 2, 1, 3)):  # an actor, a shard, the other actor, the other shard
            while not self.over and time.monotonic() - begun < EACH * (number + 0.5):
                time.sleep(0.05)
            if self.over:
                return
            victims[at].kill()
            self.seconds.append(round(time.monotonic() - begun, 1))


def killed(seed: int) -> dict[str, Any]:
    """Train, kill and evaluate with one seed."""
    folder, made, started, killer = Path(tempfile.mkdtemp()), made_by(), time.monotonic(), Killer()
    killer.start()
    trained = retorq.train(
        "catch",
        "apex_dqn",
        steps=STEPS,
        seed=seed,
        run=folder / "run",
        preset="toy",
        threads=1,
        pool="ray",
        actors=2,
        replay_shards=2,
        checkpoint_seconds=4.0,
        say=lambda line: None,
    )
    killer.over = True
    seconds = time.monotonic() - started
    last = trained.metrics[-1]
    if trained.code != 0 or len(killer.seconds) < 4 or last.get("shards_replaced", 0) < 2:
        raise SystemExit(f"seed {seed}: code {trained.code}, kills {killer.seconds}; nothing was written")
    record = trained.load().evaluate(protocol="greedy", episodes=100, seed=10_000 + seed)
    shutil.rmtree(folder)
    return {
        "agent": "apex_dqn",
        "env": "catch",
        "seed": seed,
        "steps": last["step"],
        "updates": last["updates"],
        "replay_ratio": last["replay_ratio"],
        "last_kill_seconds": killer.seconds[-1],
        "actors_replaced": int(last["actors_replaced"]),
        "shards_replaced": int(last["shards_replaced"]),
        "rows_lost": int(last["rows_lost"]),
        "windows_lost": int(last["windows_lost"]),
        "seconds": round(seconds, 1),
        "mean": round(record["mean"], 3),
        "passed": record["mean"] >= 0.9,
        **made,
    }


def shard(columns: int) -> Shard:
    """A shard of Ape-X's replay of Atari frames: prioritized transitions of three steps, stacks of four."""
    window = Window(length=1, ahead=3, margin=3)
    layout = Layout(spec=atari_spec(), state={})
    capacity = 1_500 * columns
    return Shard(
        Replay(layout=layout, window=window, columns=columns, capacity=capacity, priorities=Priorities(), stack=4)
    )


def rates(count: int) -> list[dict[str, Any]]:
    """Rows in and windows out, per second and shard."""
    made = made_by()
    batch_bytes = BATCH * 4 * 4 * 84 * 84
    cluster = LocalRay(store=STORE + 6 * batch_bytes)
    try:
        entry = Entry(name="benchmarks.shards:shard", arguments={"columns": COLUMNS // count})
        replay = ShardedReplay(Shards(lambda _, life: OnRay(cluster.ray, entry), count), batch_size=BATCH)
        rows, columns = trajectory(atari_spec(), ROWS, COLUMNS), np.arange(COLUMNS)
        message = ROWS * COLUMNS
        times: dict[str, list[float]] = {"insert": [], "sample": []}
        replay.extend(columns, rows)
        replay.shards.settle()
        for _ in range(REPEATS):
            times["insert"].append(MESSAGES * message / _timed(lambda: _insert(replay, columns, rows)) / count)
            times["sample"].append(BATCHES * BATCH / _timed(lambda: _sample(replay)) / count)
    finally:
        cluster.close()
    size = {"insert": 84 * 84, "sample": 4 * 4 * 84 * 84}
    return [
        {
            "measure": measure,
            "shards": count,
            "message": f"{ROWS}x{COLUMNS} rows" if measure == "insert" else f"{BATCH} windows",
            "per_shard_per_second": round(median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "megabytes_per_second": round(median(values) * count * size[measure] / 1e6, 1),
            "repeats": REPEATS,
            **made,
        }
        for measure, values in times.items()
    ]


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _insert(replay: ShardedReplay, columns: np.ndarray, rows: Any) -> None:
    for _ in range(MESSAGES):
        replay.extend(columns, rows)
    replay.shards.settle()


def _sample(replay: ShardedReplay) -> None:
    """Batches with new priorities for each, as a learner that takes no time."""
    for _ in range(BATCHES):
        batch = replay.sample(BATCH)
        replay.update(batch.keys, torch.ones(1, BATCH), torch.ones(1, BATCH))
    replay.shards.settle()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("killed", "rates"))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0..N-1")
    asked = parser.parse_args()
    if asked.what == "rates":
        for count in (1, 2):
            put(RATES, rates(count), ("measure", "shards"), {"measure": ("insert", "sample")})
        return
    there = {row["seed"] for row in read(KILLED)}
    for seed in range(asked.seeds):
        if str(seed) not in there:
            row = killed(seed)
            put(KILLED, [row], ("seed",), {})
            print(row, flush=True)


if __name__ == "__main__":
    main()
