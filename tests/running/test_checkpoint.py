"""Checkpoints: what comes back is what went in, and nothing that happens to a disk goes unnoticed."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from retorq.running import checkpoint, manifest
from retorq.running.checkpoint import Part, SaveFailed, newest, save
from retorq.types import Refused


def parts(step, *, size=40):
    return {"learner": Part(lambda: {"w": torch.full((size,), float(step)), "b": torch.arange(3)})}


def write(folder, step, **keywords):
    return save(folder, step, state={"step": step}, parts=parts(step), **keywords)


def quiet(folder, **keywords):
    told = []
    return newest(folder, warn=told.append, **keywords), told


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def load(folder):
    found, _ = quiet(folder)
    assert float(found.tensors("learner")["w"][0]) == found.step == found.state["step"]
    return found.step


def reseal(path, **changes):
    record = json.loads((path / "MANIFEST.json").read_text())
    del record["seal"]
    (path / "MANIFEST.json").write_bytes(manifest.sealed(record | changes))


def test_nothing_is_no_checkpoint(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


def test_every_kind_of_tensor_comes_back(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "bool": torch.tensor([True, False, True]),
        "strided": base.t(),
        "column": base[:, 2],
        "base": base,
        "tied": base,
        "half": base[:2],
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 5),
        "empty_too": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(5),
        "wide": torch.from_numpy(np.array([2**64 - 1], dtype=np.uint64)),
        "needs_gradient": torch.ones(2, requires_grad=True),
    }
    save(tmp_path, 5, state={}, parts={"a": Part(lambda: tensors)})
    back = newest(tmp_path).tensors("a")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach()), name


def test_state_keeps_big_integers_and_exact_floats(tmp_path):
    state = {"big": 2**200 + 1, "float": 0.1 + 0.2, "numpy": np.float64(1) / 3, "array": np.arange(3), "none": None}
    save(tmp_path, 0, state=state, parts={})
    back = newest(tmp_path).state
    assert back == {"big": 2**200 + 1, "float": 0.1 + 0.2, "numpy": 1 / 3, "array": [0, 1, 2], "none": None}


def test_the_newest_are_kept(tmp_path):
    for step in (5, 30, 200, 1000):
        write(tmp_path, step, keep=2)
        assert load(tmp_path) == step
    assert names(tmp_path) == ["1000", "200"]


def test_what_cannot_be_named_or_stored_is_said_before_writing(tmp_path):
    for bad in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="part name"):
            save(tmp_path, 1, state={}, parts={bad: Part(dict)})
    with pytest.raises(TypeError, match="put tensors into parts"):
        save(tmp_path, 1, state={"t": torch.ones(1)}, parts={})
    with pytest.raises(ValueError, match="step"):
        save(tmp_path, -1, state={}, parts={})
    assert names(tmp_path) == []
    write(tmp_path, 1)
    with pytest.raises(Refused, match=r"'actor'.*learner"):
        newest(tmp_path).tensors("actor")


def test_an_unchanged_part_is_linked_and_not_asked_for(tmp_path):
    def unexpected():
        raise AssertionError("asked for an unchanged part")

    chunk = {"x": torch.arange(1000)}
    save(tmp_path, 1, state={}, parts={"chunk": Part(lambda: chunk, "a")})
    save(tmp_path, 2, state={}, parts={"chunk": Part(unexpected, "a")})
    assert (tmp_path / "1/chunk.safetensors").samefile(tmp_path / "2/chunk.safetensors")
    save(tmp_path, 3, state={}, parts={"chunk": Part(unexpected, "a")}, keep=1)
    assert torch.equal(newest(tmp_path).tensors("chunk")["x"], chunk["x"])
    save(tmp_path, 4, state={}, parts={"chunk": Part(lambda: {"x": torch.zeros(2)}, "b")})
    assert newest(tmp_path).tensors("chunk")["x"].shape == (2,)
    assert torch.equal(checkpoint.load_file(tmp_path / "3/chunk.safetensors")["x"], chunk["x"])


@pytest.mark.parametrize("other", ["fingerprint", "run", "size"])
def test_a_part_is_not_linked_to_another(tmp_path, other):
    save(tmp_path, 1, state={}, parts={"c": Part(lambda: {"x": torch.zeros(9)}, "a")}, run="one")
    if other == "size":
        os.truncate(tmp_path / "1/c.safetensors", 10)
    fingerprint, run = {"fingerprint": ("b", "one"), "run": ("a", "two"), "size": ("a", "one")}[other]
    save(tmp_path, 2, state={}, parts={"c": Part(lambda: {"x": torch.ones(9)}, fingerprint)}, run=run)
    assert float(newest(tmp_path).tensors("c")["x"].sum()) == 9


def test_a_damaged_checkpoint_is_no_source_of_links_after_falling_back(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, state={}, parts={"c": Part(lambda step=step: {"x": torch.full((9,), step)}, f"v{step}")})
    flip(tmp_path / "2/c.safetensors", -1, 0)
    assert quiet(tmp_path)[0].step == 1
    for step in (2, 3):  # the repeated step makes the same data again
        save(
            tmp_path,
            step - 1 if step == 2 else 3,
            state={},
            parts={"c": Part(lambda: {"x": torch.full((9,), 2)}, "v2")},
        )
    found, told = quiet(tmp_path)
    assert (found.step, told) == (3, [])
    assert found.tensors("c")["x"].tolist() == [2] * 9
    assert "2.aside" in names(tmp_path)


def test_links_are_copied_where_the_file_system_has_none(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(checkpoint.errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for step in (1, 2):
        save(tmp_path, step, state={}, parts={"c": Part(lambda: {"x": torch.ones(9)}, "a")})
    assert quiet(tmp_path)[0].step == 2
    assert not (tmp_path / "1/c.safetensors").samefile(tmp_path / "2/c.safetensors")


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


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


def test_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 1)
    save(tmp_path, 1, state={"again": True}, parts={})
    assert newest(tmp_path).state == {"again": True}
    assert names(tmp_path) == ["1"]


def test_a_replacement_cut_off_between_its_renames_leaves_the_old_one(tmp_path):
    write(tmp_path, 1).rename(tmp_path / "1.old")
    assert load(tmp_path) == 1
    write(tmp_path, 2)
    assert names(tmp_path) == ["1.old", "2"]
    write(tmp_path, 1)
    write(tmp_path, 3)
    assert load(tmp_path) == 3


def test_stale_temporaries_are_swept_but_not_those_of_a_living_process(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid(), os.getppid()):
        (tmp_path / f".tmp-7-{pid}-abcd").mkdir()
    write(tmp_path, 1)
    assert names(tmp_path) == [f".tmp-7-{os.getppid()}-abcd", "1"]


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

for round in range(40):
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
    """SIGKILL, 40 times; every second save replaces the one of the same step."""
    environment = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_generators_continue_through_json(kind):
    generator = np.random.Generator(kind(5))
    generator.integers(10, dtype=np.int32)  # leaves half a word in the buffer
    state = json.loads(json.dumps(checkpoint.generator_state(generator)))
    expected = generator.integers(2**40, size=9)
    again = np.random.Generator(kind(6))
    checkpoint.restore_generator(again, state)
    assert np.array_equal(again.integers(2**40, size=9), expected)


def test_a_state_of_another_generator_is_refused():
    state = checkpoint.generator_state(np.random.Generator(np.random.MT19937(1)))
    with pytest.raises(Refused, match=r"'MT19937'.*'PCG64'"):
        checkpoint.restore_generator(np.random.default_rng(1), state)
    with pytest.raises(Refused, match="cannot be read"):
        checkpoint.restore_generator(np.random.default_rng(1), {"bit_generator": "PCG64"})
    with pytest.raises(Refused, match="torch random state"):
        checkpoint.restore_torch_generator(torch.Generator(), torch.zeros(3, dtype=torch.uint8))


def test_torch_generators_continue_through_a_checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(4)
    torch.rand(3, generator=generator)
    save(tmp_path, 1, state={}, parts={"g": Part(lambda: {"g": checkpoint.torch_generator_state(generator)})})
    expected = torch.randn(9, generator=generator)
    again = torch.Generator()
    checkpoint.restore_torch_generator(again, newest(tmp_path).tensors("g")["g"])
    assert torch.equal(torch.randn(9, generator=again), expected)
