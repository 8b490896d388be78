"""Line charts as SVG text: bands, marks with intervals, names in the margin, and the data for the page's read-outs.

Colors are CSS classes (``shade``) whose light and dark values stand in ``style.PALETTE``, so one drawing serves both.
Nothing here knows about runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from retorq.report.labels import Label, column, text_width
from retorq.report.ticks import interval, nice_ticks, short, tick_labels

SERIES_COLORS = 8
INK = -1
"""The color of what stands for all series together."""


def shade(color: int) -> str:
    """CSS classes of a series' color; beyond ``SERIES_COLORS`` they come again, as dashes."""
    if color == INK:
        return "sk"
    return f"s{color % SERIES_COLORS}" + (" again" if color // SERIES_COLORS % 2 else "")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through ``x, y`` (equal lengths, x rising), with an optional band from ``low`` to ``high`` around it.

    ``thin`` lines stand back behind the others; ``faint`` ones also have no name and are not read out.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    thin: bool = False
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A measured point with its interval; ``label`` stands beside it where it lies at the end of the picture."""

    name: str
    x: float
    y: float
    low: float
    high: float
    color: int = 0
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A horizontal reference, such as the score of a human; drawn only where it does not stretch the picture."""

    name: str
    y: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What to draw. ``zero`` starts the y axis at 0; ``log_y`` draws powers of ten apart evenly (all y above 0).

    ``whole_x`` puts the ticks of the x axis at whole numbers. ``named`` writes the names of lines and marks into the
    right margin; names of rules always stand there.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    rules: Sequence[Rule] = ()
    zero: bool = False
    log_y: bool = False
    named: bool = False
    whole_x: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(line.x for line in self.lines) and not self.marks

    def values(self) -> Iterator[float]:
        """Every y that the picture must show."""
        for line in self.lines:
            yield from (*line.y, *line.low, *line.high)
        for mark in self.marks:
            yield from (mark.y, mark.low, mark.high)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The plot's box in the picture and the data it spans; ``x`` and ``y`` turn data into picture coordinates."""

    left: float
    top: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, value: float) -> float:
        return self.left + self.width * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.top + self.height * (1 - (value - self.y_low) / (self.y_high - self.y_low))

    @property
    def bottom(self) -> float:
        return self.top + self.height


def _y_range(chart: Chart) -> tuple[float, float]:
    """The span of the y axis (of its logarithm where ``log_y``), with a little air."""
    values = [math.log10(value) for value in chart.values()] if chart.log_y else list(chart.values())
    low, high = min(values), max(values)
    air = 0.05 * (high - low) or max(abs(high) * 0.05, 1e-9 if high else 1.0)
    if chart.zero:
        return (low - air if low < 0 else 0.0), max(high, 0.0) + air
    for rule in chart.rules:
        if low - 4 * air <= rule.y <= high + 4 * air:
            low, high = min(low, rule.y), max(high, rule.y)
    return low - air, high + air


def _y_ticks(low: float, high: float, log: bool, count: int) -> tuple[list[float], list[str]]:
    """Tick values in data units and their texts."""
    if not log:
        ticks = nice_ticks(low, high, count)
        return ticks, tick_labels(ticks)
    every = max(1, math.ceil((high - low) / count))
    powers = [power for power in range(math.ceil(low), math.floor(high) + 1) if power % every == 0]
    if len(powers) >= 2:
        return [10.0**power for power in powers], [f"{10.0**power:g}".replace("-", "−") for power in powers]
    ticks = [tick for tick in nice_ticks(10**low, 10**high, count) if tick > 0]
    return ticks, tick_labels(ticks)


def _frame(
    chart: Chart, width: int, height: int, top: int, room: tuple[float, float], y: tuple[float, float]
) -> _Frame:
    xs = [line.x[index] for line in chart.lines if line.x for index in (0, -1)] + [mark.x for mark in chart.marks]
    low, high = min(0.0, *xs), max(xs)
    left, right = room
    return _Frame(
        left=left,
        top=top,
        width=width - left - right,
        height=height - top - 44,
        x_low=low,
        x_high=high if high > low else low + 1,
        y_low=y[0],
        y_high=y[1],
        log=chart.log_y,
    )


def _axes(chart: Chart, frame: _Frame, ticks: Sequence[float], labels: Sequence[str]) -> Iterator[str]:
    right, low = frame.left + frame.width, frame.bottom
    for tick, label in zip(ticks, labels, strict=True):
        at = frame.y(tick)
        yield f'<line class="grid" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{frame.left - 8:.1f}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    x_ticks = nice_ticks(frame.x_low, frame.x_high, max(3, int(frame.width // 105)), whole=chart.whole_x)
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        at = frame.x(tick)
        yield f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.bottom:.1f}" y2="{frame.bottom + 5:.1f}"/>'
        yield f'<text x="{at:.1f}" y="{frame.bottom + 19:.1f}" text-anchor="middle">{label}</text>'
    yield f'<line class="axis" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{low:.1f}" y2="{low:.1f}"/>'
    yield f'<text class="label" x="{right:.1f}" y="{low + 37:.1f}" text-anchor="end">{escape(chart.x_label)}</text>'
    if frame.top >= 24:
        yield f'<text class="label" x="{frame.left:.1f}" y="{frame.top - 12:.1f}">{escape(chart.y_label)}</text>'


