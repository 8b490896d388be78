"""Environments that misbehave: the right error with the right sentence, or a restart of that one alone."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from retorq.envs import columns as columns_module
from retorq.envs.make import EnvOptions, make
from retorq.types import Diverged, UserError


def build(what, columns=2, workers="0", where="step", name="Misbehaving", limit=60.0, **kwargs):
    options = EnvOptions(kwargs={"what": what, "where": where, **kwargs}, workers=workers, step_time_limit=limit)
    return make(f"sample_envs:{name}", columns=columns, options=options)


def play(env, steps):
    env.reset()
    return [env.step(np.zeros(env.columns, np.int64)) for _ in range(steps)]


BAD_OUTPUT = [
    ("nan", Diverged, "observation 'obs' containing nan; return finite numbers"),
    ("shape", UserError, r"observation 'obs' with shape \(3,\), but its observation space says \(4,\)"),
    ("dtype", UserError, "observation 'obs' with dtype float64, but its observation space says float32"),
    ("nan reward", Diverged, "the reward nan; return a finite number"),
    ("huge reward", Diverged, r"the reward 1e\+300; return a finite number"),
    ("no reward", UserError, "a reward of type NoneType"),
    ("text", UserError, "a reward of type str"),
    ("flag", UserError, "terminated = 'yes'; return True or False"),
    ("four", UserError, "step returned 4 values; Gymnasium's step returns"),
]


@pytest.mark.parametrize(("what", "kind", "sentence"), BAD_OUTPUT)
def test_bad_output_stops_at_once_and_is_named(what, kind, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        play(build(what), 3)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("what", "kind", "sentence"), [BAD_OUTPUT[0], BAD_OUTPUT[2]])
def test_the_same_from_a_worker_process(what, kind, sentence):
    env = build(what, columns=1, workers="each")
    with pytest.raises(UserError, match=sentence) as caught:
        play(env, 3)
    env.close()
    assert type(caught.value) is kind


REASONS = {
    "raise": "raised RuntimeError: the bridge fell down",
    "exit": "raised SystemExit",
    "die": "ended its process with exit code 7",
    "crash": "was killed by SIGABRT (out of memory or a crash in native code)",
    "hang": "gave no answer within 0.5 s (env.step_time_limit)",
}


def one_column_fails(what, workers, limit=60.0):
    """Column 1 of two does ``what`` at its third step; the other must not notice."""
    env = build("", columns=2, workers=workers, limit=limit)
    bad = EnvOptions(kwargs={"what": what}, workers=workers, step_time_limit=limit)
    backend, good = env._backend, getattr(env._backend, "_options", None)
    if workers == "0":
        from retorq.envs.cell import Cell

        backend._cells[1] = Cell("sample_envs:Misbehaving", bad)
    else:
        backend._options = bad
        assert backend.restart(1) is None
        backend._options = good
    steps = play(env, 4)
    env.close()
    assert [step.faults for step in (steps[0], steps[1], steps[3])] == [(), (), ()]
    [(column, told)] = steps[2].faults
    assert column == 1
    assert told == f"{REASONS[what]}; its game was cut and it was replaced"
    for index, step in enumerate(steps):
        assert step.observation["obs"][0, 0] == np.float32((index + 1) / 100)
        np.testing.assert_array_equal(step.reward, [1.0, 0.0 if index == 2 else 1.0])
        assert not (step.terminated | step.truncated | step.ended).any()
        np.testing.assert_array_equal(step.broken if step.broken is not None else [False] * 2, [False, index == 2])
    assert steps[2].observation["obs"][1, 0] == -1.0  # the first observation of the new episode
    assert steps[3].observation["obs"][1, 0] == np.float32(0.01)


@pytest.mark.parametrize("what", ["raise", "exit"])
def test_an_environment_that_fails_is_restarted_alone(what):
    one_column_fails(what, "0")


@pytest.mark.parametrize("what", ["raise", "exit", "die", "crash", "hang"])
def test_a_worker_that_fails_is_restarted_alone(what):
    one_column_fails(what, "each", limit=0.5 if what == "hang" else 60.0)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raise", "raised RuntimeError: the bridge fell down"),
        ("die", "ended its process with exit code 7"),
        ("crash", "was killed by SIGABRT"),
        ("hang", r"gave no answer within 0\.2 s \(env\.step_time_limit\)"),
    ],
)
def test_a_storm_of_failures_stops_the_run_with_the_last_reason(monkeypatch, what, reason):
    monkeypatch.setattr(columns_module, "FAILURES", 2)
    env = build(what, columns=1, workers="each", limit=0.2 if what == "hang" else 60.0)
    with pytest.raises(Diverged, match=f"environment 0 of .* failed 2 times within 1000 steps.*{reason}"):
        play(env, 20)
    env.close()


def test_failures_far_apart_are_forgiven_and_close_ones_are_counted(monkeypatch):
    env = build("raise", columns=1)
    monkeypatch.setattr(columns_module, "WITHIN", 9)
    steps = play(env, 60)  # a failure every third step: five span twelve steps
    assert sum(step.broken is not None for step in steps) == 20
    monkeypatch.setattr(columns_module, "WITHIN", 13)
    action = np.zeros(1, np.int64)
    env.step(action)
    env.step(action)
    with pytest.raises(Diverged, match="failed 5 times within 13 steps"):
        env.step(action)


def test_a_failing_reset_after_an_end_does_not_cut_the_stream():
    env = build("", columns=1)
    play(env, 5)
    step = env.step(np.zeros(1, np.int64))
    assert step.ended[0]
    assert step.faults == ()
    real, calls = env._backend._cells[0].reset, []

    def fail_once(seed):
        calls.append(seed)
        if len(calls) == 1:
            raise RuntimeError("no game today")
        return real(seed)

    env._backend._cells[0].reset = fail_once
    step = env.step(np.zeros(1, np.int64))
    assert calls == [None]
    assert step.broken is None
    assert step.faults == ((0, "raised RuntimeError: no game today; it was replaced before its next game"),)
    assert step.observation["obs"][0, 0] == -1.0


def test_a_replacement_that_fails_too_is_told_on_a_line_of_its_own(monkeypatch):
    env = build("", columns=1)
    env.reset()
    monkeypatch.setattr(env._backend._cells[0], "step", lambda action: sys.exit("two\nlines"))
    restart, failed = env._backend.restart, []

    def second_time(column):
        failed.append(column)
        return restart(column) if len(failed) > 1 else columns_module.Fault("could not be built again: no room")

    monkeypatch.setattr(env._backend, "restart", second_time)
    assert env.step(np.zeros(1, np.int64)).faults == (
        (0, "raised SystemExit: two lines; its game was cut and it was replaced"),
        (0, "could not be built again: no room; it was replaced once more"),
    )
    assert env.step(np.zeros(1, np.int64)).faults == ()


def test_a_reset_that_always_fails_stops_the_run():
    env = build("raise", columns=1, where="reset")
    with pytest.raises(
        Diverged, match="failed 5 times within 1000 steps, the last time because it raised RuntimeError"
    ):
        env.reset()


@pytest.mark.parametrize("workers", ["0", "each"])
@pytest.mark.parametrize(("what", "reason"), [("raise", "RuntimeError: the bridge fell down"), ("exit", "SystemExit")])
def test_a_constructor_that_fails_is_named_at_once(workers, what, reason):
    with pytest.raises(UserError, match=rf"could not be built with env.kwargs .*{reason}"):
        build(what, columns=1, workers=workers, where="constructor")


def test_a_constructor_that_dies_is_named_at_once():
    with pytest.raises(UserError, match="could not be started: its process ended its process with exit code 7"):
        build("die", columns=1, workers="each", where="constructor")


def test_workers_have_no_torch_and_a_process_group_of_their_own():
    env = build("", columns=2, workers="each", name="Reports")
    torch, process, group = env.reset()["obs"].T
    assert not torch.any()
    assert len({os.getpid(), *process.astype(int)}) == 3
    np.testing.assert_array_equal(process, group)
    env.close()
    env.close()
    for pid in process.astype(int):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def ends(pid):
    """Whether a process ends within ten seconds, or has ended and nobody has collected its exit code."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_a_hung_worker_ends_with_all_that_it_started():
    env = build("", columns=1, workers="each", name="Starts", limit=0.2)
    first = int(env.reset()["obs"][0, 0])
    os.kill(first, 0)
    step = env.step(np.zeros(1, np.int64))
    assert step.broken.all()
    assert ends(first)
    second = int(step.observation["obs"][0, 0])
    os.kill(second, 0)
    env.close()
    assert ends(second)


def test_workers_end_when_their_parent_is_killed():
    code = (
        "import sys, time; sys.path[:] = [*eval(sys.argv[1])]\n"
        "from retorq.envs.make import EnvOptions, make\n"
        "options = EnvOptions(workers='each', kwargs={'what': sys.argv[2]}, step_time_limit=900)\n"
        "env = make('sample_envs:Reports', columns=1, options=options)\n"
        "print(int(env.reset()['obs'][0, 1]), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, repr(sys.path), ""], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    assert ends(pid)


def test_the_door_imports_neither_torch_nor_ale_py():
    code = (
        "import sys, retorq.envs.make, retorq.envs.worker; print([m for m in ('torch', 'ale_py') if m in sys.modules])"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
