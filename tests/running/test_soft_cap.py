"""A run of Ape-X holds more than its replay's size, and is cut back to it every ``trim_period`` updates."""

import numpy as np
import torch

from retorq import api
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.running.trainer import Trainer

PERIOD, SIZE, COLUMNS = 6, 200, 2
SMALL = {"num_envs": COLUMNS, "torso_hidden": (8,), "hidden_size": 8, "batch_size": 4, "warmup": 40}
SMALL |= {"replay_size": SIZE, "trim_period": PERIOD, "replay_ratio": 1.0}


def small_run():
    """The update itself is tested elsewhere, and takes long."""
    task = api.compose(
        "catch", agent="apex_dqn", preset="toy", config=SMALL, options=EnvOptions(), device="cpu", seed=0
    )
    trainer = Trainer(task.agent, make("catch", columns=COLUMNS), total=100_000)

    def update(batch, progress):
        trainer.learner.updates += 1
        errors = torch.ones(1, len(batch.keys))
        return errors, errors, {"skipped": torch.tensor(0.0)}, {}

    trainer.learner.update = update
    return trainer


def oldest(replay):
    """How many rows ago the oldest window begins that can be drawn, among all columns."""
    leaf = np.flatnonzero(replay.prioritized._tree.leaves)
    return int((replay.storage.written[leaf // replay.slots] - replay._start_of(leaf)).max())


def test_windows_beyond_the_size_go_every_trim_period_updates():
    trainer, cap = small_run(), SIZE // COLUMNS
    ages = {"trimmed": [], "between": []}
    while trainer.steps < 3 * SIZE:
        before = trainer.updates
        trainer.step()
        if trainer.updates > before:
            ages["between" if trainer.updates % PERIOD else "trimmed"].append(oldest(trainer.replay))
    assert len(ages["trimmed"]) == trainer.updates // PERIOD > 20
    assert max(ages["trimmed"]) == cap
    assert max(ages["between"]) > cap + PERIOD  # two steps of each environment per update
    trainer.close()
