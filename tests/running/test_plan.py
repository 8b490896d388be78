"""The resource table: its numbers, what it refuses, and that measuring leaves no trace."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from tests.algorithms.agents import MODULES, VECTOR, change
from tests.small import agent, command, flags

from retorq.algorithms import load, recurrent_iqn
from retorq.envs.make import make
from retorq.learner import Learner
from retorq.nn.network import Network
from retorq.running.plan import (
    ACTOR_BYTES,
    PROCESS_BYTES,
    WORKING,
    _kept,
    _made_up,
    _trial,
    duration,
    exploration,
    learner_bytes,
    plan,
    require_memory,
    size,
    timed,
)
from retorq.types import EnvSpec, Leaf, Refused

PONG = EnvSpec(
    id="ALE/Pong-v5",
    observation={"obs": Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")},
    actions=6,
    max_steps=27_000,
    frames_per_step=4,
)


def test_on_a_gpu_the_learner_counts_beside_the_replay(monkeypatch):
    table = plan(recurrent_iqn.make(recurrent_iqn.atari(), PONG), "ALE/Pong-v5", 50_000_000)
    free = [table.replay_bytes + table.learner_bytes]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 1 << 40))
    require_memory(table, "cuda")
    free[0] -= 1
    with pytest.raises(Refused, match=r"replay_size is 1,000,000 steps, so the run needs .* are free; set replay_size"):
        require_memory(table, "cuda")


def test_the_published_run():
    table = plan(recurrent_iqn.make(recurrent_iqn.atari(), PONG), "ALE/Pong-v5", 50_000_000)
    assert table.frames == 200_000_000
    assert table.rows_trained == 4 * (50_000_000 - 50_000)
    assert table.updates == 312_187  # 4 x 50M / 640 = 312,500, less the warm-up
    assert table.replay_rows == 1_000_000
    assert table.replay_bytes == pytest.approx(7.276e9, rel=1e-3)
    rows = dict(table.rows)
    assert [*rows] == [
        "environment",
        "agent",
        "environment frames",
        "steps trained",
        "updates",
        "replay memory",
        "process memory",
        "estimated time",
    ]
    assert rows["environment"] == "ALE/Pong-v5"
    assert rows["agent"] == f"recurrent_iqn, {table.weights:,} weights, on cpu"
    assert rows["steps trained"] == "199,800,000"
    assert size(table.process_bytes) in rows["process memory"]
    assert rows["environment frames"] == "200,000,000 (50,000,000 agent steps)"
    assert rows["updates"] == "312,187 of 32 x 20 steps"
    assert rows["replay memory"] == "7.3 GB for 1,000,000 steps, 7,276 bytes per step"
    assert rows["process memory"] == f"at most {size(table.process_bytes)} besides"
    assert rows["estimated time"] == "not measured"


def test_the_replay_it_announces_is_the_one_that_is_made():
    small = agent("catch", replay_size=1003, num_envs=3, state_period=4)
    table, replay = plan(small, "catch", 100), small.replay()
    assert table.replay_rows == replay.storage.rows * 3
    assert table.replay_bytes == replay.storage.nbytes


def test_what_a_learner_takes_is_the_measured_number():
    """benchmarks/results/memory.csv: weights, gradients, moments, target, batch and activations of the same learner."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "memory.csv"
    with path.open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["measure"] == "learner"]
    table = plan(recurrent_iqn.make(recurrent_iqn.atari(), PONG), "ALE/Pong-v5", 1_000)
    besides = table.process_bytes - PROCESS_BYTES
    assert besides > table.weights * 20 + 22 * 32 * 84 * 84 * 4  # windows of 20 + 2 rows, 32 of them
    assert float(row["expected"]) == pytest.approx(besides, rel=0.5)  # in float32 there, in bfloat16 here
    assert 0.6 < float(row["bytes"]) / float(row["expected"]) < 1.0


@pytest.mark.parametrize("name", ["recurrent_iqn", "iqn", "r2d2", "c51", "apex_dpg"])
def test_what_an_update_keeps_is_that_of_each_window(name):
    """From one and two windows follows what five keep; and the trial leaves no trace."""
    module = load(name)
    env = "pendulum" if name == "apex_dpg" else "memory"
    made = module.make(module.toy(), make(env, columns=module.toy().num_envs).spec)
    before = {key: value.clone() for key, value in made.network.state_dict().items()}
    cpu = torch.device("cpu")
    with _trial(made, cpu) as learner:
        kept = {count: _kept(learner, _made_up(replace(made, batch_size=count), cpu)) for count in (1, 2, 5)}
    assert kept[5] == pytest.approx(kept[1] + 4 * (kept[2] - kept[1]), rel=0.02)
    assert all(torch.equal(value, before[key]) for key, value in made.network.state_dict().items())
    weights = sum(p.numel() for p in made.network.parameters())
    for count in (1, 5):
        frame = sum(math.prod(leaf.shape) for leaf in made.spec.observation.values()) * made.stack * 4
        rest = learner_bytes(replace(made, batch_size=count)) - 20 * weights - frame * made.window.rows * count
        assert rest == pytest.approx(WORKING * kept[count], rel=0.02)


