"""Sizes that several algorithms share: what to change of the published settings on a small machine or a small task."""

from __future__ import annotations

from typing import Any

LAPTOP: dict[str, Any] = {  # Atari on two CPU cores, without memory
    "num_envs": 8,
    "torso": "compact",  # the network of Mnih et al. 2013: a third of the work
    "torso_norm": True,  # these two: else Pong's background silences most units (recurrent_iqn.md)
    "center_images": True,
    "hidden_size": 256,
    "optimizer": "adam",
    "learning_rate": 2.5e-4,
    "optimizer_epsilon": 1e-5,
    "target_period": 500,
    "replay_size": 200_000,
    "warmup": 5_000,
    "precision": "bf16",
    "publish_period": 2,
}
TOY: dict[str, Any] = {  # the built-in toys and CartPole, without memory: solved within a minute
    "num_envs": 8,
    "torso_hidden": (64,),
    "stack": 1,
    "hidden_size": 64,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "optimizer_epsilon": 1e-5,
    "target_period": 125,
    "replay_size": 50_000,
    "replay_ratio": 16.0,
    "warmup": 1_000,
    "clip_rewards": "none",
}
MINATAR: dict[str, Any] = {  # Young and Tian 2019, with an update every 4 steps instead of every step
    "num_envs": 8,
    "stack": 1,
    "hidden_size": 128,
    "optimizer": "adam",
    "learning_rate": 2.5e-4,
    "optimizer_epsilon": 0.01 / 32,
    "target_period": 250,  # 1,000 steps
    "replay_size": 100_000,
    "warmup": 5_000,
}
LAPTOP_MEMORY: dict[str, Any] = {  # Atari on two CPU cores, with memory
    "num_envs": 8,
    "epsilon_steps": 60_000,  # low rungs of a ladder would act greedily by a network that knows nothing
    "torso": "compact",
    "torso_hidden": (256,),
    "torso_norm": True,
    "center_images": True,
    "stack": 1,
    "memory_size": 256,
    "hidden_size": 128,
    "batch_size": 16,
    "sequence_length": 20,
    "burn_in": 10,
    "state_period": 10,
    "learning_rate": 5e-4,
    "optimizer_epsilon": 1e-5,
    "target_period": 300,
    "replay_size": 200_000,
    "replay_ratio": 8.0,
    "warmup": 5_000,
    "precision": "bf16",
    "publish_period": 2,
}
TOY_MEMORY: dict[str, Any] = {  # the built-in toys and CartPole, with memory
    "num_envs": 8,
    "epsilon_steps": 2_000,
    "torso_hidden": (64,),
    "stack": 1,
    "memory_size": 64,
    "hidden_size": 64,
    "batch_size": 8,
    "sequence_length": 12,
    "burn_in": 5,
    "state_period": 5,
    "learning_rate": 1e-3,
    "optimizer_epsilon": 1e-5,
    "target_period": 100,
    "replay_size": 50_000,
    "replay_ratio": 16.0,
    "warmup": 1_000,
    "clip_rewards": "none",
}
MINATAR_MEMORY: dict[str, Any] = {
    "num_envs": 8,
    "epsilon_steps": 60_000,
    "stack": 1,
    "memory_size": 128,
    "hidden_size": 128,
    "batch_size": 8,
    "sequence_length": 10,
    "burn_in": 5,
    "state_period": 5,
    "learning_rate": 2.5e-4,
    "optimizer_epsilon": 1e-5,
    "target_period": 250,
    "replay_size": 100_000,
    "replay_ratio": 8.0,
    "warmup": 5_000,
}
