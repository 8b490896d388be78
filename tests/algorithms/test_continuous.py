"""Agents with continuous actions: the published policy and critic, and what goes without priorities."""

import pytest
import torch
from tests.algorithms.agents import CONTINUOUS, FRAMES, MODULES, REACH, learner, replay, small, spec_of

from retorq import algorithms
from retorq.types import UserError


@pytest.mark.parametrize("agent", CONTINUOUS)
def test_the_published_policy_and_critic(agent):
    made = MODULES[agent].make(MODULES[agent].published(), REACH)
    shapes = {name: tuple(p.shape) for name, p in made.network.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "_head.policy.first.weight": (300, 5),
        "_head.policy.second.weight": (200, 300),
        "_head.policy.out.weight": (2, 200),
        "_head.critic.first.weight": (400, 5),
        "_head.critic.second.weight": (300, 402),
        "_head.critic.out.weight": (1, 300),
    }
    assert made.explore.epsilon(0, 1).tolist() == [0.3] * 64
    assert made.layout.fields()["action"] == made.layout.fields()["previous_action"] == ((2,), torch.float32)
    assert learner("clip_gradient")(made) == float("inf")


@pytest.mark.parametrize("agent", CONTINUOUS)
def test_without_priorities_nothing_is_told_evicted_or_kept_longer(agent):
    for on in (True, False):
        made = MODULES[agent].make(small(agent, prioritized=on), REACH)
        assert (made.tell_values, made.layout.values, replay("first_errors")(made) is not None) == (on,) * 3
        assert made.surplus == replay("surplus")(made) == (3.0 if on else 0.0)
        assert (replay("priorities")(made) is not None) is on


def test_every_agent_says_which_actions_it_takes():
    for agent in MODULES:
        other = FRAMES if agent in CONTINUOUS else REACH
        algorithms.require_actions(agent, spec_of(agent))
        with pytest.raises(UserError, match=r"^[^.]*use --agent apex_d[^.]*\.$") as error:
            algorithms.require_actions(agent, other)
        assert other.id in str(error.value)
        assert f" {agent} " in str(error.value)
