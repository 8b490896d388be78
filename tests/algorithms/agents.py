"""Small agents of every kind, and the environments they are made for."""

from dataclasses import fields, replace
from functools import cache

from retorq import algorithms
from retorq.types import EnvSpec, Leaf

FRAME = Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")
FRAMES = EnvSpec(id="Frames-v0", observation={"obs": FRAME}, actions=6, max_steps=27_000)
GRID = EnvSpec(id="Grid-v0", observation={"obs": Leaf(kind="image", shape=(4, 10, 10), dtype="bool")}, actions=6)
VECTOR = EnvSpec(id="Numbers-v0", observation={"obs": Leaf(kind="vector", shape=(4,), dtype="float32")}, actions=2)

REACH = EnvSpec(
    id="Reach-v0", observation={"obs": replace(VECTOR.observation["obs"], shape=(5,))}, actions=2, continuous=True
)

SIZES = {
    "critic_layers": (9, 8),
    "policy_layers": (8, 7),
    "num_envs": 4,
    "memory_size": 8,
    "hidden_size": 8,
    "samples": 4,
    "cosines": 8,
    "quantiles": 6,
    "atoms": 7,
    "sequence_length": 6,
    "state_period": 3,
    "burn_in": 4,
    "replay_size": 400,
    "bundles": 2,
    "servers": 2,
}
MODULES = {name: algorithms.load(name) for name in algorithms.AGENTS}
RECURRENT = [name for name, module in MODULES.items() if "memory" in {f.name for f in fields(module.Config)}]
CONTINUOUS = [*algorithms.CONTINUOUS]
FEED_FORWARD = [name for name in algorithms.DISCRETE if name not in RECURRENT]


def spec_of(agent):
    """An environment for the agent."""
    return REACH if agent in CONTINUOUS else FRAMES


def names(agent):
    """The fields of an agent's Config."""
    return [field.name for field in fields(MODULES[agent].Config)]


def change(config, settings):
    """The Config with those of the settings that it has."""
    there = {f.name for f in fields(config)}
    settings = {k: v for k, v in settings.items() if k in there and getattr(config, k) != v}
    return replace(config, **settings) if settings else config


@cache
def _base(agent):
    return change(MODULES[agent].Config(), SIZES)


def small(agent, **settings):
    """The published Config in a small size, and with other settings, all of which it must have."""
    return replace(_base(agent), **settings) if settings else _base(agent)


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


def picture(agent):
    """Everything of an agent but its Config and its random weights, as text."""
    shapes = {name: tuple(p.shape) for name, p in agent.network.state_dict().items()}
    noise = {
        name: float(p.detach().flatten()[0]) for name, p in agent.network.named_parameters() if name.endswith("_sigma")
    }
    plain = {f.name: getattr(agent, f.name) for f in fields(agent) if f.name not in ("config", "network")}
    for name in ("learner", "replay"):
        part = plain.pop(name)
        plain[name] = {k: v for k, v in part.keywords.items() if k != "initial_state"} | {"args": part.args[1:]}
    modules = (head(agent), *head(agent).children())
    own = [{k: v for k, v in vars(module).items() if not k.startswith("_")} for module in modules]
    return repr((shapes, noise, repr(agent.network), own, agent.network.extras, plain))
