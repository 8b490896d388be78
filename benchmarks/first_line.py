"""How long it takes from a clean clone to the first line of progress: ``python benchmarks/first_line.py``.

Clones what is committed into a new folder, types ``make train`` there, and stops it by Ctrl-C at the first line of
progress. Writes ``benchmarks/results/first_line.json``: the seconds, when each stage before was told of, and what they
depend on. Exits with 1 if the aim is missed. What pip downloads may come from its cache, unless PIP_NO_CACHE_DIR is 1
(``pip_cache``); other programs must rest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rows import made_by

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "first_line.json"
AIM = 180.0
"""Seconds at most."""
PROGRESS = re.compile(r"step [\d,]+/[\d,]+ \(\d+%\)")
STAGES = ("setting up", "installing", "starting", "measuring")
HELD = ("MAKE", "RETORQ", "VIRTUAL_ENV", "PYTHON")
"""Variables that begin so are this process's own, and no new user's."""


def clone(source: Path, target: Path) -> None:
    """Clone what is committed."""
    subprocess.run(["git", "clone", "--quiet", str(source), str(target)], check=True)


def first_line(folder: Path, words: Sequence[str], *, patience: float) -> dict[str, Any]:
    """Type ``words`` in a folder, and stop it by Ctrl-C at the first line of progress.

    Returns ``seconds`` until then, and those of each stage told of before.

    Raises:
        SystemExit: It ended, or ``patience`` seconds went by, without such a line; the sentence has its last lines.
    """
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(HELD)}
    begun = time.monotonic()
    program = subprocess.Popen(
        words,
        cwd=folder,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where this runs in the background
    )
    late = threading.Timer(patience, _end, (program,))
    late.start()
    stages: dict[str, float] = {}
    seconds, last = None, []
    with program:
        for line in program.stdout or ():
            now = round(time.monotonic() - begun, 1)
            last = [*last[-9:], line.rstrip()]
            for stage in STAGES:
                if stage not in stages and line.strip().startswith(stage):
                    stages[stage] = now
            if seconds is None and PROGRESS.search(line):
                seconds = now
                os.killpg(program.pid, signal.SIGINT)
    late.cancel()
    if seconds is None:
        raise SystemExit(f"no line of progress came from {' '.join(words)!r}; its last lines:\n" + "\n".join(last))
    return {"seconds": seconds, "stages": stages}


def _end(program: subprocess.Popen[str]) -> None:
    os.killpg(program.pid, signal.SIGKILL)


def versions(folder: Path) -> dict[str, str]:
    """Python and torch of the environment that was made there."""
    code = "import platform; from importlib.metadata import version; print(platform.python_version(), version('torch'))"
    told = subprocess.run(
        [folder / ".venv" / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    return {"python": told[0], "torch": told[1]}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    from retorq.bench.machine import cores, processor

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "retorq"
        clone(ROOT, target)
        found = first_line(target, ["make", "train"], patience=4 * AIM)
        record = {
            "command": "make train",
            "pip_cache": os.environ.get("PIP_NO_CACHE_DIR") != "1",
            **found,
            "aim": AIM,
            "passed": found["seconds"] <= AIM,
            "cores": cores(),
            "cpu": processor(),
            **versions(target),
            "commit": made_by()["commit"],
        }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['seconds']} s until the first line of progress (aim: {AIM:g} s); written to {asked.out}")
    sys.exit(0 if record["passed"] else 1)


if __name__ == "__main__":
    main()
