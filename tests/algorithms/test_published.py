"""What the papers set, in their own units, beside what the published presets come to in ours.

The pages of ``docs/algorithms`` are held to the presets by ``tests/test_docs.py``; here both are held to the papers.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.algorithms.agents import FRAMES, MODULES, RECURRENT, names

from retorq import algorithms

FRAMES_PER_STEP = 4
MILLION = 1_000_000
VALUE_BASED = [name for name in algorithms.DISCRETE if name not in ("apex_dqn", "gorila")]


def published(agent):
    return MODULES[agent].atari()


def steps_per_update(config):
    """Agent steps between updates: rows trained per update over rows trained per step."""
    return config.batch_size * getattr(config, "sequence_length", 1) / config.replay_ratio


# In frames, as the papers count them: between target copies, before learning, over which epsilon falls.
CLOCKS = {
    "dqn": (40_000, 200_000, 4 * MILLION),
    "noisy_dqn": (40_000, 200_000, None),
    "c51": (40_000, 200_000, 4 * MILLION),
    "qr_dqn": (40_000, 200_000, 4 * MILLION),
    "iqn": (40_000, 200_000, 4 * MILLION),
    "rainbow": (32_000, 80_000, None),
    "drqn": (40_000, 200_000, 4 * MILLION),  # 10,000 updates, one per step
    "recurrent_iqn": (80_000, 200_000, None),  # 20,000 steps of all environments together
}


@pytest.mark.parametrize("agent", CLOCKS)
def test_clocks_in_frames(agent):
    config, (copy, warm_up, decay) = published(agent), CLOCKS[agent]
    assert config.target_period * steps_per_update(config) * FRAMES_PER_STEP == copy
    assert config.warmup * FRAMES_PER_STEP == warm_up
    if decay is not None:
        assert config.epsilon_steps * FRAMES_PER_STEP == decay


def test_updates():
    """One in four steps without memory, one per step for DRQN, one in 160 of all environments for Recurrent IQN."""
    every = {agent: steps_per_update(published(agent)) for agent in CLOCKS}
    assert every == dict.fromkeys(CLOCKS, 4) | {"drqn": 1, "recurrent_iqn": 160}
    assert 50 * MILLION / every["recurrent_iqn"] == 312_500
    assert 50 * MILLION / every["dqn"] == 12.5 * MILLION


# Numbers that papers give in the units that we have, too.
COMMON = {"batch_size": 32, "replay_size": MILLION, "gamma": 0.99, "n_step": 1, "hidden_size": 512}
WITHOUT_MEMORY = COMMON | {
    "num_envs": 1,
    "stack": 4,
    "clip_rewards": "clip",
    "rescale_epsilon": 0.0,
    "anneal_learning_rate": False,
    "clip_gradient": 10.0,
}
PLAIN = {"double": False, "dueling": False, "prioritized": False}
RMSPROP = {"optimizer": "rmsprop", "learning_rate": 2.5e-4, "optimizer_epsilon": 0.01 / 32**2}
SUMMED = {"optimizer": "adam", "optimizer_epsilon": 0.01 / 32}
RANDOM_AT_FIRST = {"epsilon_start": 1.0, "epsilon_final": 0.01}
NOISE_EXPLORES = {"epsilon_start": 0.0, "epsilon_final": 0.0, "noisy": True, "noisy_sigma": 0.5}
QUIET = {"noisy": False}
SEQUENCES = {"memory": "lstm", "memory_size": 512}
NUMBERS = {
    "dqn": WITHOUT_MEMORY | PLAIN | QUIET | RMSPROP | {"epsilon_start": 1.0, "epsilon_final": 0.1, "munchausen": False},
    "noisy_dqn": WITHOUT_MEMORY | PLAIN | RMSPROP | NOISE_EXPLORES,
    "c51": WITHOUT_MEMORY
    | PLAIN
    | QUIET
    | SUMMED
    | RANDOM_AT_FIRST
    | {"learning_rate": 2.5e-4, "atoms": 51, "lowest_value": -10.0, "highest_value": 10.0},
    "qr_dqn": WITHOUT_MEMORY
    | PLAIN
    | QUIET
    | SUMMED
    | RANDOM_AT_FIRST
    | {"learning_rate": 5e-5, "quantiles": 200, "kappa": 1.0},
    "iqn": WITHOUT_MEMORY
    | PLAIN
    | QUIET
    | SUMMED
    | RANDOM_AT_FIRST
    | {"learning_rate": 5e-5, "samples": 64, "target_samples": 64, "action_samples": 32, "cosines": 64, "kappa": 1.0}
    | {"risk": "neutral", "munchausen": False},
    "rainbow": WITHOUT_MEMORY
    | NOISE_EXPLORES
    | {"double": True, "dueling": True, "prioritized": True, "n_step": 3}
    | {"optimizer": "adam", "learning_rate": 6.25e-5, "optimizer_epsilon": 1.5e-4}
    | {"atoms": 51, "lowest_value": -10.0, "highest_value": 10.0}
    | {"priority_exponent": 0.5, "priority_beta": 0.4, "priority_beta_final": 1.0, "priority_error": "td"},
    "drqn": COMMON
    | PLAIN
    | SEQUENCES
    | {"num_envs": 1, "stack": 1, "hidden_size": 0, "replay_size": 400_000, "sequence_length": 10}
    | {"last_action": False, "last_reward": False, "elapsed_time": False, "clip_gradient": 10.0}
    | {"sequences": "episode", "start_state": "zero", "clip_rewards": "sign", "rescale_epsilon": 0.0}
    | {"epsilon_start": 1.0, "epsilon_final": 0.1},
    "r2d2": SEQUENCES
    | {"num_envs": 256, "stack": 4, "hidden_size": 512, "dueling": True, "double": True, "prioritized": True}
    | {"last_action": True, "last_reward": True, "elapsed_time": False}
    | {"sequence_length": 80, "burn_in": 40, "state_period": 40, "replay_size": 4 * MILLION, "batch_size": 64}
    | {"sequences": "within", "start_state": "stored+burn_in", "replay_ratio": 0.8, "warmup": 50_000}
    | {"priority_eta": 0.9, "priority_exponent": 0.9, "priority_beta": 0.6, "priority_beta_final": 0.6}
    | {"n_step": 5, "gamma": 0.997, "rescale_epsilon": 1e-3, "clip_rewards": "none", "regression": "squared"}
    | {"optimizer": "adam", "learning_rate": 1e-4, "optimizer_epsilon": 1e-3, "clip_gradient": 40.0}
    | {"target_period": 2_500, "time_reduction": "sum", "actor_priorities": True, "refresh": 0.0}
    | {"epsilon_start": 0.4, "epsilon_final": 0.4, "epsilon_exponent": 7.0, "epsilon_floor": 0.0},
    "recurrent_iqn": COMMON
    | SEQUENCES
    | {"num_envs": 32, "stack": 1, "dueling": True, "double": True, "prioritized": False, "n_step": 2}
    | {"last_action": True, "last_reward": True, "elapsed_time": True, "quantile_layer": "after"}
    | {"samples": 32, "target_samples": None, "action_samples": None, "cosines": 64, "kappa": 1.0, "risk": "neutral"}
    | {"sequence_length": 20, "sequences": "any", "start_state": "stored", "clip_rewards": "sign"}
    | {"optimizer": "adam", "learning_rate": 3e-4, "anneal_learning_rate": True, "optimizer_epsilon": 1e-5}
    | {"clip_gradient": 40.0, "time_reduction": "mean", "rescale_epsilon": 0.0, "replay_ratio": 4.0}
    | {"epsilon_start": 0.4, "epsilon_final": 0.01, "epsilon_floor": 0.01, "epsilon_exponent": 7.0}
    | {"epsilon_fraction": 0.5},
}


@pytest.mark.parametrize("agent", VALUE_BASED)
def test_numbers(agent):
    config = published(agent)
    assert {name: getattr(config, name) for name in NUMBERS[agent]} == NUMBERS[agent]


def test_flags_of_dqn_bring_the_numbers_of_their_papers():
    """Proportional priorities; Munchausen's three numbers, which the defaults of its authors' constructor are not."""
    config = published("dqn")
    assert (config.priority_exponent, config.priority_beta, config.priority_beta_final) == (0.6, 0.4, 1.0)
    for agent in ("dqn", "iqn"):
        soft = replace(published(agent), munchausen=True)
        assert (soft.munchausen_alpha, soft.munchausen_temperature, soft.munchausen_lowest) == (0.9, 0.03, -1.0)


def test_sequences_of_r2d2():
    """100,000 sequences, which overlap by 40; burn-in comes before the 80."""
    config = published("r2d2")
    assert config.replay_size / config.state_period == 100_000
    assert config.sequence_length - config.state_period == 40
    window = MODULES["r2d2"].make(config, FRAMES).window
    assert (window.burn_in, window.length, window.ahead, window.within) == (40, 80, 5, True)


def test_epsilons_of_r2d2():
    """256 of them, from 0.4 to 0.4^8 = 6.55e-4 in equal ratios, the same from the first step to the last."""
    made = MODULES["r2d2"].make(published("r2d2"), FRAMES)
    first, last = (made.explore.epsilon(step, 10**9) for step in (0, 10**9))
    np.testing.assert_array_equal(first, last)
    assert first.shape == (256,)
    assert (first[0], first[-1]) == (pytest.approx(0.4), pytest.approx(6.55e-4, rel=1e-3))
    ratios = [b / a for a, b in pairwise(first)]
    np.testing.assert_allclose(ratios, 0.4 ** (7 / 255))


def test_extra_inputs_of_the_memory():
    """R2D2's last reward is as it is, Recurrent IQN's is its sign; DRQN's memory reads the screen alone."""
    found = {agent: MODULES[agent].make(published(agent), FRAMES).network.extras for agent in RECURRENT}
    told = {agent: (extras.action, extras.reward, extras.time, extras.clip) for agent, extras in found.items()}
    assert told == {
        "drqn": (False, False, False, "sign"),
        "r2d2": (True, True, False, "none"),
        "recurrent_iqn": (True, True, True, "sign"),
    }


