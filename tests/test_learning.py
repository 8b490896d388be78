"""The tables of small learning tasks: every task can be composed, and memories are where a row says."""

import pytest
from benchmarks import family, learning

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.nn.cores import LSTM, QuantileLSTM


def composed(env, agent="recurrent_iqn", preset="toy", options=None, **settings):
    preset = settings.pop("preset", preset)
    options = EnvOptions(**(options or {}))
    return api.compose(env, agent=agent, preset=preset, config=settings, options=options, device="cpu", seed=0).agent


@pytest.mark.parametrize("name", [name for name, task in learning.TASKS.items() if task.steps])
def test_every_learning_task_can_be_composed(name):
    task = learning.TASKS[name]
    if task.env.startswith("Vizdoom"):
        pytest.importorskip("vizdoom")
    core = composed(task.env, options=task.options, **task.settings).network.core
    merge = name.rpartition("quantiles before, ")[2]
    if merge != name:
        assert isinstance(core, QuantileLSTM)
        assert core.merge == merge
    else:
        remembers = task.settings.get("agent", "recurrent_iqn") in family.MEMORY and "without its LSTM" not in name
        assert isinstance(core, LSTM) is remembers


@pytest.mark.parametrize("row", family.AGENTS)
@pytest.mark.parametrize("name", ["memory", "masked_cartpole"])
def test_every_agent_of_the_family_can_be_composed(name, row):
    (agent, own), task = family.AGENTS[row], family.TASKS[name]
    settings = task.settings | (task.with_memory if agent in family.MEMORY else {}) | task.of_agent.get(agent, {}) | own
    assert composed(task.env, agent, **settings).network.recurrent is (agent in family.MEMORY)
