"""Steps per second of feed-forward DQN on Atari Pong, beside Stable-Baselines3, in one run.

``python benchmarks/against_sb3.py`` writes benchmarks/results/against_sb3.csv. Both sides have the same network (Nature
convolutions, 512 units), optimizer, batch, replay ratio, capacity, number of environments, constant epsilon, cores and
version of torch, all in float32, and each makes its environments in its own usual way (``retorq_bf16``, ours with its
switch for bfloat16, is shown besides). They take turns, each turn in a process of its
own, timed after the replay has begun to be learned from. Stable-Baselines3 lives in an environment of its own,
``.venv-peers``, which is made by the first run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import venv
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers"
BATCH, RATIO, CAPACITY, WARMUP, EPSILON, GAMMA = 32, 8, 20_000, 1_000, 0.05, 0.99
LEARNING_RATE, ADAM_EPSILON, CLIP, TARGET_STEPS = 1e-4, 1e-8, 10.0, 10_000  # the defaults of Stable-Baselines3's DQN
SETTLE = 200  # steps with learning before the clock starts

Turn = dict[str, Any]
"""What a side reports: steps, updates, seconds, parameters, and its versions."""


def retorq_side(environments: int, steps: int, threads: int, precision: str = "fp32") -> Turn:
    """One timed turn of ours: an agent put together from parts."""
    import torch

    import retorq
    from retorq.acting.explore import Fixed
    from retorq.agent import Agent
    from retorq.envs.make import make
    from retorq.learner import Learner
    from retorq.losses.q_learning import QLearning
    from retorq.nn.cores import Stateless
    from retorq.nn.heads import Scalar
    from retorq.nn.network import Extras, Network
    from retorq.nn.torsos import Torso
    from retorq.replay.replay import Replay
    from retorq.replay.storage import Layout
    from retorq.replay.windows import Window
    from retorq.running.process import prepare
    from retorq.running.train import RunOptions
    from retorq.running.trainer import Trainer

    prepare(RunOptions(steps=1, threads=threads))
    env = make("ALE/Pong-v5", columns=environments)
    spec = env.spec
    torso = Torso(spec.observation, convolutions="nature", stack=4)
    core = Stateless(torso.size)
    network = Network(torso, core, Scalar(core.size, 512, spec.actions), Extras(actions=spec.actions))
    window, layout = Window(length=1, ahead=1, margin=3), Layout(spec=spec, state={})
    agent = Agent(
        name="dqn",
        config=None,
        spec=spec,
        network=network,
        learner=partial(
            Learner,
            network,
            QLearning(length=1, n=1, gamma=GAMMA),
            learning_rate=LEARNING_RATE,
            optimizer_epsilon=ADAM_EPSILON,
            clip_gradient=CLIP,
            target_period=TARGET_STEPS * RATIO // BATCH,
            precision=precision,
        ),
        replay=partial(Replay, layout=layout, window=window, columns=environments, capacity=CAPACITY, stack=4),
        explore=Fixed(columns=environments, value=EPSILON),
        layout=layout,
        window=window,
        columns=environments,
        batch_size=BATCH,
        samples_per_step=RATIO,
        warmup=WARMUP,
        capacity=CAPACITY,
        stack=4,
        precision=precision,
    )
    trainer = Trainer(agent, env, total=10_000_000)
    while trainer.steps < WARMUP + SETTLE:
        trainer.step()
    first, updates, start = trainer.steps, trainer.learner.updates, time.perf_counter()
    while trainer.steps < first + steps:
        trainer.step()
    seconds = time.perf_counter() - start
    env.close()
    return {
        "steps": trainer.steps - first,
        "updates": trainer.learner.updates - updates,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": retorq.__version__,
    }


def sb3_side(environments: int, steps: int, threads: int) -> Turn:
    """One timed turn of Stable-Baselines3; runs in its own virtual environment."""
    import ale_py
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    if threads:
        torch.set_num_threads(threads)

    class Clock(BaseCallback):
        begun: tuple[int, int, float] | None = None
        ended: tuple[int, int, float] = (0, 0, 0.0)

        def _on_step(self) -> bool:
            now = (self.num_timesteps, self.model._n_updates, time.perf_counter())
            if self.begun is None and now[0] >= WARMUP + SETTLE:
                self.begun = now
            self.ended = now
            return self.begun is None or now[0] < self.begun[0] + steps

    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=environments, seed=0), n_stack=4)
    every = max(1, BATCH // RATIO // environments)  # vector steps between trainings
    model = stable_baselines3.DQN(
        "CnnPolicy",
        env,
        buffer_size=CAPACITY,
        learning_starts=WARMUP,
        batch_size=BATCH,
        train_freq=(every, "step"),
        gradient_steps=every * environments * RATIO // BATCH,
        gamma=GAMMA,
        learning_rate=LEARNING_RATE,
        max_grad_norm=CLIP,
        target_update_interval=TARGET_STEPS,
        # It skips the network wherever it acts at random, so a constant, small epsilon is the same work for both.
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        device="cpu",
        seed=0,
    )
    clock = Clock()
    model.learn(total_timesteps=10_000_000, callback=clock)
    assert clock.begun is not None
    done, updates, seconds = (b - a for a, b in zip(clock.begun, clock.ended, strict=True))
    return {
        "steps": done,
        "updates": updates,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.q_net.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": stable_baselines3.__version__,
    }


SIDES = {"retorq": retorq_side, "retorq_bf16": partial(retorq_side, precision="bf16"), "sb3": sb3_side}


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is made where it is missing."""
    python = PEERS / "bin" / "python"
    ready = PEERS / ".ready"
    wanted = (ROOT / "benchmarks" / "requirements-peers.txt").read_text()
    if not ready.exists() or ready.read_text() != wanted:
        print(f"setting up {PEERS.name} (once)", file=sys.stderr, flush=True)
        venv.create(PEERS, with_pip=True)
        requirements = str(ROOT / "benchmarks" / "requirements-peers.txt")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        ready.write_text(wanted)
    return python


