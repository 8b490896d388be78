"""Noisy layers in the losses: every use of the values draws its own noise (NoisyNet, section 3.1; Rainbow)."""

import pytest
import torch
from tests.nn.small import ACTIONS, make_batch, make_network

from retorq.losses.munchausen import Munchausen
from retorq.losses.q_learning import QLearning
from retorq.nn.heads import Categorical, Scalar
from retorq.nn.noisy import NoisyLinear

COLUMNS = 5


def networks(head):
    """An online and a target network with noisy streams."""
    made = []
    for seed in (1, 2):
        network = make_network("none", "scalar", seed=seed)
        size = network.core.size
        more = {} if head is Scalar else {"atoms": 7, "low": -2.0, "high": 2.0}
        network._head = head(size, 7, ACTIONS, dueling=True, noise=0.5, **more)
        made.append(network)
    return made


def drawn(monkeypatch, online, target, loss):
    """The noise of the last layers' biases in every use of values, with the network's name."""
    names = {network._head.streams.advantage: name for name, network in (("online", online), ("target", target))}
    found, plain = [], NoisyLinear.draw

    def spy(self, generator=None):
        of_outputs, of_inputs = plain(self, generator)
        if self in names:
            found.append((names[self], of_outputs.clone()))
        return of_outputs, of_inputs

    monkeypatch.setattr(NoisyLinear, "draw", spy)
    batch = make_batch(online, loss.n + 1 if isinstance(loss, QLearning) else 2, COLUMNS, rate=0.0)
    loss(online, target, batch, torch.Generator().manual_seed(0))
    return found


@pytest.mark.parametrize("head", [Scalar, Categorical])
@pytest.mark.parametrize(
    ("double", "uses"), [(True, ["online", "online", "target"]), (False, ["online", "target"])], ids=["double", "plain"]
)
def test_prediction_choice_and_target_have_noise_of_their_own(monkeypatch, head, double, uses):
    found = drawn(monkeypatch, *networks(head), QLearning(length=1, n=3, double=double))
    assert sorted(name for name, _ in found) == uses
    every = torch.cat([bias for _, bias in found])
    assert len(every.unique()) == len(every)


def test_munchausen_has_one_draw_for_the_prediction_and_one_for_policy_and_target(monkeypatch):
    found = drawn(monkeypatch, *networks(Scalar), Munchausen())
    assert [name for name, _ in found] == ["online", "target"]
    every = torch.cat([bias for _, bias in found])
    assert len(every.unique()) == len(every)


def test_the_gradient_is_that_of_the_noise_the_loss_ran_with():
    """Drawing anew between the values and the way back would give the gradient of another network."""
    online, target = networks(Scalar)
    batch = make_batch(online, 2, COLUMNS, rate=0.0)
    loss = QLearning(length=1, n=1, kappa=float("inf"))
    grads = []
    for again in (False, True):
        online.zero_grad()
        total = loss(online, target, batch, torch.Generator().manual_seed(3)).loss.sum()
        if again:
            online(batch.trajectory.inputs, {}, torch.Generator().manual_seed(4))
        total.backward()
        grads.append([p.grad.clone() for p in online.parameters()])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)
    layer = online._head.streams.advantage
    ratio = layer.bias_sigma.grad / layer.bias.grad
    assert ratio.abs().max() > 0  # d/d sigma is noise times d/d mu: the noise of the first draws
    assert torch.isfinite(ratio).all()
