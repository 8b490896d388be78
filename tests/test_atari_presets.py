"""Every agent's published configuration on a real game: it fills its memory, learns and plays; at tiny sizes here."""

import importlib.util
import math

import pytest
from benchmarks import atari_presets

pytest.importorskip("ale_py")

TINY = {
    "replay_size": 150,
    "warmup": 100,
    "batch_size": 2,
    "replay_ratio": 2.0,
    "hidden_size": 16,
    "num_envs": 2,
    "target_period": 3,
}
OF_MEMORY = {"memory_size": 16, "sequence_length": 8, "state_period": 4}
MORE = {
    "drqn": OF_MEMORY | {"replay_ratio": 0.5},
    "r2d2": OF_MEMORY | {"burn_in": 4},
    "recurrent_iqn": OF_MEMORY | {"samples": 4},
    "gorila": {"bundles": 2, "servers": 1},
    "iqn": {"samples": 4, "target_samples": 4, "action_samples": 4},
}


@pytest.mark.parametrize("name", atari_presets.PUBLISHED)
def test_published_configurations_run(name: str) -> None:
    agent, _, _ = atari_presets.PUBLISHED[name]
    # DRQN learns from whole games only.
    steps, room = (900, {"replay_size": 800}) if agent == "drqn" else (300, {})
    row = atari_presets.run(name, steps, threads=1, episodes=1, cap=1_000, **(TINY | room | MORE.get(agent, {})))
    assert row["updates"] > 10
    assert math.isfinite(row["loss"])
    assert row["score_mean"] >= 0


@pytest.mark.parametrize("pool", ["process", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.parametrize("agent", ["apex_dqn", "r2d2"])
def test_they_run_with_actors_in_other_processes(agent: str, pool: str) -> None:
    if pool == "ray" and importlib.util.find_spec("ray") is None:  # not to be imported before its settings are made
        pytest.skip("Ray (extra dist) is not installed")
    elsewhere = {"pool": pool, "actors": 2, "num_envs": 2}
    row = atari_presets.run(agent, 300, threads=1, episodes=1, cap=1_000, **(TINY | MORE.get(agent, {}) | elsewhere))
    assert row["updates"] > 10
    assert math.isfinite(row["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", atari_presets.PUBLISHED)
def test_published_configurations_run_for_100k_steps(name: str) -> None:
    row = atari_presets.run(name, 100_000)
    assert row["steps"] >= 100_000
    assert row["updates"] > 0
    assert math.isfinite(row["loss"])
