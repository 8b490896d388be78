"""What a run shows while it works: a table that redraws itself in a terminal, one plain line at a time elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from retorq.running.signals import plain_notice


class Display(Protocol):
    """Somewhere to show progress."""

    interval: float
    """Least seconds between two calls of ``show``."""

    def show(self, values: Mapping[str, Any]) -> None:
        """Show these values; see ``Log.progress`` for the names."""

    def say(self, sentence: str) -> None:
        """Print one sentence that stays."""

    def notice(self, text: str) -> bytes:
        """What to write to a terminal at once, from wherever the program is, without spoiling what is shown."""

    def end(self, values: Mapping[str, Any]) -> None:
        """Show the last state, if states replace each other here; what is said from then on stands below it."""

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""


class Plain:
    """One line per interval, for files and pipes."""

    def __init__(self, console: Console, interval: float) -> None:
        self.interval = interval
        self._console = console

    def show(self, values: Mapping[str, Any]) -> None:
        """Print one line."""
        self.say(" · ".join(f"{name} {text}" for name, text in _cells(values)))

    def say(self, sentence: str) -> None:
        """Print one sentence, never wrapped, colored or read as markup."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def notice(self, text: str) -> bytes:
        """A line of its own."""
        return plain_notice(text)

    def end(self, values: Mapping[str, Any]) -> None:
        """Nothing: the sentences at the end of a run say what its last line would."""

    def close(self) -> None:
        """Nothing to undo."""


class Screen:
    """A table that redraws itself."""

    def __init__(self, console: Console, interval: float) -> None:
        self.interval = interval
        self._console = console
        self._live: Live | None = None

    def show(self, values: Mapping[str, Any]) -> None:
        """Redraw."""
        if self._live is None:
            # No thread of its own: it would compete with the learner, and `show` comes often enough.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(_table(values), refresh=True)

    def say(self, sentence: str) -> None:
        """Print one sentence above the table, or where there is none any more, below what there is."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=self._live is None)

    def notice(self, text: str) -> bytes:
        """In place of the table's last line, where the cursor stands; the next redraw replaces it."""
        if self._live is None:
            return plain_notice(text)
        return f"\r\x1b[2K{text[: self._console.width - 1]}".encode()

    def end(self, values: Mapping[str, Any]) -> None:
        """Leave the table with these values on the screen."""
        self.show(values)
        self.close()

    def close(self) -> None:
        """Leave the last state of the table on the screen and give the cursor back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()


def memory_mb() -> float:
    """Resident memory of this process in megabytes (1e6 bytes); elsewhere than on Linux its highest value so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def duration(seconds: float | None) -> str:
    """``1:02:03``, or ``-`` where unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _table(values: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("", ProgressBar(total=max(1, values["total"]), completed=values["step"], width=40))
    for name, text in _cells(values):
        table.add_row(name, text)
    return table


def _cells(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and formatted values, in the order in which they are shown."""
    step, total = values["step"], values["total"]
    awaited = [("waiting for", text)] if (text := values.get("waiting")) else []
    memory, time = ("memory", f"{values['memory_mb']:,.0f} MB"), ("time", duration(values["seconds"]))
    if awaited and not step:  # all other numbers are zero
        return [*awaited, memory, time]
    cells = [
        *awaited,
        ("step", f"{step:,}/{total:,} ({100 * step // max(1, total)}%)"),
        ("score", f"{_number(values['score_mean'])} (last {values['score_count']})"),
        ("steps/s", _number(values["steps_per_second"])),
        ("updates/s", _number(values["updates_per_second"])),
        ("replay ratio", _number(values["replay_ratio"])),
        ("epsilon", _number(values["epsilon"])),
        ("loss", _number(values["loss"])),
        memory,
        time,
        ("left", duration(values["seconds_left"])),
    ]
    return cells + [(name, _number(value)) for name, value in values["more"].items()]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
