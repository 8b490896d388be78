"""How far a trained agent's values depend on where a sequence's memory starts: Delta-Q by burn-in, after the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retorq import api
from retorq.envs.make import make
from retorq.losses.discrepancy import delta_q, same_game
from retorq.replay.replay import Replay
from retorq.replay.storage import Storage
from retorq.running.checkpoint import newest
from retorq.running.trainer import Trainer
from retorq.types import Refused, UserError

WINDOWS, CANDIDATES = 256, 4_096
STARTS = ("zero", "stored")


def measure(run: Path, burn_ins: Sequence[int], *, seed: int = 0) -> list[dict[str, Any]]:
    """Delta-Q of a run's newest weights on its replay, for memory that starts at zero or as it was stored.

    Up to 256 sequences within games are drawn per burn-in. ``initial`` is measured at the first row of the grid of
    stored states after the burn-in, ``final`` at the last one up to the row after the learned rows (R2D2 has the first
    and the last learned row; states are stored on the grid alone). Means over sequences, None where games are too
    short for any; ``*_median`` the medians, which a maximum of the values near 0 disturbs less.

    Raises:
        UserError: The run has no checkpoint, or its agent no memory.
        Refused: Its checkpoint holds no replay.
    """
    task, stored = api.reopen(run)
    found = newest(run / "checkpoints", run=stored["id"])
    if found is None:
        raise UserError(f"run {str(run)!r} has no checkpoint yet; train it first.")
    if not found.state["replay_saved"]:
        raise Refused(f"run {str(run)!r} saved no replay, on which to measure; train it with save_replay.")
    if stored["config"].get("replay_shards"):
        raise Refused(
            f"run {str(run)!r} keeps its replay in shards, and this looks at a whole one; name a run without."
        )
    env = make(task.env, columns=task.agent.columns, seed=stored["seed"], options=task.options)
    try:
        trainer = Trainer(task.agent, env, total=stored["config"]["steps"], seed=stored["seed"])
        trainer.load(found.tensors, found.parts, found.state["trainer"], rows=True)
    finally:
        env.close()
    if not trainer.agent.network.recurrent:
        raise UserError(f"run {str(run)!r} is of {task.agent.name} without a memory; name one with it.")
    generator = np.random.default_rng(seed)
    return [row for burn_in in burn_ins for row in _of_burn_in(trainer, burn_in, generator)]


def _of_burn_in(trainer: Trainer, burn_in: int, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A row per kind of start, on the same sequences."""
    assert isinstance(trainer.replay, Replay)
    window, storage = trainer.agent.window, trainer.replay.storage
    rows = burn_in + window.length + 1
    offsets = {
        "initial": -(-burn_in // window.period) * window.period,
        "final": (burn_in + window.length) // window.period * window.period,
    }
    column, start = _candidates(storage, rows, window.period, window.margin, generator)
    values: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in STARTS}
    for name, offset in offsets.items():
        inside = _within_game(storage, column, start, offset, trainer.agent.stack)[:WINDOWS]
        if not len(inside):
            continue
        c, s = column[inside], start[inside]
        trajectory = storage.gather(c, s, rows, trainer.agent.stack)
        then, at = storage.state(c, s + offset), torch.full((len(c),), offset)
        begin = {"zero": trainer.agent.network.initial_state(len(c)), "stored": storage.state(c, s)}
        for kind in STARTS:
            [found] = delta_q(trainer.learner.online, trajectory, begin[kind], [(then, at)])
            values[kind][name] = found.numpy()
    for kind in STARTS:
        row: dict[str, Any] = {"start": kind, "burn_in": burn_in}
        for name in offsets:
            some = values[kind].get(name)
            row[name] = None if some is None else float(some.mean())
            row[f"{name}_median"] = None if some is None else float(np.median(some))
            row[f"{name}_sequences"] = 0 if some is None else len(some)
        yield row


def _candidates(
    storage: Storage, rows: int, period: int, margin: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Columns and first rows on the grid of stored states, with ``rows`` rows held from there; at most 4096 of them."""
    oldest = storage.oldest + np.where(storage.oldest > 0, margin, 0)
    pairs = [
        (column, row)
        for column, (low, high) in enumerate(zip(oldest, storage.written - rows, strict=True))
        for row in range(-(-int(low) // period) * period, int(high) + 1, period)
    ]
    picked = generator.permutation(len(pairs))[:CANDIDATES]
    found = np.array(pairs, np.int64).reshape(-1, 2)[picked]
    return found[:, 0], found[:, 1]


def _within_game(storage: Storage, column: np.ndarray, start: np.ndarray, offset: int, stack: int) -> np.ndarray:
    """Indices of the sequences in which no game ends before the measured row, nor at it."""
    if not len(column):
        return np.zeros(0, np.int64)
    last = storage.gather(column, start, offset + 1, stack).last
    return np.flatnonzero(same_game(last, 0, torch.full((len(column),), offset)).numpy())
