"""Settings that are called unused do nothing, each is told with a remedy, and presets are silent about theirs."""

from dataclasses import replace

import pytest
from tests.algorithms.agents import FRAMES, MODULES, REACH, VECTOR, names, picture, small, spec_of
from tests.algorithms.test_settings import SETTINGS

from retorq.algorithms.unused import unused

OF_MEMORY = {"memory_size", "sequences", "start_state", "burn_in", "state_period"}
WITHOUT = {"memory": "none", "sequence_length": 1, "prioritized": False}
ALONE = {"epsilon_start", "epsilon_exponent", "epsilon_fraction", "epsilon_steps"}
ONE_ROW = {"sequence_length": 1, "state_period": 1, "prioritized": True}
CASES = [
    ("recurrent_iqn", WITHOUT, OF_MEMORY),
    ("recurrent_iqn", WITHOUT | {"prioritized": True}, OF_MEMORY | {"priority_eta"}),
    ("recurrent_iqn", ONE_ROW, {"priority_eta"}),
    ("recurrent_iqn", ONE_ROW | {"sequence_length": 2}, set()),
    ("r2d2", {"start_state": "stored"}, {"burn_in"}),
    ("r2d2", {"start_state": "stored+burn_in"}, set()),
    ("drqn", {"start_state": "whole"}, {"burn_in", "sequences"}),
    ("r2d2", {"num_envs": 1}, ALONE | {"epsilon_final"}),
    ("r2d2", {"num_envs": 1, "epsilon_final": 0.004}, ALONE),
    ("r2d2", {"num_envs": 1, "epsilon_final": 0.004, "epsilon_floor": 0.02}, ALONE | {"epsilon_final"}),
    ("r2d2", {"num_envs": 2, "epsilon_start": 0.4, "epsilon_final": 0.4}, {"epsilon_fraction"}),
    ("apex_dqn", {"num_envs": 2, "epsilon_final": 0.9}, {"epsilon_fraction", "publish_period"}),
    ("dqn", {"epsilon_start": 0.3, "epsilon_final": 0.3}, {"epsilon_steps"}),
    ("dqn", {"precision": "fp32", "publish_period": 3}, {"publish_period"}),
    ("dqn", {"precision": "bf16", "publish_period": 3}, set()),
    ("gorila", {"precision": "bf16", "publish_period": 3}, {"publish_period"}),
    ("dqn", {"precision": "fp32", "publish_period": 1}, set()),
]


def config_of(agent, changes):
    base = {"epsilon_start": 0.9, "epsilon_final": 0.1} | ({"start_state": "zero+burn_in"} if agent == "r2d2" else {})
    return small(agent, **base | changes)


@pytest.mark.parametrize(("agent", "changes", "names_of_them"), CASES)
def test_what_is_unused(agent, changes, names_of_them):
    found = unused(config_of(agent, changes), FRAMES)
    assert found.keys() >= names_of_them
    assert found.keys() <= names_of_them | {"burn_in"}
    assert all(f" or leave {name} out" in why for name, why in found.items())


def test_images_that_an_environment_does_not_have():
    config = small("dqn", stack=1, torso="compact", center_images=True)
    assert {"torso", "center_images"} <= unused(config, VECTOR).keys()
    assert not {"torso", "center_images"} & unused(config, FRAMES).keys()


def effect(agent):
    epsilons = [agent.explore.epsilon(step, 1000).tolist() for step in (0, 10, 500, 1000)]
    return picture(replace(agent, explore=None)), epsilons


# Parts are told of these and pass over them: an actor with float32 weights, a replay that stores no states, and
# priorities of sequences of one row.
PASSED_OVER = {"publish_period", "start_state", "priority_eta"}


@pytest.mark.parametrize(("agent", "changes", "names_of_them"), CASES)
def test_the_unused_changes_nothing(agent, changes, names_of_them):
    config, module = config_of(agent, changes), MODULES[agent]
    for name in names_of_them - PASSED_OVER - {"epsilon_start"}:  # which decides that nothing comes down
        other = next(v for v in (*SETTINGS[name].values, "any") if v != getattr(config, name))
        changed = replace(config, **{name: other})
        assert name in unused(changed, FRAMES)
        assert effect(module.make(changed, FRAMES)) == effect(module.make(config, FRAMES)), name


@pytest.mark.parametrize("agent", MODULES)
def test_a_preset_has_nothing_to_tell(agent):
    module = MODULES[agent]
    for make in module.PRESETS.values():
        config = make()
        config = replace(config, torso="auto") if "torso" in names(agent) else config
        if config.num_envs > 1 or "epsilon_floor" not in names(agent):
            assert module.make(config, spec_of(agent)).notes == ()


def test_weights_are_shared_with_actors_in_this_process_alone():
    config = small("apex_dpg", publish_period=7)
    assert unused(config, REACH).keys() == {"publish_period"}
    assert unused(config, REACH, pool="process") == {}
