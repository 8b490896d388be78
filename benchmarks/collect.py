"""Keep the evidence of runs: ``python benchmarks/collect.py NAME RUN [RUN ...]`` copies what a result rests on.

From every run folder to ``benchmarks/results/NAME/RUN``: config.json, command.txt, versions.json, metrics.jsonl and
eval/*.json; and one line per evaluation into ``benchmarks/results/NAME.csv``. Weights, videos and episodes stay behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import write

RESULTS = Path(__file__).parent / "results"
KEPT = ("config.json", "versions.json", "metrics.jsonl")


def keep(run: Path, home: Path) -> list[dict[str, object]]:
    """Copy one run's small files; returns a row per evaluation."""
    target = home / run.name
    (target / "eval").mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(run / name, target / name)
    commands = [line.split(maxsplit=1)[1] for line in (run / "command.txt").read_text().splitlines()]
    (target / "command.txt").write_text("".join(f"retorq {words}\n" for words in commands))
    config = json.loads((run / "config.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = []
    for file in sorted((run / "eval").glob("*.json")):
        shutil.copy(file, target / "eval" / file.name)
        record = json.loads(file.read_text())
        low, high = record["ci95"] or (None, None)
        trained = [row for row in metrics if row["step"] <= record["step"]][-1]
        rows.append(
            {
                "run": run.name,
                "env": record["env"],
                "agent": record["agent"],
                "preset": config["config"]["preset"],
                "seed": config["seed"],
                "steps": record["step"],
                "frames": record["frames"],
                "updates": trained["updates"],
                "minutes": round(trained["seconds"] / 60, 1),
                "protocol": record["protocol"],
                "episodes": record["episodes"],
                "mean": round(record["mean"], 3),
                "ci95_low": round(low, 3) if low is not None else "",
                "ci95_high": round(high, 3) if high is not None else "",
                "lowest": min(record["scores"]),
            }
        )
    return rows


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    asked = parser.parse_args()
    rows = [row for run in asked.runs for row in keep(run, RESULTS / asked.name)]
    write(RESULTS / f"{asked.name}.csv", rows)
    print(f"{len(rows)} evaluations in {RESULTS / asked.name}.csv")


if __name__ == "__main__":
    main()
