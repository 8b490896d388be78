"""Images: what the plain form gives (a float image, scaled, less its mean), values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retorq.nn.torsos import Image, Torso, image_key
from retorq.types import Leaf


def _plain(image: Image, pixels: Tensor) -> Tensor:
    x = pixels.flatten(0, 1).float() * image.scale
    if image.centered:
        x = x - image.mean
    for layer in image.layers:
        x = layer(x)
    return x.flatten(1).unflatten(0, pixels.shape[:2])


def _made(kind: str, channels: int, side: int, dtype: str, center: bool) -> tuple[Image, Tensor]:
    torch.manual_seed(0)
    image = Image(Leaf(kind="image", shape=(channels, side, side), dtype=dtype), kind, center=center)
    pixels = torch.randint(0, 256, (2, 3, channels, side, side), dtype=torch.uint8)
    pixels = pixels if dtype == "uint8" else pixels.float() / 255
    if center:
        image.set_mean(pixels[:1])
    return image, pixels


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("kind", "channels", "side"),
    [("nature", 1, 84), ("nature", 4, 84), ("nature", 17, 40), ("compact", 3, 50), ("minatar", 6, 10), ("flat", 2, 5)],
)
def test_image_is_the_plain_form(kind: str, channels: int, side: int, dtype: str, center: bool) -> None:
    image, pixels = _made(kind, channels, side, dtype, center)
    ours, theirs = image(pixels), _plain(image, pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = list(image.parameters())
    if not weights:
        return
    d_out = torch.randn(ours.shape)
    mine = torch.autograd.grad(ours, weights, d_out)
    for a, b in zip(mine, torch.autograd.grad(theirs, weights, d_out), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("center", [False, True])
def test_bfloat16_is_close_to_float32(center: bool) -> None:
    image, pixels = _made("nature", 4, 84, "uint8", center)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours = image(pixels)
    assert ours.dtype == torch.bfloat16
    theirs = _plain(image, pixels).detach()
    assert float((ours.float() - theirs).abs().max()) < 0.03 * float(theirs.abs().max())


def test_pixels_are_left_alone() -> None:
    image, pixels = _made("flat", 2, 5, "float32", False)
    before = pixels.clone()
    image(pixels).mul_(0)
    assert torch.equal(pixels, before)


def test_pixels_may_lie_anyhow() -> None:
    image, pixels = _made("nature", 4, 84, "uint8", False)
    apart = pixels.transpose(0, 1).contiguous().transpose(0, 1)
    assert not apart.is_contiguous()
    torch.testing.assert_close(image(apart), image(pixels))


def test_images_of_any_name_have_convolutions_of_their_own() -> None:
    """Names that a ModuleDict has for itself, and names that a dot alone sets apart."""
    names = ["obs", "values", "keys", "pop", "training", "a.b", "a_b", "a_.b", "a._b", "_u", "_d", "pop_"]
    leaf = Leaf(kind="image", shape=(1, 10, 10), dtype="uint8")
    torso = Torso(dict.fromkeys(names, leaf))
    assert len({image_key(name) for name in names}) == len({id(torso.image(name)) for name in names}) == len(names)
    assert image_key("obs") == "obs"
    assert torso({name: torch.zeros(2, 3, *leaf.shape, dtype=torch.uint8) for name in names}).shape == (
        2,
        3,
        torso.size,
    )
