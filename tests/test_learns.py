"""Agents learn their small tasks, and fail them where they should. The many-seed runs are `make slow`."""

from pathlib import Path

import pytest
from benchmarks import learning

import retorq


def trained_score(folder: Path, env: str, steps: int, **settings: object) -> float:
    run = retorq.train(env, steps=steps, seed=3, run=folder / "run", threads=1, say=lambda line: None, **settings)
    assert run.code == 0
    score = run.load().evaluate(protocol="greedy", episodes=40, seed=1)["mean"]
    assert isinstance(score, float)
    return score


def test_chain_is_walked_to_its_end(tmp_path: Path) -> None:
    assert trained_score(tmp_path, "chain", 4_000) >= 0.59  # the best there is: 0.6


def test_a_cue_is_remembered(tmp_path: Path) -> None:
    shorter = retorq.EnvOptions(kwargs='{"length": 5}')  # learned by half of these steps on each of 8 seeds
    assert trained_score(tmp_path, "memory", 7_000, options=shorter) >= 0.9


def test_a_cue_is_not_guessed_without_memory(tmp_path: Path) -> None:
    score = trained_score(tmp_path, "memory", 6_000, **learning.NO_MEMORY)
    assert abs(score) <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", list(learning.TASKS))
def test_every_task_of_the_table(name: str) -> None:
    row = learning.run(name, 0, 2)
    assert row["passed"], row
