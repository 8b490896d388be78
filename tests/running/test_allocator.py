"""Freed memory is reused: a large block allocated again and again touches few new pages."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from retorq.running.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    torch.empty(16 * 2**20).fill_(1.0)  # 64 MB: 16,384 pages
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_reused() -> None:
    assert faults("kept") < 2_000
    assert faults("given back") > 20_000  # else there is nothing to win on this system
