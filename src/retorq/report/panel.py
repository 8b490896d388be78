"""What stands beside a film on the page: the distribution of each action's return, or its value, picture by picture.

The panel is drawn here for the first picture; ``moving.SCRIPT`` moves its shapes as the video plays.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape

import numpy as np

from retorq.report.chart import Chart, Line, draw, read_out, shade
from retorq.report.notes import Notes
from retorq.report.ticks import nice_ticks, tick_labels

WIDTH, LEFT, RIGHT, BELOW = 680, 124, 76, 52
SHOWN = 8
"""Actions with a line of their own in the chart of values: as many as there are colors."""
SEEN = 0.02
"""A share of a distribution below which the axis does not reach out for it."""
FEWEST = 12
"""Parts of a distribution that are shown at least, so that one with a single value has a neighborhood."""


def panel(notes: Notes) -> str:
    """The panel as one ``<svg>``, with the data for ``moving.SCRIPT`` in a ``<script>`` beside it."""
    low, high, bars = _view(notes)
    deciles = _deciles(notes, low, high)
    row = max(20.0, min(76.0, 330.0 / len(notes.actions)))
    bottom = len(notes.actions) * row + 6
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    spread = float(np.ptp(notes.values)) or high - low
    digits = max(0, min(6, 2 - math.floor(math.log10(spread))))
    parts = list(_axis(low, high, scale, bottom))
    for index, name in enumerate(notes.actions):
        base = (index + 1) * row - 6
        value = float(notes.values[0, index])
        at = LEFT + scale * (min(max(value, low), high) - low)
        shape = (
            _bar(value, base, row * 0.46, low, scale) if bars is None else _outline(bars[0, index], base, row * 0.74)
        )
        ticks = "" if deciles is None else f'<path class="deciles" d="{_ticks(deciles[0, index], base)}"/>'
        parts.append(
            f'<g class="act{" taken" if notes.taken[0] == index else ""}">'
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>'
            f'<text class="name" x="{LEFT - 12}" y="{base - row * 0.25:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<path class="shape" d="{shape}"/>{ticks}'
            f'<line class="mean" x1="{at:.1f}" x2="{at:.1f}" y1="{base - row * 0.8:.1f}" y2="{base:.1f}"/>'
            f'<text class="number" x="{WIDTH - 4}" y="{base - row * 0.25:.1f}" text-anchor="end">'
            f"{_number(value, digits)}</text></g>"
        )
    told = {
        "fps": notes.fps,
        "stride": notes.stride,
        "low": low,
        "left": LEFT,
        "scale": scale,
        "row": row,
        "digits": digits,
        "values": notes.values.tolist(),
        "taken": notes.taken.tolist(),
        "score": notes.score.tolist(),
    }
    if bars is not None:
        told |= {"bins": bars.shape[2], "bars": base64.b64encode(bars.tobytes()).decode("ascii")}
    if deciles is not None:
        told["deciles"] = base64.b64encode(deciles.tobytes()).decode("ascii")
    data = json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    about = "Return of each action" if bars is not None else "Value of each action"
    return (
        f'<svg class="panel" viewBox="0 0 {WIDTH} {bottom + BELOW:.0f}" role="img" '
        f'aria-label="{about} as the game goes on">'
        f"{''.join(parts)}</svg>"
        f'<script type="application/json" class="told">{data}</script>'
    )


def caption(notes: Notes) -> str:
    """What the panel shows, in words."""
    shape = "its value"
    if notes.bars is not None:
        shape = "the learned distribution of the return from here on, to a height of its own"
    if notes.deciles is not None:
        shape += " (below it: its nine deciles)"
    return (
        f"Each row is an action: {shape}; the upright line and the number are what acting maximizes. The colored row "
        "is the action done next. Returns are discounted, of rewards clipped as in training; a rescaling of values is "
        "undone."
    )


def _view(notes: Notes) -> tuple[float, float, np.ndarray | None]:
    """The returns that the panel shows, from ``low`` to ``high``, and the bars between them."""
    if notes.bars is None:
        low, high = min(float(notes.values.min()), 0.0), max(float(notes.values.max()), 0.0)
        margin = 0.04 * (high - low) or 0.5
        return low - margin, high + margin, None
    count = notes.bars.shape[2]
    width = (notes.high - notes.low) / count
    places = np.flatnonzero((notes.bars >= SEEN * 255).any(axis=(0, 1)))
    means = ((notes.values - notes.low) / width).clip(0, count - 1).astype(np.int64)
    first, last = min(places.min(initial=count - 1), means.min()) - 1, max(places.max(initial=0), means.max()) + 1
    more = max(0, FEWEST - (last - first + 1))
    first, last = max(0, int(first - more // 2)), min(count - 1, int(last + more - more // 2))
    return notes.low + first * width, notes.low + (last + 1) * width, notes.bars[:, :, first : last + 1]


def _deciles(notes: Notes, low: float, high: float) -> np.ndarray | None:
    """Where the deciles lie between ``low`` (0) and ``high`` (255)."""
    if notes.deciles is None:
        return None
    found = notes.low + notes.deciles / 255 * (notes.high - notes.low)
    return ((found.clip(low, high) - low) / (high - low) * 255).round().astype(np.uint8)


def _axis(low: float, high: float, scale: float, bottom: float) -> Iterator[str]:
    ticks = nice_ticks(low, high, 5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        at = LEFT + scale * (tick - low)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom:.1f}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{label}</text>'
    yield f'<text class="label" x="{WIDTH - RIGHT}" y="{bottom + 42:.1f}" text-anchor="end">return from here on</text>'
    yield f'<text class="label" x="{WIDTH - 4}" y="{bottom + 20:.1f}" text-anchor="end">value</text>'


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _bar(value: float, base: float, height: float, low: float, scale: float) -> str:
    """A bar from 0 to a value; ``moving.SCRIPT`` draws the same."""
    zero, at = LEFT + scale * (0 - low), LEFT + scale * (value - low)
    return f"M{zero:.1f} {base:.1f}V{base - height:.1f}H{at:.1f}V{base:.1f}Z"


def _outline(shares: np.ndarray, base: float, height: float) -> str:
    """The outline of one action's bars; ``moving.SCRIPT`` draws the same."""
    bars = shares.astype(np.float64)
    width = (WIDTH - LEFT - RIGHT) / len(bars)
    corners = [
        f"V{base - height * value / max(bars.max(), 1):.1f}H{LEFT + (at + 1) * width:.1f}"
        for at, value in enumerate(bars)
    ]
    return f"M{LEFT} {base:.1f}{''.join(corners)}V{base:.1f}Z"


