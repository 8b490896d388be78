"""Torsos: from an observation ``[T, B, ...]`` to features ``[T, B, F]``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from retorq.nn.products import Linear
from retorq.types import Leaf, Tree

CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),  # Mnih et al. 2015: (channels, kernel, stride)
    "compact": (
        (16, 8, 4),
        (32, 4, 2),
    ),  # Mnih et al. 2013 and, with an LSTM, A3C (Mnih et al. 2016): a fifth of the work
    "minatar": ((16, 3, 1),),  # Young and Tian 2019, for 10x10 grids
    "flat": (),
}


def convolutions_for(shape: tuple[int, ...]) -> str:
    """The usual convolutions for an image of this ``(channels, height, width)``: its smaller side decides."""
    side = min(shape[1:])
    return "nature" if side >= 36 else "minatar" if side >= 8 else "flat"


def output_shape(shape: tuple[int, ...], kind: str) -> tuple[int, int, int]:
    """``(channels, height, width)`` after these convolutions; a side below 1 means that they do not fit."""
    channels, height, width = shape
    for filters, kernel, stride in CONVOLUTIONS[kind]:
        channels, height, width = filters, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return channels, height, width


def fits(shape: tuple[int, ...], kind: str) -> bool:
    """Whether an image of this ``(channels, height, width)`` is large enough for these convolutions."""
    return min(output_shape(shape, kind)[1:]) >= 1


def image_key(name: str) -> str:
    """What an image's convolutions are called among a torso's modules: no two names alike, and none that is taken."""
    key = name.replace("_", "_u").replace(".", "_d")
    return key + "_" if hasattr(nn.ModuleDict(), key) else key


class Image(nn.Module):
    """Convolutions with ReLU over a flattened batch of images; uint8 pixels are scaled to [0, 1] on the device.

    ``center`` subtracts the mean image (the buffer ``mean``, zero until ``Network.center`` sets it).
    """

    mean: Tensor

    def __init__(self, leaf: Leaf, kind: str, *, center: bool = False) -> None:
        super().__init__()
        if not fits(leaf.shape, kind):
            raise ValueError(f"images of {leaf.shape} are too small for the {kind!r} convolutions")
        layers: list[nn.Module] = []
        channels = leaf.shape[0]
        for filters, kernel, stride in CONVOLUTIONS[kind]:
            layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU(inplace=True)]
            channels = filters
        self.layers = nn.Sequential(*layers)
        self.size = prod(output_shape(leaf.shape, kind))
        self.scale = 1.0 / 255.0 if leaf.dtype == "uint8" else 1.0
        self.centered = center
        if center:
            self.register_buffer("mean", torch.zeros(leaf.shape))

    def set_mean(self, pixels: Tensor) -> None:
        """Make the mean of these images ``[..., C, H, W]`` the one to subtract."""
        self.mean.copy_(pixels.flatten(0, -4).float().mean(0) * self.scale)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[T, B, C, H, W]`` to ``[T, B, size]``."""
        lead, device = pixels.shape[:2], pixels.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        image = _floats(pixels.flatten(0, 1), dtype)
        if self.centered:
            image = image - (self.mean / self.scale).to(dtype)
        if len(self.layers) == 0:
            return (image * self.scale).flatten(1).unflatten(0, lead)
        # Scaling the first layer's weights instead of every pixel: the same sums, and no second image.
        first, *others = self.layers
        assert isinstance(first, nn.Conv2d)
        x = nn.functional.conv2d(image, first.weight * self.scale, first.bias, first.stride)
        for layer in others:
            x = layer(x)
        return x.flatten(1).unflatten(0, lead)


def _floats(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels ``[N, C, H, W]`` as ``dtype``; on a CPU the channels of a pixel lie side by side.

    That is how oneDNN's convolutions are fastest, above all the weights' gradient. Plane by plane is faster than
    PyTorch's own change of the order.
    """
    channels = image.shape[1]
    if image.device.type != "cpu" or channels > 16:
        return image.to(dtype)
    out = torch.empty(image.shape[0], *image.shape[2:], channels, dtype=dtype)
    for channel in range(channels):
        out[..., channel] = image[:, channel]
    return out.permute(0, 3, 1, 2)


class Torso(nn.Module):
    """All parts of an observation, each encoded by its kind, side by side; then fully connected layers, if any.

    Images go through convolutions, a discrete value becomes one-hot, vectors and bits are taken as they are.
    ``hidden`` lists the sizes of the fully connected ReLU layers after that, and ``norm`` ends with a layer
    normalization (Ba et al. 2016). ``stack`` is how many images are stacked on the channel axis (the replay and the
    actor do the stacking); ``center`` subtracts the mean image.
    """

    def __init__(
        self,
        observation: Mapping[str, Leaf],
        *,
        convolutions: str = "auto",
        hidden: tuple[int, ...] = (),
        stack: int = 1,
        center: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.leaves = dict(observation)
        self.images = nn.ModuleDict()
        size = 0
        for name, leaf in self.leaves.items():
            if leaf.kind == "image":
                shape = (leaf.shape[0] * stack, *leaf.shape[1:])
                stacked = Leaf(kind="image", shape=shape, dtype=leaf.dtype)
                kind = convolutions_for(shape) if convolutions == "auto" else convolutions
                self.images[image_key(name)] = image = Image(stacked, kind, center=center)
                size += image.size
            else:
                size += leaf.high if leaf.kind == "discrete" else prod(leaf.shape)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [Linear(size, width), nn.ReLU(inplace=True)]
            size = width
        if norm:
            layers.append(nn.LayerNorm(size))
        self.layers = nn.Sequential(*layers)
        self.size = size

    def image(self, name: str) -> Image:
        """The convolutions of one image of the observation."""
        module = self.images[image_key(name)]
        assert isinstance(module, Image)
        return module

    def _encode(self, name: str, value: Tensor) -> Tensor:
        leaf = self.leaves[name]
        if leaf.kind == "image":
            encoded: Tensor = self.image(name)(value)
            return encoded
        if leaf.kind == "discrete":
            return nn.functional.one_hot(value.long(), leaf.high).float()
        return value.float()

    def forward(self, observation: Tree) -> Tensor:
        """``[T, B, ...]`` per leaf to ``[T, B, size]``."""
        parts = [self._encode(name, observation[name]) for name in self.leaves]
        joined = parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1)
        encoded: Tensor = self.layers(joined)
        return encoded
