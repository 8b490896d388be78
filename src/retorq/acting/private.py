"""Folders that only this user can enter, gone with their owner; what an owner left that was killed is swept later."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "rq"
OWNER = "owner"
LINGER = 5.0
"""Seconds that ``close`` tries again while processes that are ending still write."""


class PrivateFolder:
    """A folder that only this user can enter. Its path is short, as Unix sockets need.

    The owner holds a lock on a file in it, so that whoever finds it can tell whether the owner lives, whatever became
    of its process number since. Making a folder removes those whose owner is gone.
    """

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))  # for this user alone, by its contract
        self._lock = os.open(self.path / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, f"{os.getpid()}\n".encode())  # for people; the lock is what counts

    def write(self, name: str, text: str) -> Path:
        """A file that only this user can read."""
        path = self.path / name
        path.touch(0o600)
        path.write_text(text)
        return path

    def close(self) -> None:
        """Remove it with all it holds; safe to call twice."""
        if self._lock >= 0:
            _remove(self.path)
            os.close(self._lock)
            self._lock = -1


def sweep() -> None:
    """Remove this user's private folders whose owner is gone."""
    for path in Path(_base()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another program may be sweeping, too
            about = path.lstat()
            private = stat.S_ISDIR(about.st_mode) and stat.S_IMODE(about.st_mode) == 0o700
            if not (private and about.st_uid == os.getuid()):
                continue
            lock = os.open(path / OWNER, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    """Remove a folder, its owner's file last: what could not be removed now must be found by the next sweep."""
    end = time.monotonic() + LINGER
    while True:
        for entry in path.iterdir() if path.is_dir() else ():
            if entry.name != OWNER:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        if not path.is_dir() or {entry.name for entry in path.iterdir()} <= {OWNER}:
            shutil.rmtree(path, ignore_errors=True)
            return
        if time.monotonic() > end:
            return
        time.sleep(0.1)


def _base() -> str:
    return "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
