"""Random generators as plain data: a resumed run draws the numbers that the uninterrupted one would have drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from retorq.types import Refused


def plain(value: Any) -> Any:
    """For ``json.dumps(default=...)``: numpy numbers and arrays as Python numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} is not JSON: put tensors into parts")


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The whole state of a numpy generator as JSON values."""
    return json.loads(json.dumps(generator.bit_generator.state, default=plain))


def restore_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put back what ``generator_state`` gave, in place.

    Raises:
        Refused: The state is not one of this generator's kind.
    """
    kind = generator.bit_generator.state["bit_generator"]
    if state.get("bit_generator") != kind:
        raise Refused(f"saved random state is of {state.get('bit_generator')!r}, but this run draws from {kind!r}")
    try:
        generator.bit_generator.state = dict(state)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused(f"saved random state of {kind!r} cannot be read ({error!r})") from error


def torch_generator_state(generator: torch.Generator) -> torch.Tensor:
    """The whole state of a torch generator (of any device), uint8 ``[n]`` on the CPU."""
    return generator.get_state().clone()


def restore_torch_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    """Put back what ``torch_generator_state`` gave, in place.

    Raises:
        Refused: The state is not one of this generator's kind (another device, another torch).
    """
    try:
        generator.set_state(state.to("cpu", torch.uint8))
    except (RuntimeError, TypeError) as error:
        raise Refused(f"saved torch random state cannot be put back on {generator.device} ({error})") from error
