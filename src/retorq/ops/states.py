"""Recurrent states, column by column."""

from __future__ import annotations

import torch
from torch import Tensor

from retorq.types import Tree


def choose(columns: Tensor, state: Tree, other: Tree) -> Tree:
    """Of the columns that are set in ``columns [B]`` (bool) the one state, of the rest the other: ``[B, ...]`` each.

    The result has the names of ``other``; ``state`` may have more.
    """
    return {
        name: torch.where(columns.reshape(-1, *([1] * (value.dim() - 1))), state[name], value)
        for name, value in other.items()
    }
