"""Generators of torch whose state was saved, perhaps on another kind of device."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def put_back(generator: torch.Generator, state: Tensor) -> bool:
    """Set the state of a generator; False where it is one of another kind of device, whose numbers cannot go on.

    Then the generator is seeded by that state: alike whenever it is put back, and unlike what was drawn before.
    """
    state = state.cpu()
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
        return True
    generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
    return False
