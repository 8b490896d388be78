"""Small checkpoints, reading them back, and spoiling them."""

import json

import torch

from retorq.running import manifest
from retorq.running.checkpoint import Part, newest, save


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


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