def _path(frame: _Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    return "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(xs, ys, strict=True))


def _line(line: Line, frame: _Frame) -> Iterator[str]:
    color = shade(line.color)
    if len(line.low):
        edge = _path(frame, line.x, line.high) + "L" + _path(frame, line.x[::-1], line.low[::-1])
        yield f'<path class="band {color}" d="M{edge}Z"/>'
    if len(line.x) == 1:
        yield f'<circle class="dot {color}" cx="{frame.x(line.x[0]):.1f}" cy="{frame.y(line.y[0]):.1f}" r="3"/>'
    elif line.x:
        kind = "line faint" if line.faint else "line thin" if line.thin else "line"
        yield f'<path class="{kind} {color}" d="M{_path(frame, line.x, line.y)}"/>'


def _mark(mark: Mark, frame: _Frame) -> str:
    x, y, color = frame.x(mark.x), frame.y(mark.y), shade(mark.color)
    mean, low, high = interval(mark.y, mark.low, mark.high)
    between = f" ({low} to {high})" if mark.high > mark.low else ""  # one game has no interval
    return (
        f'<g class="mark {color}"><title>{escape(mark.name)}: {mean}{between}</title>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(mark.low):.1f}" y2="{frame.y(mark.high):.1f}"/>'
        f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/></g>'
    )


def _rule(rule: Rule, frame: _Frame) -> str:
    y, right = frame.y(rule.y), frame.left + frame.width
    return f'<line class="rule" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _names(chart: Chart, rules: Sequence[Rule], x_high: float) -> list[tuple[str, str, float, bool]]:
    """What is written into the right margin: text, CSS class, the y it belongs to, whether it starts at the edge."""
    found = [(f"{rule.name} {short(rule.y)}", "rule-name", rule.y, False) for rule in rules]
    if chart.named:
        lines = [line for line in chart.lines if line.x and not line.faint]
        found += [(line.name, shade(line.color), line.y[-1], line.x[-1] >= 0.995 * x_high) for line in lines]
        marks = [mark for mark in chart.marks if mark.label and mark.x >= 0.98 * x_high]
        found += [(mark.label, shade(mark.color), mark.y, True) for mark in marks]
    return found


def draw(chart: Chart, width: int, height: int, *, top: int = 30, extra: str = "", attributes: str = "") -> str:
    """The chart as one ``<svg>`` element of ``width`` by ``height`` picture units that scales with its container.

    ``top`` is the room above the plot, ``extra`` further SVG drawn into it, ``attributes`` further attributes of the
    element. Raises ValueError if the chart is empty (``Chart.empty``).
    """
    if chart.empty:
        raise ValueError(f"chart {chart.title!r} has nothing to draw")
    y_low, y_high = _y_range(chart)
    ticks, texts = _y_ticks(y_low, y_high, chart.log_y, max(3, (height - top) // 60))
    rules = [rule for rule in chart.rules if not chart.log_y and y_low <= rule.y <= y_high]
    x_high = max([line.x[-1] for line in chart.lines if line.x] + [mark.x for mark in chart.marks])
    names = _names(chart, rules, x_high)
    margin = (
        18 + 7.2 * max(map(len, texts), default=1),
        16 + max((8 + text_width(name) for name, *_ in names), default=0),
    )
    frame = _frame(chart, width, height, top, margin, (y_low, y_high))
    parts = list(_axes(chart, frame, ticks, texts))
    parts += [_rule(rule, frame) for rule in rules]
    for line in sorted(chart.lines, key=lambda line: (not line.faint, not line.thin)):
        parts += _line(line, frame)
    parts += [_mark(mark, frame) for mark in chart.marks]
    labels = [Label(text, kind, frame.y(y), edge) for text, kind, y, edge in names]
    parts += column(labels, frame.left + frame.width, frame.top, frame.bottom)
    told = ", ".join(dict.fromkeys(line.name for line in chart.lines if not line.faint))
    about = f"{chart.y_label} against {chart.x_label}. Lines: {told or 'none'}."
    box = f"{frame.left:.2f} {frame.top:.2f} {frame.width:.2f} {frame.height:.2f}"
    span = f"{frame.x_low!r} {frame.x_high!r} {frame.y_low!r} {frame.y_high!r} {int(frame.log)}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" data-box="{box}" data-span="{span}" {attributes}>'
        f"<title>{escape(chart.title)}</title><desc>{escape(about)}</desc>{extra}{''.join(parts)}</svg>"
    )


def read_out(chart: Chart) -> str:
    """What the page's script needs to show values under the pointer, as JSON that is safe inside ``<script>``."""
    series: list[dict[str, Any]] = [
        {
            "name": line.name,
            "color": shade(line.color),
            "x": [_round(x) for x in line.x],
            "y": [_round(y) for y in line.y],
            "low": [_round(y) for y in line.low],
            "high": [_round(y) for y in line.high],
        }
        for line in chart.lines
        if not line.faint
    ]
    text = json.dumps({"x": chart.x_label, "series": series}, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _round(value: float) -> float:
    """Five significant digits: more cannot be read, and the page stays small."""
    return float(f"{value:.5g}")
