"""Checks of a Config's values: each failure is one sentence naming the field, the value and the remedy."""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from retorq.types import UserError


def refuse(condition: bool, sentence: str) -> None:
    """Raise ``UserError(sentence)`` if the condition holds."""
    if condition:
        raise UserError(sentence)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name)
    allowed = get_type_hints(type(config))[name]
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
    """Tuples of whole numbers, each at least 1."""
    for name in names:
        value = getattr(config, name)
        right = isinstance(value, tuple) and all(type(size) is int and size >= 1 for size in value)
        refuse(not right, f"{name} is {value!r}; give whole numbers of at least 1, or none at all.")


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


def choice(config: Any) -> None:
    """Fields typed as a ``Literal`` must have one of its values; switches must be true or false."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            refuse(True, f"{field.name} is {value!r}; give one of {', '.join(map(str, get_args(hint)))}.")
        if hint is bool and not isinstance(value, bool):
            refuse(True, f"{field.name} is {value!r}; give true or false.")
