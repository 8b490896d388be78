"""Settings that make no sense are refused with one sentence that names field, value and remedy."""

from dataclasses import fields, replace

import pytest
from tests.algorithms.agents import CONTINUOUS, FRAME, FRAMES, MODULES, REACH, VECTOR, names, small, spec_of

from retorq import algorithms
from retorq.types import UserError

ONE_OR_MORE = "num_envs stack memory_size samples target_samples action_samples cosines quantiles"
ONE_OR_MORE += " batch_size sequence_length n_step target_period replay_size state_period publish_period servers"
ZERO_OR_MORE = "hidden_size burn_in warmup epsilon_steps epsilon_exponent rescale_epsilon kappa refresh"
ZERO_OR_MORE += " max_staleness outlier_warmup trim_period action_noise"
POSITIVE = "policy_learning_rate learning_rate optimizer_epsilon clip_gradient replay_ratio noisy_sigma"
POSITIVE += " munchausen_temperature outlier_deviations"
SHARES = "epsilon_start epsilon_final epsilon_floor epsilon_fraction gamma priority_eta priority_exponent priority_beta"
SHARES += " priority_beta_final munchausen_alpha"
ANY = "evict_exponent munchausen_lowest lowest_value highest_value risk_level atoms"
NUMBERS = " ".join((ONE_OR_MORE, ZERO_OR_MORE, POSITIVE, SHARES, ANY)).split()
OWNER = {name: agent for agent in MODULES for name in names(agent)}  # some agent that has the field
TYPES = {f.name: f.type for agent in MODULES for f in fields(MODULES[agent].Config)}
WHOLE = [name for name, kind in TYPES.items() if kind.startswith("int")]
CHOICES = [name for name, kind in TYPES.items() if kind.startswith("Literal")]
SWITCHES = [name for name, kind in TYPES.items() if kind == "bool"]

OUT_OF_RANGE = [
    *((name, 0, "give at least 1") for name in ONE_OR_MORE.split()),
    *((name, -1, "give at least 0") for name in ZERO_OR_MORE.split()),
    *((name, 0, "give more than 0") for name in POSITIVE.split()),
    *((name, value, "give a number from 0 to 1") for name in SHARES.split() for value in (-0.1, 1.5)),
    *((name, value, "give a") for name in NUMBERS for value in ("3", True)),
    *((name, 2.5, "give a whole number") for name in WHOLE),
    *((name, None, "give a") for name in NUMBERS if "None" not in TYPES[name]),
    *((name, value, "finite") for name in NUMBERS if name not in WHOLE for value in (float("nan"), float("inf"))),
    *((name, value, "give one of") for name in CHOICES for value in ("nonsense", None, 3)),
    *((name, value, "give true or false") for name in SWITCHES for value in (1, "yes", None)),
    *(("torso_hidden", value, "whole numbers of at least 1") for value in (64, (0,), (8, "a"), [8], (1.5,), (True,))),
    *(
        (name, value, "give 2 whole numbers of at least 1")
        for name in ("critic_layers", "policy_layers")
        for value in (64, (0, 3), (8, "a"), [8, 8], (8,), (8, 8, 8), (1.5, 2))
    ),
    ("evict_exponent", 0.1, "give 0 or less"),
    ("atoms", 1, "give at least 2"),
]


def sentence(error):
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert error.value.exit_code == 2
    return text


def test_every_field_is_tried():
    assert {name for name, _, _ in OUT_OF_RANGE} == set(OWNER)


@pytest.mark.parametrize(("name", "value", "remedy"), OUT_OF_RANGE)
def test_a_wrong_value_is_one_sentence_with_field_value_and_remedy(name, value, remedy):
    with pytest.raises(UserError) as error:
        small(OWNER[name], **{name: value})
    text = sentence(error)
    assert text.startswith((f"{name} is {value!r}", f"{name} is {value}"))
    assert remedy in text


def off(agent, changes):
    """The changes; apex_dpg is prioritized unless told otherwise."""
    return ({"prioritized": False} if agent in CONTINUOUS else {}) | changes


def unused(agent, switch, name, value, default):
    words = (f"{name} is {value}", f"{switch} is false", f"set {switch} to true", f"leave {name} at {default}")
    return agent, {name: value}, words


