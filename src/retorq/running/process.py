"""How the process of a run is set: threads, number formats, heap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from retorq.agent import Agent
from retorq.ops.heap import keep_freed_memory
from retorq.running.plan import activation_bytes, cores

if TYPE_CHECKING:
    from retorq.running.train import RunOptions

SMALL = 2_000_000
"""Bytes of activations below which an update gains at most a fifth from a second thread (benchmarks/threads.py). Where
other programs want the cores, too, threads that wait for each other make such updates many times slower."""


def prepare(run: RunOptions, agent: Agent | None = None) -> None:
    """Set them; ``agent``: whose updates decide how many threads are worth it where ``run`` does not say.

    Denormals are flushed, since they slow an LSTM down.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    if run.threads:
        torch.set_num_threads(run.threads)
    elif agent is not None and run.device == "cpu" and small(agent):
        torch.set_num_threads(1)
    elif run.hz > 0:
        torch.set_num_threads(max(1, cores() - 1))  # an actor keeps the beat only where a core is free for it
    if run.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def small(agent: Agent) -> bool:
    """Whether one thread is enough for its updates on a CPU; says the same on every machine."""
    return activation_bytes(agent) < SMALL
