"""The C library's heap: memory that was freed stays with the process."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
LARGEST = 2**31 - 1
EVERYTHING = (1 << 30, 32 << 20)  # bytes; glibc before 2.35 takes no more than the second


def keep_freed_memory() -> bool:
    """Have freed memory reused rather than given back to the system, for the rest of this process.

    glibc maps every large block anew and unmaps it when it is freed, and the system clears each of its pages again. An
    update of a learner frees all it has allocated, so this happens in every one (docs/benchmarks.md). The process
    then keeps the most memory it ever used at once.

    Returns:
        Whether that was done: not without glibc, nor where ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_``
        are set in the environment.
    """
    if not sys.platform.startswith("linux"):
        return False
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any(mallopt(MMAP_THRESHOLD, size) for size in EVERYTHING) and bool(mallopt(TRIM_THRESHOLD, LARGEST))
