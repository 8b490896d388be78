"""Why the small network did not learn Pong at first: does the torso see the ball at all?

``python benchmarks/representation.py [--updates N]`` plays Pong at random for 40,000 steps, then trains the ``laptop``
agent on those rows alone (zero start states) with and without a centered image and layer normalization, everything else
equal, and writes ``benchmarks/results/representation.csv``. Per variant, seed and 250 updates:

- ``loss``: its mean since the last row,
- ``silent_units``: share of torso units that are zero on every row of 300 fresh steps in 8 games,
- ``variation``: how much a torso unit varies over those rows, relative to its mean size,
- ``correlation``: of the greedy value with the discounted rewards of the next 15 steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retorq import api
from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.learner import Learner
from retorq.replay.replay import Replay
from retorq.types import Inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import write

OUT = Path(__file__).parent / "results" / "representation.csv"
ENV = "ALE/Pong-v5"
VARIANTS = {
    "plain": {"center_images": False, "torso_norm": False},
    "layer norm": {"center_images": False, "torso_norm": True},
    "centered": {"center_images": True, "torso_norm": False},
    "centered, layer norm": {"center_images": True, "torso_norm": True},
}


def played(agent: Any, steps: int, seed: int) -> tuple[Replay, list[Any]]:
    """A replay of random play, and the rows of 300 more steps in 8 games."""
    replay = agent.replay(seed=seed)
    env = make(ENV, columns=agent.columns, seed=seed)
    actor = Actor(env, agent.network, Fixed(columns=agent.columns, value=1.0), total=1, seed=seed)
    while actor.steps < steps:
        for columns, rows in actor.collect(1):
            replay.extend(columns, rows)
    fresh = [rows for _ in range(300) for _, rows in actor.collect(1)]
    env.close()
    replay.storage.states.clear()  # they are of an untrained network: every window starts from zero instead
    return replay, fresh


def look(learner: Learner, fresh: list[Any]) -> dict[str, float]:
    """What the trained network makes of fresh rows."""
    names = ("previous_action", "previous_reward", "elapsed", "first")
    joined = {name: torch.from_numpy(np.concatenate([getattr(r.inputs, name) for r in fresh])) for name in names}
    pixels = torch.from_numpy(np.concatenate([r.inputs.observation["obs"] for r in fresh]))
    inputs = Inputs(observation={"obs": pixels}, **joined)
    reward = np.concatenate([r.reward for r in fresh])
    soon = sum(0.99**k * np.pad(np.sign(reward[k:]), ((0, k), (0, 0))) for k in range(15))
    with torch.no_grad():
        units = learner.online.torso(inputs.observation).flatten(0, 1)
        features, _ = learner.online.unroll(inputs, learner.online.initial_state(reward.shape[1]))
        value = learner.online.head(features, 64).mean().max(-1).values.numpy()
    return {
        "silent_units": round(float((units.abs().amax(0) == 0).float().mean()), 3),
        "variation": round(float(units.std(0).mean() / units.abs().mean()), 4),
        "correlation": round(float(np.corrcoef(value[20:280].ravel(), soon[20:280].ravel())[0, 1]), 3),
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.set_flush_denormal(True)
    table = []
    for seed in range(asked.seeds):
        for name, settings in VARIANTS.items():
            task = api.compose(
                ENV,
                agent="recurrent_iqn",
                preset="laptop",
                config=settings,
                options=EnvOptions(),
                device="cpu",
                seed=seed,
            )
            replay, fresh = played(task.agent, 40_000, seed)
            learner = task.agent.learner(seed=seed)
            if learner.online.centered:
                learner.center(replay.sample(64).trajectory.inputs.observation)
            losses, started = [], time.monotonic()
            for update in range(1, asked.updates + 1):
                losses.append(float(learner.update(replay.sample(task.agent.batch_size))[2]["loss"]))
                if update % 250 == 0:
                    row = {"variant": name, "seed": seed, "updates": update, "loss": round(float(np.mean(losses)), 4)}
                    row |= look(learner, fresh) | {"seconds": round(time.monotonic() - started, 1)}
                    losses.clear()
                    table.append(row)
                    print(row, flush=True)
    write(OUT, table)


if __name__ == "__main__":
    main()
