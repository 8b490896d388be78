"""An actor of Ray plays with no weights older than those offered before it was asked, however late it hears of them."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.acting import elsewhere
from tests.acting.test_pools import recipes

from retorq.acting import hosted
from retorq.acting.hosted import Hosted
from retorq.acting.shared import tensors


@pytest.fixture
def actor(monkeypatch):
    """An actor in this process, without Ray; the object store is a dictionary of weights by edition."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    weights = {}
    for edition in range(3):
        network = elsewhere.Weighted()
        network.weight.data.fill_(edition)
        weights[edition] = [tensor.detach().numpy() for tensor in tensors(network)]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=weights.__getitem__))
    monkeypatch.setattr(hosted, "_host", lambda: "here")
    made = Hosted(recipes()[0].as_json(), [], 0, 0, 3, [0, 0, [0]])
    assert made._fault is None
    return made


def test_a_call_waits_for_the_weights_that_were_offered_before_it(actor):
    text, _ = actor.play(0, 0)
    assert '"version": 0' in text
    answers = []
    playing = threading.Thread(target=lambda: answers.append(actor.play(10, 2)), daemon=True)
    playing.start()
    actor.offer(1, 1, [1])
    playing.join(0.3)
    assert not answers  # edition 2 is on its way
    actor.offer(2, 2, [2])
    playing.join(60)
    assert '"version": 2' in answers[0][0]


def test_a_call_plays_with_newer_weights_than_it_asks_for(actor):
    actor.offer(2, 2, [2])
    text, _ = actor.play(0, 1)
    assert '"version": 2' in text
