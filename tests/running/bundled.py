"""Gorila at its smallest, for tests."""

import torch

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.running.bundles import gorila
from retorq.running.train import RunOptions

TINY = {"num_envs": 4, "torso_hidden": (8,), "hidden_size": 8, "batch_size": 4, "warmup": 40, "target_period": 5}
TINY |= {"replay_size": 800, "replay_ratio": 2.0, "outlier_warmup": 20}


def task(**changes):
    return api.compose(
        "catch", agent="gorila", preset="toy", config=TINY | changes, options=EnvOptions(), device="cpu", seed=0
    )


def made(total=10_000, seed=0, **changes):
    return gorila(task(**changes), RunOptions(steps=total, seed=seed))


def trained(trainer, steps):
    while trainer.steps < steps:
        trainer.step()
    return trainer


def weights(trainer):
    return torch.cat([server.made.weights.detach() for server in trainer.servers])
