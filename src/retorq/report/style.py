"""Looks and script of the page and of single pictures, inline because a report is one file without a network."""

from __future__ import annotations

LIGHT = ("#1f6fb4", "#cf5a06", "#14836a", "#9448ad", "#a07700", "#c12b4b", "#57616d", "#0d7a8f")
DARK = ("#6cb4f4", "#f59a50", "#4ecda6", "#d197e8", "#dfbb4b", "#f47c95", "#aab5c1", "#57c8de")


def _colors(colors: tuple[str, ...]) -> str:
    return "".join(f"--s{index}:{color};" for index, color in enumerate(colors))


PALETTE = f"""
:root {{ color-scheme: light dark; {_colors(LIGHT)}
  --page: #f6f6f3; --card: #ffffff; --ink: #1a1e23; --muted: #5a636e; --rule: #e4e4de; --soft: #f0f0ec; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colors(DARK)}
  --page: #121518; --card: #1a1e22; --ink: #e8eaed; --muted: #9ca6b1; --rule: #2d3339; --soft: #22272c; }} }}
{"".join(f".s{index} {{ --c: var(--s{index}); }}" for index in range(len(LIGHT)))} .sk {{ --c: var(--ink); }}
"""

CHART = """
svg { font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
svg text { fill: var(--muted); font-variant-numeric: tabular-nums; }
svg text.label { fill: var(--ink); }
svg text.title { fill: var(--ink); font-size: 17px; font-weight: 650; }
.grid { stroke: var(--rule); } .axis, .tick { stroke: var(--muted); opacity: .6; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; opacity: .45; } .line.thin { stroke-width: 1.25; opacity: .85; }
.line.again { stroke-dasharray: 7 4; }
.band { fill: var(--c); opacity: .14; } .band.sk { opacity: .09; }
svg text.tag { fill: var(--c); font-weight: 600; } .tie { stroke: var(--c); fill: none; opacity: .6; }
.dot { fill: var(--c); }
.mark line { stroke: var(--c); stroke-width: 2; } .mark path { fill: var(--card); stroke: var(--c); stroke-width: 2; }
.rule { stroke: var(--muted); stroke-dasharray: 2 4; }
"""

PAGE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: clamp(1.9rem, 5vw, 2.7rem); line-height: 1.1; letter-spacing: -.02em; margin: 0 0 .35em; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 2.6em 0 .7em; }
h2.env { font-size: 1.8rem; border-top: 2px solid var(--ink); padding-top: .5em; margin-top: 2.2em; }
h3 { font-size: .95rem; margin: 0 0 .5em; }
p { margin: 0 0 .8em; max-width: 72ch; }
.over { text-transform: uppercase; letter-spacing: .12em; font-size: .72rem; font-weight: 600; color: var(--muted); }
.lead { font-size: 1.1rem; color: var(--muted); }
.scroll + .note { margin-top: .8em; }
.note, figcaption, .small { color: var(--muted); font-size: .86rem; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; }
.runs { list-style: none; margin: 1.4em 0 0; padding: 0; display: grid; gap: 10px; }
.runs li { display: grid; grid-template-columns: auto 1fr; gap: 0 14px; padding-top: 12px; padding-bottom: 12px; }
.runs strong { font-weight: 650; margin-right: .7em; } .runs .small { grid-column: 2; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 14px; height: 14px; border-radius: 4px; background: var(--c);
  align-self: center; }
figure { margin: 0 0 16px; position: relative; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
figure svg:focus-visible { outline: 2px solid var(--s0); outline-offset: 4px; border-radius: 4px; }
figure svg.narrow, .legend.beside-names { display: none; }
figcaption { margin-top: 10px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 0 0 12px;
  font-size: .88rem; }
.legend .swatch { height: 4px; margin: 0 8px 4px 0; vertical-align: middle; border-radius: 2px; }
.again .swatch, .swatch.again {
  background: repeating-linear-gradient(90deg, var(--c) 0 4px, transparent 4px 6px); }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 16px; }
.multiples figure { margin: 0; }
.card > .chart, .pane > .chart { margin: 0; }
.switch { position: relative; } .switch > input { position: absolute; opacity: 0; }
.tabs { position: absolute; top: 14px; right: 18px; display: flex; border: 1px solid var(--rule); border-radius: 8px;
  overflow: hidden; font-size: .82rem; z-index: 1; }
