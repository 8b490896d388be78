"""Interval bars as SVG text: one row per variant with its statistic, the interval and the raw scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from retorq.report import style
from retorq.report.chart import SERIES_COLORS
from retorq.report.ticks import interval, nice_ticks, tick_labels

ROW, TOP, BOTTOM, RIGHT = 30, 58, 52, 24


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A statistic with its interval, and the runs it is made of."""

    name: str
    value: float
    low: float
    high: float
    runs: Sequence[float]
    color: int = 0


def draw(title: str, label: str, bars: Sequence[Bar], *, width: int = 760) -> str:
    """The picture as one ``<svg>`` that may stand alone; it follows the viewer's light or dark setting.

    Raises:
        ValueError: There is no bar.
    """
    if not bars:
        raise ValueError(f"{title!r} has no bars to draw")
    values = [value for bar in bars for value in (bar.low, bar.high, bar.value, *bar.runs)]
    air = 0.05 * (max(values) - min(values)) or 0.5
    low, high = min(values) - air, max(values) + air
    left = 30 + 7.2 * max(len(bar.name) for bar in bars)
    bottom = TOP + ROW * len(bars)

    def x(value: float) -> float:
        return left + (width - left - RIGHT) * (value - low) / (high - low)

    ticks = nice_ticks(low, high, 6)
    parts = [
        f"<style>{style.PALETTE}{style.CHART}</style>",
        '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>',
        f'<text class="title" x="20" y="32">{escape(title)}</text>',
    ]
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="label" x="{width - RIGHT}" y="{bottom + 38}" text-anchor="end">{escape(label)}</text>')
    for number, bar in enumerate(bars):
        parts.append(_row(bar, TOP + ROW * (number + 0.5), left, x))
    about = "; ".join(f"{bar.name} {bar.value:.4g} ({bar.low:.4g} to {bar.high:.4g})" for bar in bars)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + BOTTOM}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>{''.join(parts)}</svg>"
    )


def _row(bar: Bar, y: float, left: float, x: Callable[[float], float]) -> str:
    color = f"s{bar.color % SERIES_COLORS}"
    low_x, high_x = f"{x(bar.low):.1f}", f"{x(bar.high):.1f}"
    middle, low, high = interval(bar.value, bar.low, bar.high)
    runs = "".join(
        f'<circle class="dot {color}" cx="{x(run):.1f}" cy="{y:.1f}" r="2.5" opacity=".5"/>' for run in bar.runs
    )
    return (
        f'<text class="label" x="{left - 12:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>'
        f'<path class="band {color}" style="opacity:.3" d="M{low_x} {y - 7:.1f}H{high_x}v14H{low_x}Z"/>'
        f'{runs}<path class="line {color}" d="M{x(bar.value):.1f} {y - 9:.1f}v18">'
        f"<title>{escape(bar.name)}: {middle} ({low} to {high})</title></path>"
    )