@pytest.mark.parametrize("agent", VALUE_BASED)
def test_the_optimizer_that_is_built(agent):
    """Adam's epsilon beside the root; DQN's, for a mean over the batch, inside it, with a decay of 0.95."""
    config = replace(published(agent), num_envs=2, batch_size=2)
    optimizer = MODULES[agent].make(config, FRAMES).learner(device="cpu", seed=0).optimizer
    (group,) = optimizer.param_groups
    assert (group["lr"], group["eps"]) == (config.learning_rate, config.optimizer_epsilon)
    if "rmsprop" in config.optimizer:
        assert (type(optimizer).__name__, group["decay"]) == ("CenteredRMSProp", 0.95)
    else:
        assert (type(optimizer).__name__, group["betas"]) == ("Adam", (0.9, 0.999))


def test_every_agent_of_this_table_is_complete():
    """A number that tells one algorithm from another must be in the table of each that has it."""
    telling = {"batch_size", "n_step", "double", "dueling", "prioritized", "clip_rewards", "clip_gradient"}
    assert set(NUMBERS) == set(VALUE_BASED)
    for agent, numbers in NUMBERS.items():
        unknown = numbers.keys() - set(names(agent))
        assert (agent, unknown) == (agent, set())
        missing = telling - numbers.keys()
        assert (agent, missing) == (agent, set())
