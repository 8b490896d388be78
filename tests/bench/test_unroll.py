"""The timings of DRQN's network: what is timed is what the row says."""

from types import SimpleNamespace

import torch

from retorq.bench import unroll
from retorq.nn.cores import LSTM, Stateless


def test_the_network_and_the_batch_of_a_case():
    sizes = unroll.QUICK
    for (frames, length), core in (((2, 2), LSTM), ((1, 1), LSTM), ((1, 0), Stateless)):
        network, forward = unroll.prepared((frames, length), sizes, "cpu")
        assert isinstance(network.core, core)
        assert network.torso.image("obs").layers[0].in_channels == frames
        seen = []
        network.torso.register_forward_pre_hook(
            lambda module, arguments, seen=seen: seen.append(arguments[0]["obs"].shape)
        )
        forward().backward()
        assert seen == [(max(1, length), sizes.batch, frames, sizes.pixels, sizes.pixels)]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_backward_is_timed_apart_from_forward(monkeypatch):
    class Network(torch.nn.Module):
        pass

    order = []
    x = torch.ones(1, requires_grad=True)

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            order.append("forward")
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            order.append("backward")
            return gradient

    ticks = iter(range(100))

    def clock():
        order.append("clock")
        return next(ticks)

    monkeypatch.setattr(unroll, "time", SimpleNamespace(perf_counter=clock))
    assert unroll.timed(Network(), lambda: Marked.apply(x).sum(), "cpu") == (1, 1)
    assert order == ["clock", "forward", "clock", "backward", "clock"]


def test_one_row_per_case_in_the_order_of_the_table():
    sizes = unroll.Sizes(batch=1, frames=(1, 2), unrolls=(0, 1), units=4, pixels=36, repeats=1)
    rows = unroll.measure(unroll.Setup(quick=True), sizes)
    assert [(r["core"], r["frames"], r["unroll"]) for r in rows] == [
        ("none", 1, 1),
        ("lstm", 1, 1),
        ("none", 2, 1),
        ("lstm", 2, 1),
    ]
    assert unroll.FULL.frames == (1, 4, 10)
    assert unroll.FULL.unrolls == (0, 1, 10, 30)
    assert (unroll.FULL.batch, unroll.FULL.units) == (32, 512)
