"""The timed check of `make train`, with programs of its own instead of the real one."""

import os
import subprocess
import sys

import pytest
from benchmarks import first_line as bench

LATE = """\
import os, sys, time
print("setting up .venv (once)", flush=True)
time.sleep(0.2)
print("            starting  preparing to train", flush=True)
if "RETORQ_AGAIN" in os.environ:
    sys.exit("not a new user's environment")
try:
    time.sleep(0.2)
    print("step 8/500,000 (0%) · score - (last 0)", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    open("saved", "w").close()
"""


def test_it_times_the_first_line_and_stops_the_program(tmp_path, monkeypatch):
    monkeypatch.setenv("RETORQ_AGAIN", "make train")
    found = bench.first_line(tmp_path, [sys.executable, "-c", LATE], patience=30)
    assert 0.4 <= found["seconds"] < 30
    assert list(found["stages"]) == ["setting up", "starting"]
    assert found["stages"]["setting up"] <= found["stages"]["starting"] <= found["seconds"]
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "code", ["print('no space left', flush=True)", "import time; print('no space left', flush=True); time.sleep(60)"]
)
def test_without_a_line_of_progress_the_last_lines_are_told(code, tmp_path):
    with pytest.raises(SystemExit, match=r"no line of progress came from .*\n*no space left"):
        bench.first_line(tmp_path, [sys.executable, "-c", code], patience=2)


def test_a_clone_is_what_is_committed(tmp_path):
    source = tmp_path / "source"
    words = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(source)]
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)
    (source / "kept").write_text("1")
    subprocess.run([*words, "add", "kept"], check=True)
    subprocess.run([*words, "commit", "--quiet", "-m", "x"], check=True)
    (source / "kept").write_text("2")
    (source / "new").write_text("")
    bench.clone(source, tmp_path / "clone")
    assert (tmp_path / "clone" / "kept").read_text() == "1"
    assert os.listdir(tmp_path / "clone") in ([".git", "kept"], ["kept", ".git"])