def test_samples_and_actors_count():
    """A head of many samples keeps far more than its inputs; actors elsewhere have memory of their own."""
    few, many = (learner_bytes(agent("memory", samples=n, batch_size=8)) for n in (8, 64))
    assert many > 3 * few
    assert learner_bytes(agent("memory", cuda_graph=True)) == learner_bytes(agent("memory"))  # counted on the CPU
    alone, four = (plan(agent("memory"), "memory", 100, actors=n).process_bytes for n in (0, 4))
    assert four - alone == 4 * ACTOR_BYTES


def test_the_estimated_time_is_that_of_all_updates_and_all_steps(monkeypatch):
    """By a clock that moves only while something is computed: 3 s an update, 0.5 s a step of both environments."""
    now = [0.0]

    def takes(seconds, work):
        def slow(*words):
            now[0] += seconds
            return work(*words)

        return slow

    small = agent(warmup=100)
    monkeypatch.setattr("retorq.running.plan.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Learner, "update", takes(3.0, lambda *_: None))
    monkeypatch.setattr(Network, "unroll", takes(0.5, Network.unroll))
    for steps in (100, 600, 1_200):
        table = timed(plan(small, "memory", steps), small)
        assert table.updates == (steps - 100) // 10  # 0.8 rows trained per step, 8 per update
        assert table.seconds == pytest.approx(3.0 * table.updates + 0.25 * steps)
    assert dict(table.rows)["estimated time"].startswith("about 10 min ")  # 630 s


def test_a_run_shorter_than_its_warm_up_has_no_updates():
    assert plan(agent(warmup=500), "memory", 100).updates == 0


def test_measuring_leaves_no_trace():
    small = agent()
    before = [p.clone() for p in small.network.parameters()]
    table = timed(plan(small, "memory", 100), small)
    assert table.seconds > 0
    for was, now in zip(before, small.network.parameters(), strict=True):
        assert torch.equal(was, now)
        assert now.grad is None


def test_what_cannot_fit_is_refused(monkeypatch):
    table = plan(recurrent_iqn.make(recurrent_iqn.atari(), PONG), "ALE/Pong-v5", 50_000_000)

    def free(count):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": count})())

    free(table.replay_bytes + table.process_bytes)
    require_memory(table)
    free(table.replay_bytes + table.process_bytes - 1)
    with pytest.raises(
        Refused, match=r"replay_size is 1,000,000 steps, so the run needs .* set replay_size to at most"
    ):
        require_memory(table)
    free(table.process_bytes // 2)
    with pytest.raises(Refused, match="use a machine with more memory"):
        require_memory(table)


def test_the_command_refuses_with_3_and_a_dry_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("train", "memory", *flags(replay_size=10**12), "--steps", "50")
    assert code == 3
    assert "replay_size is 1,000,000,000,000 steps" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    code, out, _ = command("train", "memory", *flags(), "--steps", "50", "--dry-run")
    assert code == 0
    assert "environment frames  50 (50 agent steps)" in out
    assert "about" in next(line for line in out.splitlines() if "estimated time" in line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "told"),
    [(999, "999 B"), (7.3e9, "7.3 GB"), (1.5e6, "1.5 MB"), (45_600, "45.6 kB"), (2e13, "20,000.0 GB")],
)
def test_sizes(count, told):
    assert size(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(12.3, "12 s"), (600, "10 min"), (3900, "65 min"), (6000, "1 h 40 min"), (7.2e6, "2,000 h 00 min")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def explored(name, steps, **settings):
    config = change(MODULES[name].toy(), {"num_envs": 2, **settings})
    return exploration(MODULES[name].make(config, VECTOR), steps)


def test_how_it_explores():
    epsilon = {"epsilon_start": 1.0, "epsilon_final": 0.1, "epsilon_steps": 100, "warmup": 50}
    sentence = "epsilon 1 to 0.1 over 100 steps after 50 steps of warm-up"
    assert explored("dqn", 1_000, **epsilon) == [("exploration", sentence)]
    assert explored("dqn", 1_000, noisy=True, **epsilon) == [("exploration", f"{sentence}, beside noisy layers")]
    for name in ("noisy_dqn", "rainbow"):
        assert explored(name, 2_000) == [("exploration", "no epsilon: noisy layers explore")]
    nothing = {"epsilon_start": 0.0, "epsilon_final": 0.0}
    assert explored("dqn", 2_000, **nothing) == [("exploration", "none: no epsilon, and no noisy layers")]


@pytest.mark.parametrize(
    ("name", "steps", "settings", "told"),
    [
        (
            "dqn",
            150,
            {"epsilon_steps": 200, "warmup": 50},
            "epsilon ends at 0.53, not 0.05; lower",
        ),
        ("dqn", 250, {"epsilon_steps": 200, "warmup": 50}, None),
        (
            "recurrent_iqn",
            500,
            {"epsilon_steps": 1_000, "warmup": 50},
            "exploration outlasts the run: epsilon ends at ",
        ),
        ("recurrent_iqn", 2_000, {"epsilon_steps": 1_000, "warmup": 50}, None),
        ("recurrent_iqn", 1_000, {"num_envs": 1, "warmup": 950}, "exploration outlasts the run"),
        ("dqn", 500, {"warmup": 500}, "nothing will be learned: warmup is 500 and steps 500; lower"),
    ],
)
def test_exploration_that_outlasts_the_run_is_warned_of(name, steps, settings, told):
    found = explored(name, steps, **settings)
    assert [what for what, _ in found] == ["exploration"] + ["warning"] * (told is not None)
    assert (told or "") in found[-1][1]