SOFT = {"munchausen": True}
RIQN = "recurrent_iqn"
COMBINATIONS = [
    unused("dqn", "prioritized", "priority_exponent", 0.7, 0.6),
    *(unused(a, "prioritized", "priority_exponent", 0.7, 0.9) for a in ("drqn", RIQN)),
    unused("iqn", "prioritized", "priority_beta", 0.7, 0.4),
    unused("qr_dqn", "prioritized", "priority_beta_final", 0.7, 1.0),
    unused("c51", "prioritized", "priority_error", "loss", "td"),
    *(unused(a, "prioritized", "priority_eta", 0.7, 0.9) for a in ("drqn", RIQN)),
    unused("apex_dpg", "prioritized", "evict_exponent", -1.0, -0.4),
    unused("apex_dpg", "prioritized", "actor_priorities", False, True),
    unused("apex_dpg", "prioritized", "priority_exponent", 0.7, 0.6),
    ("rainbow", {"prioritized": False, "priority_exponent": 0.6}, ("leave priority_exponent at 0.5",)),
    *(unused(a, "noisy", "noisy_sigma", 0.1, 0.5) for a in ("dqn", "c51", "qr_dqn", "iqn")),
    ("rainbow", {"noisy": False, "noisy_sigma": 0.1}, ("noisy_sigma is 0.1", "noisy is false")),
    *(unused(a, "dueling", "dueling_rescale", True, False) for a in ("dqn", "c51", "qr_dqn", "iqn", "noisy_dqn")),
    ("rainbow", {"dueling": False, "dueling_rescale": True}, ("dueling_rescale is True", "dueling is false")),
    *(unused(a, "munchausen", "munchausen_alpha", 0.5, 0.9) for a in ("dqn", "iqn")),
    unused("dqn", "munchausen", "munchausen_temperature", 0.1, 0.03),
    *(
        (a, {"munchausen": True, "munchausen_lowest": 0.1}, ("munchausen_lowest is 0.1", "0 or less"))
        for a in ("dqn", "iqn")
    ),
    unused("noisy_dqn", "munchausen", "munchausen_lowest", -2.0, -1.0),
    *(
        (a, {**SOFT, **setting}, ("munchausen is true", f"{name} is", f"set {name} to", "munchausen to false"))
        for a in ("dqn", "noisy_dqn", "iqn")
        for name, setting in {
            "n_step": {"n_step": 3},
            "double": {"double": True},
            "rescale_epsilon": {"rescale_epsilon": 1e-3, "clip_rewards": "none"},
        }.items()
    ),
    *(
        (
            a,
            {"rescale_epsilon": 1e-3, "clip_rewards": clip},
            ("rescale_epsilon", f"'{clip}'", "set clip_rewards to none"),
        )
        for a in ("dqn", "c51", "r2d2", RIQN)
        for clip in ("sign", "clip")
    ),
    *((a, {"lowest_value": 10.0}, ("lowest_value is 10", "highest_value 10", "lower")) for a in ("c51", "rainbow")),
    ("c51", {"highest_value": -20.0}, ("lowest_value is -10", "highest_value -20")),
    *((a, {"risk_level": 0.5}, ("risk_level is 0.5", "risk is 'neutral'", "leave risk_level")) for a in ("iqn", RIQN)),
    *(("iqn", {"risk": "cvar", "risk_level": v}, ("risk_level is", "risk is 'cvar'", "at most 1")) for v in (0.0, 1.5)),
    *(
        (a, {"memory": "none", "prioritized": False}, ("memory is none", "sequence_length is 6", "set it to 1"))
        for a in ("drqn", "r2d2", RIQN)
    ),
    ("drqn", {"prioritized": True}, ("prioritized is true", "'episode'", "set prioritized to false")),
    ("r2d2", {"start_state": "whole"}, ("prioritized is true", "start_state 'whole'", "set prioritized to false")),
    ("drqn", {"start_state": "stored"}, ("start_state is 'stored'", "'episode'", "start_state to zero")),
    ("drqn", {"start_state": "zero+burn_in"}, ("start_state is 'zero+burn_in'", "sequences to within")),
    ("drqn", {"refresh": 1.0}, ("refresh is 1.0", "start_state is 'zero'", "refresh to 0")),
    (RIQN, {"memory": "none", "sequence_length": 1, "refresh": 1.0}, ("refresh is 1.0", "memory is none", "to 0")),
    ("r2d2", {"refresh": 1.0, "start_state": "zero+burn_in"}, ("refresh is 1.0", "start_state to stored")),
    *((a, {"state_period": 7}, ("state_period is 7", "sequence_length 6", "at most")) for a in ("drqn", "r2d2", RIQN)),
    *(
        (RIQN, {"memory": "none", "sequence_length": 1, "quantile_layer": v}, ("quantile_layer", v, "to after"))
        for v in ("outer", "inner", "separate")
    ),
    *(
        (a, {"epsilon_floor": floor}, (f"epsilon_floor is {floor}", "epsilon_start is 0.4", "set epsilon_floor below"))
        for a in ("apex_dqn", "r2d2", RIQN)
        for floor in (0.4, 0.9)
    ),
    (RIQN, {"quantile_layer": "inner", "target_samples": 3}, ("quantile_layer", "inner", "target_samples")),
    (RIQN, {"quantile_layer": "outer", "action_samples": 3}, ("quantile_layer", "outer", "action_samples")),
    (RIQN, {"quantile_layer": "outer", "risk": "cvar"}, ("risk is 'cvar'", "'outer'", "risk to neutral")),
    *(
        (RIQN, {"quantile_layer": "separate", "start_state": v}, ("separate", f"start_state is {v}", "set start_state"))
        for v in ("zero", "zero+burn_in", "whole")
    ),
]


