"""Values that are rescaled while learning are told in units of return: what is logged, and what is looked at."""

import numpy as np
import pytest
import torch
from tests.losses.test_q_learning import BASE, COLUMNS, LENGTH, networks
from tests.nn.small import make_batch

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.losses.q_learning import QLearning
from retorq.ops.rescale import rescale, unrescale
from retorq.running.distributions import ReturnDistribution

EPSILON = 1e-2


@pytest.mark.parametrize("epsilon", [0.0, EPSILON])
def test_the_logged_value_of_the_best_action_is_a_return(epsilon):
    loss = QLearning(**BASE | {"clip": "none", "rescale": epsilon})
    online, target = networks(head="scalar", clip="none")
    batch = make_batch(online, LENGTH + 2, COLUMNS, seed=12, rate=0.3)
    output = loss(online, target, batch)
    best = online(batch.trajectory.inputs, batch.state)[0].mean()[:LENGTH].amax(-1)[output.mask]
    expected = unrescale(best, epsilon) if epsilon else best
    assert output.metrics["q_mean"].item() == pytest.approx(expected.mean().item(), rel=1e-5)
    # Errors, of which priorities are made, stay in the scale that is learned in.
    assert output.metrics["td"].item() == pytest.approx(output.error[output.mask].mean().item(), rel=1e-5)


def player(agent, **settings):
    task = api.compose("memory", agent=agent, preset="toy", config=settings, options=EnvOptions(), device="cpu", seed=0)
    return api.Player(task, step=0)


@pytest.mark.parametrize("agent", ["r2d2", "recurrent_iqn", "c51"])
def test_a_player_tells_returns(agent, monkeypatch):
    """What the network would act by and the distribution it has learned, with the rescaling undone."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))
    raw, told = (player(agent, rescale_epsilon=epsilon) for epsilon in (0.0, EPSILON))
    told.network.load_state_dict(raw.network.state_dict())
    seen = np.array([1, -1], np.float32)
    values = raw.values(seen)[0]
    assert np.abs(values).min() > 1e-4
    back = rescale(torch.from_numpy(told.values(seen)[0]), EPSILON)
    np.testing.assert_allclose(back, values, rtol=1e-5)
    assert values.argmax() == told.act(seen)[0] == raw.act(seen)[0]
    if agent == "r2d2":
        return
    plain, found = raw.distribution(seen)[0], told.distribution(seen)[0]
    np.testing.assert_allclose(rescale(torch.from_numpy(found.values), EPSILON), plain.values, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    assert (plain.fixed, found.fixed) == (agent == "c51", False)  # atoms are no longer evenly spaced


def test_a_film_tells_returns():
    moments = {}
    for epsilon in (0.0, EPSILON):
        one = player("r2d2", rescale_epsilon=epsilon)
        moments[epsilon] = list(one.film(seed=3, longest=5))
    for plain, told in zip(moments[0.0][:-1], moments[EPSILON][:-1], strict=True):
        back = rescale(torch.from_numpy(told.values), EPSILON)
        np.testing.assert_allclose(back, plain.values, rtol=1e-4, atol=1e-7)


def test_a_distribution_of_plain_values_is_left_as_it_is():
    found = ReturnDistribution(np.ones((2, 3)), np.full((2, 3), 1 / 3), fixed=True)
    assert found.unrescaled(0.0) is found
