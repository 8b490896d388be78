"""What stands beside a film on the page: the distribution of each action's return, or its value, picture by picture.

The panel is drawn here for the first picture; ``SCRIPT`` moves its shapes as the video plays.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from retorq.report.chart import SERIES_COLORS, Chart, Line, draw, nice_ticks, read_out, tick_labels
from retorq.report.notes import Notes

WIDTH, LEFT, RIGHT, BELOW = 460, 92, 58, 42
SHOWN = 8
"""Actions with a line of their own in the chart of values: as many as there are colors."""


def panel(notes: Notes) -> str:
    """The panel as one ``<svg>``, with the data for ``SCRIPT`` in a ``<script>`` beside it."""
    low, high = _span(notes)
    count = len(notes.actions)
    row = max(18.0, min(54.0, 330.0 / count))
    bottom = count * row + 6
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    digits = max(0, min(6, 2 - math.floor(math.log10(high - low))))
    parts = list(_axis(low, high, scale, bottom))
    for index, name in enumerate(notes.actions):
        base = (index + 1) * row
        value = float(notes.values[0, index])
        at = LEFT + scale * (min(max(value, low), high) - low)
        chosen = " taken" if notes.taken[0] == index else ""
        parts.append(
            f'<g class="act{chosen}">'
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>'
            f'<text class="name" x="{LEFT - 10}" y="{base - row * 0.28:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<path class="shape" d="{_shape(notes, index, base, row * 0.84, low, scale)}"/>'
            f'<line class="mean" x1="{at:.1f}" x2="{at:.1f}" y1="{base - row * 0.9:.1f}" y2="{base + 2:.1f}"/>'
            f'<text class="number" x="{WIDTH - 4}" y="{base - row * 0.28:.1f}" text-anchor="end">'
            f"{_number(value, digits)}</text></g>"
        )
    about = "Return of each action" if notes.bars is not None else "Value of each action"
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
    if notes.bars is not None:
        told |= {"bins": notes.bars.shape[2], "bars": base64.b64encode(notes.bars.tobytes()).decode("ascii")}
    data = json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<svg class="panel" viewBox="0 0 {WIDTH} {bottom + BELOW:.0f}" role="img" '
        f'aria-label="{about} as the game goes on">'
        f"{''.join(parts)}</svg>"
        f'<script type="application/json" class="told">{data}</script>'
    )


def caption(notes: Notes) -> str:
    """What the panel shows, in words."""
    shape = "the learned distribution of its return, to a height of its own" if notes.bars is not None else "its value"
    return (
        f"Each row is an action: {shape}; the upright line is what acting maximizes, also as a number. The colored "
        "row is the action done next. Returns are in the agent's units: discounted, rewards clipped or rescaled as in "
        "training."
    )


def _span(notes: Notes) -> tuple[float, float]:
    """The returns that the panel shows."""
    if notes.bars is not None:
        return notes.low, notes.high
    low, high = float(notes.values.min()), float(notes.values.max())
    low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _axis(low: float, high: float, scale: float, bottom: float) -> Iterator[str]:
    ticks = nice_ticks(low, high, 4)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        at = LEFT + scale * (tick - low)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom:.1f}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{label}</text>'
    yield f'<text class="label" x="{WIDTH - RIGHT}" y="{bottom + 34:.1f}" text-anchor="end">return from here on</text>'


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _shape(notes: Notes, index: int, base: float, height: float, low: float, scale: float) -> str:
    """The outline of one action's bars, or a bar from 0 to its value; ``SCRIPT`` draws the same."""
    if notes.bars is None:
        zero, at = LEFT + scale * (0 - low), LEFT + scale * (float(notes.values[0, index]) - low)
        return f"M{zero:.1f} {base:.1f}V{base - height * 0.6:.1f}H{at:.1f}V{base:.1f}Z"
    bars = notes.bars[0, index].astype(np.float64)
    width = (WIDTH - LEFT - RIGHT) / len(bars)
    corners = [
        f"V{base - height * value / max(bars.max(), 1):.1f}H{LEFT + (at + 1) * width:.1f}"
        for at, value in enumerate(bars)
    ]
    return f"M{LEFT} {base:.1f}{''.join(corners)}V{base:.1f}Z"


def most_taken(notes: Notes) -> Sequence[int]:
    """The actions with a line in the chart: all of them, or those done most often."""
    count = len(notes.actions)
    if count <= SHOWN:
        return range(count)
    often = np.bincount(notes.taken[notes.taken >= 0], minlength=count)
    return sorted(int(index) for index in np.argsort(-often, kind="stable")[:SHOWN])


