"""Networks whose values are numbers in a table, for losses worked by hand or by another library."""

import numpy as np
import torch

from retorq.nn.cores import Features
from retorq.types import Batch, Inputs, Trajectory
from retorq.values import Scalars


class Table:
    """Value ``values[t, b, a]`` of action ``a`` in row ``t`` of column ``b``; rows are told by ``elapsed``."""

    recurrent, sampled = True, False

    def __init__(self, values):
        self.values = values

    def unroll(self, inputs, state, generator=None):
        return Features(self.values[inputs.elapsed[:, 0].long()]), state

    def head(self, features, samples=None, generator=None):
        return Scalars(features.x)

    def diagnostics(self):
        return {}


def rows(action, reward, terminated):
    """A batch of one game that goes on after its last row, or ends without a final row: ``[T, B]`` each."""
    shape = action.shape
    never = torch.zeros(shape, dtype=torch.bool)
    elapsed = torch.arange(shape[0], dtype=torch.int32)[:, None].expand(shape)
    inputs = Inputs(
        observation={"obs": torch.zeros(*shape, 1)},
        previous_action=torch.zeros_like(action),
        previous_reward=torch.zeros(shape),
        elapsed=elapsed,
        first=never,
    )
    trajectory = Trajectory(
        inputs=inputs, action=action, reward=reward, terminated=terminated, truncated=never, last=never
    )
    return Batch(trajectory=trajectory, state={}, weight=torch.ones(shape[1]), keys=np.zeros((shape[1], 2), np.int64))
