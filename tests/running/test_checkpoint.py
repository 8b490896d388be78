"""Checkpoints: what comes back is what went in, whatever is linked, replaced or left by others."""

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from tests.running.saving import flip, load, names, quiet, write

from retorq.running import checkpoint
from retorq.running.checkpoint import Part, SaveFailed, newest, save
from retorq.types import Refused


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


def test_a_late_part_is_made_while_it_is_written_and_forgotten_then(tmp_path):
    """One after the other, whatever the order of the parts; an unchanged one is not made at all."""
    made = []

    def part(name, fingerprint=None):
        def tensors():
            assert sum(reference() is not None for reference in made) == 0  # those before are gone
            tensor = torch.full((1000,), float(len(made)))
            made.append(weakref.ref(tensor))
            return {name: tensor}

        return Part(tensors, fingerprint, late=True)

    parts = {name: part(name, fingerprint="same") for name in ("a", "b", "c")}
    save(tmp_path, 1, state={}, parts=parts)
    found = newest(tmp_path)
    assert [float(found.tensors(name)[name][0]) for name in parts] == [0.0, 1.0, 2.0]
    save(tmp_path, 2, state={}, parts=parts)
    assert len(made) == 3


def test_a_late_part_that_cannot_be_made_leaves_the_earlier_checkpoint(tmp_path):
    def gone():
        raise ConnectionError("replay shard 1 was lost while it was saved")

    write(tmp_path, 1)
    with pytest.raises(SaveFailed, match="replay shard 1 was lost while it was saved"):
        save(tmp_path, 2, state={}, parts={"a": Part(gone, late=True)})
    assert newest(tmp_path).step == 1
    assert names(tmp_path) == ["1"]
