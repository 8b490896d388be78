"""From Gymnasium spaces to leaves."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from retorq.envs.images import area_matrix, gray, resize
from retorq.envs.options import EnvOptions
from retorq.envs.spaces import Actions, Door
from retorq.types import UserError

PIXELS = {"low": 0, "high": 255, "dtype": np.uint8}


@pytest.mark.parametrize(
    ("space", "kind", "shape", "dtype"),
    [
        (Box(shape=(30, 40, 3), **PIXELS), "image", (3, 30, 40), "uint8"),
        (Box(shape=(3, 30, 40), **PIXELS), "image", (3, 30, 40), "uint8"),
        (Box(shape=(4, 30, 40), **PIXELS), "image", (4, 30, 40), "uint8"),
        (Box(shape=(30, 40, 1), **PIXELS), "image", (1, 30, 40), "uint8"),
        (Box(shape=(6, 5), **PIXELS), "image", (1, 6, 5), "uint8"),
        (Box(0, 1, (10, 8), np.float64), "image", (1, 10, 8), "float32"),
        (Box(0, 1, (3, 10, 10), np.float32), "image", (3, 10, 10), "float32"),
        (Box(0, 1, (10, 10, 4), bool), "image", (4, 10, 10), "uint8"),
        (Box(0, 10, (7, 7, 3), np.int64), "image", (3, 7, 7), "uint8"),
        (Box(-1, 1, (7, 7, 3), np.int16), "image", (3, 7, 7), "float32"),
        (Box(-1, 1, (5,), np.float64), "vector", (5,), "float32"),
        (Box(-1, 1, (5, 4), np.float32), "vector", (20,), "float32"),
        (Box(-1, 1, (), np.float32), "vector", (1,), "float32"),
        (Box(0, 9, (2,), np.int32), "vector", (2,), "float32"),
        (Box(0, 1, (6,), bool), "binary", (6,), "int8"),
        (MultiBinary(6), "binary", (6,), "int8"),
        (MultiBinary((2, 3)), "binary", (6,), "int8"),
        (Discrete(4, start=-1), "discrete", (), "int64"),
    ],
)
@pytest.mark.parametrize("columns", [None, 3])
def test_leaves(space, kind, shape, dtype, columns):
    door = Door(space, EnvOptions())
    leaf = door.leaves["obs"]
    assert (leaf.kind, leaf.shape, leaf.dtype) == (kind, shape, dtype)
    assert leaf.high == (4 if kind == "discrete" else 0)
    space.seed(0)
    sample = space.sample() if columns is None else np.stack([space.sample() for _ in range(columns)])
    value = door(sample, columns)["obs"]
    assert value.shape == (shape if columns is None else (columns, *shape))
    assert value.dtype == dtype
    assert not np.shares_memory(value, sample)
    if columns is not None:
        np.testing.assert_array_equal(value[1], door(sample[1])["obs"])


def test_pixels_stay_where_they_are():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)[..., :1].repeat(12, axis=0).repeat(8, axis=1)
    door = Door(Box(shape=picture.shape, **PIXELS), EnvOptions())
    np.testing.assert_array_equal(door(picture)["obs"][0], picture[..., 0])
    bits = Door(Box(0, 1, (10, 10, 4), bool), EnvOptions())(np.eye(10, dtype=bool)[..., None].repeat(4, -1))["obs"]
    np.testing.assert_array_equal(bits[2], 255 * np.eye(10, dtype=np.uint8))
    assert Door(Discrete(4, start=-1), EnvOptions())(2)["obs"] == 3


def test_dict_keys_become_leaves_and_can_be_dropped():
    space = Dict(screen=Box(shape=(24, 32, 3), **PIXELS), health=Box(0, 100, (1,)), mission=spaces.Text(9))
    with pytest.raises(UserError, match=r"observation 'mission' is Text.*leave a Dict key out with env\.drop"):
        Door(space, EnvOptions())
    door = Door(space, EnvOptions(drop="mission", resize=12))
    assert {name: leaf.shape for name, leaf in door.leaves.items()} == {"health": (1,), "screen": (1, 12, 12)}
    color = Door(space, EnvOptions(drop="mission", resize=12, grayscale=False))
    assert color.leaves["screen"].shape == (3, 12, 12)
    tree = door({"screen": np.full((24, 32, 3), 77, np.uint8), "health": np.ones(1, np.float32), "mission": "go"})
    assert (tree["screen"] == 77).all()
    with pytest.raises(UserError, match="without 'health'"):
        door({"screen": np.zeros((24, 32, 3), np.uint8)})
    with pytest.raises(UserError, match="of type list, but its space is a Dict"):
        door([1])
    with pytest.raises(UserError, match=r"env\.drop names 'misson', which is not a key"):
        Door(space, EnvOptions(drop="misson"))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((Discrete(2), Discrete(3))),
        spaces.MultiDiscrete([2, 3]),
        Dict(a=Dict(b=Discrete(2))),
        Box(0, 1, (2, 3, 4, 5)),
    ],
)
def test_other_spaces_are_named(space):
    named = space.spaces["a"] if isinstance(space, Dict) else space
    with pytest.raises(UserError) as caught:
        Door(space, EnvOptions())
    assert str(named) in str(caught.value)


def test_discrete_values_outside_are_named():
    door = Door(Discrete(3), EnvOptions())
    with pytest.raises(UserError, match=r"'obs' = 3, outside its Discrete space 0\.\.2"):
        door(3)
    with pytest.raises(UserError, match="as float64 of shape"):
        door(1.0)


def test_discrete_actions_count_from_the_first():
    actions = Actions(Discrete(3, start=5))
    assert (actions.count, actions.continuous) == (3, False)
    assert actions(2) == 7
    np.testing.assert_array_equal(actions(np.array([0, 1])), [5, 6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", [(), (4,)])
def test_continuous_actions_are_rescaled_to_their_bounds(dtype, lead):
    low, high = np.array([[-2.0, 0.1, -3.0], [5.0, -7.0, -1e6]]), np.array([[2.0, 0.3, 9.0], [6.0, -1.0, 1.0]])
    actions = Actions(Box(low.astype(dtype), high.astype(dtype), dtype=dtype))
    assert (actions.count, actions.continuous) == (6, True)
    given = np.random.default_rng(0).uniform(-1, 1, (*lead, 6)).astype(np.float32)
    told = actions(given)
    assert (told.shape, told.dtype) == ((*lead, 2, 3), dtype)
    for place in np.ndindex(*lead):
        for number, (row, column) in enumerate(np.ndindex(2, 3)):
            middle, half = (low + high)[row, column] / 2, (high - low)[row, column] / 2
            wanted = middle + float(given[(*place, number)]) * half
            assert told[(*place, row, column)] == pytest.approx(wanted, rel=1e-5, abs=1e-5 * half)
    np.testing.assert_array_equal(
        actions(np.full((*lead, 6), -1, np.float32)), np.broadcast_to(low.astype(dtype), told.shape)
    )
    np.testing.assert_array_equal(
        actions(np.full((*lead, 6), 1, np.float32)), np.broadcast_to(high.astype(dtype), told.shape)
    )


def test_an_action_of_no_axes_is_one_number():
    actions = Actions(Box(0, 4, ()))
    assert actions.count == 1
    assert actions(np.array([0.5], np.float32)) == 3.0
    np.testing.assert_array_equal(actions(np.array([[-1.0], [0.0]], np.float32)), [0.0, 2.0])


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (Box(-np.inf, np.inf, (2,)), "whose bounds are not finite; give it finite ones"),
        (Box(np.array([0, 0], np.float32), np.array([1, np.inf], np.float32)), "whose bounds are not finite"),
        (Box(0, 5, (2,), np.int64), "whose numbers are no floats; give it the dtype float32"),
        (Box(np.array([0, 1], np.float32), np.array([1, 1], np.float32)), "some action cannot vary; give only actions"),
        (Box(-1, 1, (0,)), "some action cannot vary; give only actions"),
        (MultiBinary(3), "retorq takes Discrete or Box: wrap the environment with a list of allowed actions"),
    ],
)
def test_other_action_spaces_are_refused(space, sentence):
    with pytest.raises(UserError, match=f"^the action space is .*{sentence}"):
        Actions(space)


@pytest.mark.parametrize(("size", "target"), [(210, 84), (160, 84), (12, 4), (5, 7), (9, 9)])
def test_area_averaging_is_the_average_over_the_covered_area(size, target):
    weights = area_matrix(size, target)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=0), target / size, rtol=1e-4)
    # Paper notation: split every pixel into `target` slivers, then average runs of `size` slivers.
    values = np.random.default_rng(0).random(size)
    np.testing.assert_allclose(weights @ values, values.repeat(target).reshape(target, size).mean(axis=1), rtol=1e-4)


def test_resize_and_gray_on_pictures():
    picture = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 8), dtype=np.uint8)
    small = resize(picture, 6, 4)
    np.testing.assert_array_equal(small, np.rint(picture.reshape(2, 3, 6, 2, 4, 2).mean(axis=(3, 5))))
    assert small.dtype == np.uint8
    shade = gray(picture)
    assert shade.shape == (2, 1, 12, 8)
    red, green, blue = np.moveaxis(picture.astype(float), 1, 0)
    np.testing.assert_allclose(shade[:, 0], 0.299 * red + 0.587 * green + 0.114 * blue, atol=0.51)
    assert resize(picture.astype(np.float32), 5, 5).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((20, 20, 3), {"grayscale": False}, "env.grayscale is False.*env.resize is 0.*; set env.resize or leave"),
        ((20, 20), {"grayscale": False, "resize": 9}, "env.grayscale is False.*no image has three colors"),
        ((20, 20, 1), {"grayscale": False, "resize": 9}, "env.grayscale is False.*no image has three colors"),
    ],
)
def test_options_that_change_no_image_are_refused(shape, options, sentence):
    with pytest.raises(UserError, match=sentence):
        Door(spaces.Box(0, 255, shape, np.uint8), EnvOptions(**options))


@pytest.mark.parametrize(
    ("space", "options", "idle"),
    [
        (spaces.Box(0, 255, (20, 20, 3), np.uint8), {"resize": 9, "grayscale": False}, {"drop"}),
        (spaces.Box(0, 255, (3, 20, 20), np.uint8), {"resize": 9, "grayscale": False}, {"drop"}),
        (spaces.Box(0, 255, (20, 20, 3), np.uint8), {}, {"grayscale", "drop"}),
        (spaces.Box(0, 255, (20, 20), np.uint8), {"resize": 9}, {"grayscale", "drop"}),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(2)), {"drop": "a"}, {"grayscale", "resize"}),
    ],
)
def test_which_options_have_no_effect(space, options, idle):
    assert Door(space, EnvOptions(**options)).idle == idle
