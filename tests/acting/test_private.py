"""Private folders: only this user enters them, and what a killed owner left is swept, nothing else."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from retorq.acting import private
from retorq.acting.private import PrivateFolder, sweep

HOLDING = """
import sys, time
from retorq.acting import private
private._base = lambda: sys.argv[1]
folder = private.PrivateFolder()
(folder.path / 'r').mkdir()
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def base(monkeypatch, tmp_path):
    """Not the real one, where other programs of this user live."""
    monkeypatch.setattr(private, "_base", lambda: str(tmp_path))
    return tmp_path


def test_it_is_private_short_and_removed():
    folder = PrivateFolder()
    token = folder.write("token", "secret")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(folder.path.name) < 12
    folder.close()
    folder.close()
    assert not folder.path.exists()


def test_the_real_base_is_short(monkeypatch):
    monkeypatch.undo()
    folder = PrivateFolder()
    try:
        assert len(str(folder.path)) < 40
    finally:
        folder.close()


def test_what_a_killed_owner_left_is_swept_by_the_next_one(base):
    owner = subprocess.Popen([sys.executable, "-c", HOLDING, str(base)], stdout=subprocess.PIPE, text=True)
    left = Path(owner.stdout.readline().strip())
    mine = PrivateFolder()
    assert left.is_dir()  # its owner lives
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert left.is_dir()
    other = PrivateFolder()
    assert not left.exists()
    assert mine.path.is_dir()
    mine.close()
    other.close()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("what", ["open", "foreign", "no owner", "link", "file"])
def test_nothing_else_is_swept(base, what, monkeypatch):
    path = base / "rqsomething"
    if what == "file":
        path.touch(0o700)
    else:
        path.mkdir(mode=0o700)
        if what != "no owner":
            (path / "owner").touch()
    if what == "open":
        path.chmod(0o755)
    if what == "foreign":
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    if what == "link":
        path.rename(base / "elsewhere")
        path.symlink_to(base / "elsewhere")
    sweep()
    assert path.exists()
    if what == "link":
        assert (base / "elsewhere" / "owner").exists()


def test_a_folder_whose_owner_is_gone_is_swept(base):
    """The case that the ones above differ from."""
    path = base / "rqsomething"
    path.mkdir(mode=0o700)
    (path / "owner").touch()
    sweep()
    assert not path.exists()


def test_what_cannot_be_removed_yet_is_left_for_the_next_sweep(base, monkeypatch):
    """Ray's processes may still be writing when their owner closes the folder."""
    monkeypatch.setattr(private, "LINGER", 0.0)
    remove = private.shutil.rmtree
    monkeypatch.setattr(private.shutil, "rmtree", lambda path, **how: None if path.name == "r" else remove(path, **how))
    folder = PrivateFolder()
    (folder.path / "r").mkdir()
    folder.close()
    assert (folder.path / "owner").exists()
    monkeypatch.undo()
    monkeypatch.setattr(private, "_base", lambda: str(base))
    sweep()
    assert not folder.path.exists()
