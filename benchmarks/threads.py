"""From which size on does an update gain from a second thread? What ``running.process.SMALL`` rests on.

``python benchmarks/threads.py`` trains agents for some hundred updates with one thread and with all cores, in turns,
and writes benchmarks/results/threads.csv: milliseconds per update with acting (medians of turns), beside the bytes of
activations that an update keeps. ``--busy`` has as many other processes as there are cores want them meanwhile, and
writes threads-busy.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.rows import made_by, write

from retorq import api
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.running.plan import activation_bytes, cores
from retorq.running.process import prepare, small
from retorq.running.train import RunOptions
from retorq.running.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
CASES = (
    ("memory", "recurrent_iqn", "toy"),
    ("CartPole-v1", "iqn", "toy"),
    ("MinAtar/Breakout-v1", "dqn", "minatar"),
    ("MinAtar/Breakout-v1", "noisy_dqn", "minatar"),
    ("MinAtar/Breakout-v1", "r2d2", "minatar"),
    ("MinAtar/Breakout-v1", "recurrent_iqn", "minatar"),
    ("MinAtar/Breakout-v1", "rainbow", "minatar"),
    ("MinAtar/Breakout-v1", "iqn", "minatar"),
    ("ALE/Pong-v5", "dqn", "laptop"),
    ("ALE/Pong-v5", "recurrent_iqn", "laptop"),
)


def measured(env_id: str, agent: str, preset: str, turns: int, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    task = api.compose(
        env_id, agent=agent, preset=preset, config={"warmup": 500}, options=EnvOptions(), device="cpu", seed=0
    )
    env = make(env_id, columns=task.agent.columns, seed=0)
    trainer = Trainer(task.agent, env, total=10**6, seed=0)
    counts = (1, cores())
    torch.set_num_threads(1)
    while trainer.updates < 5:
        trainer.step()
    times: dict[int, list[float]] = {count: [] for count in counts}
    for turn in range(turns):
        for count in counts if turn % 2 else counts[::-1]:
            torch.set_num_threads(count)
            begun, before = time.perf_counter(), trainer.updates
            while time.perf_counter() - begun < seconds:
                trainer.step()
            times[count].append((time.perf_counter() - begun) / max(1, trainer.updates - before) * 1e3)
    env.close()
    one, all_cores = (statistics.median(times[count]) for count in counts)
    return {
        "env": env_id,
        "agent": agent,
        "preset": preset,
        "activation_mb": round(activation_bytes(task.agent) / 1e6, 2),
        "ms_one_thread": round(one, 2),
        f"ms_{counts[1]}_threads": round(all_cores, 2),
        "gain": round(one / all_cores, 2),
        "chosen": 1 if small(task.agent) else counts[1],
    }


def _busy() -> None:
    while True:
        pass


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--busy", action="store_true", help="beside other processes that want all cores")
    asked = parser.parse_args()
    prepare(RunOptions(steps=1))
    others = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(cores() if asked.busy else 0)]
    for other in others:
        other.start()
    by, rows = made_by(), []
    for case in CASES:
        rows.append(measured(*case, asked.turns, asked.seconds) | by)
        print(rows[-1], flush=True)
    for other in others:
        other.kill()
    write(RESULTS / f"threads{'-busy' if asked.busy else ''}.csv", rows)


if __name__ == "__main__":
    main()
