"""Freed memory stays with the process, unless the user has asked for something else."""

import subprocess
import sys

import pytest

from retorq.ops import heap

# Faults of a process that takes and frees a block of 8 MB many times over, after keeping freed memory or not.
PROGRAM = """
import os, resource, sys
import torch
from retorq.ops.heap import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(20):
    torch.zeros(2_000_000) + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.zeros(2_000_000) + 1
    torch.zeros(4_000_000) + 1
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(words, **environment):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, env=environment or None
    )
    done, count = ran.stdout.split()
    return done, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")
def test_freed_memory_is_not_given_back():
    done, kept = faults(["keep"])
    if done == "False":
        pytest.skip("this C library has no mallopt")
    assert kept < 0.2 * faults(["leave"])[1]


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_has_set_stays(monkeypatch, name):
    monkeypatch.setenv(name, "65536")
    assert not heap.keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.keep_freed_memory()
    monkeypatch.undo()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert not heap.keep_freed_memory()
