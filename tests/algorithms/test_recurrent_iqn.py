"""Recurrent IQN's settings: each reaches its part, the published ones are the defaults, nonsense is refused."""

from dataclasses import asdict, fields, replace

import pytest
import torch

from retorq.acting.explore import Ladder, Linear
from retorq.algorithms.recurrent_iqn import PRESETS, Config, atari, make
from retorq.nn.cores import LSTM, Stateless
from retorq.types import EnvSpec, Leaf, UserError

FRAME = Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")
SPEC = EnvSpec(id="Frames-v0", observation={"obs": FRAME}, actions=6, max_steps=27_000)
VECTOR = EnvSpec(id="Numbers-v0", observation={"obs": Leaf(kind="vector", shape=(4,), dtype="float32")}, actions=2)
SMALL = Config(
    num_envs=4, memory_size=8, hidden_size=8, samples=4, cosines=8, sequence_length=6, state_period=3, replay_size=400
)


def loss(agent):
    return agent.learner.args[1]


def learner(name):
    return lambda agent: agent.learner.keywords[name]


def replay(name):
    return lambda agent: agent.replay.keywords[name]


def head(agent):
    return agent.network._head


def extra_inputs(agent):
    """Inputs of the memory that are not the torso's."""
    return agent.network.core.weight_input.shape[1] - agent.network.torso.size


def first_convolution(agent):
    return agent.network.torso.images["obs"].layers[0]


def core(agent):
    kinds = {Stateless: "none", LSTM: "after"}
    return kinds.get(type(agent.network.core)) or agent.network.core.merge


# field: (value away from the default, what it must have become in the agent, what else must be set)
FIELDS = {
    "num_envs": (5, lambda a: {a.columns, replay("columns")(a), a.explore.columns} == {5}, {}),
    "epsilon_start": (0.7, lambda a: a.explore.start == 0.7, {}),
    "epsilon_final": (0.2, lambda a: a.explore.final == 0.2, {}),
    "epsilon_floor": (0.003, lambda a: a.explore.floor == 0.003, {}),
    "epsilon_exponent": (3.0, lambda a: a.explore.exponent == 3, {}),
    "epsilon_fraction": (0.9, lambda a: a.explore.fraction == 0.9, {}),
    "epsilon_uniform_steps": (77, lambda a: a.explore.uniform_steps == 77, {}),
    "torso": ("compact", lambda a: first_convolution(a).out_channels == 16, {}),
    "torso_hidden": ((11, 7), lambda a: a.network.torso.size == 7 == a.network.core.weight_input.shape[1] - 8, {}),
    "torso_norm": (True, lambda a: isinstance(a.network.torso.layers[-1], torch.nn.LayerNorm), {"torso_hidden": (4,)}),
    "center_images": (True, lambda a: a.network.centered, {}),
    "stack": (
        4,
        lambda a: {a.stack, replay("stack")(a), first_convolution(a).in_channels, a.window.margin + 1} == {4},
        {},
    ),
    "memory": ("none", lambda a: core(a) == "none" and a.layout.state == {}, {"sequence_length": 1}),
    "memory_size": (9, lambda a: a.network.core.size == 9 and a.layout.state == {"h": (9,), "c": (9,)}, {}),
    "last_action": (False, lambda a: extra_inputs(a) == 2 and not a.network.extras.action, {}),
    "last_reward": (False, lambda a: extra_inputs(a) == 7 and not a.network.extras.reward, {}),
    "elapsed_time": (False, lambda a: extra_inputs(a) == 7 and not a.network.extras.time, {}),
    "quantile_layer": ("separate", lambda a: core(a) == "separate" and head(a).embedding is None, {}),
    "samples": (3, lambda a: head(a).samples == 3, {}),
    "target_samples": (5, lambda a: loss(a).target_samples == 5, {}),
    "action_samples": (6, lambda a: loss(a).action_samples == a.action_samples == 6, {}),
    "cosines": (16, lambda a: head(a).embedding.linear.in_features == 16, {}),
    "hidden_size": (12, lambda a: head(a).streams.advantage.in_features == 12, {}),
    "dueling": (False, lambda a: not head(a).streams.dueling, {}),
    "batch_size": (7, lambda a: a.batch_size == 7 and a.rows_per_update == 42, {}),
    "sequence_length": (8, lambda a: loss(a).length == a.window.length == 8, {}),
    "burn_in": (3, lambda a: loss(a).burn_in == a.window.burn_in == 3, {}),
    "n_step": (4, lambda a: loss(a).n == a.window.ahead == 4, {}),
    "gamma": (0.9, lambda a: loss(a).gamma == 0.9, {}),
    "double": (False, lambda a: loss(a).double is False, {}),
    "kappa": (0.5, lambda a: loss(a).kappa == 0.5, {}),
    "clip_rewards": ("none", lambda a: loss(a).clip == a.network.extras.clip == "none", {}),
    "rescale_epsilon": (1e-3, lambda a: loss(a).rescale == 1e-3, {"clip_rewards": "none"}),
    "learning_rate": (1e-2, lambda a: learner("learning_rate")(a) == 1e-2, {}),
    "anneal_learning_rate": (False, lambda a: learner("anneal")(a) is False, {}),
    "adam_epsilon": (1e-3, lambda a: learner("optimizer_epsilon")(a) == 1e-3, {}),
    "clip_gradient": (10.0, lambda a: learner("clip_gradient")(a) == 10, {}),
    "target_period": (9, lambda a: learner("target_period")(a) == 9, {}),
    "time_reduction": ("sum", lambda a: learner("time_reduction")(a) == "sum", {}),
    "replay_size": (500, lambda a: a.capacity == replay("capacity")(a) == 500, {}),
    "replay_ratio": (2.0, lambda a: a.samples_per_step == 2, {}),
    "warmup": (60, lambda a: a.warmup == a.explore.warmup == 60, {}),
    "start_state": ("zero", lambda a: replay("start")(a) == "zero", {}),
    "state_period": (2, lambda a: a.window.period == a.layout.period == replay("window")(a).period == 2, {}),
    "prioritized": (True, lambda a: replay("priorities")(a) is not None, {}),
    "priority_exponent": (0.9, lambda a: replay("priorities")(a).exponent == 0.9, {"prioritized": True}),
    "priority_beta": (0.7, lambda a: replay("priorities")(a).beta == 0.7, {"prioritized": True}),
    "priority_eta": (0.5, lambda a: replay("priorities")(a).eta == 0.5, {"prioritized": True}),
    "priority_error": ("loss", lambda a: loss(a).error == "loss", {"prioritized": True}),
    "precision": ("bf16", lambda a: learner("precision")(a) == a.precision == "bf16", {}),
    "cuda_graph": (True, lambda a: learner("cuda_graph")(a) is True, {}),
    "publish_period": (3, lambda a: a.publish_period == 3, {}),
}


