"""The algorithms, by name. Each module has a ``Config``, presets that return one, and ``make(config, spec)``."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from retorq.types import UserError

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
}
"""Name of the agent: module that holds it."""


def load(name: str) -> ModuleType:
    """The module of an agent.

    Raises:
        UserError: There is no agent of that name.
    """
    if name not in AGENTS:
        near = get_close_matches(name, AGENTS, n=1, cutoff=0.0)
        raise UserError(f"agent is {name!r}, which does not exist; perhaps you meant {near[0]!r} (retorq list agents).")
    return importlib.import_module(AGENTS[name])


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
