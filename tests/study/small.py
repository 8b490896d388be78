"""Settings of an agent that is trained in a second."""

SMALL = {
    "num_envs": 2,
    "torso_hidden": (8,),
    "memory_size": 8,
    "hidden_size": 8,
    "prioritized": False,
    "batch_size": 2,
    "sequence_length": 4,
    "burn_in": 2,
    "state_period": 2,
    "n_step": 2,
    "replay_size": 400,
    "replay_ratio": 0.8,
    "warmup": 60,
    "target_period": 5,
    "epsilon_steps": 20,
}
