#!/bin/sh
# Makes pictures of report pages with a headless Chromium (name another with CHROMIUM). Run it from the repository's root.
#   docs/pictures/report.sh              report.png: trains on the toy `memory`, evaluates, films, shows the page's top
#   docs/pictures/report.sh films        film-c51.png and film-iqn.png: trains both on MinAtar Breakout, films a game of each
#   docs/pictures/report.sh RUN RUN ...  report-pong.png: the page of these runs (docs/results.md tells which)
set -eu
retorq=${RETORQ:-.venv/bin/retorq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
picture() {
  "${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1160,$1" \
    --virtual-time-budget=3000 --screenshot="$PWD/docs/pictures/$2" "file://$work/$3"
}
if [ "${1:-}" = films ]; then
  for agent in c51 iqn; do
    few=$([ "$agent" = c51 ] || echo --samples 8 --target-samples 8 --optimizer-epsilon 4e-5)
    "$retorq" train MinAtar/Breakout-v0 --agent "$agent" --preset minatar --steps 60000 --epsilon-steps 30000 $few --threads 1 \
      --run "$work/$agent"
    "$retorq" eval "$work/$agent" --protocol greedy --episodes 20 --video best
    "$retorq" report "$work/$agent" --out "$work/$agent.html"
    # Of the page, the film with what stands beside and below it.
    sed 's|</head>|<style>main>*{display:none} main>.films{display:grid}</style></head>|' "$work/$agent.html" > "$work/film.html"
    picture 980 "film-$agent.png" "film.html#at=3.5"
  done
  exit
fi
if [ $# -gt 0 ]; then
  "$retorq" report "$@" --out "$work/page.html"
  picture 3400 report-pong.png page.html
  exit
fi
"$retorq" train memory --agent recurrent_iqn --preset toy --steps 10000 --threads 1 --run "$work/memory"
"$retorq" eval "$work/memory" --episodes 100 --video best
"$retorq" report "$work/memory" --out "$work/memory.html"
picture 1376 report.png "memory.html#at=5.2"
