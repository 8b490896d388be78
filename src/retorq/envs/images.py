"""Pictures in numpy: area averaging to another size, and gray values."""

from __future__ import annotations

from functools import cache

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601 weights of red, green and blue."""


@cache
def area_matrix(size: int, target: int) -> np.ndarray:
    """Weights ``[target, size]`` float32 that average ``size`` pixels into ``target`` cells of equal width.

    Each row sums to 1; a pixel that a cell covers in part counts with the covered share.
    """
    edges = np.arange(target + 1, dtype=np.float64) * size / target
    pixel = np.arange(size, dtype=np.float64)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = (np.clip(covered, 0.0, None) * target / size).astype(np.float32)
    weights.setflags(write=False)
    return weights


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area-average the last two axes of ``[..., H, W]`` (uint8 is rounded, float32 is not) to ``[..., h, w]``."""
    if image.shape[-2:] == (height, width):
        return image
    rows, columns = area_matrix(image.shape[-2], height), area_matrix(image.shape[-1], width)
    result = rows @ image.astype(np.float32) @ columns.T
    return np.rint(result).astype(np.uint8) if image.dtype == np.uint8 else result


def gray(image: np.ndarray) -> np.ndarray:
    """Gray values ``[..., 1, H, W]`` of a color image ``[..., 3, H, W]``, in the same dtype."""
    mixed = np.tensordot(image.astype(np.float32), LUMA, axes=([-3], [0]))[..., None, :, :]
    return np.rint(mixed).astype(np.uint8) if image.dtype == np.uint8 else mixed
