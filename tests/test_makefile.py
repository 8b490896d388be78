"""`make`: targets set up what they need, once; what `train` hands on, and that it waits for the program at a Ctrl-C."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
PROGRAM = """\
#!/bin/sh
echo "$@"
echo "again: $RETORQ_AGAIN"
trap 'sleep 0.5; kill $!; echo saved; exit 75' INT
if [ -n "$WAIT" ]; then sleep 20 & wait; fi
exit ${CODE:-0}
"""
# Stands for Python: writes down what it is asked for, copies itself into a new environment, and fails where told to.
PYTHON = """\
#!/bin/sh
case "$1" in (-c) exit 0 ;; esac
shift
echo "$@" >> called
[ "$1" = venv ] && mkdir -p "$2/bin" && cp "$0" "$2/bin/python" && cp "$0" "$2/bin/retorq"
[ "$1" = pytest ] && echo "threads: $OMP_NUM_THREADS $MKL_NUM_THREADS"
[ "$1" = pytest ] && echo "byte code: ${PYTHONDONTWRITEBYTECODE:-kept}"
case "$*" in (*"${MISSING:-nothing}"*) exit 1 ;; esac
[ "$1" != "$FAILS" ]
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def project(tmp_path):
    """A project that is set up already, whose program only tells how it was called."""
    shutil.copy(MAKEFILE, tmp_path)
    program = tmp_path / ".venv" / "bin" / "retorq"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM)
    program.chmod(0o755)
    for number, name in enumerate(("pyproject.toml", "constraints.txt", ".venv/.made", ".venv/.ready-train")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000 + number,) * 2)
    return tmp_path


def make(project, *words, target="train", **variables):
    ours = {"ARGS", "JOBS", "GAME", "AGENT", "PRESET", "RUN", "VENV", "RETORQ_AGAIN"}  # of the make that runs this test
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and not name.endswith("_NUM_THREADS") and name not in ours
    }
    return subprocess.Popen(
        ["make", target, *words],
        cwd=project,
        env=plain | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def clone(tmp_path):
    """What was just cloned, on a machine with a Python that only writes down what it is asked for."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def done(clone, target, *words, **variables):
    """Run make; whether it succeeded, what it printed, and what Python was asked for."""
    (clone / "called").write_text("")
    program = make(clone, "PYTHON=./python", *words, target=target, **variables)
    out, _ = program.communicate(timeout=60)
    return program.returncode == 0, out, (clone / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("target", "extras", "last"),
    [
        ("test", ["all,dev", "oracle"], "pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/ops -x"),
        ("slow", ["all,dev", "oracle"], "pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m slow tests/ops -x"),
        (
            "train",
            ["atari,video,log"],
            "ALE/Pong-v5 --agent recurrent_iqn --preset laptop --run runs/pong tests/ops -x",
        ),
    ],
)
def test_a_target_sets_itself_up_once_and_again_when_the_versions_change(clone, target, extras, last):
    words = ("ARGS=tests/ops -x",)
    good, out, (venv, *installs, final) = done(clone, target, *words)
    assert good
    assert venv == "venv .venv"
    assert all(install.startswith("pip install ") for install in installs)
    asked = [install.partition(" --constraint ")[2] for install in installs]
    assert asked == [f"constraints.txt --editable .[{extra}]" for extra in extras]
    assert final == last
    assert ("threads: 1 1" in out.splitlines()) is (target != "train")
    assert done(clone, target, *words)[2] == [last]
    later = (clone / ".venv" / ".made").stat().st_mtime + 100
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(clone / name, (later, later))
        assert done(clone, target, *words)[2] == [*installs, last]
        for ready in (clone / ".venv").glob(".ready-*"):
            os.utime(ready, (later, later))
        later += 100


def test_what_is_set_up_for_tests_serves_training_too(clone):
    assert done(clone, "test")[0]
    assert [line.split()[0] for line in done(clone, "train")[2]] == ["ALE/Pong-v5"]


def test_an_installation_that_failed_is_done_again(clone):
    good, _, called = done(clone, "test", FAILS="pip")
    assert not good
    assert [line.split()[0] for line in called] == ["venv", "pip"]
    assert [line.split()[0] for line in done(clone, "test")[2]] == ["pip", "pip", "pytest"]


def test_without_rlax_the_other_tests_run(clone):
    good, _, called = done(clone, "test", MISSING="oracle")
    assert good
    assert [line.split()[0] for line in called] == ["venv", "pip", "pip", "pytest"]


def test_byte_code_is_kept_whatever_the_environment_says(clone):
    assert "byte code: kept" in done(clone, "test", PYTHONDONTWRITEBYTECODE="1")[1].splitlines()


def test_failing_tests_fail(clone):
    assert not done(clone, "test", FAILS="pytest")[0]


@pytest.mark.parametrize(
    ("words", "variables", "again"),
    [
        ([], {}, "make train"),
        (["RUN=runs/x", "ARGS=--steps 5 --seed 1"], {}, "make train RUN=runs/x ARGS='--steps 5 --seed 1'"),
        ([], {"GAME": "ALE/Breakout-v5"}, "make train GAME=ALE/Breakout-v5"),
    ],
)
def test_the_program_is_told_what_goes_on_with_the_run(project, words, variables, again):
    out, err = make(project, *words, **variables).communicate(timeout=30)
    assert err == ""
    called, told = out.splitlines()
    assert told == f"again: {again}"
    assert called.startswith(
        f"train {variables.get('GAME', 'ALE/Pong-v5')} --agent recurrent_iqn --preset laptop --run "
    )
    assert ("runs/x --steps 5 --seed 1" in called) is bool(words)


@pytest.mark.parametrize(("code", "failed"), [(0, False), (75, False), (130, False), (2, True), (4, True)])
def test_which_ends_are_failures(project, code, failed):
    program = make(project, CODE=str(code))
    _, err = program.communicate(timeout=30)
    assert (program.returncode != 0) is failed
    assert (f"Error {code}" in err) is failed


def test_it_waits_for_the_program_to_save(project):
    program = make(project, WAIT="1")
    lines = [program.stdout.readline(), program.stdout.readline()]
    assert lines[1].startswith("again")
    time.sleep(0.3)  # the trap is set by then
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    out, err = program.communicate(timeout=30)
    assert (out, err) == ("saved\n", "")
