"""Environments behind one door: Atari, toys, and anything Gymnasium knows. Imports neither torch nor ale_py."""
