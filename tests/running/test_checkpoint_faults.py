"""Checkpoints: nothing that happens to a disk goes unnoticed, and no failure costs what was saved before."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running.saving import contents, flip, load, names, parts, quiet, reseal, write

from retorq.running import checkpoint, manifest
from retorq.running.checkpoint import Part, SaveFailed, newest, save
from retorq.types import Refused


@pytest.mark.parametrize("name", ["learner.safetensors", "state.json", "MANIFEST.json"])
def test_truncated_at_any_length_falls_back_and_says_so(tmp_path, name):
    write(tmp_path, 1)
    path = write(tmp_path, 2) / name
    whole = path.read_bytes()
    for part in range(64):
        path.write_bytes(whole[: len(whole) * part // 64])
        found, told = quiet(tmp_path)
        assert found.step == 1
        assert found.skipped == tuple(told)
        assert len(told) == 1
        assert name in told[0]
    path.write_bytes(whole)
    assert quiet(tmp_path)[0].step == 2


def test_any_flipped_bit_is_noticed(tmp_path):
    newer = write(tmp_path, 2)
    rng = np.random.default_rng(7)
    files = [(path, path.read_bytes(), os.open(path, os.O_RDWR)) for path in sorted(newer.iterdir())]
    for _ in range(4000):
        path, data, descriptor = files[rng.integers(len(files))]
        byte, bit = int(rng.integers(len(data))), int(rng.integers(8))
        os.pwrite(descriptor, bytes([data[byte] ^ 1 << bit]), byte)
        try:
            manifest.verify(newer, "")
        except manifest.Damaged:
            pass
        else:
            pytest.fail(f"{path.name}, byte {byte}, bit {bit}")
        os.pwrite(descriptor, data[byte : byte + 1], byte)
    manifest.verify(newer, "")
    for _, _, descriptor in files:
        os.close(descriptor)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a, b: (b / "learner.safetensors").unlink(),
        lambda a, b: (b / "MANIFEST.json").unlink(),
        lambda a, b: shutil.copy(a / "learner.safetensors", b),
        lambda a, b: shutil.copy(a / "state.json", b),
        lambda a, b: shutil.copy(a / "MANIFEST.json", b),
        lambda a, b: shutil.copytree(a, b, dirs_exist_ok=True),
        lambda a, b: (shutil.rmtree(b), b.write_text("a file")),
        lambda a, b: (shutil.rmtree(b), b.symlink_to("nowhere")),
        lambda a, b: ((b / "state.json").rename(b / "x"), (b / "state.json").symlink_to("x")),
        lambda a, b: reseal(b, files={"../1/state.json": {"size": 1, "sha256": ""}}),
        lambda a, b: reseal(b, files={}),
        lambda a, b: reseal(b, files=[1]),
        lambda a, b: reseal(b, format=0),
        lambda a, b: reseal(b, format="1"),
        lambda a, b: (b / "MANIFEST.json").write_text("[" * 100_000),
    ],
)
def test_missing_swapped_or_foreign_files_are_noticed(tmp_path, spoil):
    spoil(write(tmp_path, 1), write(tmp_path, 2))
    found, told = quiet(tmp_path)
    assert (found.step, len(told)) == (1, 1)
    # And training goes on from there, past the bad one.
    for step in (2, 3):
        write(tmp_path, step)
        assert load(tmp_path) == step


def test_the_checkpoint_of_another_run_is_passed_over(tmp_path):
    write(tmp_path, 1, run="mine")
    write(tmp_path, 2, run="theirs")
    found, told = quiet(tmp_path, run="mine")
    assert found.step == 1
    assert "'theirs'" in told[0]
    assert quiet(tmp_path)[0].step == 2


def test_all_bad_is_refused_never_from_scratch(tmp_path, capsys):
    for step in (1, 2):
        flip(write(tmp_path, step) / "state.json", 0, 0)
    with pytest.raises(Refused, match=r"state.json does not match.*state.json does not match.*another run folder"):
        newest(tmp_path)
    assert capsys.readouterr().err.count("is passed over") == 2


def test_a_newer_format_is_refused(tmp_path):
    write(tmp_path, 1)
    reseal(write(tmp_path, 2), format=2, retorq="9.9")
    with pytest.raises(Refused, match=r"format 2, written by retorq 9\.9.*update retorq"):
        newest(tmp_path)


def failing(real, calls, at, error):
    """``real``, but the call number ``at`` (counted in ``calls`` over all functions) raises."""

    def call(*args, **keywords):
        calls.append(real.__name__)
        if len(calls) == at:
            raise error
        return real(*args, **keywords)

    return call


@pytest.mark.parametrize("step", [2, 1])
def test_an_error_at_any_operation_leaves_everything_as_it_was(tmp_path, monkeypatch, step):
    """Each sync, link, rename and write in turn fails; the save says so and the disk is as before."""
    both = parts(9) | {"chunk": Part(lambda: {"x": torch.ones(5)}, "a")}
    save(tmp_path, 1, state={"step": 1}, parts=both)
    before = contents(tmp_path)
    at = 0
    while True:
        at, calls = at + 1, []
        with monkeypatch.context() as patch:
            full = OSError(checkpoint.errno.ENOSPC, "No space left on device")
            for place, name in ((os, "fsync"), (os, "link"), (os, "rename"), (checkpoint, "save_file")):
                error = checkpoint.SafetensorError("No space left on device") if name == "save_file" else full
                patch.setattr(place, name, failing(getattr(place, name), calls, at, error))
            try:
                save(tmp_path, step, state={"step": step}, parts=both)
            except SaveFailed as error:
                failure = error
            else:
                break
        assert failure.needed > 0
        assert f"No space left on device; it needs {failure.needed:,} bytes" in str(failure)
        assert not [name for name in names(tmp_path) if name.startswith(".tmp")]
        if calls[-2:] == ["rename", "fsync"]:
            # Only the sync of the parent failed: the new one stands.
            assert quiet(tmp_path)[0].step == step
            shutil.rmtree(tmp_path / str(step))
            if step == 1:
                (tmp_path / "1.old").rename(tmp_path / "1")
        assert contents(tmp_path) == before
    assert at > 8
    assert quiet(tmp_path)[0].step == step


def test_too_little_space_is_noticed_before_writing(tmp_path, monkeypatch):
    write(tmp_path, 1)
    before = contents(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 4096, 4096))
    monkeypatch.setattr(checkpoint, "save_file", None)
    with pytest.raises(SaveFailed, match="only 4,096 bytes are free") as failure:
        write(tmp_path, 2)
    assert failure.value.needed > 4096
    assert contents(tmp_path) == before


def test_an_interrupt_leaves_no_temporary(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert names(tmp_path) == ["1"]


def test_a_file_size_limit_fails_the_save_and_not_the_process(tmp_path):
    """The real thing: the kernel refuses the write, inside the library that writes tensors."""
    write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SaveFailed, match="File too large"):
            save(tmp_path, 2, state={}, parts=parts(2, size=100_000))
        with pytest.raises(SaveFailed, match="File too large"):
            save(tmp_path, 2, state={"long": "x" * 100_000}, parts=parts(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["1"]
    write(tmp_path, 2)
    assert load(tmp_path) == 2


KILLED = """
import os, signal, sys, time
import numpy as np, torch
from pathlib import Path
from retorq.running.checkpoint import Part, newest, save
torch.set_num_threads(1)
folder, rng, highest = Path(sys.argv[1]), np.random.default_rng(3), 0

def endless(step, told):
    while True:
        step += 1
        parts = {n: Part(lambda: {"x": torch.full((2000,), step)}) for n in "abc"}
        parts["d"] = Part(lambda: {"x": torch.full((2000,), step // 3)}, str(step // 3))
        save(folder, step - step % 2, state={"step": step}, parts=parts)
        os.write(told, b".")

for round in range(25):
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        endless(highest, told)
    os.read(heard, 1)
    time.sleep(rng.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard)
    os.close(told)
    told = []
    found = newest(folder, warn=told.append)
    assert not told, told
    step = found.state["step"]
    assert step > highest and step - step % 2 == found.step, (step, highest)
    assert all(int(found.tensors(n)["x"][-1]) == step for n in "abc")
    assert int(found.tensors("d")["x"][0]) == step // 3
    highest = step
"""


def test_killed_at_random_moments_a_whole_checkpoint_is_there(tmp_path):
    """SIGKILL, 25 times; every second save replaces the one of the same step."""
    environment = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
