"""The learning table: every agent on every small task, several seeds, where it must learn and where it must fail.

``python benchmarks/family.py [--agents ...] [--tasks ...] [--workers 2]`` trains, evaluates the final weights greedily
over 100 whole games, and adds one row per run to ``benchmarks/results/family.csv``. Rows that are there are not made
again (``--again`` makes them anew), so the table can be stopped and gone on with. Each run has one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.outcomes import outcome
from benchmarks.rows import made_by, put, read

OUT = Path(__file__).parent / "results" / "family.csv"
KEY = ("task", "agent", "seed")
MEMORY = frozenset({"drqn", "r2d2", "recurrent_iqn"})
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {  # row of the table: agent, settings
    "dqn": ("dqn", {}),
    "double dueling 3-step dqn": ("dqn", {"double": True, "dueling": True, "n_step": 3}),
    "m-dqn": ("dqn", {"munchausen": True}),
    "noisy_dqn": ("noisy_dqn", {}),
    "c51": ("c51", {}),
    "qr_dqn": ("qr_dqn", {"quantiles": 50}),
    "iqn": ("iqn", {}),
    "m-iqn": ("iqn", {"munchausen": True}),
    "rainbow": ("rainbow", {}),
    "drqn": ("drqn", {}),
    "r2d2": ("r2d2", {}),
    "recurrent_iqn": ("recurrent_iqn", {}),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment, a budget in agent steps for agents without and with memory, and what each must reach."""

    env: str
    steps: int
    steps_memory: int
    aim: str
    aim_memory: str
    seeds: int = 5  # of the toys in the package; 3 of the others
    settings: dict[str, Any] = field(default_factory=dict)  # of every agent
    with_memory: dict[str, Any] = field(default_factory=dict)  # of those with a memory
    of_agent: dict[str, dict[str, Any]] = field(default_factory=dict)


RETURNS_TO_100 = {"lowest_value": 0.0, "highest_value": 100.0}  # gamma 0.99, one point a step
CARTPOLE = {"c51": RETURNS_TO_100, "rainbow": RETURNS_TO_100}
# A point a step for up to 500: what Recurrent IQN needs to balance without seeing velocities (benchmarks/learning.py).
LONG = {
    "elapsed_time": False,
    "n_step": 10,
    "gamma": 0.997,
    "rescale_epsilon": 1e-3,
    "batch_size": 32,
    "replay_ratio": 64.0,
    "target_period": 200,
    "replay_size": 200_000,
}
# Half of the 200,000 steps at which published curves are first read off: the table takes hours, not days.
MINATAR: dict[str, Any] = {
    "steps": 100_000,
    "steps_memory": 100_000,
    "seeds": 3,
    "settings": {"epsilon_steps": 50_000},
    # Instead of 64 and 64, as published, with which a run takes 45 minutes. The loss is a sum over them: an eighth of
    # it needs an eighth of Adam's epsilon, or the steps are shorter.
    "of_agent": {"iqn": {"samples": 8, "target_samples": 8, "optimizer_epsilon": 0.01 / 32 / 8}},
}
# The budget of the others, one seed, is kept beside it: after that most agents have not begun to learn.
ASTERIX: dict[str, Any] = {"steps": 200_000, "steps_memory": 200_000, "settings": {"epsilon_steps": 100_000}}
TASKS = {
    "catch": Task(env="catch", steps=10_000, steps_memory=15_000, aim=">= 0.9", aim_memory=">= 0.9"),
    "memory": Task(env="memory", steps=15_000, steps_memory=20_000, aim="<= 0.3", aim_memory=">= 0.9"),
    "cartpole": Task(
        env="CartPole-v1",
        steps=50_000,
        steps_memory=60_000,
        aim=">= 100",
        aim_memory=">= 100",
        seeds=3,
        settings={"anneal_learning_rate": True},
        with_memory=LONG,
        of_agent=CARTPOLE,
    ),
    "masked_cartpole": Task(
        env="masked_cartpole",
        steps=50_000,
        steps_memory=100_000,
        aim="<= 100",
        aim_memory=">= 250",
        seeds=3,
        settings={"anneal_learning_rate": True},
        with_memory=LONG,
        of_agent=CARTPOLE,
    ),
    "minatar_breakout": Task(env="MinAtar/Breakout-v0", aim=">= 3", aim_memory=">= 3", **MINATAR),
    "minatar_asterix": Task(env="MinAtar/Asterix-v0", aim=">= 1", aim_memory=">= 1", **MINATAR | ASTERIX),
    "minatar_space_invaders": Task(env="MinAtar/SpaceInvaders-v0", aim=">= 12", aim_memory=">= 12", **MINATAR),
    "minatar_asterix_100k": Task(env="MinAtar/Asterix-v0", aim=">= 1", aim_memory=">= 1", **MINATAR | {"seeds": 1}),
}


