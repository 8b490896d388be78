"""Run folders made up for the tests: every number is drawn from a generator, nothing was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retorq.running.scores import bootstrap_interval, human_normalised


def lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fabricate(
    folder: Path,
    *,
    env: str = "ALE/Pong-v5",
    agent: str = "recurrent_iqn",
    seed: int = 1,
    rows: int = 120,
    steps: int = 1_000_000,
    low: float = -20.7,
    high: float = 20.2,
    frames: int = 4,
    midpoint: float = 0.55,
    games: int = 30,
    evaluations: int = 2,
    **settings: Any,
) -> Path:
    """A run folder, complete but for its videos; the score rises from ``low`` to ``high`` as a logistic curve."""
    generator = np.random.default_rng([seed, rows])
    folder.mkdir(parents=True)
    middle = midpoint + 0.04 * generator.normal()

    def skill(step: np.ndarray | float) -> Any:
        return 1 / (1 + np.exp(-12 * (np.asarray(step) / steps - middle)))

    config = {
        "format": 1,
        "id": f"{seed:032x}",
        "env": env,
        "agent": agent,
        "seed": seed,
        "options": {"frame_skip": frames, "sticky": 0.0, "noop_max": 30},
        "config": {"learning_rate": 3e-4, "n_step": 3, "hidden": [512], "steps": steps, **settings},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text(json.dumps({"retorq": "0.1.0", "torch": "2.13.0", "python": "3.11.9"}))
    (folder / "command.txt").write_text(f"retorq train {env} --agent {agent} --seed {seed}\n")
    at = np.sort(generator.integers(1, steps, size=4 * rows))
    scores = np.clip(low + (high - low) * (skill(at) + 0.07 * generator.normal(size=at.size)), low - 0.3, high + 0.3)
    episodes = [
        {"step": int(step), "score": float(round(score)), "length": int(800 + 900 * skill(step)), "column": index % 8}
        for index, (step, score) in enumerate(zip(at, scores, strict=True))
    ]
    lines(folder / "episodes.jsonl", episodes)
    metrics, seconds = [], 0.0
    for step in np.linspace(steps / rows, steps, rows).astype(int):
        seconds += steps / rows / (215 + 15 * generator.normal())
        done = [episode["score"] for episode in episodes if episode["step"] <= step][-100:]
        metrics.append(
            {
                "step": int(step),
                "frames": int(step) * frames,
                "seconds": seconds,
                "updates": int(step) // 20,
                "score_mean": float(np.mean(done)) if done else None,
                "score_count": len(done),
                "steps_per_second": float(215 + 8 * generator.normal()),
                "updates_per_second": float(10.7 + 0.4 * generator.normal()),
                "loss": float(0.002 + 0.03 * np.exp(-6 * step / steps) * np.exp(0.3 * generator.normal())),
                "epsilon": float(max(0.01, 1 - 4 * step / steps)),
            }
        )
    lines(folder / "metrics.jsonl", metrics)
    (folder / "eval").mkdir()
    for part in range(1, evaluations + 1):
        step = steps * part // evaluations
        mean = low + (high - low) * skill(step)
        drawn = np.round(np.clip(mean + 0.03 * (high - low) * generator.normal(size=games), low - 0.3, high + 0.3))
        record = {
            "agent": agent,
            "env": env,
            "protocol": "recurrent_iqn_2019",
            "step": step,
            "frames": step * frames,
            "episodes": games,
            "epsilon": 0.001,
            "scores": drawn.tolist(),
            "lengths": [1700] * games,
            "mean": float(drawn.mean()),
            "median": float(np.median(drawn)),
            "ci95": list(bootstrap_interval(drawn.tolist())),
            "human_normalised": human_normalised(env, float(drawn.mean())),
        }
        (folder / "eval" / f"{step}.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(name, **how)``: a made-up run folder of that name."""
    return lambda name="run", **how: fabricate(tmp_path / name, **how)