def picture(agent):
    """Everything of an agent but its Config and its random weights."""
    shapes = {name: tuple(p.shape) for name, p in agent.network.state_dict().items()}
    plain = {f.name: getattr(agent, f.name) for f in fields(agent) if f.name not in ("config", "network")}
    for name in ("learner", "replay"):
        part = plain.pop(name)
        plain[name] = {k: v for k, v in part.keywords.items() if k != "initial_state"} | {"args": part.args[1:]}
    return repr((shapes, repr(agent.network), head(agent).samples, agent.network.extras, plain))


def test_every_field_is_in_the_table():
    assert list(FIELDS) == [field.name for field in fields(Config)]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_reaches_its_part(name):
    value, arrived, others = FIELDS[name]
    base = replace(SMALL, **others) if name != "memory" else SMALL
    changed = replace(base, **{name: value}, **({} if name != "memory" else others))
    before, after = make(base, SPEC), make(changed, SPEC)
    assert getattr(base, name) != value
    assert arrived(after)
    assert not arrived(before)
    assert picture(before) != picture(after)
    assert picture(before) == picture(make(base, SPEC))


@pytest.mark.parametrize("quantile_layer", ["outer", "inner", "separate"])
def test_samples_and_cosines_reach_a_quantile_layer_before_the_memory(quantile_layer):
    agent = make(replace(SMALL, quantile_layer=quantile_layer, samples=3, cosines=5), SPEC)
    assert core(agent) == quantile_layer
    assert agent.network.core.samples == 3
    assert agent.network.core.embedding.linear.in_features == 5
    states = {"h": (3, 8), "c": (3, 8), "fractions": (3,)} if quantile_layer == "separate" else {"h": (8,), "c": (8,)}
    assert agent.layout.state == states


