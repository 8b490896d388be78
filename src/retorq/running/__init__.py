"""Running an agent: training, evaluation, checkpoints, logs and scores."""
