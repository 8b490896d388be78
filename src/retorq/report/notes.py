"""What an agent made of a filmed game: a JSON file beside the video, from which the page draws its values.

``videos/NAME.json`` belongs to ``videos/NAME.mp4``. It holds, for every ``stride``-th picture: ``values`` (what acting
maximizes, a list per picture), ``taken`` (the index of the action done next, -1 after the last step), ``score`` (raw
rewards so far, also of the pictures after the last action, which have no values), ``title`` (which game it is), and,
where the agent learns distributions, ``bars``: how much of each action's distribution lies in each of ``bins`` equal
parts of ``low`` to ``high``, as bytes (255: all of it) ``[pictures, actions, bins]`` in base64. Agents that learn
quantiles also have ``deciles``: where between ``low`` (0) and ``high`` (255) the nine deciles of each action lie.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retorq.report.runs import write_text
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.running.distributions import ReturnDistribution
    from retorq.running.film import Moment

MOST = 1_500
"""Pictures that are told about; of longer films only every second, third ... one is."""
BINS = 48
LEVELS = 64
"""Quantiles by which a distribution without fixed values is remembered until the film ends."""


@dataclass(frozen=True, kw_only=True)
class Notes:
    """The file as arrays: ``values [P, A]``, ``taken [P]``, ``score [>= P]``.

    ``bars [P, A, bins]`` and ``deciles [P, A, 9]`` are uint8, or None where the agent learns none.
    """

    fps: float
    stride: int
    actions: Sequence[str]
    values: np.ndarray
    taken: np.ndarray
    score: np.ndarray
    title: str = ""
    low: float = 0.0
    high: float = 1.0
    bars: np.ndarray | None = None
    deciles: np.ndarray | None = None


class Recorder:
    """Lets the pictures of a film through and keeps what the agent made of them."""

    def __init__(self, fps: float, actions: Sequence[str], title: str = "") -> None:
        self.fps, self.actions, self.title = fps, list(actions), title
        self._values: list[np.ndarray] = []
        self._done: list[int] = []
        self._rewards: list[float] = []
        self._shapes: list[np.ndarray] = []
        self._support: np.ndarray | None = None

    def pictures(self, film: Iterable[Moment]) -> Iterator[np.ndarray]:
        """The pictures, one by one."""
        for moment in film:
            self._done.append(moment.action)
            self._rewards.append(moment.reward)
            if moment.values is not None:
                self._values.append(moment.values)
            if moment.distribution is not None:
                self._shapes.append(self._shape(moment.distribution))
            yield moment.picture

    def _shape(self, found: ReturnDistribution) -> np.ndarray:
        """Probabilities of fixed values, else ``LEVELS`` quantiles, ``[A, .]``."""
        if found.fixed:
            self._support = found.values[0]
            return found.probabilities.astype(np.float32)
        order = np.argsort(found.values, axis=1)
        values = np.take_along_axis(found.values, order, 1)
        reached = np.take_along_axis(found.probabilities, order, 1).cumsum(1)
        middles = (np.arange(LEVELS) + 0.5) / LEVELS
        at = [np.searchsorted(row, middles).clip(max=len(row) - 1) for row in reached]
        return np.take_along_axis(values, np.stack(at), 1).astype(np.float32)

    def save(self, path: Path) -> bool:
        """Write the file and return True, or False where there is nothing to tell (a film of one picture)."""
        if not self._values:
            return False
        stride = -(-len(self._values) // MOST)
        taken = [*self._done[1:], -1][: len(self._values) : stride]
        record: dict[str, Any] = {
            "format": 1,
            "fps": self.fps,
            "stride": stride,
            "title": self.title,
            "actions": self.actions,
            "values": [[float(f"{v:.5g}") for v in row] for row in self._values[::stride]],
            "taken": taken,
            "score": self._scores(stride),
        }
        if self._shapes:
            low, high, bars = self._bars(stride)
            record |= {"low": low, "high": high, "bins": bars.shape[2]}
            record["bars"] = base64.b64encode(bars.tobytes()).decode("ascii")
            if self._support is None:
                record["deciles"] = base64.b64encode(self._deciles(stride, low, high).tobytes()).decode("ascii")
        write_text(path, json.dumps(record, separators=(",", ":")))
        return True

    def _scores(self, stride: int) -> list[float]:
        """Rewards so far: of every picture that is told about, and, where the game ends after it, of the last."""
        scores = np.cumsum(self._rewards).round(6)
        last = scores[-1:] if len(scores) > len(self._values) else scores[:0]
        return [*scores[: len(self._values) : stride].tolist(), *last.tolist()]

    def _bars(self, stride: int) -> tuple[float, float, np.ndarray]:
        """Range and probabilities in bytes, rounded up so that the smallest can be seen."""
        shapes = np.stack(self._shapes[::stride])
        if self._support is not None:
            half = (self._support[1] - self._support[0]) / 2
            low, high, share = self._support[0] - half, self._support[-1] + half, shapes
        else:
            low, high = (float(v) for v in np.quantile(shapes, (0.002, 0.998)))
            margin = 0.04 * (high - low) or 0.5
            low, high = low - margin, high + margin
            part = ((shapes.clip(low, high) - low) / (high - low) * BINS).astype(np.int64).clip(max=BINS - 1)
            share = (part[..., None, :] == np.arange(BINS)[:, None]).mean(-1)
        return float(low), float(high), np.ceil(share * 255 - 0.02).clip(0, 255).astype(np.uint8)

    def _deciles(self, stride: int, low: float, high: float) -> np.ndarray:
        """Nine deciles ``[P, A, 9]`` as bytes between ``low`` and ``high``."""
        found = np.moveaxis(np.quantile(np.stack(self._shapes[::stride]), np.arange(1, 10) / 10, axis=2), 0, 2)
        return ((found.clip(low, high) - low) / (high - low) * 255).round().astype(np.uint8)


def load_notes(video: Path) -> Notes | None:
    """The notes of a video, None if there are none; raises UserError if they are torn."""
    file = video.with_suffix(".json")
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        actions = [str(name) for name in record["actions"]]
        values = np.array(record["values"], np.float64)
        taken, score = np.array(record["taken"], np.int64), np.array(record["score"], np.float64)
        good: Any = values.shape == (len(taken), len(actions)) and 0 < len(taken) <= len(score)
        good = (
            good
            and score.ndim == 1
            and np.isfinite(score).all()
            and np.isfinite(values).all()
            and (taken < len(actions)).all()
        )
        rest: dict[str, Any] = {}
        if "bars" in record:
            raw = np.frombuffer(base64.b64decode(record["bars"], validate=True), np.uint8)
            rest = {"bars": raw.reshape(len(taken), len(actions), int(record["bins"]))}
            rest |= {"low": float(record["low"]), "high": float(record["high"])}
            if "deciles" in record:
                raw = np.frombuffer(base64.b64decode(record["deciles"], validate=True), np.uint8)
                rest["deciles"] = raw.reshape(len(taken), len(actions), 9)
            good = good and rest["low"] < rest["high"]
        notes = Notes(
            fps=float(record["fps"]),
            stride=int(record["stride"]),
            actions=actions,
            values=values,
            taken=taken,
            score=score,
            title=str(record.get("title", "")),
            **rest,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good or not notes.fps > 0 or notes.stride < 1:
        raise UserError(f"notes {file.name!r} are torn: record the game again")
    return notes
