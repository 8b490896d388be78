"""The aims for speed and memory beside what was measured: ``python benchmarks/aims.py`` prints the table.

It reads the csv files in ``benchmarks/results``, and in ``benchmarks/results/zen5`` those of an earlier version on the
next generation of processors; docs/benchmarks.md shows what it prints.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import read

RESULTS = Path(__file__).parent / "results"
FOLDERS = {"": "Zen 4", "zen5/": "Zen 5"}


@dataclass(frozen=True)
class Aim:
    """What was aimed at: a number of the one row that has ``where``, and the bound it should keep."""

    what: str
    file: str
    where: dict[str, str]
    column: str
    bound: float
    at_most: bool = False
    unit: str = ""
    over: dict[str, str] | None = None
    """Divided by the same column of the row that has these."""
    per: str | None = None
    """Divided by this column of the same row."""

    def measured(self, folder: str = "") -> float:
        """The number."""
        value = _cell(f"{folder}{self.file}", self.where, self.column)
        if self.per is not None:
            value /= _cell(f"{folder}{self.file}", self.where, self.per)
        return value if self.over is None else value / _cell(f"{folder}{self.file}", self.over, self.column)

    def seen(self, folder: str) -> str:
        """The number beside its aim; a dash where nothing was measured."""
        if not (RESULTS / folder / self.file).exists():
            return "-"
        value = self.measured(folder)
        met = value <= self.bound if self.at_most else value >= self.bound
        return f"{float(f'{value:.4g}'):g}{self.unit}, {'met' if met else '**missed**'}"

    def line(self) -> str:
        """A row of the table."""
        sign = "at most" if self.at_most else "at least"
        numbers = " | ".join(self.seen(folder) for folder in FOLDERS)
        return f"| {self.what} | {sign} {self.bound:g}{self.unit} | {numbers} | `{self.file}` |"


def _cell(file: str, where: dict[str, str], column: str) -> float:
    rows = [row for row in read(RESULTS / file) if where.items() <= row.items()]
    if len(rows) != 1:
        raise SystemExit(f"{file} has {len(rows)} rows with {where}, and one is looked at; measure it again.")
    return float(rows[0][column])


def _learner(precision: str, bound: float) -> Aim:
    where = {"learner": "retorq", "precision": precision, "samples": "32"}
    return Aim(
        f"learner, {precision}, beside the plain one", "learner.csv", where, "speedup_over_plain", bound, unit="x"
    )


def _sb3(environments: str, column: str, precision: str) -> Aim:
    what = f"steps per second beside Stable-Baselines3's DQN, {environments} environment(s), {precision}"
    return Aim(what, "against_sb3.csv", {"environments": environments}, column, 2.0, unit="x")


def _actors(pool: str, actors: str) -> Aim:
    what = f"{actors} actors of a game of 15 steps a second, {pool}: share of its full speed"
    return Aim(what, "scaling.csv", {"pool": pool, "actors": actors}, "share", 0.9)


def _undisturbed(pool: str, actors: str) -> Aim:
    what = f"updates per second beside {actors} such actor(s), {pool}: share of those alone"
    return Aim(what, "scaling.csv", {"pool": pool, "actors": actors}, "updates_per_second", 0.9, per="updates_alone")


AIMS = (
    _learner("bf16", 2.5),
    _learner("fp32", 1.5),
    Aim("memory of a stored 84x84 step", "memory.csv", {"measure": "replay"}, "bytes", 7300, True, " B"),
    Aim(
        "time to draw 32x20, of a million steps beside 10,000: flat",
        "replay.csv",
        {"measure": "sample", "held": "1000000"},
        "milliseconds",
        1.25,
        True,
        "x",
        {"measure": "sample", "held": "10240"},
    ),
    Aim(
        "prioritized draw and update, 256 of a million",
        "replay.csv",
        {"measure": "prioritized sample + update"},
        "milliseconds",
        0.4,
        True,
        " ms",
    ),
    _sb3("1", "retorq_over_sb3", "fp32"),
    _sb3("8", "retorq_over_sb3", "fp32"),
    _sb3("1", "retorq_bf16_over_sb3", "bf16"),
    _sb3("8", "retorq_bf16_over_sb3", "bf16"),
    *(_actors(pool, "32") for pool in ("process", "ray")),
    *(_undisturbed(pool, actors) for pool in ("process", "ray") for actors in ("1", "2", "4")),
    Aim(
        "real time: 99th percentile from observation to action, 4 actors, the learner busy with one thread",
        "real_time.csv",
        {"actors": "4", "learner": "flat out", "threads": "1"},
        "p99_ms",
        20.0,
        True,
        " ms",
    ),
)


def table() -> str:
    """The table, as Markdown."""
    head = f"| what | aim | {' | '.join(FOLDERS.values())} | file |"
    return "\n".join([head, "|---|---|---|---|---|", *(aim.line() for aim in AIMS)]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
