"""What a training run comes to: its last line of metrics, and a greedy evaluation of its final weights."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import retorq

GAMES = 100


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``last`` is the last row of the metrics, ``record`` an evaluation's; ``seconds`` are those of training alone."""

    last: dict[str, Any]
    record: dict[str, Any]
    seconds: float


def outcome(env: str, agent: str = "recurrent_iqn", *, seed: int, **asked: Any) -> Outcome:
    """Train in a folder that is gone afterwards, and play ``GAMES`` whole games greedily with another seed.

    Raises:
        SystemExit: The run stopped before its budget was used.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        trained = retorq.train(env, agent, seed=seed, run=Path(folder) / "run", say=_silent, **asked)
        seconds = time.monotonic() - started
        if trained.code != 0:
            raise SystemExit(f"{agent} on {env}, seed {seed}: stopped before its budget was used; nothing was written")
        record = trained.load().evaluate(protocol="greedy", episodes=GAMES, seed=10_000 + seed)
        return Outcome(last=trained.metrics[-1], record=record, seconds=seconds)


def _silent(line: str) -> None:
    pass
