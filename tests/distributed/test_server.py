"""A sharded parameter server: the same as one optimizer, too-old gradients dropped and counted, one target for all."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from retorq.distributed.gradients import Outliers, Servers, fill, slices
from retorq.distributed.peers import Here
from retorq.distributed.server import Server


def server(weights, **more):
    settings = {"optimizer": "adagrad", "learning_rate": 0.1, "optimizer_epsilon": 1e-10, "target_period": 3}
    made = Server(**settings | {"max_staleness": 2} | more)
    made.begin(np.array(weights, np.float32))
    return made


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-10)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, eps=1e-10)),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_together_are_one_optimizer(name, oracle, count):
    """Six gradients, of a network of 21 weights in shards of unequal size, by PyTorch's own optimizer."""
    mine, theirs = network(), network()
    whole = parameters_to_vector(mine.parameters()).detach().numpy()
    held = [server(whole[part], optimizer=name) for part in slices(len(whole), count)]
    servers, reference = Servers([Here(one) for one in held]), oracle(list(theirs.parameters()))
    target = copy.deepcopy(mine)
    for step in range(6):
        servers.fetch(mine, target)
        torch.testing.assert_close(
            parameters_to_vector(mine.parameters()), parameters_to_vector(theirs.parameters()), rtol=1e-6, atol=1e-7
        )
        gradient = torch.randn(len(whole), generator=torch.Generator().manual_seed(step))
        start = 0
        for parameter in theirs.parameters():
            parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()
        servers.send(gradient.numpy(), rate=0.1)
        reference.step()
    assert [one.updates for one in held] == [6] * count


def test_slices_cover_every_weight_once_and_differ_by_one_at_most():
    for size, count in ((10, 3), (9, 3), (2, 5), (1, 1)):
        parts = slices(size, count)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(size))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_the_rate_comes_with_the_gradient():
    one = server([1.0], optimizer_epsilon=1e-12)
    one.apply(np.array([2.0], np.float32), 0, rate=0.5)
    assert one.weights.item() == pytest.approx(0.5)  # AdaGrad's first step is the rate, whatever the gradient


def test_a_gradient_is_dropped_when_it_is_later_than_the_bound():
    one, gradient = server([0.0, 0.0]), np.ones(2, np.float32)
    for _ in range(3):
        assert one.apply(gradient, one.updates, 0.1)
    before = one.weights.detach().clone()
    assert not one.apply(gradient, 0, 0.1)  # three late
    assert torch.equal(one.weights, before)
    assert one.told() == {"updates": 3, "dropped": 1, "staleness": 3, "oldest": 3}
    assert one.apply(gradient, 1, 0.1)  # two late: as late as may be
    assert one.told() == {"updates": 4, "dropped": 1, "staleness": 5, "oldest": 3}


def test_the_target_is_copied_every_so_many_updates_and_only_then():
    one, gradient = server([0.0]), np.ones(1, np.float32)
    copies = []
    for _ in range(7):
        one.apply(gradient, one.updates, 0.1)
        copies.append(one.target.item())
        if one.updates % 3 == 0:
            assert one.target.item() == one.weights.item()
    assert len(set(copies)) == 3
    assert copies[0] == copies[1] == 0.0
    assert copies[2] == copies[3] == copies[4]
    assert one.copies == 2


def test_only_what_is_newer_is_fetched():
    one = server([1.0, 2.0])
    told = one.fetch(-1, -1)
    assert (told["weights"].tolist(), told["target"].tolist()) == ([1.0, 2.0], [1.0, 2.0])
    assert one.fetch(0, 0) == {"version": 0, "weights": None, "copies": 0, "target": None}
    one.apply(np.ones(2, np.float32), 0, 0.1)
    told = one.fetch(0, 0)
    assert (told["version"], told["target"]) == (1, None)
    np.testing.assert_allclose(told["weights"], [0.9, 1.9], rtol=1e-6)
    told["weights"][:] = 7.0
    assert one.weights[0].item() == pytest.approx(0.9)


def test_a_part_that_is_not_newer_stays():
    mine = network()
    before = parameters_to_vector(mine.parameters()).detach().clone()
    fill(mine, [None, np.full(10, 5.0, np.float32)])
    after = parameters_to_vector(mine.parameters())
    assert torch.equal(after[:11], before[:11])
    assert after[11:].tolist() == [5.0] * 10


def test_a_server_goes_on_where_it_was():
    one, gradients = server([1.0, 2.0]), torch.randn(8, 2, generator=torch.Generator().manual_seed(1)).numpy()
    for gradient in gradients[:4]:
        one.apply(gradient, one.updates, 0.1)
    one.apply(gradients[0], 0, 0.1)
    other = server([0.0, 0.0])
    other.load(*one.state_dict())
    for gradient in gradients[4:]:
        for each in (one, other):
            each.apply(gradient, each.updates, 0.1)
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(one.target, other.target)
    assert one.state_dict()[1] == other.state_dict()[1]
    assert one.told()["dropped"] == 1


def plainly(losses, horizon):
    """Mean and variance before each loss, with weights written out."""
    told, weights = [], []
    for number, _ in enumerate(losses):
        share = 1 / min(number + 1, horizon)
        seen = np.array(losses[:number])
        mean = float(np.dot(weights, seen)) if number else 0.0
        variance = float(np.dot(weights, (seen - mean) ** 2)) if number else 0.0
        told.append((mean, variance))
        weights = [weight * (1 - share) for weight in weights] + [share]
    return told


@pytest.mark.parametrize("horizon", [10, 1_000])
def test_outliers_are_told_by_running_mean_and_deviation(monkeypatch, horizon):
    monkeypatch.setattr(Outliers, "HORIZON", horizon)
    random = np.random.default_rng(0)
    losses = [*random.gamma(2.0, size=40), 30.0, *random.gamma(2.0, size=10), *np.full(60, 30.0)]
    outliers = Outliers(deviations=3.0, warmup=20)
    told = []
    for loss, (mean, variance) in zip(losses, plainly(losses, horizon), strict=True):
        assert (outliers.mean, outliers.variance) == (pytest.approx(mean), pytest.approx(variance, abs=1e-9))
        expected = outliers.count >= 20 and loss > mean + 3.0 * np.sqrt(variance)
        told.append(outliers.outlying(loss))
        assert told[-1] == expected
    assert told[40]
    assert not any(told[:20])
    assert not told[-1]  # losses that stay high are let through


def test_nothing_is_an_outlier_during_the_warm_up():
    outliers = Outliers(deviations=1.0, warmup=5)
    assert [outliers.outlying(loss) for loss in (1.0, 1.0, 99.0, 1.0, 99.0, 999.0)] == [False] * 5 + [True]
