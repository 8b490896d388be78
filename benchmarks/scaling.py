"""How many actors one machine feeds, and what the learner notices of it: ``python benchmarks/scaling.py``.

A game of 15 steps a second (``slow_game.py``) is played by 1, 2, 4 .. 32 actors of one environment each, with each pool
of processes; they choose every action with the network of Ape-X DQN's laptop preset. One row per pool and number of
actors goes to ``benchmarks/results/scaling.csv``:

``start_seconds`` until every actor has sent rows; ``steps_per_second`` over the seconds after that, while nobody
learns, and ``share`` of what these games give at most; ``megabytes_per_actor``, as Linux shares out resident memory
(PSS); ``updates_per_second`` of the learner while they play, and ``updates_share`` of what it does alone, the median of
turns that alternate within one process (all actors are stopped with SIGSTOP for the turns alone).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by, put, read
from benchmarks.slow_game import HZ

from retorq import api
from retorq.acting.supervised import Supervised
from retorq.envs.options import EnvOptions
from retorq.running.actors import actors
from retorq.running.train import RunOptions, Task

OUT = Path(__file__).parent / "results" / "scaling.csv"
KEY = ("pool", "actors")
POOLS = ("process", "ray")
NUMBERS = (1, 2, 4, 8, 16, 32)
TURN = 5.0  # seconds


def task(number: int) -> Task:
    """Ape-X DQN for ``number`` copies of the slow game."""
    return api.compose(
        "benchmarks.slow_game:SlowGame",
        agent="apex_dqn",
        preset="laptop",
        config={"num_envs": number},
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )


def processes(above: int) -> list[int]:
    """All processes that come of ``above``, at any distance."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(
                int(entry.name)
            )
    found, waiting = [], [above]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def players() -> list[int]:
    """The processes in which actors play: those that hold PyTorch."""
    found = []
    for process in processes(os.getpid()):
        with suppress(OSError):
            if "libtorch" in Path(f"/proc/{process}/maps").read_text():
                found.append(process)
    return found


def resident(process: int) -> float:
    """Megabytes, pages that several share divided among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def played(pool: Supervised, seconds: float) -> float:
    """Steps per second that arrive."""
    steps, started = pool.steps, time.monotonic()
    while time.monotonic() - started < seconds:
        pool.receive()
    return (pool.steps - steps) / (time.monotonic() - started)


def learned(learner: Any, batch: Any, pool: Supervised | None, seconds: float) -> float:
    """Updates per second of learning, what has come being taken every ten updates and new weights told.

    Waiting for rows is no part of these seconds: the batch is always the same.
    """
    updates, spent = 0, 0.0
    while spent < seconds:
        started = time.monotonic()
        for _ in range(10):
            learner.update(batch, 0.0)
        if pool is not None:
            pool.publish(learner.online, learner.updates)
        spent += time.monotonic() - started
        updates += 10
        while pool is not None and pool.receive(wait=False):
            pass
    return updates / spent


def measure(name: str, number: int, rounds: int) -> dict[str, Any]:
    """One row."""
    made, composed = made_by(), task(number)
    options = RunOptions(steps=10**9, pool=name, actors=number, threads=1)  # type: ignore[arg-type]
    make = actors(composed, options)
    assert callable(make)
    learner = composed.agent.learner(device="cpu", seed=0)
    replay = composed.agent.replay(device="cpu", seed=0)
    started = time.monotonic()
    pool: Any = make(learner.online, 0)
    pool.publish(learner.online, 0)
    seen: set[int] = set()
    try:
        while len(seen) < number:
            for columns, rows in pool.receive():
                seen |= set(columns.tolist())
                replay.extend(columns, rows)
            for sentence in pool.faults():
                print(sentence, file=sys.stderr, flush=True)
        start = time.monotonic() - started
        steps = statistics.median(played(pool, TURN) for _ in range(rounds))
        while replay.size < 200 * number:
            for columns, rows in pool.receive():
                replay.extend(columns, rows)
        memory, batch = [resident(process) for process in players()], replay.sample(composed.agent.batch_size)
        beside, alone = [], []
        for _ in range(rounds):
            beside.append(learned(learner, batch, pool, TURN))
            stopped = players()
            for process in stopped:
                os.kill(process, signal.SIGSTOP)
            alone.append(learned(learner, batch, None, TURN))
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        replaced = pool.replaced
    finally:
        pool.close()
    return {
        "pool": name,
        "actors": number,
        "start_seconds": round(start, 1),
        "steps_per_second": round(steps, 1),
        "share": round(steps / (HZ * number), 3),
        "megabytes_per_actor": round(statistics.mean(memory), 1),
        "updates_per_second": round(statistics.median(beside), 2),
        "updates_alone": round(statistics.median(alone), 2),
        "updates_share": round(statistics.median(b / a for b, a in zip(beside, alone, strict=True)), 3),
        "replaced": replaced,
        **made,
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--actors", nargs="+", type=int, default=list(NUMBERS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of 5 seconds, of which the median is taken")
    parser.add_argument("--again", action="store_true", help="measure rows that are there anew")
    asked = parser.parse_args()
    there = set() if asked.again else {tuple(row[name] for name in KEY) for row in read(OUT)}
    for number in asked.actors:
        for name in asked.pools:
            if (name, str(number)) not in there:
                row = measure(name, number, asked.rounds)
                put(OUT, [row], KEY, {"pool": POOLS})
                print(row, flush=True)


if __name__ == "__main__":
    main()
