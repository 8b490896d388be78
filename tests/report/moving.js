// Runs the script of the page's films on made-up elements: `node moving.js SCRIPT < DATA` writes, for each picture of
// the film, what every row of the panel shows.
const fs = require('fs');
const data = JSON.parse(fs.readFileSync(0, 'utf8'));

class Part {
  constructor(parts = {}) {
    this.parts = parts; this.attributes = {}; this.heard = {}; this.classes = new Set(); this.textContent = '';
    this.classList = {toggle: (name, on) => on ? this.classes.add(name) : this.classes.delete(name)};
  }
  querySelector(which) { return this.parts[which] ?? null; }
  querySelectorAll(which) { return this.parts[which] ?? []; }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name]; }
  addEventListener(name, heard) { (this.heard[name] ??= []).push(heard); }
  prepend() {} append() {} replaceChildren() {}
}

const acts = data.told.values[0].map(() => new Part({
  '.shape': new Part(), '.deciles': data.told.deciles ? new Part() : null, '.mean': new Part(), '.number': new Part(),
}));
const grid = new Part();
grid.setAttribute('x2', data.wide);
const video = Object.assign(new Part(), {currentTime: 0, duration: data.pictures / data.told.fps, paused: true});
const film = new Part({
  video, '.panel': new Part({'.act': acts, '.act line': grid}), '.clock': new Part(), '.player': new Part(),
  'script.told': {textContent: JSON.stringify(data.told)},
});
globalThis.document = {createElement: () => new Part(), querySelectorAll: () => [film]};
globalThis.location = {hash: ''};
globalThis.text = String;
new Function(fs.readFileSync(process.argv[2], 'utf8'))();

const shown = [];
for (let picture = 0; picture < data.pictures; picture++) {
  video.currentTime = picture / data.told.fps;
  for (const heard of video.heard.seeked) heard();
  shown.push(acts.map(act => ({
    shape: act.parts['.shape'].attributes.d,
    deciles: act.parts['.deciles']?.attributes.d ?? null,
    mean: act.parts['.mean'].attributes.x1,
    number: act.parts['.number'].textContent,
    taken: act.classes.has('taken'),
  })));
}
process.stdout.write(JSON.stringify(shown));
