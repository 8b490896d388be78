"""What the recurrent state that a replayed sequence starts from does to its values: R2D2's Delta-Q."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retorq.nn.network import Network
from retorq.ops.states import choose
from retorq.types import Inputs, Trajectory, Tree

SEED = 0  # any: both sides of a difference draw the same


@torch.no_grad()
def delta_q(
    network: Network, trajectory: Trajectory, start_state: Tree, measured: Sequence[tuple[Tree, Tensor]]
) -> list[Tensor]:
    """``||q(from start_state) - q(from stored)|| / |max q(from start_state)|`` at chosen rows, each ``[B]``.

    Kapturowski et al. 2019 (R2D2), section 3: the first values come from the memory unrolled by this network from
    ``start_state`` before row 0, the others from the state the actor had before that row. Both are of the same network,
    so this measures what the state does and nothing else. The norm is Euclidean over actions; the maximum is over
    actions and over those rows of the trajectory that belong to the same game as the measured row.

    Row by row, so that equal states give exactly 0; quantile fractions and noise are the same on both sides. One unroll
    serves all measured rows.

    Args:
        network: The network of today.
        trajectory: Rows ``[T, B]``; windows may cross the ends of games.
        start_state: State before row 0, ``[B, ...]``.
        measured: What to measure, each as the state stored before a row, ``[B, ...]``, and that row's ``offset [B]``,
            in ``0..T-1``.
    """
    state, highest = start_state, []
    fresh = [start_state for _ in measured]
    for t in range(trajectory.rows):
        fresh = [choose(offset == t, state, kept) for kept, (_, offset) in zip(fresh, measured, strict=True)]
        values, state = _values(network, trajectory.inputs.map(lambda a, t=t: a[t : t + 1]), state)  # type: ignore[misc]
        highest.append(values.amax(-1))
    game = trajectory.last.cumsum(0) - trajectory.last.long()  # the number of the game a row belongs to
    column = torch.arange(trajectory.columns, device=trajectory.last.device)
    found = []
    for mine, (stored, offset) in zip(fresh, measured, strict=True):
        same = game == game[offset, column]
        top = torch.where(same, torch.stack(highest), -torch.inf).amax(0)
        at = trajectory.inputs.map(lambda a, row=offset: a[row, column].unsqueeze(0))  # type: ignore[misc]
        difference = _values(network, at, mine)[0] - _values(network, at, stored)[0]
        found.append(difference.norm(dim=-1) / top.abs().clamp(min=torch.finfo(top.dtype).tiny))
    return found


def same_game(last: Tensor, begin: int, offset: Tensor) -> Tensor:
    """Whether no game ends on the rows from ``begin`` up to and with ``offset [B]``: ``last [T, B]`` to ``[B]``.

    The sequences of the paper lie within games. Of ours those that end before the measured row do not count.
    """
    row = torch.arange(last.shape[0], device=last.device)[:, None]
    between = (row >= begin) & (row <= offset.to(last.device))
    return ~(last & between).any(0)


def _values(network: Network, inputs: Inputs, state: Tree) -> tuple[Tensor, Tree]:
    """Mean values ``[B, A]`` of one row ``[1, B]``, and the state after it."""
    device = inputs.first.device
    features, state = network.unroll(inputs, state, _generator(device))
    return network.head(features, generator=_generator(device)).mean()[0], state


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)
