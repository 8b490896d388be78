"""The baseline computes what our learner computes: otherwise a ratio of their speeds means nothing."""

from dataclasses import replace

import pytest
import torch

from retorq.algorithms.recurrent_iqn import atari, make
from retorq.bench.made_up import atari_spec, batch, trajectory
from retorq.bench.plain import PlainLearner
from retorq.ops.returns import n_step
from retorq.types import Batch

SMALL = replace(
    atari(),
    batch_size=5,
    sequence_length=6,
    n_step=3,
    memory_size=12,
    hidden_size=10,
    samples=4,
    state_period=3,
    cosines=8,
)


def made(ends: float = 0.2) -> tuple[object, PlainLearner, Batch]:
    """Both learners from the same weights, drawing the same fractions, and a batch with many ends of games."""
    torch.manual_seed(1)
    agent = make(SMALL, atari_spec(actions=4, size=44))
    seen = batch(agent.spec, agent.network, agent.window.rows, SMALL.batch_size, ends=ends)
    plain = PlainLearner(agent.network, samples=4, length=6, n=3, gamma=SMALL.gamma, seed=7)
    learner = agent.learner(seed=7)
    with torch.no_grad():  # a target that is not the online network
        for ours, theirs in ((learner.target, plain.target),):
            for name in ("advantage", "value"):
                for layer in (getattr(ours._head.streams, name), getattr(theirs, name)):
                    layer.weight.mul_(1.5)
    return learner, plain, seen


def test_loss_and_gradient_are_the_same() -> None:
    learner, plain, seen = made()
    assert seen.trajectory.last[:6].any()
    assert seen.trajectory.inputs.first[1:].any()
    _, _, metrics, _ = learner.update(seen)  # type: ignore[attr-defined]
    loss = plain.loss(seen)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.online.parameters(), float("inf"))
    # bias_hh is a second copy of one bias: its gradient counts once in ours.
    twice = plain.online.cell.bias_hh.grad
    assert twice is not None
    torch.testing.assert_close(loss.detach(), metrics["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        (norm.square() - twice.square().sum()).sqrt(), metrics["gradient_norm"], rtol=1e-4, atol=0
    )


def test_targets_are_those_of_the_formula() -> None:
    _, plain, seen = made(ends=0.3)
    rows = seen.trajectory
    ours = n_step(rows.reward.sign(), SMALL.gamma * (~rows.terminated).float(), rows.last, 3)
    going = ~rows.last[:6]
    for mine, theirs in zip(ours, plain.targets(seen), strict=True):
        torch.testing.assert_close(mine[:6][going].float(), theirs[going].float())


def test_an_update_changes_the_weights() -> None:
    _, plain, seen = made()
    before = plain.online.cell.weight_ih.detach().clone()
    assert torch.isfinite(plain.update(seen))
    assert not torch.equal(before, plain.online.cell.weight_ih)


@pytest.mark.parametrize("ends", [0.0, 0.4])
def test_made_up_rows_are_a_well_formed_stream(ends: float) -> None:
    stream = trajectory(atari_spec(size=4), 200, 3, ends=ends)
    last, first, ended = stream.last, stream.inputs.first, stream.terminated
    assert ended.any() == (ends > 0)
    assert (last[1:] == ended[:-1]).all()
    assert (first[1:] == last[:-1]).all()
    assert not (last & ended).any()
    assert (stream.inputs.previous_reward[first] == 0).all()