def take_turn(side: str, environments: int, steps: int, threads: int) -> Turn:
    """Run one side in a fresh process of its own environment."""
    python = sys.executable if side != "sb3" else str(peers_python())
    arguments = ["--side", side, "--environments", str(environments), "--steps", str(steps), "--threads", str(threads)]
    ran = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{side} failed:\n{ran.stderr[-2000:]}")
    turn: Turn = json.loads(ran.stdout.splitlines()[-1])
    return turn


def summary(environments: int, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """One row of the table; refuses to compare what is not the same work.

    Raises:
        ValueError: Networks, threads, torch or replay ratios differ.
    """
    every = [turn for side in turns.values() for turn in side]
    for name in ("parameters", "threads", "torch"):
        values = {str(turn[name]) for turn in every}
        if len(values) > 1:
            raise ValueError(f"{name} differ: {sorted(values)}; the sides must do the same work")
    for turn in every:
        ratio = turn["updates"] * BATCH / turn["steps"]
        if abs(ratio - RATIO) > 0.05 * RATIO + BATCH / turn["steps"] * environments:
            raise ValueError(f"a replay ratio is {ratio:.2f} instead of {RATIO}")
    row: dict[str, Any] = {"environment": "Pong", "environments": environments, "batch": BATCH, "replay_ratio": RATIO}
    for name, side in turns.items():
        rates = [turn["steps"] / turn["seconds"] for turn in side]
        row |= {
            f"{name}_steps_per_second": round(statistics.median(rates), 1),
            f"{name}_lowest": round(min(rates), 1),
            f"{name}_highest": round(max(rates), 1),
        }
    for name in ("retorq", "retorq_bf16"):
        row[f"{name}_over_sb3"] = round(row[f"{name}_steps_per_second"] / row["sb3_steps_per_second"], 2)
    versions = {f"{name}_version": turns[name][0]["version"] for name in ("retorq", "sb3")}
    return row | {"parameters": every[0]["parameters"], "repeats": len(turns["sb3"])} | versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=SIDES, help="only this side, in this process (used by the run itself)")
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=3_000, help="timed steps per turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0: as many as there are cores")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side](asked.environments[0], asked.steps, asked.threads)))
        return
    from retorq.bench import table
    from retorq.bench.machine import Setup, begin, cores, facts

    setup = Setup(threads=asked.threads or cores())
    begin(setup)
    rows = []
    for environments in asked.environments:
        turns: dict[str, list[Turn]] = {side: [] for side in SIDES}
        for repeat in range(asked.repeats):
            for side in sorted(SIDES, reverse=bool(repeat % 2)):
                turns[side].append(take_turn(side, environments, asked.steps, setup.threads))
                print(f"{side}, {environments} environments: {turns[side][-1]}", file=sys.stderr, flush=True)
        rows.append(summary(environments, turns))
    table.write(asked.out / "against_sb3.csv", rows, facts(setup))
    print(table.text("against Stable-Baselines3", rows, facts(setup)))


if __name__ == "__main__":
    main()
