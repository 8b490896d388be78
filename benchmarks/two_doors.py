"""Do the distributional agents learn the distribution of the return, and can one act on it?

``python benchmarks/two_doors.py [AGENT ...] [--seeds N]`` trains every agent on every seed on the toy ``two_doors``:
two doors whose rewards have the same mean and different spread (``retorq.envs.toys.two_doors_returns``). In the state
in which the door is chosen it measures the 1-Wasserstein distance between the learned distribution of each door's
return and the true one, as a share of the true one's range (aim: at most 0.05), and how often 1,000 greedy choices
fall on the safe door (``safe_by_mean``; ``safe_by_cvar``: the networks of ``iqn`` and ``recurrent_iqn`` acting on the
mean of their worst quarter of returns). It writes ``benchmarks/results/two_doors.csv`` (rows of the same agent, seed
and door are replaced) and draws ``docs/pictures/two_doors.svg`` from it; ``--draw`` only draws.

Every agent acts at random, so both doors are seen equally often. The discount is 1, so returns are rewards. The atoms
of ``c51`` include the four rewards, and the quantile agents use the plain quantile loss (``kappa = 0``): Huber's
parabola would pull together quantiles that are less than ``kappa`` apart.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import retorq
from retorq.api import Player, compose
from retorq.envs.toys import two_doors_returns
from retorq.report import style
from retorq.report.chart import Chart, Line, draw
from retorq.running.distributions import ReturnDistribution, wasserstein

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import put, read

OUT = Path(__file__).parent / "results" / "two_doors.csv"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "two_doors.svg"
AIM, STEPS, CHOICES = 0.05, 10_000, 1_000
DOORS = ("safe", "risky")
HALL = np.array([1, 0, 0], np.float32)
"""The observation in which the door is chosen."""
MIDDLES = (np.arange(50) + 0.5) / 50
"""Fractions at which the csv holds the learned quantile function."""

COMMON: dict[str, Any] = {
    "gamma": 1.0,
    "n_step": 1,
    "learning_rate": 3e-3,
    "anneal_learning_rate": True,
    "epsilon_start": 1.0,
    "epsilon_final": 1.0,
}
AGENTS: dict[str, dict[str, Any]] = {
    "c51": {**COMMON, "atoms": 41, "lowest_value": -5.0, "highest_value": 5.0},
    "qr_dqn": {**COMMON, "quantiles": 50, "kappa": 0.0},
    "iqn": {**COMMON, "samples": 32, "target_samples": 32, "kappa": 0.0},
    # An update takes 8 sequences of 12 rows: with three times the rows, it learns in as many updates as the others.
    "recurrent_iqn": {**COMMON, "samples": 32, "kappa": 0.0, "replay_ratio": 48.0},
}
SAMPLED = ("iqn", "recurrent_iqn")
CAUTIOUS = {"risk": "cvar", "risk_level": 0.25}
"""The same network acting on the mean of its worst quarter of returns."""


def run(agent: str, seed: int) -> list[dict[str, Any]]:
    """Train one agent once; one row per door."""
    folder = Path(tempfile.mkdtemp(prefix="retorq-two-doors-"))
    start = time.monotonic()
    try:
        went = retorq.train(
            "two_doors",
            agent=agent,
            preset="toy",
            steps=STEPS,
            seed=seed,
            run=folder / "run",
            threads=1,
            tensorboard=False,
            say=lambda line: None,
            **AGENTS[agent],
        )
        if went.code:  # stopped by hand: no result
            raise SystemExit(went.code)
        player, updates = went.load(), went.metrics[-1]["updates"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    learned, _ = player.distribution(HALL)
    common = {"agent": agent, "seed": seed, "steps": STEPS, "updates": updates, "seconds": time.monotonic() - start}
    common["safe_by_mean"] = safe_choices(player)
    common["safe_by_cvar"] = safe_choices(cautious(player)) if agent in SAMPLED else ""
    return [common | measured(learned, door) for door in range(2)]


def safe_choices(player: Player) -> float:
    """The share of greedy choices that fall on the safe door."""
    return float(np.mean([player.act(HALL)[0] == 0 for _ in range(CHOICES)]))


def cautious(player: Player) -> Player:
    """The same network, acting by conditional value at risk."""
    task = player.task
    config = replace(task.agent.config, **CAUTIOUS)
    other = compose(
        task.env, agent=task.agent.name, preset=task.preset, config=config, options=task.options, device="cpu", seed=0
    )
    other.agent.network.load_state_dict(player.network.state_dict())
    return Player(other, step=player.step)


def measured(learned: ReturnDistribution, door: int) -> dict[str, Any]:
    """The distance of one door's distribution to the truth."""
    values, probabilities = learned.values[door], learned.probabilities[door]
    truth, chances = two_doors_returns(door)
    span = float(truth.max() - truth.min())
    distance = wasserstein(values, probabilities, truth, chances)
    order = np.argsort(values)
    reached = np.searchsorted(np.cumsum(probabilities[order]), MIDDLES).clip(max=len(order) - 1)
    return {
        "door": DOORS[door],
        "distance": distance,
        "range": span,
        "share": distance / span,
        "aim": AIM,
        "passed": distance / span <= AIM,
        "quantiles": " ".join(f"{value:.4g}" for value in values[order][reached]),
    }


