"""What every test run shares: one thread, and property tests that draw the same examples each time."""

import os

# Before numpy or torch is imported: small tensors gain nothing from threads that wait for each other.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Timing is no property of the code, and a failure must come back the next time. `--hypothesis-profile=search` looks
# for new examples.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def exact_small_numbers() -> Iterator[None]:
    """A training run in this process flushes denormals to zero; the next test must not inherit that."""
    yield
    torch.set_flush_denormal(False)