def values_chart(notes: Notes) -> str:
    """A figure: the value of each action over the game, with the page's read-outs."""
    steps = [1 + index * notes.stride for index in range(len(notes.taken))]
    shown = most_taken(notes)
    chart = Chart(
        title="Value of each action over this game",
        x_label="step",
        y_label="value (what acting maximizes)",
        lines=[
            Line(name=notes.actions[action], x=steps, y=notes.values[:, action].tolist(), color=place)
            for place, action in enumerate(shown)
        ],
    )
    legend = "".join(
        f'<li class="s{place % SERIES_COLORS}"><span class="swatch"></span>{escape(notes.actions[action])}</li>'
        for place, action in enumerate(shown)
    )
    rest = "" if len(shown) == len(notes.actions) else f"The {SHOWN} actions done most often. "
    return (
        f'<figure class="card chart values"><h3>{chart.title}</h3><ul class="legend">{legend}</ul>'
        + draw(chart, 1000, 300, attributes='class="wide"')
        + draw(chart, 400, 280, attributes='class="narrow"')
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script>'
        + f"<figcaption>{rest}The line moves with the film; click to go there.</figcaption></figure>"
    )


STYLE = """
.films { display: grid; gap: 16px; } .films > figure { margin: 0; }
.beside { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 20px; align-items: center; }
.beside video { max-height: 60vh; }
.panel .act .shape { fill: var(--muted); opacity: .45; } .panel .act.taken .shape { fill: var(--s0); opacity: .9; }
.panel .act .mean { stroke: var(--ink); stroke-width: 2; } .panel .name { font-size: 13px; }
.panel .act.taken .name, .panel .act.taken .number { fill: var(--ink); font-weight: 650; }
.now { stroke: var(--ink); stroke-width: 1.5; opacity: .8; pointer-events: none; }
.filters { image-rendering: pixelated; width: 100%; max-width: 900px; display: block; border-radius: 4px; }
@media (max-width: 640px) { .beside { grid-template-columns: 1fr; } }
"""

SCRIPT = """
function film(block) {
  const video = block.querySelector('video'), svg = block.querySelector('.panel');
  const score = block.querySelector('.score');
  const told = JSON.parse(block.querySelector('script.told').textContent);
  const charts = block.querySelectorAll('.values svg');
  const count = told.values[0].length, acts = [...svg.querySelectorAll('.act')], last = told.values.length - 1;
  const bars = told.bars ? Uint8Array.from(atob(told.bars), c => c.charCodeAt(0)) : null;
  const px = v => told.left + told.scale * (v - told.low), wide = +svg.querySelector('.act line').getAttribute('x2');
  const marks = [...charts].map(chart => {
    const [left, top, width, height] = chart.dataset.box.split(' ').map(Number);
    const line = element(chart, 'line', {class: 'now', y1: top, y2: top + height});
    const [x0, x1] = chart.dataset.span.split(' ').map(Number);
    chart.addEventListener('click', event => {
      const box = chart.getBoundingClientRect();
      const share = ((event.clientX - box.left) * chart.viewBox.baseVal.width / box.width - left) / width;
      video.currentTime = Math.max(0, (x0 + share * (x1 - x0) - 0.5) / told.fps);
    });
    return at => {
      const x = left + width * (at + 1 - x0) / (x1 - x0);
      line.setAttribute('x1', x);
      line.setAttribute('x2', x);
    };
  });
  let shown = -1;
  function show() {
    const frame = Math.floor(video.currentTime * told.fps + 0.01), at = Math.min(last, Math.floor(frame / told.stride));
    if (at === shown) return;
    shown = at;
    acts.forEach((act, a) => {
      const base = (a + 1) * told.row, value = told.values[at][a], x = Math.min(wide, Math.max(told.left, px(value)));
      let path;
      if (bars) {
        const from = (at * count + a) * told.bins, part = bars.subarray(from, from + told.bins);
        const width = (wide - told.left) / told.bins, most = Math.max(...part, 1);
        path = 'M' + told.left + ' ' + base;
        part.forEach((v, i) => {
          path += 'V' + (base - told.row * 0.84 * v / most) + 'H' + (told.left + (i + 1) * width);
        });
        path += 'V' + base + 'Z';
      } else {
        path = 'M' + px(0) + ' ' + base + 'V' + (base - told.row * 0.504) + 'H' + px(value) + 'V' + base + 'Z';
      }
      act.querySelector('.shape').setAttribute('d', path);
      const mean = act.querySelector('.mean');
      mean.setAttribute('x1', x); mean.setAttribute('x2', x);
      act.querySelector('.number').textContent = value.toFixed(told.digits).replace('-', '−');
      act.classList.toggle('taken', told.taken[at] === a);
    });
    for (const move of marks) move(at * told.stride);
    score.textContent = 'step ' + (at * told.stride + 1) + ', score ' + text(told.score[at]);
  }
  function follow() { show(); if (!video.paused) requestAnimationFrame(follow); }
  for (const name of ['play', 'seeked', 'timeupdate', 'loadeddata']) video.addEventListener(name, follow);
  show();
}
for (const block of document.querySelectorAll('.film')) film(block);
"""
