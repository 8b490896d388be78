"""What a run says before it starts: the agent, the environment down to each setting, and choices made by themselves."""

import pytest
from tests.small import command, flags

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.running import process
from retorq.running.train import RunOptions, introduce

SMALL = {"hidden_size": 8, "batch_size": 2, "replay_size": 400, "warmup": 50, "num_envs": 2, "stack": 4}


def told(lines):
    """What is printed, by what it is about."""
    return {line[:20].strip(): line[22:] for line in lines}


def test_an_atari_game_is_told_down_to_each_setting():
    pytest.importorskip("ale_py")
    options = EnvOptions(sticky=0.25, noop_max=7)
    task = api.compose("ALE/Pong-v5", agent="dqn", preset="laptop", config=SMALL, options=options, device="cpu", seed=0)
    lines = []
    introduce(task, RunOptions(steps=1_000), lines.append)
    found = told(lines)
    assert found["environment"] == "ALE/Pong-v5"
    assert found["preset"] == "laptop"
    settings = dict(part.rsplit(" ", 1) for part in found["environment settings"].split(", "))
    assert settings == {
        "frame_skip": "4",
        "frame_size": "84",
        "grayscale": "True",
        "noop_max": "7",
        "sticky": "0.25",
        "full_actions": "False",
        "life_loss": "True",
        "max_frames": "108000",
        "fire_reset": "False",
        "flicker": "0.0",
        "max_pool": "2",
        "reward": "raw",
        "stack": "4",
    }


def test_a_dry_run_tells_the_preset_what_is_in_effect_and_what_it_chose():
    code, out, _ = command("train", "memory", *flags(num_envs=1, epsilon_steps=None), "--steps", "50", "--dry-run")
    assert code == 0
    found = told(out.splitlines()[1:])
    assert (found["environment"], found["preset"]) == ("memory", "toy")
    assert found["environment settings"] == "length 10, cap 11"
    assert found["note"].startswith("one environment has no epsilon ladder: epsilon falls linearly from 1 to ")
    code, out, _ = command("train", "memory", *flags(), "--steps", "50", "--dry-run", "--env.flicker", "0.5")
    assert code == 0
    assert told(out.splitlines())["environment settings"] == "length 10, cap 11, flicker 0.5"
    assert "  note  " not in out


def test_the_preset_that_small_images_lead_to_is_named():
    pytest.importorskip("ale_py")
    code, out, err = command("train", "ALE/Pong-v5", "--env.frame-size", "20", "--dry-run", "--replay-size", "5000")
    assert (code, err) == (0, "")
    assert told(out.splitlines())["preset"] == "toy"


def threads_of(monkeypatch, count=8):
    """A program that has so many threads; returns the numbers that it is given."""
    asked = []
    monkeypatch.setattr(process.torch, "get_num_threads", lambda: asked[-1] if asked else count)
    monkeypatch.setattr(process.torch, "set_num_threads", asked.append)
    return asked


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ({}, None),  # as it was: PyTorch's own
        ({"pool": "process", "actors": 2}, None),
        ({"pool": "process", "actors": 2, "hz": 15.0}, 3),
        ({"pool": "process", "actors": 2, "hz": 15.0, "threads": 4}, 4),
        ({"threads": 2}, 2),
    ],
)
def test_actors_that_play_by_the_clock_have_a_core_left(monkeypatch, options, threads):
    asked = threads_of(monkeypatch)
    monkeypatch.setattr(process, "cores", lambda: 4)
    process.prepare(RunOptions(steps=1, **options))
    assert asked == ([] if threads is None else [threads])


@pytest.mark.parametrize(
    ("env", "agent", "preset", "size", "threads"),
    [
        ("memory", "recurrent_iqn", "toy", {}, [1]),
        ("catch", "dqn", "toy", {}, [1]),
        ("memory", "recurrent_iqn", "toy", {"batch_size": 32}, []),  # all cores: PyTorch's own
        ("catch", "iqn", "toy", {"batch_size": 512}, []),
    ],
)
def test_small_updates_get_one_thread_unless_another_number_is_asked_for(
    env, agent, preset, size, threads, monkeypatch
):
    asked = threads_of(monkeypatch)
    task = api.compose(env, agent=agent, preset=preset, config=size, options=EnvOptions(), device="cpu", seed=0)
    process.prepare(RunOptions(steps=1), task.agent)
    assert asked == threads
    process.prepare(RunOptions(steps=1, threads=3), task.agent)
    assert asked == [*threads, 3]


def test_a_later_run_gets_the_threads_that_the_program_had(monkeypatch):
    asked = threads_of(monkeypatch)
    small, large = (
        api.compose(
            "catch",
            agent="dqn",
            preset="toy",
            config={"batch_size": size},
            options=EnvOptions(),
            device="cpu",
            seed=0,
        ).agent
        for size in (32, 8192)
    )
    for given, agent in ((0, small), (0, large), (3, large), (0, large), (0, small)):
        process.prepare(RunOptions(steps=1, threads=given), agent)
    assert asked == [1, 8, 3, 8, 1]
    process.torch.set_num_threads(6)  # by the program itself
    process.prepare(RunOptions(steps=1), large)
    process.prepare(RunOptions(steps=1), small)
    process.prepare(RunOptions(steps=1), large)
    assert asked[5:] == [6, 1, 6]


def test_a_run_on_another_gpu_makes_it_the_current_one(monkeypatch):
    """Streams, and with them CUDA graphs, are made on the current device."""
    threads_of(monkeypatch)
    chosen = []
    monkeypatch.setattr(process.torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("retorq.running.train.check_device", lambda device: None)
    for device in ("cuda:1", "cuda", "cpu"):
        process.prepare(RunOptions(steps=1, device=device))
    assert chosen == ["cuda:1"]


def test_how_many_threads_is_told():
    code, out, _ = command("train", "memory", *flags(), "--steps", "50", "--dry-run")  # tests have one thread
    assert (code, told(out.splitlines())["threads"]) == (0, f"1 of {process.cores()} cores")
