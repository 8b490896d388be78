"""Looks and script of what moves with a film: the panel beside it, and the line in the chart below it."""

from __future__ import annotations

STYLE = """
.films { display: grid; gap: 16px; } .film { margin: 0; }
.beside { display: flex; gap: 28px; align-items: center; margin: 0 0 12px; }
.beside video { width: auto; height: 380px; max-width: 48%; object-fit: contain; flex: none; }
.beside .told-by { flex: 1; min-width: 0; } .film .note { max-width: none; }
.player { display: flex; gap: 12px; align-items: center; margin-bottom: 10px; }
.player button { width: 34px; height: 34px; padding: 0; border: 1px solid var(--rule); border-radius: 50%;
  background: var(--soft); color: var(--ink); cursor: pointer; }
.player button path { fill: var(--ink); } .player input { flex: 1; max-width: 320px; accent-color: var(--s0); }
.clock { display: flex; gap: 18px; margin: 0; font-variant-numeric: tabular-nums; color: var(--muted); }
.clock b { color: var(--ink); }
.panel .act .shape { fill: var(--muted); opacity: .45; } .panel .act.taken .shape { fill: var(--s0); opacity: .9; }
.panel .act .mean { stroke: var(--ink); stroke-width: 2; } .panel .name, .panel .number { font-size: 14px; }
.panel .deciles { stroke: var(--muted); fill: none; } .panel .act.taken .deciles { stroke: var(--s0); }
.panel .act.taken .name, .panel .act.taken .number { fill: var(--ink); font-weight: 650; }
.panel.ended .act { opacity: .35; }
.film .values { margin: 18px 0 0; }
.now { stroke: var(--ink); stroke-width: 1.5; opacity: .8; pointer-events: none; }
@media (max-width: 640px) { .panel text, .panel .name, .panel .number { font-size: 20px; } }
@media (max-width: 760px) { .beside { flex-direction: column; align-items: stretch; }
  .beside video { width: 100%; height: auto; max-width: none; max-height: 42vh; } }
"""

SCRIPT = """
function film(block) {
  const video = block.querySelector('video'), svg = block.querySelector('.panel');
  const clock = block.querySelector('.clock');
  const told = JSON.parse(block.querySelector('script.told').textContent);
  const charts = block.querySelectorAll('.values svg');
  const count = told.values[0].length, acts = [...svg.querySelectorAll('.act')], last = told.values.length - 1;
  const bytes = packed => packed ? Uint8Array.from(atob(packed), c => c.charCodeAt(0)) : null;
  const bars = bytes(told.bars), deciles = bytes(told.deciles);
  const px = v => told.left + told.scale * (v - told.low), wide = +svg.querySelector('.act line').getAttribute('x2');
  const marks = [...charts].map(chart => {
    const [left, top, width, height] = chart.dataset.box.split(' ').map(Number);
    const line = element(chart, 'line', {class: 'now', y1: top, y2: top + height});
    const [x0, x1] = chart.dataset.span.split(' ').map(Number);
    chart.addEventListener('click', event => {
      const box = chart.getBoundingClientRect();
      const share = ((event.clientX - box.left) * chart.viewBox.baseVal.width / box.width - left) / width;
      video.currentTime = Math.max(0, (x0 + share * (x1 - x0) + 0.5) / told.fps);
    });
    return at => {
      const x = left + width * (at - x0) / (x1 - x0);
      line.setAttribute('x1', x);
      line.setAttribute('x2', x);
    };
  });
  function outline(at, a, base) {
    if (!bars) {
      const end = px(told.values[at][a]);
      return 'M' + px(0) + ' ' + base + 'V' + (base - told.row * 0.46) + 'H' + end + 'V' + base + 'Z';
    }
    const from = (at * count + a) * told.bins, part = bars.subarray(from, from + told.bins);
    const width = (wide - told.left) / told.bins, most = Math.max(...part, 1);
    let path = 'M' + told.left + ' ' + base;
    part.forEach((v, i) => {
      path += 'V' + (base - told.row * 0.74 * v / most) + 'H' + (told.left + (i + 1) * width);
    });
    return path + 'V' + base + 'Z';
  }
  const player = block.querySelector('.player'), button = document.createElement('button');
  const slider = document.createElement('input');
  video.controls = false;  // their bar would hide the lowest rows of a small game
  button.type = 'button';
  slider.type = 'range'; slider.min = 0; slider.max = 1; slider.step = 'any'; slider.value = 0;
  slider.setAttribute('aria-label', 'place in the film');
  slider.addEventListener('input', () => { video.currentTime = slider.value * (video.duration || 0); });
  const toggle = () => video.paused ? video.play() : video.pause();
  for (const part of [button, video]) part.addEventListener('click', toggle);
  function label() {
    const shape = video.paused ? 'M5 3l8 5-8 5z' : 'M4 3h3v10h-3zM9 3h3v10h-3z';
    button.innerHTML = '<svg viewBox="0 0 16 16" width="16" height="16"><path d="' + shape + '"/></svg>';
    button.setAttribute('aria-label', video.paused ? 'play' : 'pause');
  }
  for (const name of ['play', 'pause']) video.addEventListener(name, label);
  label();
  player.prepend(button, slider);
  let shown = -1;
  function show() {
    slider.value = video.currentTime / (video.duration || 1);
    const frame = Math.floor(video.currentTime * told.fps + 0.01), time = Math.floor(frame / told.stride);
    if (time === shown) return;
    shown = time;
    const at = Math.min(last, time), over = time > last && told.score.length > last + 1;
    acts.forEach((act, a) => {
      const base = (a + 1) * told.row - 6, value = told.values[at][a];
      act.querySelector('.shape').setAttribute('d', outline(at, a, base));
      const ticks = act.querySelector('.deciles'), mean = act.querySelector('.mean');
      if (ticks) {
        const from = (at * count + a) * 9;
        ticks.setAttribute('d', [...deciles.subarray(from, from + 9)].map((v, i) =>
          'M' + (told.left + (wide - told.left) * v / 255) + ' ' + (base + 1) + 'v' + (i === 4 ? 5 : 3)).join(''));
      }
      const x = Math.min(wide, Math.max(told.left, px(value)));
      mean.setAttribute('x1', x); mean.setAttribute('x2', x);
      act.querySelector('.number').textContent = value.toFixed(told.digits).replace('-', '−');
      act.classList.toggle('taken', !over && told.taken[at] === a);
    });
    svg.classList.toggle('ended', over);
    for (const move of marks) move(at * told.stride);
    clock.replaceChildren();
    const score = told.score[over ? told.score.length - 1 : at];
    for (const [name, value] of [['step', over ? frame : at * told.stride], ['score', score]]) {
      const part = document.createElement('span'), number = document.createElement('b');
      number.textContent = text(value);
      part.append(name + ' ', number);
      clock.append(part);
    }
    if (over) clock.append('game over');
  }
  function follow() { show(); if (!video.paused) requestAnimationFrame(follow); }
  const asked = /^#at=([\\d.]+)$/.exec(location.hash);  // page.html#at=3.5: three seconds and a half into every film
  if (asked) video.addEventListener('loadedmetadata', () => { video.currentTime = +asked[1]; }, {once: true});
  if (asked && video.readyState) video.currentTime = +asked[1];
  for (const name of ['play', 'seeked', 'timeupdate', 'loadeddata']) video.addEventListener(name, follow);
  show();
}
for (const block of document.querySelectorAll('.film')) film(block);
"""
