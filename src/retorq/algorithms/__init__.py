"""The algorithms, by name. Each module has a ``Config``, presets that return one, and ``make(config, spec)``."""

from __future__ import annotations

import importlib
from types import ModuleType

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
}
"""Name of the agent: module that holds it."""


def load(name: str) -> ModuleType:
    """The module of an agent.

    Raises:
        UserError: There is no agent of that name.
    """
    if name not in AGENTS:
        from difflib import get_close_matches

        near = get_close_matches(name, AGENTS, n=1, cutoff=0.0)
        raise UserError(f"agent is {name!r}, which does not exist; perhaps you meant {near[0]!r} (retorq list agents).")
    return importlib.import_module(AGENTS[name])
