"""Multi-step returns over a window of rows, time-major.

A window is ``T`` consecutive rows of a stream (see :class:`retorq.types.Trajectory`): the transition of row ``t`` leads
to row ``t + 1``, and a row marked ``last`` holds only the final observation of a game: it leads nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor


def n_step(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The n-step return, the discount of its bootstrap and the row to bootstrap from.

    For row ``t`` with ``m <= n`` transitions ahead of it (Sutton and Barto 2018, equation 7.1, with the discount of
    each transition in place of one constant)::

        R[t] = sum_{k<m} (prod_{j<k} discount[t+j]) reward[t+k]
        g[t] = prod_{k<m} discount[t+k]
        index[t] = t + m

    so that ``R + g * V[index]`` is the target. ``m`` is ``n``, or less where a row marked ``last`` or the window's
    final row comes first: the bootstrap is then taken from that row with the shorter product. A termination needs no
    case of its own: its discount of 0 ends both the sum and the bootstrap. Nothing after a ``last`` row enters an
    earlier row.

    Args:
        reward: ``[T, B]``, reward of each row's transition, in the units the values have.
        discount: ``[T, B]``, ``gamma * (1 - terminated)``.
        last: ``[T, B]`` bool; the reward and discount of these rows are never read.
        n: the largest number of transitions, at least 1.

    Returns:
        ``R``, ``g`` (``[T, B]``, dtype of ``reward``) and ``index`` (``[T, B]``, int64, rows of this window). Rows that
        are ``last``, and row ``T - 1``, have no transition (mask their loss): ``R = 0``, ``g = 0``, ``index = t``.

    Raises:
        ValueError: ``n`` is below 1, or the shapes differ.
    """
    if n < 1:
        raise ValueError(f"n is {n}: give 1 or more")
    if not reward.shape == discount.shape == last.shape:
        raise ValueError(f"shapes differ: reward {reward.shape}, discount {discount.shape}, last {last.shape}")
    rows = reward.shape[0]
    row = torch.arange(rows, device=reward.device).reshape(-1, *[1] * (reward.dim() - 1)).expand(reward.shape)
    stop = last | (row == rows - 1)
    # No transition, or the first one alone.
    total, product, index = torch.where(stop, 0, reward), torch.where(stop, 1, discount), row + ~stop
    # One transition more per turn: R_k[t] = r[t] + d[t] R_{k-1}[t+1]. The roll brings row 0 to T-1, which always stops.
    for _ in range(min(n, rows - 1) - 1):
        total = torch.where(stop, 0, reward + discount * total.roll(-1, 0))
        product = torch.where(stop, 1, discount * product.roll(-1, 0))
        index = torch.where(stop, row, index.roll(-1, 0))
    return total, product.masked_fill(stop, 0), index
