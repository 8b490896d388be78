"""Counted operations against PyTorch's own counter, and against the table of the design."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from retorq.algorithms.recurrent_iqn import atari, make
from retorq.bench.counts import update, work
from retorq.bench.made_up import atari_spec, batch
from retorq.bench.plain import PlainLearner
from retorq.nn import products

SMALL = replace(atari(), batch_size=4, sequence_length=6, memory_size=24, hidden_size=40, samples=3, state_period=3)


def test_a_forward_pass_of_the_published_network() -> None:
    """Thirty-one million multiply-adds per state, 59 % of them in the quantile head."""
    counted = work(make(atari(), atari_spec()).network)
    per_state = counted.torso + counted.core + 32 * (counted.cosine + counted.head)
    assert per_state == pytest.approx(30.9e6, rel=0.002)
    assert 32 * (counted.cosine + counted.head) / per_state == pytest.approx(0.59, abs=0.005)
    assert (counted.first, counted.torso) == (819_200, 819_200 + 2_654_208 + 1_806_336)


@pytest.mark.parametrize(("samples", "gflop"), [(32, 183.8), (8, 96.7)])
def test_an_update_of_the_published_size(samples: int, gflop: float) -> None:
    counted = work(make(atari(), atari_spec()).network)
    needed = update(counted, batch=32, length=20, ahead=2, samples=samples)
    assert needed == pytest.approx(gflop * 1e9, rel=0.01)


@pytest.mark.parametrize("passes", [2, 3])
def test_an_update_against_the_counter(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 1 << 62)  # PyTorch's counter does not know oneDNN's product
    agent = make(SMALL, atari_spec(actions=5))
    seen = batch(agent.spec, agent.network, agent.window.rows, SMALL.batch_size)
    formula = update(work(agent.network), batch=4, length=6, ahead=2, samples=3, passes=passes)
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        if passes == 2:
            agent.learner().update(seen)
        else:
            PlainLearner(agent.network, samples=3, length=6, n=2, gamma=0.99).update(seen)
    assert counter.get_total_flops() == pytest.approx(formula, rel=0.01)


def test_other_networks_are_refused() -> None:
    config = replace(SMALL, memory="none", sequence_length=1)
    with pytest.raises(TypeError, match="LSTM"):
        work(make(config, atari_spec()).network)
    with pytest.raises(TypeError, match="torsos"):
        work(make(replace(SMALL, torso_hidden=(8,)), atari_spec()).network)
