"""What a run says to type next can be typed where it was started."""

import os
import sys
from pathlib import Path

import pytest

from retorq.commands import program


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A working directory with a program in .venv/bin that no PATH names."""
    path = tmp_path / "my project" / ".venv" / "bin" / "retorq"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path / "my project")
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.delenv(program.AGAIN, raising=False)
    return path


def test_by_the_path_that_was_typed(installed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [".venv/bin/retorq", "train", "memory"])
    assert program.told("resume", Path("runs/x")) == ".venv/bin/retorq resume runs/x"
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert program.program() == ".venv/bin/retorq"
    (installed.parents[3] / "elsewhere").mkdir()
    monkeypatch.chdir(installed.parents[3] / "elsewhere")
    assert program.told("eval", Path("/a b")) == f"'{installed}' eval '/a b'"


def test_by_its_name_where_the_shell_finds_it(installed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(installed)])
    monkeypatch.setenv("PATH", str(installed.parent))
    assert program.program() == "retorq"


def test_by_its_name_where_it_was_called_otherwise(monkeypatch):
    for called in ("/usr/lib/python/pytest/__main__.py", "gone/retorq", ""):
        monkeypatch.setattr(sys, "argv", [called])
        assert program.program() == "retorq"


def test_what_started_it_may_have_words_of_its_own(monkeypatch):
    monkeypatch.delenv(program.AGAIN, raising=False)
    assert program.again(Path("x")) == "retorq resume x"
    monkeypatch.setenv(program.AGAIN, "make train RUN=x")
    assert program.again(Path("x")) == "make train RUN=x"