def test_the_defaults_are_the_published_configuration():
    published = {
        "num_envs": 32,
        "epsilon_start": 0.4,
        "epsilon_final": 0.01,
        "epsilon_floor": 0.01,
        "epsilon_exponent": 7,
        "epsilon_fraction": 0.5,
        "epsilon_uniform_steps": 0,
        "torso": "auto",
        "torso_hidden": (),
        "torso_norm": False,
        "center_images": False,
        "stack": 1,
        "memory": "lstm",
        "memory_size": 512,
        "last_action": True,
        "last_reward": True,
        "elapsed_time": True,
        "quantile_layer": "after",
        "samples": 32,
        "target_samples": None,
        "action_samples": None,
        "cosines": 64,
        "hidden_size": 512,
        "dueling": True,
        "batch_size": 32,
        "sequence_length": 20,
        "burn_in": 0,
        "n_step": 2,
        "gamma": 0.99,
        "double": True,
        "kappa": 1.0,
        "clip_rewards": "sign",
        "rescale_epsilon": 0,
        "learning_rate": 3e-4,
        "anneal_learning_rate": True,
        "adam_epsilon": 1e-5,
        "clip_gradient": 40,
        "target_period": 20_000 * 4 / (32 * 20),
        "time_reduction": "mean",
        "replay_size": 1_000_000,
        "replay_ratio": 4,
        "warmup": 50_000,
        "start_state": "stored",
        "prioritized": False,
        "priority_exponent": 0.6,
        "priority_beta": 0.4,
        "priority_eta": 0.9,
        "priority_error": "td",
    }
    ours = {"state_period": 10, "precision": "fp32", "cuda_graph": False, "publish_period": 1}
    assert asdict(Config()) == published | ours
    assert atari() == Config()
    convolutions = [m for m in make(Config(), SPEC).network.modules() if isinstance(m, torch.nn.Conv2d)]
    layers = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
    assert layers == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spec", [SPEC, VECTOR])
def test_presets_make_agents(preset, spec):
    config = PRESETS[preset]()
    agent = make(config, spec)
    assert agent.spec is spec
    assert bool(agent.notes) == (config.torso != "auto" and spec is VECTOR)
    assert all("shows no image" in note for note in agent.notes)


@pytest.mark.parametrize(("max_steps", "scale"), [(27_000, 27_000.0), (None, 100_000.0)])
def test_time_is_scaled_by_the_episode_cap(max_steps, scale):
    assert make(SMALL, replace(SPEC, max_steps=max_steps)).network.extras.time_scale == scale


def test_one_environment_has_a_linear_decay_and_says_so():
    agent = make(replace(SMALL, num_envs=1, epsilon_final=0.07, warmup=50), SPEC)
    assert agent.explore == Linear(columns=1, final=0.07, warmup=50)
    assert "epsilon_fraction" in agent.notes[0]
    assert "unused" in agent.notes[0]
    assert isinstance(make(replace(SMALL, num_envs=2), SPEC).explore, Ladder)


def test_an_agent_without_memory_says_which_settings_do_nothing():
    agent = make(replace(SMALL, memory="none", sequence_length=1), SPEC)
    assert agent.window.period == 1
    other = make(replace(SMALL, memory="none", sequence_length=1, memory_size=99, state_period=7, start_state="zero"), SPEC)  # fmt: skip  # noqa: E501
    assert picture(agent) == picture(other)
    for name in ("memory_size", "state_period", "start_state"):
        assert name in agent.notes[0]


ONE_OR_MORE = "num_envs stack memory_size samples cosines hidden_size batch_size sequence_length n_step target_period"
ONE_OR_MORE += " replay_size state_period publish_period target_samples action_samples"
ZERO_OR_MORE = "burn_in warmup epsilon_uniform_steps epsilon_exponent rescale_epsilon kappa"
POSITIVE = "learning_rate adam_epsilon clip_gradient replay_ratio"
SHARES = "epsilon_start epsilon_final epsilon_floor epsilon_fraction gamma priority_eta priority_exponent priority_beta"
NUMBERS = [*ONE_OR_MORE.split(), *ZERO_OR_MORE.split(), *POSITIVE.split(), *SHARES.split()]
WHOLE = [f.name for f in fields(Config) if f.type in ("int", "int | None")]
CHOICES = [f.name for f in fields(Config) if f.type.startswith("Literal")]
SWITCHES = [f.name for f in fields(Config) if f.type == "bool"]