.tabs label { padding: 4px 12px; cursor: pointer; color: var(--muted); }
.pane { display: none; }
.switch > input:nth-of-type(1):checked ~ .pane:nth-of-type(2),
.switch > input:nth-of-type(2):checked ~ .pane:nth-of-type(3) { display: block; }
.switch > input:nth-of-type(1):checked ~ .tabs label:nth-of-type(1),
.switch > input:nth-of-type(2):checked ~ .tabs label:nth-of-type(2) { background: var(--soft); color: var(--ink);
  font-weight: 600; }
.switch > input:focus-visible ~ .tabs { outline: 2px solid var(--s0); outline-offset: 2px; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 16px; }
.videos figure { margin: 0; }
video { display: block; width: 100%; max-height: 70vh; background: #000; border-radius: 8px; }
.filters { image-rendering: pixelated; width: 100%; max-width: 900px; display: block; border-radius: 4px; }
.scroll { overflow-x: auto; padding: 4px 20px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 14px 8px 0; border-bottom: 1px solid var(--rule); vertical-align: middle; }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
th { font-weight: 600; } tbody th { white-space: nowrap; } .settings tbody th { white-space: normal; }
thead th { color: var(--muted); font-size: .8rem; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.small { min-width: 250px; }
td:last-child, th:last-child { padding-right: 0; }
tr.ours th, tr.ours td.n { font-weight: 650; } tr.ours .bar i { background: var(--c); }
tr.edge th, tr.edge td { color: var(--muted); font-style: italic; }
.bar { width: 26%; min-width: 90px; } .bar i { display: block; height: 10px; border-radius: 3px;
  background: color-mix(in srgb, var(--muted) 45%, transparent); min-width: 2px; }
td.strip, td.n + td:not(.n), th.n + th:not(.n) { padding-left: 22px; }
.strip { width: 120px; } .strip svg { display: block; width: 120px; height: 22px; overflow: visible; }
.strip .base { stroke: var(--rule); } .strip .game { stroke: var(--c); opacity: .35; }
.strip .span { stroke: var(--c); stroke-width: 4; stroke-linecap: round; } .strip circle { fill: var(--c);
  stroke: var(--card); stroke-width: 1.5; }
.settings td, .settings th { overflow-wrap: anywhere; font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  font-size: .8rem; font-weight: 400; padding-top: 4px; padding-bottom: 4px; }
.settings tbody th { color: var(--muted); width: 34%; } .settings thead th { font-weight: 600; }
.facts { margin-bottom: 12px; } .facts dl { columns: 250px; column-gap: 36px; margin: 0; }
.facts dl div { display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--rule);
  break-inside: avoid; padding: 3px 0; font: .8rem ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.card.scroll:has(.settings) { margin-bottom: 12px; }
details { margin-bottom: 12px; } summary { cursor: pointer; font-weight: 600; }
details[open] summary { margin-bottom: 8px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; margin: 0 0 .8em; }
.warn { border-left: 4px solid var(--s1); margin-top: 10px; padding-top: 12px; padding-bottom: 12px; }
.warn ul { margin: 0; padding-left: 1.2em; }
.empty { color: var(--muted); font-style: italic; margin: 0; padding: 24px 0; }
.cursor { stroke: var(--ink); opacity: .5; pointer-events: none; } .spot { fill: var(--card); stroke: var(--c);
  stroke-width: 2; pointer-events: none; }
.readout { position: absolute; z-index: 2; pointer-events: none; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 8px 12px; font-size: .82rem; box-shadow: 0 4px 16px rgb(0 0 0 / .14); max-width: 92%; }
.readout b { font-variant-numeric: tabular-nums; } .readout div { white-space: nowrap; }
.readout .swatch { width: 9px; height: 9px; margin-right: 7px; }
@media (max-width: 640px) { main { padding: 24px 12px 60px; } .card { padding: 14px; border-radius: 10px; }
  figure svg.wide { display: none; } figure svg.narrow { display: block; } .scroll { padding: 4px 14px; }
  .legend.beside-names { display: flex; } .tabs { position: static; width: max-content; margin: 0 0 10px; } }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""

SCRIPT = """
'use strict';
const NS = 'http://www.w3.org/2000/svg';
function text(v) {
  const a = Math.abs(v);
  const [u, s] = a >= 1e9 ? [1e9, ' B'] : a >= 1e6 ? [1e6, ' M'] : [1, ''];
  if (a >= 1e13 || (a > 0 && a < 1e-4)) return v.toExponential(2).replace('-', '−');
  return (v / u).toLocaleString('en-US', {maximumSignificantDigits: 4}).replace('-', '−') + s;
}
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const mid = (low + high) >> 1; if (xs[mid] > x) high = mid; else low = mid; }
  return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}
function element(parent, name, attributes) {
  const node = document.createElementNS(NS, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  return parent.appendChild(node);
}
function equip(figure, svg, data) {
  const title = svg.querySelector(':scope > title'), about = svg.querySelector(':scope > desc');
  if (title) { svg.setAttribute('aria-label', title.textContent + '. ' + about.textContent); title.remove(); }
  const [left, top, width, height] = svg.dataset.box.split(' ').map(Number);
  const [x0, x1, y0, y1, log] = svg.dataset.span.split(' ').map(Number);
  const px = x => left + width * (x - x0) / (x1 - x0);
  const py = y => top + height * (1 - ((log ? Math.log10(y) : y) - y0) / (y1 - y0));
  let layer = null, at = null;
  const readout = figure.querySelector('.readout');
  function hide() { if (layer) layer.remove(); layer = null; readout.hidden = true; }
  function show(x) {
    hide();
    at = Math.min(x1, Math.max(x0, x));
    layer = element(svg, 'g', {});
    readout.replaceChildren();
    let place = at;
    for (const s of data.series) {
      const pad = (x1 - x0) * 0.02;
      if (!s.x.length || at < s.x[0] - pad || at > s.x[s.x.length - 1] + pad) continue;
      const i = nearest(s.x, at), line = document.createElement('div'), dot = document.createElement('span');
      const value = document.createElement('b');
      place = s.x[i];
      element(layer, 'circle', {class: 'spot ' + s.color, cx: px(s.x[i]), cy: py(s.y[i]), r: 4});
      dot.className = 'swatch ' + s.color;
      value.textContent = text(s.y[i]);
      line.append(dot, s.name + ' ', value, s.low.length ? ' (' + text(s.low[i]) + ' to ' + text(s.high[i]) + ')' : '');
      readout.append(line);
    }
    const head = document.createElement('div');
    head.className = 'small';
    head.textContent = data.x + ': ' + text(place);
    readout.prepend(head);
    element(layer, 'line', {class: 'cursor', x1: px(place), x2: px(place), y1: top, y2: top + height});
    readout.hidden = false;
    const box = svg.getBoundingClientRect(), outer = figure.getBoundingClientRect();
    const from = box.left - outer.left + px(place) * box.width / svg.viewBox.baseVal.width;
    const room = outer.width - readout.offsetWidth - 6;
    const side = from + 16 > room ? from - readout.offsetWidth - 16 : from + 16;
    readout.style.left = Math.max(6, Math.min(room, side)) + 'px';
    const fits = side >= 6;  // beside the cursor; on a phone below the picture, so that it hides nothing
    const under = box.bottom - outer.top, within = box.top - outer.top + top * box.height / svg.viewBox.baseVal.height;
    readout.style.top = (fits ? within + 6 : under) + 'px';
  }
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    show(x0 + (place - left) / width * (x1 - x0));
  });
  svg.addEventListener('pointerleave', hide);
  svg.addEventListener('blur', hide);
  svg.setAttribute('tabindex', '0');
  svg.addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) { show((at === null ? x0 : at) + step * (x1 - x0) / 50); event.preventDefault(); }
    if (event.key === 'Escape') hide();
  });
}
for (const figure of document.querySelectorAll('figure.chart')) {
  const source = figure.querySelector('script');
  if (source) for (const svg of figure.querySelectorAll('svg')) equip(figure, svg, JSON.parse(source.textContent));
}
"""