def run(row: str, name: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one agent on one task with one seed."""
    (agent, settings), task, by = AGENTS[row], TASKS[name], made_by()
    remembers = agent in MEMORY
    steps, aim = (task.steps_memory, task.aim_memory) if remembers else (task.steps, task.aim)
    asked = task.settings | (task.with_memory if remembers else {}) | task.of_agent.get(agent, {}) | settings
    preset = "minatar" if task.env.startswith("MinAtar") else "toy"
    got = outcome(task.env, agent, seed=seed, steps=steps, preset=preset, threads=1, **asked)
    mean = got.record["mean"]
    comparison, bound = aim.split()
    passed = mean >= float(bound) if comparison == ">=" else mean <= float(bound)
    return {
        "task": name,
        "agent": row,
        "seed": seed,
        "steps": steps,
        "updates": got.last["updates"],
        "seconds": round(got.seconds, 1),
        "mean": round(mean, 3),
        "lowest": min(got.record["scores"]),
        "training_score": round(got.last["score_mean"], 3),
        "aim": aim,
        "passed": passed,
        **by,
    }


def jobs(agents: list[str], tasks: list[str], seeds: int | None, again: bool) -> Iterator[tuple[str, str, int]]:
    """Agent, task and seed of the rows to make: first one seed of everything, then the next."""
    there = {(row["task"], row["agent"], int(row["seed"])) for row in read(OUT)}
    for seed in range(max(seeds or TASKS[name].seeds for name in tasks)):
        for name in tasks:
            for agent in agents:
                if seed < (seeds or TASKS[name].seeds) and (again or (name, agent, seed) not in there):
                    yield agent, name, seed


def table() -> str:
    """The csv as a table for docs/results.md: agents by tasks, the seeds' mean scores, and how many reached the aim."""
    cells: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read(OUT):
        cells.setdefault((row["agent"], row["task"]), []).append(row)
    tasks = [task for task in TASKS if any(name == task for _, name in cells)]
    lines = ["| agent | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    aims = [f"{TASKS[task].aim} / {TASKS[task].aim_memory}" for task in tasks]
    lines.append("| *aim without / with memory* | " + " | ".join(aims) + " |")
    for agent in AGENTS:
        lines.append(f"| {agent} | " + " | ".join(_cell(cells.get((agent, task), [])) for task in tasks) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: list[dict[str, str]]) -> str:
    if not found:
        return ""
    means = [float(row["mean"]) for row in found]
    passed = sum(row["passed"] == "True" for row in found)
    return f"{sum(means) / len(means):.4g} ({passed} of {len(found)})"


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, help="seeds 0..N-1 (default: by task)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--again", action="store_true", help="make rows anew that are there")
    parser.add_argument("--table", action="store_true", help="print the table of docs/results.md, and train nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table(), end="")
        return
    with ProcessPoolExecutor(asked.workers, max_tasks_per_child=1) as pool:
        waiting = [pool.submit(run, *job) for job in jobs(asked.agents, asked.tasks, asked.seeds, asked.again)]
        for done in as_completed(waiting):
            row = done.result()
            put(OUT, [row], key=KEY, order={"task": TASKS, "agent": AGENTS})
            print(row, flush=True)


if __name__ == "__main__":
    main()
