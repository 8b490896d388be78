"""The filters of the first convolution as a picture, read from a run's newest checkpoint without PyTorch."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

_WEIGHT = re.compile(r"online\.torso\.images\.(\w+)\.layers\.0\.weight")
GAP = 2
ACROSS = 16
"""Filters beside each other."""
_NEGATIVE, _POSITIVE = np.array([31, 111, 180]), np.array([207, 90, 6])


def first_filters(run: Path) -> dict[str, np.ndarray]:
    """First-layer weights ``[F, C, H, W]`` by name of the image; empty without a readable checkpoint or images."""
    found = [file for file in (run / "checkpoints").glob("*/learner.safetensors") if file.parent.name.isdecimal()]
    for file in sorted(found, key=lambda file: int(file.parent.name), reverse=True):
        try:
            with safe_open(file, framework="np") as tensors:
                names = {_leaf(match[1]): name for name in tensors.keys() if (match := _WEIGHT.fullmatch(name))}  # noqa: SIM118
                weights = {image: tensors.get_tensor(name) for image, name in names.items()}
        except (OSError, SafetensorError):
            continue
        return {image: w for image, w in weights.items() if w.ndim == 4 and w.size and np.isfinite(w).all()}
    return {}


def _leaf(key: str) -> str:
    """The name of an image from what ``nn.torsos.image_key`` made of it."""
    return key.removesuffix("_").replace("_d", ".").replace("_u", "_")


def sheet(weights: np.ndarray) -> np.ndarray:
    """Filters ``[F, C, H, W]`` as colors, uint8 RGB: a column per filter, a row per channel, a square per weight.

    Blue is negative, orange positive, white zero; each filter is scaled by its largest weight. Squares are as large as
    makes filters of any size about equal, with gray lines of ``GAP`` pixels between them. After ``ACROSS`` filters the
    next ones stand below.
    """
    rows = [_row(weights[start : start + ACROSS]) for start in range(0, len(weights), ACROSS)]
    widest = max(row.shape[1] for row in rows)
    between = np.full((3 * GAP, widest, 3), 255, np.uint8)
    parts = []
    for row in rows:
        parts += [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255), between]
    return np.concatenate(parts[:-1])


def _row(weights: np.ndarray) -> np.ndarray:
    filters, channels, height, width = weights.shape
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    share = weights / np.where(largest > 0, largest, 1)
    ends = np.where(share[..., None] < 0, _NEGATIVE, _POSITIVE)
    tiles = 255 + np.abs(share)[..., None] * (ends - 255)
    zoom = max(1, 24 // max(height, width))
    tiles = tiles.transpose(1, 2, 0, 3, 4).repeat(zoom, axis=1).repeat(zoom, axis=3)
    framed = np.full((channels, height * zoom + GAP, filters, width * zoom + GAP, 3), 128.0)
    framed[:, :-GAP, :, :-GAP] = tiles
    return framed.reshape(-1, filters * (width * zoom + GAP), 3)[:-GAP, :-GAP].round().astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """A uint8 RGB picture ``[H, W, 3]`` as a PNG file (RFC 2083: truecolor, no filter)."""
    height, width, _ = picture.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def image_tag(weights: np.ndarray, about: str) -> str:
    """The sheet as an ``<img>`` that holds its data; ``about`` is escaped text."""
    data = base64.b64encode(png(sheet(weights))).decode("ascii")
    return f'<img class="filters" alt="{about}" src="data:image/png;base64,{data}">'
