"""The diary of a run: ``metrics.jsonl`` and ``episodes.jsonl``, TensorBoard events, and progress on the screen.

Rows hold two kinds of fields. Those in ``WALL_CLOCK_FIELDS`` depend on the machine and its day; all others depend only
on the run, so that the rows of a run that was interrupted and resumed equal those of one that was not. To that end the
state saved with a checkpoint says how many rows had been written, and a resume cuts both files back to them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from retorq.running.display import Display, Plain, Screen, memory_mb
from retorq.types import Episode, UserError

METRICS, EPISODES, EVENTS = "metrics.jsonl", "episodes.jsonl", "events"

WALL_CLOCK_FIELDS = frozenset({"seconds", "steps_per_second", "updates_per_second", "memory_mb"})
"""Fields of rows that a repeated run does not reproduce."""

WINDOW = 100
"""Games over which ``score_mean`` goes."""

_Mark = tuple[int, int, float]


class Log:
    """Writes rows and shows progress.

    The two files continue where ``load_state_dict`` puts them; without it, the first row written empties them, because
    a run that starts from nothing has no earlier rows. A disk that is full does not stop a run: rows wait in memory and
    are written when there is space again.

    Args:
        folder: The run folder.
        total: Steps of the whole run, for the time left.
        period: Steps between two rows of ``metrics.jsonl``; see ``due``.
        interval: Least seconds between two plain progress lines.
        tensorboard: Write TensorBoard events; None: if it is installed.
        live: Redraw a table; None: if the output is a terminal.
        console: Where to show progress (default: the standard output).
        clock: Monotonic seconds.

    Raises:
        UserError: ``tensorboard=True`` and it is not installed, or the files cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        period: int = 10_000,
        interval: float = 10.0,
        tensorboard: bool | None = None,
        live: bool | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        console = console or Console()
        live = console.is_terminal if live is None else live
        self.total, self.period = total, period
        self._folder, self._clock = folder, clock
        self._display: Display = Screen(console, 0.5) if live else Plain(console, interval)
        self._metrics, self._episodes = _Rows(folder / METRICS), _Rows(folder / EPISODES)
        self._events = _Events(folder / EVENTS, tensorboard)
        self._scores: deque[float] = deque(maxlen=WINDOW)
        self._finished = 0
        self._step = 0
        self._next_row = period
        self._start = clock()
        self._row_mark: _Mark = (0, 0, 0.0)
        self._shown: deque[_Mark] = deque(maxlen=20)
        self._last: dict[str, Any] = {}
        self._troubled = False

    @property
    def seconds(self) -> float:
        """Seconds this run has been running, earlier starts included."""
        return self._clock() - self._start

    def episode(self, episode: Episode) -> None:
        """Note one game; a game that was cut gets its row, but no part in the scores: it was not played to its end."""
        if not episode.cut:
            self._scores.append(episode.score)
            self._finished += 1
        self._step = max(self._step, episode.step)
        row = {"step": episode.step, "score": episode.score, "length": episode.length, "column": episode.column}
        self._write(self._episodes, row | {"cut": episode.cut, "seconds": round(self.seconds, 3)})

    def due(self, step: int) -> bool:
        """Whether a row is due: ``step`` reached another multiple of ``period``."""
        return step >= self._next_row

    def metrics(self, step: int, frames: int, updates: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write one row of ``metrics.jsonl`` and return it.

        Args:
            step: Agent steps so far.
            frames: Emulator frames so far.
            updates: Learner updates so far.
            values: At least ``loss`` and ``epsilon`` where there are any; numbers only. Not finite ones become null.
        """
        seconds = self.seconds
        row: dict[str, Any] = {"step": step, "frames": frames, "seconds": round(seconds, 3), "updates": updates}
        row |= {**self._score(), "episodes": self._finished, **_rates(self._row_mark, (step, updates, seconds))}
        row |= {"loss": None, "epsilon": None, "memory_mb": round(memory_mb(), 1)}
        if clash := (row.keys() & values.keys()) - {"loss", "epsilon"}:
            raise ValueError(f"metric name {min(clash)!r} is taken by the log itself")
        row |= {name: _finite(value) for name, value in values.items()}
        self._row_mark = (step, updates, seconds)
        self._step = max(self._step, step)
        self._next_row = (step // self.period + 1) * self.period
        self._last = row
        self._write(self._metrics, row)
        self._events.add({k: v for k, v in row.items() if v is not None and k not in ("step", "seconds")}, step)
        return row

    def progress(self, step: int, updates: int, *, waiting: str = "", **values: float) -> bool:
        """Show how it goes, if the last time was long enough ago; cheap otherwise. Returns whether it was shown.

        Args:
            step: Agent steps so far.
            updates: Learner updates so far.
            waiting: Who is waited for before all act, if anybody.
            values: ``replay_ratio`` and, if fresher than the last row's, ``epsilon`` and ``loss``; others are shown as
                they are.
        """
        if self._shown and self.seconds - self._shown[-1][2] < self._display.interval:
            return False
        self._display.show(self._state(step, updates, values) | {"waiting": waiting})
        return True

    def _state(self, step: int, updates: int, values: Mapping[str, float]) -> dict[str, Any]:
        now, more = self.seconds, dict(values)
        rates = _rates(self._shown[0] if self._shown else self._row_mark, (step, updates, now))
        self._shown.append((step, updates, now))
        pace = rates["steps_per_second"]
        known = {name: more.pop(name, self._last.get(name)) for name in ("loss", "epsilon", "replay_ratio")}
        return (
            {"step": step, "total": self.total, "seconds": now, "memory_mb": memory_mb(), "more": more}
            | {"seconds_left": (self.total - step) / pace if pace and len(self._shown) > 1 else None}
            | {**self._score(), **rates, **known}
        )

    def end(self, step: int, updates: int, **values: float) -> None:
        """Show the last state; what is said from then on stands below it. Takes what ``progress`` takes."""
        self._display.end(self._state(step, updates, values))

    def notice(self, text: str) -> bytes:
        """What a signal handler may write to the terminal without spoiling what is shown there."""
        return self._display.notice(text)

    @property
    def score(self) -> tuple[float | None, int]:
        """Mean score of the last games (None: there was none), and how many they are."""
        told = self._score()
        return told["score_mean"], told["score_count"]

    def say(self, sentence: str) -> None:
        """Print one sentence that stays on the screen."""
        self._display.say(sentence)

    def state_dict(self) -> dict[str, Any]:
        """JSON for the checkpoint; write the row that is due at its step first.

        The rows it counts are on the disk before it returns, unless the disk is full.
        """
        self._metrics.flush(sync=True)
        self._episodes.flush(sync=True)
        return {
            "step": self._step,
            "seconds": self.seconds,
            "scores": list(self._scores),
            "episodes": self._finished,
            "next_row": self._next_row,
            "row_mark": list(self._row_mark),
            "last": self._last,
            "rows": {METRICS: self._metrics.count, EPISODES: self._episodes.count},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: drop the rows written after it, continue its clock and its window of games."""
        self._metrics.rewind(state["rows"][METRICS])
        self._episodes.rewind(state["rows"][EPISODES])
        self._step, self._finished, self._next_row = state["step"], state["episodes"], state["next_row"]
        self._scores = deque(state["scores"], maxlen=WINDOW)
        self._start = self._clock() - state["seconds"]
        step, updates, seconds = state["row_mark"]
        self._row_mark, self._last = (step, updates, seconds), dict(state["last"])
        self._shown.clear()
        self._events.purge = self._step + 1

    def close(self) -> None:
        """Write what is left and give the terminal back; safe to call twice."""
        self._display.close()
        self._metrics.close()
        self._episodes.close()
        self._events.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score(self) -> dict[str, Any]:
        mean = sum(self._scores) / len(self._scores) if self._scores else None
        return {"score_mean": mean, "score_count": len(self._scores)}

    def _write(self, rows: _Rows, row: Mapping[str, Any]) -> None:
        rows.append(row)
        failed = not rows.flush()
        if failed and not self._troubled:
            self.say(f"{rows.path} cannot be written (disk full?): rows wait in memory, training goes on")
        self._troubled = failed


class _Rows:
    """A file of JSON lines that can be cut back, and that survives a full disk: unwritten lines wait."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._waiting = bytearray()
        self._end: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path} cannot be opened ({error.strerror}): choose another run folder") from error

    def append(self, row: Mapping[str, Any]) -> None:
        if self._end is None:
            self.rewind(0)
        self._waiting += (json.dumps(row, allow_nan=False) + "\n").encode()
        self.count += 1

    def flush(self, *, sync: bool = False) -> bool:
        """Write what waits; False if the disk refused. A write that got half through is repeated at the same place."""
        if self._descriptor < 0 or self._end is None:
            return True
        try:
            while self._waiting:
                done = os.pwrite(self._descriptor, self._waiting, self._end)
                self._end += done
                del self._waiting[:done]
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            return False
        return True

    def rewind(self, count: int) -> None:
        """Keep the first ``count`` rows, or as many as are whole."""
        self._waiting.clear()
        self._end = self.count = 0
        with self.path.open("rb") as file:
            while self.count < count and _whole(line := file.readline()):
                self._end += len(line)
                self.count += 1
        os.ftruncate(self._descriptor, self._end)

    def close(self) -> None:
        self.flush()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Events:
    """TensorBoard, opened at the first value (its import takes a second); its failures never stop a run."""

    def __init__(self, folder: Path, wanted: bool | None) -> None:
        self.purge: int | None = None
        self._folder = folder
        self._writer: Any = None
        self._on = wanted is not False and _has_tensorboard()
        if wanted and not self._on:
            raise UserError("tensorboard is True, but it is not installed: pip install 'retorq[log]'")

    def add(self, values: Mapping[str, Any], step: int) -> None:
        if not self._on:
            return
        try:
            if self._writer is None:
                self._writer = _open_writer(self._folder, self.purge)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except (OSError, ImportError) as error:
            self._on = False
            print(f"TensorBoard events are off from here on ({error})", file=sys.stderr)

    def close(self) -> None:
        if self._writer is not None and self._on:
            self._on = False
            self._writer.close()


def _open_writer(folder: Path, purge: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what TensorBoard itself imports
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=purge)


def _has_tensorboard() -> bool:
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _rates(since: _Mark, now: _Mark) -> dict[str, float | None]:
    elapsed = now[2] - since[2]
    names = ("steps_per_second", "updates_per_second")
    return {
        name: round((b - a) / elapsed, 2) if elapsed > 0 else None
        for name, a, b in zip(names, since, now, strict=False)
    }


def _finite(value: Any) -> float | int | None:
    """A JSON number, or None for what JSON has no number for."""
    number = value.item() if hasattr(value, "item") else value
    return None if number is None or not math.isfinite(number) else number
