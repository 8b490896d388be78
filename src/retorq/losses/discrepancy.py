"""What the recurrent state that a replayed sequence starts from does to its values: R2D2's Delta-Q."""

from __future__ import annotations

import torch
from torch import Tensor

from retorq.nn.network import Network
from retorq.types import Inputs, Trajectory, Tree

SEED = 0  # any: both sides of a difference draw the same


@torch.no_grad()
def delta_q(network: Network, trajectory: Trajectory, start_state: Tree, stored: Tree, offset: Tensor) -> Tensor:
    """``||q(from start_state) - q(from stored)|| / |max q(from start_state)|`` at row ``offset``, ``[B]``.

    Kapturowski et al. 2019 (R2D2), section 3: the first values come from the memory unrolled by this network from
    ``start_state`` before row 0, the others from the state the actor had before that row. Both are of the same network,
    so this measures what the state does and nothing else. The norm is Euclidean over actions; the maximum is over
    actions and over those rows of the trajectory that belong to the same game as row ``offset``.

    Row by row, so that equal states give exactly 0; quantile fractions and noise are the same on both sides.

    Args:
        network: The network of today.
        trajectory: Rows ``[T, B]``; windows may cross the ends of games.
        start_state: State before row 0, ``[B, ...]``.
        stored: State stored before row ``offset``, ``[B, ...]``.
        offset: The row to measure at, ``[B]``, in ``0..T-1``.
    """
    rows, columns = trajectory.rows, trajectory.columns
    device = trajectory.last.device
    state, fresh, highest = dict(start_state), dict(start_state), []
    for t in range(rows):
        here = (offset == t).to(device)
        fresh = {n: torch.where(here.reshape(-1, *([1] * (v.dim() - 1))), state[n], v) for n, v in fresh.items()}
        inputs = trajectory.inputs.map(lambda a, t=t: a[t : t + 1])  # type: ignore[misc]
        features, state = network.unroll(inputs, state, _generator(device))
        highest.append(network.head(features, generator=_generator(device)).mean()[0].amax(-1))
    game = trajectory.last.cumsum(0) - trajectory.last.long()  # the number of the game a row belongs to
    column = torch.arange(columns, device=device)
    same = game == game[offset.to(device), column]
    top = torch.where(same, torch.stack(highest), -torch.inf).amax(0)
    at = trajectory.inputs.map(lambda a: a[offset.to(a.device), column].unsqueeze(0))
    difference = _values(network, at, fresh) - _values(network, at, stored)
    return difference.norm(dim=-1) / top.abs().clamp(min=torch.finfo(top.dtype).tiny)


def same_game(last: Tensor, begin: int, offset: Tensor) -> Tensor:
    """Whether no game ends on the rows from ``begin`` up to and with ``offset [B]``: ``last [T, B]`` to ``[B]``.

    The sequences of the paper lie within games. Of ours those that end before the measured row do not count.
    """
    row = torch.arange(last.shape[0], device=last.device)[:, None]
    between = (row >= begin) & (row <= offset.to(last.device))
    return ~(last & between).any(0)


def _values(network: Network, inputs: Inputs, state: Tree) -> Tensor:
    """Mean values ``[B, A]`` of one row ``[1, B]``."""
    device = inputs.first.device
    features, _ = network.unroll(inputs, state, _generator(device))
    return network.head(features, generator=_generator(device)).mean()[0]


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)
