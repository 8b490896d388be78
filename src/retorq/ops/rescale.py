"""The value rescaling h of Pohlen et al. 2018 ("Observe and Look Further"), as R2D2 uses it (section 2.3).

Large raw returns are squashed to a scale a network can learn without clipping rewards, and the map is undone before
bootstrapping. Both directions are written so that no nearly equal numbers are subtracted: the textbook inverse loses
every digit of values below 1e-3 in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rescale(x: Tensor, epsilon: float) -> Tensor:
    """``h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x``, elementwise.

    Args:
        x: values in units of raw return, any shape.
        epsilon: the linear part's slope, at least 0 (R2D2: 1e-3). It keeps the inverse Lipschitz; 0 is plain squashing.

    Returns:
        A tensor shaped like ``x``; strictly increasing, odd, with slope ``1/2 + epsilon`` at 0.

    Raises:
        ValueError: ``epsilon`` is negative.
    """
    _check(epsilon)
    # sqrt(a + 1) - 1 = a / (sqrt(a + 1) + 1), without the difference of neighbors.
    return x * (1 / (torch.sqrt(x.abs() + 1) + 1) + epsilon)


def unrescale(y: Tensor, epsilon: float) -> Tensor:
    """The inverse of :func:`rescale` for the same ``epsilon`` (R2D2, section 2.3), elementwise.

    With ``a = |y|`` the textbook form is::

        sign(y) (((sqrt(1 + 4 epsilon (a + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1)

    Here ``z = sqrt(|x| + 1)`` is solved for through ``z - 1``, and ``|x| = (z - 1)(z + 1)``; ``epsilon = 0`` works.

    Args:
        y: rescaled values, any shape.
        epsilon: as given to :func:`rescale`, at least 0.

    Returns:
        A tensor shaped like ``y``, in units of raw return.

    Raises:
        ValueError: ``epsilon`` is negative.
    """
    _check(epsilon)
    a = y.abs()
    root = torch.sqrt(1 + 4 * epsilon * (a + 1 + epsilon))
    root_at_zero = 1 + 2 * epsilon
    slope = 2 * (1 - 2 * epsilon / (root + root_at_zero)) / (1 + root)  # (z - 1) / a
    return y * slope * (a * slope + 2)


def _check(epsilon: float) -> None:
    if epsilon < 0:
        raise ValueError(f"epsilon is {epsilon}: give 0 or more")
