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

_before = _ours = 0  # threads that the program had before the first run, and that the last one was given


def prepare(run: RunOptions, agent: Agent | None = None) -> None:
    """Set them; ``agent``: whose updates decide how many threads are worth it where ``run`` does not say.

    Denormals are flushed, since they slow an LSTM down.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    _set_threads(run.threads or _worth(run, agent))
    if run.device.startswith("cuda"):
        if torch.device(run.device).index is not None:  # cuda alone is the current one already
            torch.cuda.set_device(run.device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def _worth(run: RunOptions, agent: Agent | None) -> int:
    """How many threads are worth it where nothing is asked for; 0: as many as there were."""
    if agent is not None and run.device == "cpu" and small(agent):
        return 1
    return max(1, cores() - 1) if run.hz > 0 else 0  # an actor keeps the beat only where a core is free for it


def _set_threads(wanted: int) -> None:
    """Set them; 0 means what the program had before runs in it changed that."""
    global _before, _ours
    now = torch.get_num_threads()
    if now != _ours:
        _before = now
    _ours = wanted or _before
    if _ours != now:
        torch.set_num_threads(_ours)


def small(agent: Agent) -> bool:
    """Whether one thread is enough for its updates on a CPU; says the same on every machine."""
    return activation_bytes(agent) < SMALL
