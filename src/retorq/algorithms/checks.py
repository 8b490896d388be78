"""Checks of a Config's values: each failure is one sentence naming the field, the value and the remedy."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from functools import cache
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from retorq.types import UserError


@cache  # reading them takes far longer than checking a value
def _hints(of: Hashable) -> dict[str, Any]:
    return get_type_hints(of)


def refuse(condition: bool, sentence: str) -> None:
    """Raise ``UserError(sentence)`` if the condition holds."""
    if condition:
        raise UserError(sentence)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name)
    allowed = _hints(config.__class__)[name]
    whole = allowed is int or int in get_args(allowed)
    if value is None and type(None) in get_args(allowed):
        return None
    wrong = isinstance(value, bool) or not isinstance(value, int if whole else (int, float))
    refuse(wrong, f"{name} is {value!r}; give a{' whole' if whole else ''} number.")
    refuse(not isfinite(value), f"{name} is {value}; give a finite number.")
    return float(value)


def at_least(config: Any, lowest: float, *names: str, exclusive: bool = False) -> None:
    """Numbers that must be at least (or, ``exclusive``, more than) ``lowest``; None passes where the type allows it."""
    for name in names:
        value = _number(config, name)
        if value is not None:
            bad = not (value > lowest if exclusive else value >= lowest)
            refuse(
                bad, f"{name} is {getattr(config, name)}; give {'more than' if exclusive else 'at least'} {lowest:g}."
            )


def share(config: Any, *names: str) -> None:
    """Numbers that must lie in [0, 1]."""
    for name in names:
        value = _number(config, name)
        refuse(value is None or not 0 <= value <= 1, f"{name} is {value}; give a number from 0 to 1.")


def sizes(config: Any, *names: str) -> None:
    """Tuples of whole numbers, each at least 1, and as many as the type says."""
    for name in names:
        value, kinds = getattr(config, name), get_args(_hints(config.__class__)[name])
        right = isinstance(value, tuple) and all(type(size) is int and size >= 1 for size in value)
        any_number = Ellipsis in kinds
        right = right and (any_number or len(value) == len(kinds))
        what = (
            "whole numbers of at least 1, or none at all" if any_number else f"{len(kinds)} whole numbers of at least 1"
        )
        refuse(not right, f"{name} is {value!r}; give {what}.")


def unused(config: Any, switch: str, *names: str) -> None:
    """Settings that only mean something while ``switch`` is on: refused when changed while it is off."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in names:
        value = getattr(config, name)
        refuse(
            not getattr(config, switch) and value != defaults[name],
            f"{name} is {value}, but {switch} is false, so it would do nothing; set {switch} to true or leave {name} "
            f"at {defaults[name]}.",
        )


AT_LEAST_ONE = frozenset(
    (
        "num_envs",
        "stack",
        "memory_size",
        "samples",
        "target_samples",
        "action_samples",
        "cosines",
        "quantiles",
        "batch_size",
        "sequence_length",
        "n_step",
        "target_period",
        "replay_size",
        "state_period",
        "publish_period",
        "bundles",
        "servers",
    )
)
NOT_NEGATIVE = frozenset(
    (
        "action_noise",
        "hidden_size",
        "burn_in",
        "warmup",
        "epsilon_steps",
        "trim_period",
        "max_staleness",
        "outlier_warmup",
        "epsilon_exponent",
        "rescale_epsilon",
        "kappa",
        "refresh",
    )
)
POSITIVE = frozenset(
    (
        "learning_rate",
        "policy_learning_rate",
        "optimizer_epsilon",
        "clip_gradient",
        "replay_ratio",
        "noisy_sigma",
        "munchausen_temperature",
        "outlier_deviations",
    )
)
SHARES = frozenset(
    (
        "epsilon_start",
        "epsilon_final",
        "epsilon_floor",
        "epsilon_fraction",
        "gamma",
        "priority_eta",
        "priority_exponent",
        "priority_beta",
        "priority_beta_final",
        "munchausen_alpha",
    )
)
SIZES = frozenset(["torso_hidden", "critic_layers", "policy_layers"])
OWN = frozenset(
    (
        "munchausen_lowest",
        "evict_exponent",
        "atoms",
        "lowest_value",
        "highest_value",
        "risk_level",
    )
)
"""Numbers whose range only their own algorithm can say."""


def check(config: Any) -> None:
    """Apply each field's rule; a field's name has one meaning, and so one range, in every algorithm."""
    names = [field.name for field in fields(config)]
    choice(config)
    at_least(config, 1, *(n for n in names if n in AT_LEAST_ONE))
    at_least(config, 0, *(n for n in names if n in NOT_NEGATIVE))
    at_least(config, 0, *(n for n in names if n in POSITIVE), exclusive=True)
    share(config, *(n for n in names if n in SHARES))
    sizes(config, *(n for n in names if n in SIZES))
    finite(config, *(n for n in names if n in OWN))


def finite(config: Any, *names: str) -> None:
    """Any finite number."""
    for name in names:
        _number(config, name)


def choice(config: Any) -> None:
    """Fields typed as a ``Literal`` must have one of its values; switches must be true or false."""
    hints = _hints(config.__class__)
    for field in fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            refuse(True, f"{field.name} is {value!r}; give one of {', '.join(map(str, get_args(hint)))}.")
        if hint is bool and not isinstance(value, bool):
            refuse(True, f"{field.name} is {value!r}; give true or false.")