@pytest.mark.parametrize(("agent", "changes", "words"), COMBINATIONS)
def test_a_combination_that_makes_no_sense_is_refused(agent, changes, words):
    with pytest.raises(UserError) as error:
        small(agent, **off(agent, changes))
    text = sentence(error)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("agent", algorithms.DISCRETE)
@pytest.mark.parametrize(
    ("changes", "spec", "words"),
    [
        ({"stack": 4}, VECTOR, ("stack is 4", "Numbers-v0", "set stack to 1")),
        (
            {"torso": "nature"},
            replace(FRAMES, observation={"obs": replace(FRAME, shape=(1, 10, 10))}),
            ("torso is nature", "(1, 10, 10)", "auto"),
        ),
    ],
)
def test_a_setting_that_does_not_fit_the_environment_is_refused(agent, changes, spec, words):
    with pytest.raises(UserError) as error:
        MODULES[agent].make(small(agent, **changes), spec)
    text = sentence(error)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("agent", CONTINUOUS)
def test_a_policy_takes_no_images(agent):
    seen = REACH.observation | FRAMES.observation | {"more": FRAME}
    with pytest.raises(UserError) as error:
        MODULES[agent].make(small(agent), replace(REACH, observation=seen))
    assert "observation 'obs' of Reach-v0 is an image; give numbers" in sentence(error)


USEFUL = [
    ("apex_dpg", {"prioritized": False, "actor_clip": "param", "squash": "clip", "action_layer": 1}),
    ("apex_dpg", {"actor_priorities": False, "evict_exponent": 0.0, "action_noise": 0.0, "precision": "bf16"}),
    ("dqn", {"double": True, "dueling": True, "prioritized": True, "n_step": 3, "noisy": True}),
    ("dqn", {"munchausen": True, "dueling": True, "noisy": True, "prioritized": True, "priority_error": "loss"}),
    ("dqn", {"rescale_epsilon": 1e-3, "clip_rewards": "none", "regression": "squared", "precision": "bf16"}),
    ("c51", {"rescale_epsilon": 1e-3, "clip_rewards": "none", "double": True}),
    ("qr_dqn", {"kappa": 0.0, "quantiles": 1, "noisy": True, "dueling": True}),
    ("iqn", {"munchausen": True, "risk": "wang", "risk_level": -0.75, "noisy": True}),
    ("rainbow", {"noisy": False, "epsilon_start": 1.0, "prioritized": False, "double": False, "dueling": False}),
    ("drqn", {"start_state": "whole", "double": True, "n_step": 3}),
    ("drqn", {"sequences": "within", "start_state": "stored", "prioritized": True, "refresh": 1.0}),
    ("r2d2", {"memory": "none", "sequence_length": 1}),
    ("r2d2", {"sequences": "any", "start_state": "zero+burn_in", "clip_rewards": "clip", "rescale_epsilon": 0.0}),
    (RIQN, {"start_state": "stored+burn_in", "quantile_layer": "inner", "prioritized": True, "double": False}),
    (RIQN, {"memory": "none", "sequence_length": 1, "prioritized": True, "stack": 4, "n_step": 3}),
    (RIQN, {"start_state": "zero+burn_in", "quantile_layer": "outer", "sequences": "within"}),
    (RIQN, {"risk": "cvar", "risk_level": 1.0, "refresh": 0.5}),
    (RIQN, {"epsilon_floor": 0.4, "num_envs": 1}),
    ("r2d2", {"epsilon_start": 0.0, "epsilon_final": 0.0}),
    (RIQN, {"epsilon_floor": 0.4, "epsilon_final": 0.5}),
]


@pytest.mark.parametrize(("agent", "changes"), USEFUL)
def test_useful_combinations_work_together(agent, changes):
    assert MODULES[agent].make(small(agent, **changes), spec_of(agent)).config == small(agent, **changes)