OUT_OF_RANGE = [
    *((name, 0, "give at least 1") for name in ONE_OR_MORE.split()),
    *((name, -1, "give at least 0") for name in ZERO_OR_MORE.split()),
    *((name, 0, "give more than 0") for name in POSITIVE.split()),
    *((name, value, "give a number from 0 to 1") for name in SHARES.split() for value in (-0.1, 1.5)),
    *((name, "3", "give a") for name in NUMBERS),
    *((name, True, "give a") for name in NUMBERS),
    *((name, 2.5, "give a whole number") for name in WHOLE),
    *((name, None, "give a") for name in NUMBERS if name not in ("target_samples", "action_samples")),
    *((name, value, "finite") for name in NUMBERS if name not in WHOLE for value in (float("nan"), float("inf"))),
    *((name, value, "give one of") for name in CHOICES for value in ("nonsense", None, 3)),
    *((name, value, "give true or false") for name in SWITCHES for value in (1, "yes", None)),
    *(("torso_hidden", value, "whole numbers of at least 1") for value in (64, (0,), (8, "a"), [8], (1.5,), (True,))),
]


def sentence(error):
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert error.value.exit_code == 2
    return text


def test_every_field_is_checked():
    assert {name for name, _, _ in OUT_OF_RANGE} == set(FIELDS)


@pytest.mark.parametrize(("name", "value", "remedy"), OUT_OF_RANGE)
def test_a_wrong_value_is_one_sentence_with_field_value_and_remedy(name, value, remedy):
    with pytest.raises(UserError) as error:
        replace(SMALL, **{name: value})
    text = sentence(error)
    assert text.startswith((f"{name} is {value!r}", f"{name} is {value}"))
    assert remedy in text


COMBINATIONS = [
    ({"rescale_epsilon": 1e-3}, ("rescale_epsilon", "'sign'", "set clip_rewards to none")),
    ({"rescale_epsilon": 1e-3, "clip_rewards": "clip"}, ("rescale_epsilon", "'clip'", "set clip_rewards to none")),
    *(
        ({"memory": "none", "sequence_length": 1, "quantile_layer": layer}, ("quantile_layer", layer, "to after"))
        for layer in ("outer", "inner", "separate")
    ),
    ({"memory": "none"}, ("memory", "sequence_length 6", "sequence_length to 1")),
    ({"memory": "none", "sequence_length": 1, "burn_in": 2}, ("memory", "burn_in is 2", "set burn_in to 0")),
    ({"quantile_layer": "inner", "target_samples": 3}, ("quantile_layer", "inner", "target_samples")),
    ({"quantile_layer": "outer", "action_samples": 3}, ("quantile_layer", "outer", "action_samples")),
    ({"quantile_layer": "separate", "start_state": "zero"}, ("separate", "start_state is zero", "set start_state")),
    ({"state_period": 7}, ("state_period is 7", "sequence_length 6", "at most")),
    ({"state_period": 7, "start_state": "zero"}, ("state_period is 7", "sequence_length 6", "at most")),
    ({"priority_exponent": 0.7}, ("priority_exponent is 0.7", "prioritized is false", "set prioritized to true")),
    ({"priority_beta": 0.7}, ("priority_beta is 0.7", "prioritized is false", "leave priority_beta at 0.4")),
    ({"priority_eta": 0.7}, ("priority_eta is 0.7", "prioritized is false", "leave priority_eta at 0.9")),
    ({"priority_error": "loss"}, ("priority_error is loss", "prioritized is false", "at td")),
]


@pytest.mark.parametrize(("changes", "words"), COMBINATIONS)
def test_a_combination_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(UserError) as error:
        replace(SMALL, **changes)
    text = sentence(error)
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    ("changes", "spec", "words"),
    [
        ({"stack": 4}, VECTOR, ("stack is 4", "Numbers-v0", "leave stack at 1")),
        (
            {"torso": "nature"},
            replace(SPEC, observation={"obs": replace(FRAME, shape=(1, 10, 10))}),
            ("torso is nature", "(1, 10, 10)", "auto"),
        ),
    ],
)
def test_a_setting_that_does_not_fit_the_environment_is_refused(changes, spec, words):
    with pytest.raises(UserError) as error:
        make(replace(SMALL, **changes), spec)
    text = sentence(error)
    assert all(word in text for word in words)


def test_useful_combinations_work_together():
    make(
        replace(
            SMALL,
            rescale_epsilon=1e-3,
            clip_rewards="none",
            burn_in=4,
            prioritized=True,
            priority_error="loss",
            quantile_layer="inner",
            double=False,
            precision="bf16",
        ),
        SPEC,
    )
    make(replace(SMALL, memory="none", sequence_length=1, prioritized=True, stack=4, n_step=3), SPEC)
    make(replace(SMALL, start_state="zero", burn_in=2, quantile_layer="outer"), VECTOR)
