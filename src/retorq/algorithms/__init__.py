"""The algorithms, by name. Each module has a ``Config``, presets that return one, and ``make(config, spec)``."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from retorq.types import EnvSpec, UserError

AGENTS: dict[str, str] = {
    "recurrent_iqn": "retorq.algorithms.recurrent_iqn",
    "dqn": "retorq.algorithms.dqn",
    "noisy_dqn": "retorq.algorithms.noisy_dqn",
    "c51": "retorq.algorithms.c51",
    "qr_dqn": "retorq.algorithms.qr_dqn",
    "iqn": "retorq.algorithms.iqn",
    "rainbow": "retorq.algorithms.rainbow",
    "drqn": "retorq.algorithms.drqn",
    "r2d2": "retorq.algorithms.r2d2",
    "apex_dqn": "retorq.algorithms.apex_dqn",
    "gorila": "retorq.algorithms.gorila",
    "apex_dpg": "retorq.algorithms.apex_dpg",
}
"""Name of the agent: module that holds it."""
CONTINUOUS = ("apex_dpg",)
"""Agents whose actions are numbers (Box)."""
DISCRETE = tuple(name for name in AGENTS if name not in CONTINUOUS)
"""Agents that choose among actions (Discrete)."""


def load(name: str) -> ModuleType:
    """The module of an agent.

    Raises:
        UserError: There is no agent of that name.
    """
    if name not in AGENTS:
        near = get_close_matches(name, AGENTS, n=1, cutoff=0.0)
        raise UserError(f"agent is {name!r}, which does not exist; perhaps you meant {near[0]!r} (retorq list agents).")
    return importlib.import_module(AGENTS[name])


def require_actions(agent: str, spec: EnvSpec) -> None:
    """Refuse an environment whose actions are not of the agent's kind.

    Raises:
        UserError: They are not.
    """
    if spec.continuous and agent not in CONTINUOUS:
        raise UserError(
            f"the actions of {spec.id} are numbers (a Box), but {agent} chooses among Discrete ones; use --agent "
            f"{' or '.join(CONTINUOUS)}, or wrap the environment with a list of allowed actions."
        )
    if not spec.continuous and agent in CONTINUOUS:
        raise UserError(
            f"{spec.id} has {spec.actions} Discrete actions, but those of {agent} are numbers (a Box); use --agent "
            "apex_dqn, or another of retorq list agents."
        )


def preset(agent: str, name: str) -> Any:
    """The ``Config`` of a preset.

    Raises:
        UserError: There is no agent of that name, or it has no such preset.
    """
    presets = load(agent).PRESETS
    if name not in presets:
        near = get_close_matches(name, presets, n=1, cutoff=0.0)[0]
        raise UserError(f"preset is {name!r}, which {agent} does not have; perhaps you meant {near!r}.")
    return presets[name]()
