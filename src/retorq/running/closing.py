"""What a run says when it ends: why, its score, where the checkpoint is, and the next command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retorq.running.display import duration


@dataclass(frozen=True, kw_only=True)
class Next:
    """What whoever started the run would type next: to go on with it, and to evaluate it."""

    resume: str
    evaluate: str


def from_python(run: Path) -> Next:
    """The next steps of a program that called ``retorq.train``."""
    return Next(resume=f"retorq.resume({str(run)!r})", evaluate=f"retorq.load({str(run)!r}).evaluate()")


def reason(signal: str, step: int, total: int, updates: int, seconds: float) -> str:
    """What ended the run; ``signal`` is the name of the one that stopped it, empty where it came to its end."""
    worked = f"{updates:,} updates in {duration(seconds)}"
    if not signal:
        return f"done: {step:,} steps, {worked}"
    by = "Ctrl-C" if signal == "SIGINT" else signal
    return f"stopped by {by} at step {step:,} of {total:,}, {worked}; saving"


def headless(what: str, saved: bool) -> str:
    """Why a run ended that has lost Ray, and what is left of it."""
    left = "what was learned was saved" if saved else "NOT saved, the last checkpoint stands"
    return f"{what}; {left}. Start the cluster and go on with the run."


def lines(score: tuple[float | None, int], checkpoint: Path | None, then: Next, *, done: bool) -> Iterator[str]:
    """What follows the reason: the score, the checkpoint (None: it could not be written), the next command."""
    mean, games = score
    if mean is None:
        yield "no game was played to its end yet, so there is no score"
    else:
        yield f"score {mean:.3g}, " + (f"the mean of the last {games} training games" if games > 1 else "of one game")
    if checkpoint is None:
        yield "NOT saved, the last checkpoint stands"
    else:
        yield f"checkpoint {checkpoint}"
    if done and checkpoint is not None:
        yield f"evaluate it with: {then.evaluate}"
    else:
        yield f"go on with: {then.resume}"
