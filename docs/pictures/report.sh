#!/bin/sh
# Makes docs/pictures/report.png, the top of a report page: trains on the toy `memory`, evaluates, films, and takes the
# picture with a headless Chromium (name another with CHROMIUM). Run it from the repository's root.
set -eu
retorq=${RETORQ:-.venv/bin/retorq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$retorq" train memory --agent recurrent_iqn --preset toy --steps 10000 --threads 1 --run "$work/memory"
"$retorq" eval "$work/memory" --episodes 100 --video best
"$retorq" report "$work/memory" --out "$work/memory.html"
"${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1160,1376 \
  --virtual-time-budget=3000 --screenshot="$PWD/docs/pictures/report.png" "file://$work/memory.html#at=5.2"
