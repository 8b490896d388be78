"""A film and what the agent made of it, as two files: ``NAME.mp4`` and ``NAME.json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from retorq.report.notes import Recorder
from retorq.report.video import write_video
from retorq.types import EnvSpec

if TYPE_CHECKING:
    from retorq.running.film import Moment

FASTEST, SLOWEST, LONG_ENOUGH = 15.0, 2.0, 6.0
"""Pictures per second at most and at least, and the seconds that a short game is stretched to between them."""


def pace(length: int, frames_per_step: int = 1) -> float:
    """Pictures per second for a game of ``length`` steps: a console's own where steps are frames, slower if short."""
    fastest = 60 / frames_per_step if frames_per_step > 1 else FASTEST
    return min(fastest, max(SLOWEST, round(length / LONG_ENOUGH)))


def record(path: Path, film: Iterable[Moment], *, spec: EnvSpec, length: int, title: str = "") -> Path:
    """Write a film of about ``length`` steps to ``path`` (an ``.mp4``), and its notes beside it; returns ``path``.

    ``title`` says which game it is. Raises what ``write_video`` and the film raise; then neither file is written.
    """
    names = ["the policy's"] if spec.continuous else [f"action {index}" for index in range(spec.actions)]
    names = list(spec.action_names) or names
    recorder = Recorder(pace(length, spec.frames_per_step), names, title=title)
    write_video(path, recorder.pictures(film), fps=recorder.fps)
    recorder.save(path.with_suffix(".json"))
    return path
