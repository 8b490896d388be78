"""How the program was called, so that what it tells to type next can be typed there."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "retorq"
AGAIN = "RETORQ_AGAIN"
"""Environment variable of the command that trains again, where that is not this one; the Makefile sets it."""


def program() -> str:
    """``retorq`` where the shell finds it by that name, else the path by which it was called."""
    called = Path(sys.argv[0])
    if called.name != NAME:
        return NAME
    found = shutil.which(NAME)
    same = found is not None and called.exists() and os.path.samefile(found, called)
    if same or not called.exists():
        return NAME
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))


def command(name: str) -> str:
    """The name of a command, as in usage lines and remedies."""
    return f"{program()} {name}"


def told(name: str, path: Path) -> str:
    """A command with a path, for a shell."""
    return f"{command(name)} {shlex.quote(str(path))}"


def again(path: Path) -> str:
    """What goes on with a run: whatever started this program if it says so, else ``resume``."""
    return os.environ.get(AGAIN) or told("resume", path)
