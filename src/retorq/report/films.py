"""Videos inside the page, as many as it has room for, each with what the agent made of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from retorq.report import panel
from retorq.report.notes import Notes, load_notes
from retorq.report.runs import Run
from retorq.report.ticks import short
from retorq.report.video import is_mp4
from retorq.types import UserError

VIDEO_BYTES = 24_000_000
"""Room for the videos of a page; text that holds them is a third longer."""
VIDEOS_PER_RUN = 3


class Films:
    """Embeds videos until the page's room for them is used up, those of each run's newest step first."""

    def __init__(self, room: int = VIDEO_BYTES) -> None:
        self.room = room

    def section(self, runs: Sequence[Run]) -> str:
        """The videos of some runs, and a word about those left out; empty if there are none."""
        plain: list[str] = []
        told: list[str] = []
        left: list[str] = []
        for run in runs:
            shown = 0
            for file in sorted(run.videos, key=lambda file: -_step(file)):
                notes = _notes(file)
                figure = self._embed(run, file, notes) if shown < VIDEOS_PER_RUN else None
                if figure is None:
                    left.append(f"{run.name}/videos/{file.name}")
                else:
                    (plain if notes is None else told).append(figure)
                    shown += 1
        if not plain and not told and not left:
            return ""
        names = escape(", ".join(left))
        note = f'<p class="note">Not shown (older, torn, or beyond the room of a page): {names}.</p>' if left else ""
        films = f'<div class="films">{"".join(told)}</div>' if told else ""
        videos = f'<div class="videos">{"".join(plain)}</div>' if plain else ""
        return f"<h2>Play</h2>{films}{videos}{note}"

    def _embed(self, run: Run, file: Path, notes: Notes | None) -> str | None:
        """A figure with the video inside, None if it is too large, torn or cannot be read."""
        try:
            size = file.stat().st_size
            if size > self.room or not is_mp4(file):
                return None
            data = base64.b64encode(file.read_bytes()).decode("ascii")
        except OSError:
            return None
        self.room -= size
        name = escape(_name(run, file, notes))
        video = (
            f'<video controls muted loop playsinline preload="auto" aria-label="{name}" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )
        if notes is None:
            return f'<figure class="card">{video}<figcaption>{name}</figcaption></figure>'
        beside = panel.panel(notes)
        self.room -= len(beside)
        return (
            f'<section class="card film"><h3>{name}</h3><div class="beside">{video}'
            f'<div class="told-by"><div class="player"><p class="clock"></p></div>{beside}</div></div>'
            f'<p class="note">{panel.caption(notes)}</p>{panel.values_chart(notes)}</section>'
        )


def _name(run: Run, file: Path, notes: Notes | None) -> str:
    if notes is None or not notes.title:
        return f"{run.label} · {file.stem}"
    return f"{run.label} at step {short(_step(file))}: {notes.title}"


def _step(file: Path) -> int:
    """The step that a file's name begins with, -1 if it tells none."""
    step = file.stem.split("-", 1)[0]
    return int(step) if step.isdecimal() else -1


def _notes(video: Path) -> Notes | None:
    """What the agent made of a film; a film whose notes are torn is shown without them."""
    try:
        return load_notes(video)
    except UserError:
        return None
