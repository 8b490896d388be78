"""Ctrl-C ends with a sentence and its exit code, whenever it comes, and leaves a screen that can be read."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.small import flags
from tests.terminal import in_terminal, screen

SOURCE = str(Path(__file__).parents[1] / "src")
PROGRAM = ["-c", "import sys; from retorq import cli; sys.argv[0] = 'retorq'; cli.main()"]
HANGING = """
import time
from retorq.running.trainer import Trainer
plain = Trainer.step
def slices(): [time.sleep(0.1) for _ in range(600)]
Trainer.step = lambda self: slices() if self.steps else plain(self)
"""
SLOW = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:
    raise ImportError
"""
CTRL_C = "\x03"


def test_the_screen_of_the_tests():
    assert screen("one\r\ntwo\rT\r\n") == ["one", "Two", ""]
    assert screen("\x1b[?25l\x1b[1mab\x1b[0m\r\ncd^C\r\x1b[2K\x1b[1A\x1b[2Kxy\r\nz\x1b[?25h") == ["xy", "z"]


def slow(module, folder):
    """A package that takes a minute to import, and makes another error of an interrupt."""
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(SLOW)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), SOURCE]), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("words", [["train", "memory"], ["resume", "x"], ["eval", "x"], ["doctor"]])
def test_while_libraries_are_imported(words, tmp_path):
    program = subprocess.Popen(
        [sys.executable, *PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=slow("torch", tmp_path),
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = [program.stdout.readline()]
    while said[-1] not in ("importing\n", ""):
        said.append(program.stdout.readline())
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (130, "retorq: interrupted by Ctrl-C; what was saved before is untouched\n")
    if words[0] != "doctor":
        assert said[0].split()[0] == "starting"  # before anything slow


def train(path, monkeypatch, *typed):
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RETORQ_AGAIN", raising=False)
    words = ["train", "memory", "--run", str(path), *flags(), "--steps", "1000000", "--threads", "1"]
    return in_terminal([*PROGRAM, *words], list(typed))


def test_the_screen_after_an_interrupt(tmp_path, monkeypatch):
    path = tmp_path / "run"
    code, lines = train(path, monkeypatch, ("updates/s", CTRL_C))
    text = "\n".join(lines)
    assert code == 75, text
    assert text.count("updates/s") == text.count("run folder") == 1  # one panel, the last
    assert "^C" not in text
    assert "finishing" not in text
    ended = next(number for number, line in enumerate(lines) if line.startswith("stopped by Ctrl-C at step "))
    assert lines[ended - 1].startswith("left ")  # the last line of the panel
    (saved,) = (file for file in (path / "checkpoints").iterdir() if file.name.isdigit())
    assert f"step {int(saved.name):,} of 1,000,000" in lines[ended]
    after = [line for line in lines[ended + 1 :] if line]
    assert after[0].startswith(("score ", "no game was played"))
    assert after[1:] == [f"checkpoint {saved}", f"go on with: retorq resume {path}"]
    (step,) = (line for line in lines if line.startswith("step "))
    assert f"{int(saved.name):,}/1,000,000" in step


def test_the_second_interrupt_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PROGRAM", ["-c", HANGING + PROGRAM[1]])
    code, lines = train(tmp_path / "run", monkeypatch, ("left", CTRL_C), ("finishing", CTRL_C))
    text = "\n".join(lines)
    assert (code, "Traceback" in text) == (130, False), text
    said = "retorq: stopped at once by the second Ctrl-C, without saving; the last checkpoint stands"
    assert [line for line in lines if line][-1] == said, text
