"""Every setting of every agent reaches the part it is for; the published ones are the defaults of each page."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_origin, get_type_hints

import pytest
import torch
from tests.algorithms.agents import (
    FEED_FORWARD,
    FRAMES,
    GRID,
    MODULES,
    RECURRENT,
    VECTOR,
    change,
    extra_inputs,
    first_convolution,
    head,
    learner,
    loss,
    names,
    picture,
    replay,
    small,
    spec_of,
)

from retorq import algorithms
from retorq.acting.explore import Ladder, Linear
from retorq.algorithms import checks
from retorq.algorithms.unused import unused
from retorq.losses.munchausen import Munchausen
from retorq.nn.cores import LSTM, QuantileLSTM, Stateless
from retorq.ops.risk import Risk
from retorq.types import UserError


@dataclass(frozen=True)
class Setting:
    """Values to try (the first that is no default), what must have become of one, and what else must be set."""

    values: tuple[Any, ...]
    arrived: Callable[[Any, Any], bool]
    before: dict[str, Any] = field(default_factory=dict)
    """Other settings of the agent without and of that with the value, where it has them."""
    along: dict[str, Any] = field(default_factory=dict)
    """Settings that must change with it."""


SWITCH = (True, False)
WITHIN = {"sequences": "within", "start_state": "stored"}
BY_PRIORITY = {"prioritized": True, **WITHIN}
SOFT = {"munchausen": True}
NOISY = {"noisy": True}
EXTRAS = 6  # one-hot actions


def is_(get):
    return lambda agent, value: get(agent) == value


def _loss(name):
    return is_(lambda agent: getattr(loss(agent), name))


def _explore(name):
    return is_(lambda agent: getattr(agent.explore, name))


_decay_steps = is_(lambda agent: getattr(agent.explore, "steps", None) or getattr(agent.explore, "uniform_steps", None))


def _priority(name):
    return is_(lambda agent: getattr(replay("priorities")(agent), name))


def _extra(name, size):
    def arrived(agent, value):
        extras = agent.network.extras
        return getattr(extras, name) is value and extra_inputs(agent) == extras.size and (extras.size >= size) >= value

    return arrived


def _clipped(agent, value):
    return loss(agent).clip == value and (not agent.network.recurrent or agent.network.extras.clip == value)


def _clipped_policy(agent, value):
    bounds = loss(agent).clip, learner("apart")(agent).clip
    return bounds == ((1.0, None) if value == "dqda" else (None, 1.0))


def _started(agent, value):
    start = replay("start")(agent), replay("draw")(agent) == "walk", loss(agent).carry
    return start == ("stored" if value.startswith("stored") else "zero", value == "whole", value == "whole")


def _first_priorities(agent, value):
    return (agent.tell_values, agent.layout.values, replay("first_errors")(agent) is not None) == (value,) * 3


def _served(name):
    """At the learner, and at the parameter servers where there are any."""

    def arrived(agent, value):
        return learner(name)(agent) == value and (agent.bundles is None or getattr(agent.bundles, name) == value)

    return arrived


def _widths(layers):
    return tuple(m.out_features for m in layers if isinstance(m, torch.nn.Linear))


def _placed(agent, value):
    core = agent.network.core
    return isinstance(core, QuantileLSTM) and core.merge == value and head(agent).embedding is None


def _noise(agent, value):
    layers = [m for m in agent.network.modules() if hasattr(m, "weight_sigma")]
    return len(layers) > 1 and all(
        torch.allclose(m.weight_sigma, torch.tensor(value / m.weight.shape[1] ** 0.5)) for m in layers
    )


SETTINGS = {
    "num_envs": Setting((6,), lambda a, v: {a.columns, replay("columns")(a), a.explore.columns} == {v}),
    "action_noise": Setting((0.1,), _explore("deviation")),
    "epsilon_start": Setting((0.7,), _explore("start")),
    "epsilon_final": Setting((0.2,), _explore("final")),
    "epsilon_steps": Setting((123,), _decay_steps),
    "epsilon_floor": Setting((0.003,), _explore("floor")),
    "epsilon_exponent": Setting((3.0,), _explore("exponent")),
    "epsilon_fraction": Setting((0.9,), _explore("fraction")),
    "torso": Setting(("compact",), lambda a, v: first_convolution(a).out_channels == 16),
    "torso_hidden": Setting(
        ((11, 7),), lambda a, v: _widths(a.network.torso.layers) == v and a.network.torso.size == 7
    ),
    "torso_norm": Setting(
        (True,), lambda a, v: isinstance(a.network.torso.layers[-1], torch.nn.LayerNorm), {"torso_hidden": (4,)}
    ),
    "center_images": Setting((True,), is_(lambda a: a.network.centered)),
    "stack": Setting(
        (2,), lambda a, v: {a.stack, replay("stack")(a), first_convolution(a).in_channels, a.window.margin + 1} == {v}
    ),
    "memory": Setting(
        ("none",), lambda a, v: type(a.network.core) is Stateless and a.layout.state == {}, {}, {"sequence_length": 1}
    ),
    "memory_size": Setting(
        (9,), lambda a, v: a.network.core.size == v and a.layout.state == dict.fromkeys(("h", "c"), (v,))
    ),
    "last_action": Setting(SWITCH, _extra("action", EXTRAS)),
    "last_reward": Setting(SWITCH, _extra("reward", 1)),
    "elapsed_time": Setting(SWITCH, _extra("time", 1)),
    "quantile_layer": Setting(("separate",), _placed),
    "samples": Setting((3,), is_(lambda a: head(a).samples)),
    "target_samples": Setting((5,), _loss("target_samples")),
    "action_samples": Setting((7,), lambda a, v: loss(a).action_samples == a.action_samples == v),
    "cosines": Setting((16,), is_(lambda a: head(a).embedding.linear.in_features)),
    "quantiles": Setting((5,), is_(lambda a: head(a).quantiles)),
    "atoms": Setting((11,), is_(lambda a: head(a).atoms)),
    "lowest_value": Setting((-3.0,), is_(lambda a: head(a).low)),
    "highest_value": Setting((4.0,), is_(lambda a: head(a).high)),
    "risk": Setting(("power",), is_(lambda a: head(a).risk and head(a).risk.kind)),
    "risk_level": Setting((0.5,), lambda a, v: head(a).risk == Risk("cvar", v), {"risk": "cvar"}),
    "hidden_size": Setting((12,), is_(lambda a: head(a).streams.advantage.weight.shape[1])),
    "critic_layers": Setting(((11, 7),), lambda a, v: _widths(head(a).critic.children()) == (*v, 1)),
    "policy_layers": Setting(((11, 7),), lambda a, v: _widths(head(a).policy.children()) == (*v, 2)),
    "second_activation": Setting(("tanh",), lambda a, v: head(a).policy.activation == head(a).critic.activation == v),
    "action_layer": Setting((1,), is_(lambda a: head(a).critic.action_layer)),
    "squash": Setting(("clip",), is_(lambda a: head(a).policy.squash)),
    "dueling": Setting(SWITCH, lambda a, v: head(a).streams.dueling is v is hasattr(head(a).streams, "value")),
    "dueling_rescale": Setting(SWITCH, is_(lambda a: head(a).streams.rescale), {"dueling": True}),
    "noisy": Setting(SWITCH, is_(lambda a: a.network.noisy)),
    "noisy_sigma": Setting((0.3,), _noise, NOISY),
    "batch_size": Setting((7,), lambda a, v: a.batch_size == v and a.rows_per_update == v * a.window.length),
    "sequence_length": Setting((8,), lambda a, v: loss(a).length == a.window.length == v),
    "burn_in": Setting(
        (2,),
        lambda a, v: loss(a).burn_in == a.window.burn_in == replay("window")(a).burn_in == v,
        {"sequences": "within", "start_state": "stored+burn_in"},
    ),
    "sequences": Setting(
        ("any", "within"),
        lambda a, v: (a.window.within, replay("window")(a).within, loss(a).within) == (v != "any",) * 3,
    ),
    "start_state": Setting(("zero", "whole"), _started),
    "state_period": Setting((2,), lambda a, v: a.window.period == a.layout.period == replay("window")(a).period == v),
    "refresh": Setting((0.5,), is_(lambda a: a.refresh), WITHIN),
    "n_step": Setting((4,), lambda a, v: loss(a).n == a.window.ahead == v),
    "gamma": Setting((0.9,), _loss("gamma")),
    "double": Setting(SWITCH, _loss("double")),
    "kappa": Setting((0.5,), _loss("kappa")),
    "regression": Setting(
        ("squared", "huber"), lambda a, v: loss(a).kappa == {"squared": float("inf"), "huber": 1.0}[v]
    ),
    "clip_rewards": Setting(("none", "sign"), _clipped, {"rescale_epsilon": 0.0}),
    "rescale_epsilon": Setting((1e-2,), _loss("rescale"), {"clip_rewards": "none"}),
    "munchausen": Setting((True,), lambda a, v: isinstance(loss(a), Munchausen)),
    "munchausen_alpha": Setting((0.5,), _loss("alpha"), SOFT),
    "munchausen_temperature": Setting((0.1,), _loss("temperature"), SOFT),
    "munchausen_lowest": Setting((-2.0,), _loss("lowest"), SOFT),
    "optimizer": Setting(("rmsprop", "adam"), _served("optimizer")),
    "learning_rate": Setting((1e-2,), _served("learning_rate")),
    "policy_learning_rate": Setting((1e-2,), is_(lambda a: learner("apart")(a).learning_rate)),
    "actor_clip": Setting(("param",), _clipped_policy),
    "anneal_learning_rate": Setting(SWITCH, is_(learner("anneal"))),
    "optimizer_epsilon": Setting((1e-2,), _served("optimizer_epsilon")),
    "clip_gradient": Setting((3.0,), is_(learner("clip_gradient"))),
    "target_period": Setting((9,), _served("target_period")),
    "time_reduction": Setting(("sum", "mean"), is_(learner("time_reduction"))),
    "replay_size": Setting((500,), lambda a, v: a.capacity == replay("capacity")(a) == v),
    "replay_ratio": Setting((2.0,), is_(lambda a: a.samples_per_step)),
    "warmup": Setting((60,), lambda a, v: a.warmup == getattr(a.explore, "warmup", a.warmup) == v),
    "prioritized": Setting(SWITCH, lambda a, v: (replay("priorities")(a) is not None) is v, WITHIN),
    "priority_exponent": Setting((0.8,), _priority("exponent"), BY_PRIORITY),
    "priority_beta": Setting((0.7,), _priority("beta"), BY_PRIORITY),
    "priority_beta_final": Setting((0.75,), _priority("beta_final"), BY_PRIORITY),
    "priority_error": Setting(("loss",), _loss("error"), BY_PRIORITY),
    "evict_exponent": Setting((-1.0,), _priority("evict")),
    "priority_eta": Setting((0.5,), _priority("eta"), BY_PRIORITY),
    "actor_priorities": Setting(SWITCH, _first_priorities, BY_PRIORITY),
    "trim_period": Setting((7, 0), lambda a, v: a.trim_period == v and (replay("surplus")(a) > 0) is (v > 0)),
    "precision": Setting(("bf16",), lambda a, v: learner("precision")(a) == a.precision == v),
    "cuda_graph": Setting((True,), is_(learner("cuda_graph"))),
    "publish_period": Setting((3,), is_(lambda a: a.publish_period)),
    "bundles": Setting((1,), is_(lambda a: a.bundles.count)),
    "servers": Setting((3,), is_(lambda a: a.bundles.servers)),
    "max_staleness": Setting((7,), is_(lambda a: a.bundles.max_staleness)),
    "outlier_deviations": Setting((2.5,), is_(lambda a: a.bundles.outlier_deviations)),
    "outlier_warmup": Setting((17,), is_(lambda a: a.bundles.outlier_warmup)),
}
PAIRS = [(agent, name) for agent in MODULES for name in names(agent)]


def test_every_field_of_every_agent_is_in_the_table():
    assert {name for _, name in PAIRS} == set(SETTINGS)


@pytest.mark.parametrize(("agent", "name"), PAIRS)
def test_every_field_reaches_its_part(agent, name):
    module, setting = MODULES[agent], SETTINGS[name]
    base = change(small(agent), setting.before)
    value = next(v for v in setting.values if v != getattr(base, name))
    changed = replace(base, **{name: value}, **setting.along)
    before, after = (module.make(config, spec_of(agent)) for config in (base, changed))
    assert setting.arrived(after, value)
    assert not setting.arrived(before, value)
    assert picture(before) != picture(after)


@pytest.mark.parametrize("agent", MODULES)
def test_an_agent_is_its_settings(agent):
    one, other = (MODULES[agent].make(small(agent), spec_of(agent)) for _ in range(2))
    assert picture(one) == picture(other)
    assert one.name == agent
    assert one.config == small(agent)


@pytest.mark.parametrize("agent", [name for name in MODULES if "munchausen" in names(name)])
def test_munchausen_targets_take_the_other_settings_too(agent):
    settings = {"gamma": 0.9, "clip_rewards": "sign", "prioritized": True, "priority_error": "loss"}
    kind = {"samples": 3, "target_samples": 5, "action_samples": 7, "kappa": 0.5, "regression": "squared"}
    config = change(small(agent, munchausen=True, **settings), kind)
    quantiles = agent == "iqn"
    assert loss(MODULES[agent].make(config, FRAMES)) == Munchausen(
        gamma=0.9,
        clip="sign",
        error="loss",
        kappa=0.5 if quantiles else float("inf"),
        target_samples=5 if quantiles else None,
        action_samples=7 if quantiles else None,
    )


@pytest.mark.parametrize("agent", RECURRENT)
@pytest.mark.parametrize("start", ["whole", "zero", "stored", "zero+burn_in", "stored+burn_in"])
@pytest.mark.parametrize("sequences", ["any", "within", "episode"])
def test_what_a_sequence_is_and_where_its_memory_starts(agent, sequences, start):
    asked = {"sequences": sequences, "start_state": start, "prioritized": False}
    if sequences == "episode" and start not in ("whole", "zero"):
        with pytest.raises(UserError):
            small(agent, **asked)
        return
    made = MODULES[agent].make(small(agent, **asked), FRAMES)
    whole, burn_in = start == "whole", 4 if start.endswith("burn_in") else 0
    assert replay("draw")(made) == ("walk" if whole else "episode" if sequences == "episode" else "row")
    assert replay("start")(made) == ("stored" if start.startswith("stored") else "zero")
    assert loss(made).carry is whole
    assert made.window.within is loss(made).within is (sequences != "any" or whole)
    assert made.window.burn_in == loss(made).burn_in == burn_in
    assert made.layout.state == {"h": (8,), "c": (8,)}  # stored whatever the start, for the discrepancy
    idle = unused(made.config, FRAMES)
    assert ("burn_in" in idle) is (burn_in == 0)
    assert ("sequences" in idle) is whole


@pytest.mark.parametrize("agent", RECURRENT)
def test_without_memory_the_settings_of_sequences_do_nothing_and_it_says_so(agent):
    off = {"memory": "none", "sequence_length": 1, "prioritized": False}
    plain = MODULES[agent].make(small(agent, **off), FRAMES)
    other = "whole" if agent == "drqn" else "stored" if agent == "r2d2" else "stored+burn_in"
    without = {"memory_size": 99, "sequences": "within", "start_state": other, "burn_in": 7, "state_period": 9}
    assert picture(plain) == picture(MODULES[agent].make(small(agent, **off, **without), FRAMES))
    assert (
        plain.window == MODULES["dqn"].make(small("dqn", n_step=plain.window.ahead, stack=plain.stack), FRAMES).window
    )
    assert without.keys() <= unused(plain.config, FRAMES).keys()
    assert plain.notes == ()


@pytest.mark.parametrize("agent", RECURRENT)
@pytest.mark.parametrize(("max_steps", "scale"), [(27_000, 27_000.0), (None, 100_000.0)])
def test_time_is_scaled_by_the_episode_cap(agent, max_steps, scale):
    made = MODULES[agent].make(small(agent, elapsed_time=True), replace(FRAMES, max_steps=max_steps))
    assert made.network.extras.time_scale == scale


@pytest.mark.parametrize("quantile_layer", ["outer", "inner", "separate"])
def test_samples_and_cosines_reach_a_quantile_layer_before_the_memory(quantile_layer):
    config = small("recurrent_iqn", quantile_layer=quantile_layer, samples=3, cosines=5)
    made = MODULES["recurrent_iqn"].make(config, FRAMES)
    core = made.network.core
    assert isinstance(core, QuantileLSTM)
    assert (core.merge, core.samples, core.embedding.linear.in_features) == (quantile_layer, 3, 5)
    states = {"h": (3, 8), "c": (3, 8), "fractions": (3,)} if quantile_layer == "separate" else {"h": (8,), "c": (8,)}
    assert made.layout.state == states


LADDERS = [name for name in MODULES if "epsilon_floor" in names(name)]


@pytest.mark.parametrize("agent", LADDERS)
def test_one_environment_has_a_linear_decay_and_says_so(agent):
    made = MODULES[agent].make(small(agent, num_envs=1, epsilon_floor=0.005, warmup=50), FRAMES)
    assert made.explore == Linear(columns=1, final=0.01, warmup=50)
    assert "falls linearly from 1 to 0.01" in made.notes[0]
    assert "epsilon_fraction" in unused(made.config, FRAMES)
    assert isinstance(MODULES[agent].make(small(agent, num_envs=2), FRAMES).explore, Ladder)


@pytest.mark.parametrize("agent", algorithms.DISCRETE)
def test_the_published_network(agent):
    made = MODULES[agent].make(MODULES[agent].atari(), FRAMES)
    layers = [m for m in made.network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    assert made.network.torso.size == 3136
    assert type(made.network.core) is (LSTM if agent in RECURRENT else Stateless)
    streams = head(made).streams
    assert streams.advantage.weight.shape[1] == 512
    assert (streams.hidden is None) is (agent == "drqn")
    biases = torch.cat([m.bias for m in layers])
    assert bool(biases.any()) is (agent in FEED_FORWARD)  # the others start from zero
    noisy = {"noisy_dqn", "rainbow"}
    assert made.network.noisy is (agent in noisy)
    first = 0.4 if agent in LADDERS else 0.0 if agent in noisy else 1.0
    assert float(made.explore.epsilon(0, 1000).max()) == first


FITS = {  # preset: the specs it fits, without memory (4 stacked images) and with
    "atari": ({"Frames-v0", "Grid-v0"}, {"Frames-v0", "Grid-v0", "Numbers-v0"}),
    "laptop": ({"Frames-v0"}, {"Frames-v0", "Numbers-v0"}),
    "minatar": ({"Frames-v0", "Grid-v0", "Numbers-v0"},) * 2,
    "toy": ({"Frames-v0", "Grid-v0", "Numbers-v0"},) * 2,
}


@pytest.mark.parametrize("spec", [FRAMES, GRID, VECTOR], ids=lambda spec: spec.id)
@pytest.mark.parametrize("preset", FITS)
@pytest.mark.parametrize("agent", algorithms.DISCRETE)
def test_presets_make_agents_or_say_what_does_not_fit(agent, preset, spec):
    module = MODULES[agent]
    assert list(module.PRESETS) == list(FITS)
    config = module.PRESETS[preset]()
    fits = spec.id in FITS[preset][agent in RECURRENT] and not (config.stack > 1 and spec is VECTOR)
    if not fits:
        with pytest.raises(UserError, match=r"^(stack|torso) is .*; set (stack|torso) to (1|auto)\.$"):
            module.make(config, spec)
        return
    made = module.make(config, spec)
    assert made.spec is spec
    assert made.capacity >= made.columns * made.window.rows
    assert ("torso" in unused(config, spec)) is (config.torso != "auto" and spec is VECTOR)


def test_every_field_has_exactly_one_range_rule():
    rules = (checks.AT_LEAST_ONE, checks.NOT_NEGATIVE, checks.POSITIVE, checks.SHARES, checks.SIZES, checks.OWN)
    everything = set()
    for agent, module in MODULES.items():
        hints = get_type_hints(module.Config)
        for name in names(agent):
            chosen = hints[name] is bool or (get_origin(hints[name]) is not None and "Literal" in str(hints[name]))
            assert chosen + sum(name in rule for rule in rules) == 1, (agent, name)
            everything.add(name)
    assert frozenset().union(*rules) <= everything
