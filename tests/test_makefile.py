"""`make train`: what it hands on, which ends are no failures, and that it waits for the program at a Ctrl-C."""

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


def make(project, *words, **variables):
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "RETORQ_AGAIN"
    }
    return subprocess.Popen(
        ["make", "train", *words],
        cwd=project,
        env=plain | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


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