def _ticks(places: np.ndarray, base: float) -> str:
    """Nine short lines below the row, the median's longest; ``moving.SCRIPT`` draws the same."""
    at = [LEFT + (WIDTH - LEFT - RIGHT) * int(place) / 255 for place in places]
    return "".join(f"M{x:.1f} {base + 1:.1f}v{5 if index == 4 else 3}" for index, x in enumerate(at))


def most_taken(notes: Notes) -> Sequence[int]:
    """The actions with a line in the chart: all of them, or those done most often."""
    count = len(notes.actions)
    if count <= SHOWN:
        return range(count)
    often = np.bincount(notes.taken[notes.taken >= 0], minlength=count)
    return sorted(int(index) for index in np.argsort(-often, kind="stable")[:SHOWN])


def values_chart(notes: Notes) -> str:
    """A figure: the value of each action over the game, with the page's read-outs."""
    steps = [index * notes.stride for index in range(len(notes.taken))]
    shown = most_taken(notes)
    chart = Chart(
        title="Value of each action over this game",
        x_label="step of the game",
        y_label="value (what acting maximizes)",
        lines=[
            Line(name=notes.actions[action], x=steps, y=notes.values[:, action].tolist(), color=place)
            for place, action in enumerate(shown)
        ],
        named=True,
        whole_x=True,
    )
    legend = "".join(
        f'<li class="{shade(place)}"><span class="swatch"></span>{escape(notes.actions[action])}</li>'
        for place, action in enumerate(shown)
    )
    rest = "" if len(shown) == len(notes.actions) else f"The {SHOWN} actions done most often. "
    return (
        f'<figure class="chart values"><h3>{chart.title}</h3><ul class="legend beside-names">{legend}</ul>'
        + draw(chart, 1000, 270, attributes='class="wide"')
        + draw(replace(chart, named=False), 400, 280, attributes='class="narrow"')
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script>'
        + f"<figcaption>{rest}The upright line moves with the film; click to go there.</figcaption></figure>"
    )
