"""Our agents beside those of other libraries: steps per second, peak memory, and the score at equal steps.

``python benchmarks/peers.py [--what speed memory score] [--tasks minatar pong]`` writes benchmarks/results/peers.csv,
a row per measurement, task and side, from the single turns in peers-turns.csv. Turns for memory and scores that are
there are not taken again (``--again`` takes them anew); those for speed are always taken together. Pairs have the same
environments, network, optimizer, batch (32), replay ratio (8), target period, exploration, cores and version of torch,
in float32; each keeps its experience in its own usual way. Every turn is a process of its own, and sides take turns.
The others live in ``.venv-peers``; what had to be adapted for each is told in peer_sides.py.

``speed``: after a short warm-up, medians of turns; ours once more in bfloat16. ``memory``: peak resident memory of the
process once 100,000 steps are stored, and how much more that is than with room for 1,000. ``score``: mean of the last
100 training games after 100,000 steps of MinAtar Breakout, 3 seeds; with ``--workers`` several runs at a time share
the cores, so the rates of these runs mean nothing and are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import peer_common as common  # noqa: E402
from benchmarks.against_sb3 import peers_python  # noqa: E402
from benchmarks.peer_common import SETTLE, Clock, Plan, Turn  # noqa: E402
from benchmarks.peer_sides import SIDES  # noqa: E402
from benchmarks.rows import made_by, numbers, put, read, write  # noqa: E402

PAIRS = {  # ours: the others it is held against
    "retorq_dqn": ("sb3_dqn",),
    "retorq_qr_dqn": ("sb3_qr_dqn",),
    "retorq_iqn": ("tianshou_iqn", "pfrl_iqn"),
    "retorq_rainbow": ("tianshou_rainbow",),
}
HALF = "_bf16"  # ours in bfloat16, for speed only
SMALL = 1_000  # steps stored by the run that the replay's own memory is measured against
KEY, KINDS = ("measurement", "task", "side", "turn"), ("speed", "memory_small", "memory", "score")
EVERY = [side for ours, others in PAIRS.items() for side in (ours, ours + HALF, *others)]
TASKS = {"minatar": "MinAtar/Breakout-v1", "pong": "ALE/Pong-v5"}
OF_AGENT: dict[str, dict[str, Any]] = {
    "dqn": {},
    "qr_dqn": {"quantiles": common.QUANTILES},
    "iqn": {
        "samples": common.SAMPLES,
        "target_samples": common.TARGET_SAMPLES,
        "action_samples": common.ACTION_SAMPLES,
    },
    "rainbow": {"priority_exponent": common.ALPHA, "n_step": common.STEPS_AHEAD},
}


def settings(plan: Plan, agent: str, precision: str) -> dict[str, Any]:
    """Our agent with the settings that all sides share."""
    shared: dict[str, Any] = {
        "num_envs": plan.environments,
        "torso": "nature" if plan.task == "pong" else "minatar",
        "torso_norm": False,
        "center_images": False,
        "stack": plan.stack,
        "hidden_size": plan.hidden,
        "batch_size": common.BATCH,
        "gamma": common.GAMMA,
        "optimizer": "adam",
        "learning_rate": common.LEARNING_RATE,
        "optimizer_epsilon": common.ADAM_EPSILON,
        "clip_gradient": common.CLIP,
        "target_period": plan.target_steps * common.RATIO // common.BATCH,
        "replay_size": plan.capacity,
        "replay_ratio": float(common.RATIO),
        "warmup": plan.warmup,
        "precision": precision,
        "publish_period": 1,
    }
    if agent != "rainbow":
        start = 1.0 if plan.decay else common.EPSILON
        shared |= {"epsilon_start": start, "epsilon_final": common.EPSILON, "epsilon_steps": plan.decay}
    return shared | OF_AGENT[agent]


def retorq(plan: Plan, side: str) -> Turn:
    """One turn of ours."""
    import retorq as library
    from retorq import api
    from retorq.envs.make import make
    from retorq.envs.options import EnvOptions
    from retorq.running.process import prepare
    from retorq.running.train import RunOptions
    from retorq.running.trainer import Trainer

    agent, precision = side.removeprefix("retorq_").removesuffix(HALF), "bf16" if side.endswith(HALF) else "fp32"
    prepare(RunOptions(steps=1, threads=plan.threads))
    made = api.compose(
        TASKS[plan.task],
        agent=agent,
        preset="minatar",
        config=settings(plan, agent, precision),
        options=EnvOptions(),
        device="cpu",
        seed=plan.seed,
    )
    env = make(TASKS[plan.task], columns=plan.environments, seed=plan.seed)
    trainer = Trainer(made.agent, env, total=max(plan.steps, 10_000), seed=plan.seed)
    clock, going = Clock(plan), True
    while going:
        trainer.step()
        for episode in trainer.pool.drain():
            clock.game(episode.score)
        going = clock.tick(trainer.steps, trainer.learner.updates)
    env.close()
    return clock.turn(sum(p.numel() for p in made.agent.network.parameters()), library.__version__)


def plan_of(what: str, task: str, environments: int, threads: int, seed: int, quick: bool) -> Plan:
    """What a turn of a measurement consists of."""
    warmup, steps, capacity = {
        "speed": (1_000, 1_000 + SETTLE + (6_000 if task == "minatar" else 1_000), 20_000),
        "memory": (100_000, 100_000 + SETTLE + 200, 100_000),
        "memory_small": (SMALL, SMALL + SETTLE + 200, SMALL),
        "score": (5_000, 100_000, 100_000),
    }[what]
    if quick:
        warmup, steps, capacity = 64, 64 + SETTLE + 40, 500
    return Plan(task, environments, steps, warmup, capacity, threads, seed, 50_000 if what == "score" else 0)


def run_side(side: str, plan: Plan) -> Turn:
    """A turn in this process."""
    if side in SIDES:
        import torch

        torch.set_num_threads(plan.threads)
        act, algorithm = SIDES[side]
        return act(plan, algorithm)
    return retorq(plan, side)


def take_turn(side: str, what: str, plan: Plan, quick: bool) -> Turn:
    """A turn in a fresh process of the side's own environment."""
    python = str(peers_python()) if side in SIDES else sys.executable
    words = ["--side", side, "--what", what, "--tasks", plan.task, "--environments", str(plan.environments)]
    words += ["--threads", str(plan.threads), "--seed", str(plan.seed), *(["--quick"] if quick else [])]
    ran = subprocess.run([python, "-W", "ignore", __file__, *words], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{side} failed:\n{ran.stderr[-2000:]}")
    turn: Turn = json.loads(ran.stdout.splitlines()[-1])
    return turn


def rate_of(turns: list[Turn]) -> float:
    """Median steps per second."""
    return statistics.median(turn["steps"] / turn["seconds"] for turn in turns)


def row(
    what: str, task: str, side: str, turns: list[Turn], reference: list[Turn], **more: list[Turn]
) -> dict[str, Any]:
    """A line of the table; refuses to compare what is not the same work.

    Args:
        what: The measurement: speed, memory or score.
        task: The task.
        side: The side.
        turns: Its turns.
        reference: Our turns that it is held against.
        more: ``small``: its turns with room for few steps, for memory; ``half``: ours in bfloat16, for speed.

    Raises:
        ValueError: Networks, threads, torch or replay ratios differ from those of ``reference``.
    """
    for name in ("parameters", "threads", "torch"):
        values = {str(turn[name]) for turn in [*turns, *reference]}
        if len(values) > 1:
            raise ValueError(f"{name} of {side} differ from ours: {sorted(values)}; the sides must do the same work")
    for turn in turns:
        ratio = turn["updates"] * common.BATCH / turn["steps"]
        if abs(ratio - common.RATIO) > 0.05 * common.RATIO + 8 * common.BATCH / turn["steps"]:
            raise ValueError(f"the replay ratio of {side} is {ratio:.2f} instead of {common.RATIO}")
    rates = [turn["steps"] / turn["seconds"] for turn in turns]
    small, half = more.get("small"), more.get("half")
    rate = statistics.median(rates)
    scores = [turn["score"] for turn in turns] if what == "score" else []
    peak = statistics.median(turn["peak_mb"] for turn in turns)
    return {
        "measurement": what,
        "task": task,
        "side": side,
        "turns": len(turns),
        "steps_per_second": round(rate, 1) if what == "speed" else None,
        "lowest": round(min(rates), 1) if what == "speed" else None,
        "highest": round(max(rates), 1) if what == "speed" else None,
        "retorq_over_it": round(rate_of(reference) / rate, 2) if what == "speed" else None,
        "retorq_bf16_over_it": round(rate_of(half) / rate, 2) if half else None,
        "peak_mb": round(peak, 1),
        "replay_mb": round(peak - statistics.median(turn["peak_mb"] for turn in small), 1) if small else None,
        "score": round(statistics.mean(scores), 2) if scores else None,
        "scores": " ".join(f"{score:.2f}" for score in scores) or None,
        "steps": turns[0]["all_steps"],
        "parameters": turns[0]["parameters"],
        "version": turns[0]["version"],
        "commit": turns[0].get("commit"),
        "machine": turns[0].get("machine"),
    }


def rows_of(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table from single turns: each side that has turns, beside ours."""
    made: list[dict[str, Any]] = []
    for what in ("speed", "memory", "score"):
        for task in TASKS:

            def of(side: str, kind: str = what, task: str = task) -> list[Turn]:
                return [t for t in turns if (t["measurement"], t["task"], t["side"]) == (kind, task, side)]

            for ours, others in PAIRS.items():
                for side in (ours, ours + HALF, *others):
                    if of(side) and of(ours):
                        more = {"memory": {"small": of(side, "memory_small")}, "speed": {"half": of(ours + HALF)}}
                        made.append(row(what, task, side, of(side), of(ours), **more.get(what, {})))
    return made


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/results.md: a line per task and side, what was not measured as a dash."""
    lines = [
        "| task | side | steps/s | ours over it, float32 | ours over it, bfloat16 | replay of 100,000 steps | score |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for side in EVERY:
            of = {row["measurement"]: row for row in rows if (row["task"], row["side"]) == (task, side)}
            speed, memory, score = (of.get(what, {}) for what in ("speed", "memory", "score"))
            if not of:
                continue
            theirs = side in SIDES
            cells = [
                f"{speed['steps_per_second']:,.0f}" if speed else "-",
                f"{speed['retorq_over_it']:.2f}x" if speed and theirs else "-",
                f"{speed['retorq_bf16_over_it']:.2f}x" if speed and theirs else "-",
                f"{memory['replay_mb']:,.0f} MB" if memory else "-",
                f"{score['score']:.1f} ({score['scores']})" if score else "-",
            ]
            lines.append(f"| {task} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def turns_of(file: Path) -> list[dict[str, Any]]:
    """Turns from their csv, numbers as numbers."""
    return numbers(file, ("measurement", "task", "side", "torch", "version", "commit", "machine"))


def to_take(
    what: str, task: str, asked: argparse.Namespace, threads: int, file: Path
) -> Iterator[tuple[dict[str, Any], Plan]]:
    """Turns of one measurement on one task that are not in the csv: how each is named, and its plan."""
    sides = [side for side in asked.sides if what == "speed" or not side.endswith(HALF)]
    kinds = {"memory": ["memory_small", "memory"]}.get(what, [what])
    there = {(t["measurement"], t["task"], t["side"], t["turn"]) for t in read(file)}
    for turn in range({"speed": asked.repeats, "memory": 1, "score": asked.seeds}[what]):
        for side in sorted(sides, reverse=bool(turn % 2)):
            for kind in kinds:
                if (kind, task, side, str(turn)) in there and what != "speed" and not asked.again:
                    continue
                plan = plan_of(kind, task, asked.environments, threads, turn if what == "score" else 0, asked.quick)
                yield {"measurement": kind, "task": task, "side": side, "turn": turn}, plan


def measured(what: str, task: str, asked: argparse.Namespace, threads: int, file: Path) -> None:
    """All sides of one measurement on one task, in turns, put into the csv of turns one by one."""
    workers = asked.workers if what == "score" else 1
    by, one_at_a_time = made_by(), threading.Lock()

    def take(named: dict[str, Any], plan: Plan) -> None:
        got = named | take_turn(named["side"], named["measurement"], plan, asked.quick) | by
        with one_at_a_time:
            print(got, file=sys.stderr, flush=True)
            put(file, [got], KEY, {"measurement": KINDS, "task": list(TASKS), "side": EVERY})

    with ThreadPoolExecutor(workers) as pool:  # of threads that wait for the turns' processes
        waiting = [pool.submit(take, *turn) for turn in to_take(what, task, asked, max(1, threads // workers), file)]
        try:
            for done in as_completed(waiting):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # what has not begun, if a turn failed


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=KINDS, default=["speed", "memory", "score"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=EVERY, default=EVERY, help="a side needs ours beside it")
    parser.add_argument("--environments", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side for speed")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side for scores (MinAtar only)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0: as many as there are cores")
    parser.add_argument("--workers", type=int, default=1, help="runs for scores at a time, which share the threads")
    parser.add_argument("--again", action="store_true", help="take turns for memory and scores that are there anew")
    parser.add_argument("--table", action="store_true", help="print the csv as the table of docs/results.md; no turns")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that every side runs; writes nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--side", choices=EVERY, help="only this side, in this process (used by the run itself)")
    parser.add_argument("--seed", type=int, default=0, help="of that side")
    asked = parser.parse_args()
    if asked.side:
        plan = plan_of(asked.what[0], asked.tasks[0], asked.environments, asked.threads, asked.seed, asked.quick)
        print(json.dumps(run_side(asked.side, plan)))
        return
    if asked.table:
        print(markdown(rows_of(turns_of(asked.out / "peers-turns.csv"))))
        return
    from retorq.bench import table
    from retorq.bench.machine import Setup, begin, cores, facts

    setup = Setup(quick=asked.quick, threads=asked.threads or cores())
    begin(setup)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if asked.quick else asked.out
        for what in asked.what:
            for task in asked.tasks:
                if what == "score" and task == "pong":
                    continue  # hours per run
                measured(what, task, asked, setup.threads, out / "peers-turns.csv")
                write(out / "peers.csv", rows_of(turns_of(out / "peers-turns.csv")))
        rows = rows_of(turns_of(out / "peers-turns.csv"))
    print(table.text("beside other libraries", rows, facts(setup)))


if __name__ == "__main__":
    main()
