"""Saving and restoring numpy generators as arrays, so that a checkpoint holds no pickles."""

from __future__ import annotations

import numpy as np

_LOW = (1 << 64) - 1


def generator_state(generator: np.random.Generator) -> np.ndarray:
    """The exact state of a PCG64 generator as uint64 ``[6]``."""
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"only PCG64 generators are saved, not {state['bit_generator']}")
    position, increment = state["state"]["state"], state["state"]["inc"]
    words = (position >> 64, position & _LOW, increment >> 64, increment & _LOW, state["has_uint32"], state["uinteger"])
    return np.array(words, np.uint64)


def restore_generator(generator: np.random.Generator, words: np.ndarray) -> None:
    """Put back what ``generator_state`` gave."""
    high, low, inc_high, inc_low, has, left = (int(word) for word in words)
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has,
        "uinteger": left,
    }
