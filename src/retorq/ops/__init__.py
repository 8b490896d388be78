"""Formulas: pure functions on time-major tensors, torch only, each with its paper, its shapes and its units."""
