"""R2D2's loss and priority as a whole, on numbers worked by hand: what the parts are tested for, put together."""

from types import SimpleNamespace

import pytest
import torch
from tests.losses.table import Table, rows

from retorq.learner import Learner
from retorq.losses.q_learning import QLearning
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities

ONLINE = [(0, 1), (0.5, 0.2), (1, 2), (0.1, 0.3), (2, 1), (0.7, 0.9), (1.5, 1.4)]
ACTIONS, REWARDS = [0, 1, 1, 0, 0, 1, 0], [1, 0, 2, -1, 0, 3, 0]
LOSS = QLearning(length=6, n=3, gamma=0.9, double=True, clip="none", rescale=1e-3, kappa=float("inf"))
CASES = [
    (None, [1.03332, 0.844808, -1.442948, 0.460276, -1.073762, 0.103], 1.381288),
    (3, [1.03332, 0.211664, -1.549762, -0.515214, -1.073762, 0.103], 1.469565),
]


def batch(end):
    terminated = torch.zeros(7, 1, dtype=torch.bool)
    if end is not None:
        terminated[end] = True
    return rows(torch.tensor(ACTIONS)[:, None], torch.tensor(REWARDS, dtype=torch.float64)[:, None], terminated)


@pytest.mark.parametrize(("end", "deltas", "priority"), CASES, ids=["goes on", "ends"])
def test_errors_loss_gradient_and_priority(end, deltas, priority):
    """The last rows have fewer steps to the bootstrap row; a termination cuts rewards and bootstrap alike."""
    values = torch.tensor(ONLINE, dtype=torch.float64)[:, None].requires_grad_()
    output = LOSS(Table(values), Table(values.detach().flip(0)), batch(end))
    expected = torch.tensor(deltas, dtype=torch.float64)[:, None]
    torch.testing.assert_close(output.error, expected.abs(), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.loss, expected**2 / 2, rtol=0, atol=2e-6)
    output.loss.sum().backward()
    taken = values.grad[:6, 0].gather(-1, torch.tensor(ACTIONS[:6])[:, None])
    torch.testing.assert_close(taken, -expected, rtol=0, atol=1e-6)
    assert values.grad.count_nonzero() == 6  # none to other actions, none to the row that only serves as a target
    mixed = Replay._priority(SimpleNamespace(priorities=Priorities(eta=0.9)), output.error, output.mask)
    assert mixed.item() == pytest.approx(priority, abs=1e-6)


def test_a_sequence_counts_as_the_sum_of_its_rows():
    """Half the squares, added up over time, times the importance weight, as the mean over the batch."""

    class Both(Table, torch.nn.Module):
        def __init__(self, values):
            torch.nn.Module.__init__(self)
            self.values = torch.nn.Parameter(values)

    online = Both(torch.tensor(ONLINE)[:, None].expand(7, 2, 2).clone())
    learner = Learner(online, LOSS, learning_rate=0.0, optimizer_epsilon=1e-3, time_reduction="sum")
    learner.target.values.data = online.values.detach().flip(0)
    one = batch(None).trajectory
    twice = rows(*(torch.cat([a, a], 1) for a in (one.action, one.reward.float(), one.terminated)))
    twice.weight.copy_(torch.tensor([0.25, 1.0]))
    _, _, metrics, _ = learner.update(twice)
    expected = sum(delta**2 / 2 for delta in CASES[0][1]) * (0.25 + 1.0) / 2
    assert metrics["loss"].item() == pytest.approx(expected, abs=1e-5)
