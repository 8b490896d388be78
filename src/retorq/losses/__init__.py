"""Losses: frozen records of hyperparameters, called on networks and a batch; they never reduce."""
