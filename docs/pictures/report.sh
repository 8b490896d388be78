#!/bin/sh
# Makes pictures of report pages with a headless Chromium (name another with CHROMIUM). Run it from the repository's root.
#   docs/pictures/report.sh              report.png: trains on the toy `memory`, evaluates, films, shows the page's top
#   docs/pictures/report.sh RUN RUN ...  report-pong.png: the page of these runs (docs/results.md tells which)
set -eu
retorq=${RETORQ:-.venv/bin/retorq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
picture() {
  "${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1160,$1" \
    --virtual-time-budget=3000 --screenshot="$PWD/docs/pictures/$2" "file://$work/$3"
}
if [ $# -gt 0 ]; then
  "$retorq" report "$@" --out "$work/page.html"
  picture 3400 report-pong.png page.html
  exit
fi
"$retorq" train memory --agent recurrent_iqn --preset toy --steps 10000 --threads 1 --run "$work/memory"
"$retorq" eval "$work/memory" --episodes 100 --video best
"$retorq" report "$work/memory" --out "$work/memory.html"
picture 1376 report.png "memory.html#at=5.2"
