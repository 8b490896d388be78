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


def unsaved(standing: int | None) -> str:
    """What is left of a run that could not be saved; ``standing``: the step of its newest checkpoint, if it has any."""
    if standing is None:
        return "NOT saved, and there is no checkpoint yet"
    return f"NOT saved, the checkpoint of step {standing:,} stands"


def headless(what: str, saved: bool, standing: int | None) -> str:
    """Why a run ended that has lost Ray, and what is left of it; ``standing`` as for ``unsaved``."""
    left = "what was learned was saved" if saved else unsaved(standing)
    if not saved and standing is None:
        return f"{what}; {left}. Start the cluster, and the same command begins anew."
    return f"{what}; {left}. Start the cluster and go on with the run."


def weightless(what: str, standing: int | None) -> str:
    """Why a run ended that has lost its weights; ``standing`` as for ``unsaved``."""
    if standing is None:
        return f"{what}; there is no checkpoint yet: the same command begins anew."
    return f"{what}; the same command goes on from the checkpoint of step {standing:,}."


def lines(
    score: tuple[float | None, int], checkpoint: Path | None, then: Next, *, done: bool, unsaved: str = ""
) -> Iterator[str]:
    """What follows the reason: the score, the checkpoint (None: what ``unsaved`` says), the next command."""
    mean, games = score
    if mean is None:
        yield "no game was played to its end yet, so there is no score"
    else:
        yield f"score {mean:.3g}, " + (f"the mean of the last {games} training games" if games > 1 else "of one game")
    if checkpoint is None:
        yield unsaved
    else:
        yield f"checkpoint {checkpoint}"
    if done and checkpoint is not None:
        yield f"evaluate it with: {then.evaluate}"
    else:
        yield f"go on with: {then.resume}"