def steps_of(values: np.ndarray, probabilities: np.ndarray, low: float, high: float) -> tuple[list[float], list[float]]:
    """A distribution function from ``low`` to ``high`` as the corners of its steps."""
    order = np.argsort(values)
    x = np.repeat(np.concatenate([[low], values[order], [high]]).clip(low, high), 2)[1:-1]
    y = np.repeat(np.concatenate([[0.0], np.cumsum(probabilities[order])]), 2)
    return x.tolist(), y.tolist()


def panel(agent: str, door: str, rows: list[dict[str, str]], color: int) -> Chart:
    """The true distribution function of one door and those that the seeds learned."""
    truth, chances = two_doors_returns(DOORS.index(door))
    low, high = (0.0, 2.0) if door == "safe" else (-5.0, 3.0)
    lines = []
    for row in rows:
        learned = np.array([float(value) for value in row["quantiles"].split()])
        x, y = steps_of(learned, np.full(len(learned), 1 / len(learned)), low, high)
        lines.append(Line(name=f"seed {row['seed']}", x=x, y=y, color=color))
    x, y = steps_of(truth, chances, low, high)
    return Chart(
        title=f"{agent}, {door} door",
        x_label=f"return of the {door} door",
        y_label="share of games up to it",
        lines=[*lines, Line(name="truth", x=x, y=y, color=6)],
        zero=True,
    )


def picture() -> None:
    """A panel per agent and door, from the csv."""
    rows = read(OUT)
    agents = [name for name in AGENTS if any(row["agent"] == name for row in rows)]
    width, height, wide, top = 250, 220, 250 * len(agents), 92
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{top + 2 * height}" '
        f'viewBox="0 0 {wide} {top + 2 * height}">',
        f"<style>{style.PALETTE}{style.CHART} .s6 {{ stroke-dasharray: 5 4; --c: var(--ink); }}</style>",
        '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>',
        '<text class="title" x="18" y="30">What each agent learned of two doors with the same mean return</text>',
        '<text x="18" y="50">Distribution functions in the state in which the door is chosen: one line per seed, '
        "dashed the truth.</text>",
    ]
    for column, agent in enumerate(agents):
        parts.append(
            f'<text class="label" x="{column * width + 18}" y="{top - 10}" font-weight="650">{escape(agent)}</text>'
        )
        for line, door in enumerate(DOORS):
            found = [row for row in rows if (row["agent"], row["door"]) == (agent, door)]
            place = f'x="{column * width}" y="{top + line * height}" width="{width}" height="{height}"'
            parts.append(draw(panel(agent, door, found, column), width, height, top=24, attributes=place))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text("".join(parts) + "</svg>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", metavar="AGENT", help=f"default: all of {', '.join(AGENTS)}")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3)")
    parser.add_argument("--draw", action="store_true", help="train nothing, draw the picture from the csv")
    asked = parser.parse_args()
    unknown = [name for name in asked.agents if name not in AGENTS]
    if unknown:
        parser.error(f"no agent {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    for seed in () if asked.draw else range(asked.seeds):
        for name in asked.agents or AGENTS:
            rows = run(name, seed)
            put(OUT, rows, key=("agent", "seed", "door"), order={"agent": AGENTS, "door": sorted(DOORS)})
            told = ", ".join(f"{row['door']} {row['share']:.3f}" for row in rows)
            print(f"{name} seed {seed}: {told} of the range", flush=True)
    picture()


if __name__ == "__main__":
    main()
