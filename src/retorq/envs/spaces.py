"""From Gymnasium spaces to leaves: images become ``[C, H, W]``, everything else vectors, integers or bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from retorq.envs.guard import check_array, check_discrete
from retorq.envs.images import gray, resize
from retorq.envs.options import EnvOptions
from retorq.types import Leaf, Tree, UserError

Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Part:
    """One leaf, the space it comes from, and the conversion of a checked array with any leading axes."""

    leaf: Leaf
    space: spaces.Space[Any]
    convert: Convert


class Door:
    """Checks and converts the observations of one environment.

    Images are Boxes with three axes (the shorter of the first and the last one holds the channels) or with two (gray)
    if they are 8-bit or at least 8 by 8; bool images become 0 and 255. Other Boxes are flattened to float32 vectors,
    one-axis bool Boxes and MultiBinary to int8. Raises ``UserError`` for a space that is none of these, and for options
    that change none of its images. ``idle`` names the options that have no effect here.
    """

    def __init__(self, space: spaces.Space[Any], options: EnvOptions) -> None:
        self._is_dict = isinstance(space, spaces.Dict)
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
        dropped = [name.strip() for name in options.drop.split(",") if name.strip()]
        for name in dropped:
            if not self._is_dict or parts.pop(name, None) is None:
                raise UserError(f"env.drop names {name!r}, which is not a key of the observation; keys: {[*parts]}.")
        if not parts:
            raise UserError("the observation has no part left; drop fewer keys, or add one in the environment.")
        self._parts = {name: _part(name, part, options) for name, part in parts.items()}
        self.leaves = {name: part.leaf for name, part in self._parts.items()}
        idle = _idle([part.space for part in self._parts.values() if part.leaf.kind == "image"], options)
        options.refuse_idle(idle)
        self.idle = frozenset(idle if self._is_dict else {*idle, "drop"})

    def __call__(self, observation: Any, columns: int | None = None) -> Tree:
        """Checked and converted leaves; with ``columns`` every array has that leading axis.

        The arrays are new: an environment may write into what it returned.
        """
        if self._is_dict and not isinstance(observation, dict):
            raise UserError(
                f"the environment returned an observation of type {type(observation).__name__}, but its space is a "
                "Dict; return a dict."
            )
        lead = () if columns is None else (columns,)
        tree: Tree = {}
        for name, part in self._parts.items():
            if self._is_dict and name not in observation:
                raise UserError(f"the environment returned an observation without {name!r}; return every key.")
            value = observation[name] if self._is_dict else observation
            tree[name] = part.convert(_checked(name, value, part.space, lead))
        return tree


def _idle(images: Sequence[spaces.Space[Any]], options: EnvOptions) -> dict[str, str]:
    """Options that change none of these images, and why."""
    if not images:
        why = "no part of the observation is an image; choose another environment"
        return {"resize": why, "grayscale": why}
    if not options.resize:
        return {"grayscale": "env.resize is 0, which leaves images as they are; set env.resize"}
    if not any(_channels(space.shape or ()) == 3 for space in images):
        return {"grayscale": "no image has three colors; choose another environment"}
    return {}


def _channels(shape: tuple[int, ...]) -> int:
    """Of an image, whose shorter end holds them; 1 where it has two axes."""
    return 1 if len(shape) == 2 else min(shape[0], shape[2])


def _checked(name: str, value: Any, space: spaces.Space[Any], lead: tuple[int, ...]) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return check_discrete(name, value, lead, int(space.start), int(space.n))
    assert space.shape is not None
    assert space.dtype is not None
    return check_array(name, value, (*lead, *space.shape), np.dtype(space.dtype))


def _part(name: str, space: spaces.Space[Any], options: EnvOptions) -> _Part:
    if isinstance(space, spaces.Discrete):
        return _Part(Leaf(kind="discrete", shape=(), dtype="int64", high=int(space.n)), space, lambda array: array)
    if isinstance(space, spaces.MultiBinary):
        return _flat(space, "binary", "int8")
    if isinstance(space, spaces.Box) and space.dtype.kind in "biuf":
        axes = len(space.shape)
        if axes == 3 or (axes == 2 and (space.dtype in (np.uint8, bool) or min(space.shape) >= 8)):
            return _image(name, space, options)
        if axes <= 2:
            binary = space.dtype == bool
            return _flat(space, "binary" if binary else "vector", "int8" if binary else "float32")
    raise UserError(
        f"observation {name!r} is {space}; retorq takes Box (image or vector), Discrete, MultiBinary, or a Dict of "
        "those: convert it with a wrapper, or leave a Dict key out with env.drop."
    )


def _flat(space: spaces.Space[Any], kind: Any, dtype: str) -> _Part:
    axes, size = len(space.shape or ()), int(np.prod(space.shape or ()))

    def convert(array: np.ndarray) -> np.ndarray:
        lead = array.shape[: array.ndim - axes]
        return array.astype(dtype).reshape(*lead, size)

    return _Part(Leaf(kind=kind, shape=(size,), dtype=dtype), space, convert)


def _image(name: str, space: spaces.Box, options: EnvOptions) -> _Part:
    steps: list[Convert] = [_to_bytes_or_float(space)]
    shape = space.shape
    if len(shape) == 2:
        steps.append(lambda array: array[..., None, :, :])
    elif shape[2] <= shape[0]:
        steps.append(lambda array: np.moveaxis(array, -1, -3))
    if options.resize:
        side = options.resize
        if options.grayscale:
            steps.append(lambda array: gray(array) if array.shape[-3] == 3 else array)
        steps.append(lambda array: resize(array, side, side))

    def convert(array: np.ndarray) -> np.ndarray:
        for step in steps:
            array = step(array)
        return np.ascontiguousarray(array)

    try:
        example = convert(np.zeros(shape, space.dtype))
    except ZeroDivisionError:
        raise UserError(f"observation {name!r} is an image of shape {shape}; no side may be 0.") from None
    return _Part(Leaf(kind="image", shape=example.shape, dtype=str(example.dtype)), space, convert)


def _to_bytes_or_float(space: spaces.Box) -> Convert:
    """Bool becomes 0 and 255; other integers uint8 where the space says that they fit; the rest float32."""
    if space.dtype == bool:
        return lambda array: array.astype(np.uint8) * np.uint8(255)
    if space.dtype.kind in "iu" and space.low.min() >= 0 and space.high.max() <= 255:
        return lambda array: array.astype(np.uint8)
    return lambda array: array.astype(np.float32)


class Actions:
    """An action space as agents see it: ``count`` choices, or ``count`` numbers in [-1, 1] where it is ``continuous``.

    A Box must hold floats within finite bounds. Raises ``UserError`` for a space that is neither.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space = space
        self.continuous = isinstance(space, spaces.Box)
        if isinstance(space, spaces.Discrete):
            self.count = int(space.n)
        elif isinstance(space, spaces.Box):
            self.count = int(np.prod(space.shape))
            _require_bounds(space)
        else:
            raise UserError(
                f"the action space is {space}; retorq takes Discrete or Box: wrap the environment with a list of "
                "allowed actions."
            )

    def __call__(self, action: Any) -> Any:
        """What the environment is told: an int or an array of the Box's shape and dtype, both with any leading axes.

        Choices count from the space's first one; -1 and 1 are the Box's bounds, exactly.
        """
        if isinstance(self._space, spaces.Discrete):
            return action + int(self._space.start)
        assert isinstance(self._space, spaces.Box)
        low, high = self._space.low.astype(np.float64), self._space.high.astype(np.float64)
        share = (np.reshape(action, (*np.shape(action)[:-1], *low.shape)).astype(np.float64) + 1) / 2
        return (low * (1 - share) + high * share).astype(self._space.dtype)


def _require_bounds(space: spaces.Box) -> None:
    if space.dtype.kind != "f":
        raise UserError(f"the action space is {space}, whose numbers are no floats; give it the dtype float32.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"the action space is {space}, whose bounds are not finite; give it finite ones, to which -1 and 1 can be "
            "mapped."
        )
    if not space.low.size or not (space.low < space.high).all():
        raise UserError(
            f"the action space is {space}, in which some action cannot vary; give only actions whose lower bound is "
            "below the upper one."
        )
