"""Reading a command's words into a dataclass: tyro parses and helps; every mistake is told here, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from retorq.types import UserError

T = TypeVar("T")
Told = Mapping[str, Sequence[str]]
"""What was told, by the field's name (``env.kwargs`` for a part of ``env``); of a switch, ``true`` or ``false``."""


@dataclass(frozen=True)
class _Option:
    """One field of a command: what its values may be, and how it is named by whoever types it."""

    name: str
    kind: Any
    shown: str
    positional: bool
    required: bool

    @property
    def many(self) -> bool:
        """Whether it takes any number of words."""
        return get_origin(self.kind) is tuple

    @property
    def wanted(self) -> str:
        """What to give."""
        kind = _inner(self.kind)
        if get_origin(kind) is Literal:
            return f"one of {', '.join(map(str, get_args(kind)))}"
        one, several = _WORDS.get(kind, ("a text", "texts"))
        return several if self.many else one

    def fits(self, word: str) -> bool:
        """Whether a word can be read as a value."""
        kind = _inner(self.kind)
        if get_origin(kind) is Literal:
            return word in map(str, get_args(kind))
        if word == "None" and kind is not self.kind and not self.many:
            return True
        try:
            _READ.get(kind, str)(word)
        except ValueError:
            return False
        return True


_WORDS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), Path: ("a path", "paths")}
_READ = {int: int, float: float}


def read(kind: type[T], words: Sequence[str], prog: str) -> T:
    """The words as an instance of the dataclass ``kind``; ``--help`` prints and exits.

    Raises:
        UserError: A word is no option, or not a value of the option before it; one is missing, or given twice.
    """
    import tyro

    helped = "-h" in words or "--help" in words
    return tyro.cli(kind, args=["--help"] if helped else _in_order(kind, told(kind, words, prog)), prog=prog)


def told(kind: type, words: Sequence[str], prog: str) -> Told:
    """Which fields the words set, and to what, in their order; what follows a ``--help`` is not looked at.

    Raises:
        UserError: As in ``read``.
    """
    options = {option.name: option for option in _options(kind)}
    flags = {_flag(name): option for name, option in options.items() if not option.positional}
    switches = {_off(flag): flag for flag, option in flags.items() if option.kind is bool}
    places = [option for option in options.values() if option.positional]
    found: dict[str, list[str]] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word in ("-h", "--help"):
            return found
        if not _is_flag(word):
            _place(word, places, found, prog)
            continue
        flag, given, value = word.partition("=")
        flag = flag.replace("_", "-")
        option = flags.get(switches.get(flag, flag))
        if option is None:
            raise UserError(
                f"option {flag} does not exist{_near(flag, [*flags, *switches])} ({prog} --help lists all)."
            )
        if option.name in found:
            raise UserError(f"{flag} is given twice; give it once.")
        found[option.name] = _values(option, flag, [value] if given else None, waiting)
    missing = [option.shown for option in places if option.required and option.name not in found]
    if missing:
        raise UserError(
            f"{missing[0]} is missing; give it as the first word, as in: {prog} {missing[0]} ({prog} --help)."
        )
    return found


def first(words: Sequence[str], flag: str) -> str | None:
    """The value that follows ``flag``, where it is told at all; for what decides which options there are."""
    for place, word in enumerate(words):
        if word == flag:
            return next(iter(words[place + 1 : place + 2]), None)
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _values(option: _Option, flag: str, value: list[str] | None, waiting: list[str]) -> list[str]:
    """Take the values of an option from the words that wait."""
    if option.kind is bool:
        if value is not None:
            raise UserError(f"{flag} is a switch and takes no value, but {value[0]!r} is given; leave it out.")
        return ["true" if flag == _flag(option.name) else "false"]
    if value is None:
        value = []
        while waiting and not _is_flag(waiting[0]) and (option.many or not value):
            value.append(waiting.pop(0))
        if not value and not option.many:
            raise UserError(f"{flag} has no value; give {option.wanted} after it.")
    for word in value:
        if not option.fits(word):
            raise UserError(f"{flag} is {word!r}; give {option.wanted}.")
    return value


def _place(word: str, places: Sequence[_Option], found: dict[str, list[str]], prog: str) -> None:
    """Give a word that follows no option to the next place that takes one."""
    option = next((option for option in places if option.many or option.name not in found), None)
    if option is None:
        taken = " ".join(option.shown for option in places)
        raise UserError(
            f"{word!r} is one word too many: {prog} takes {taken or 'no words'} and options; leave it out, or put the "
            "option's name before it."
        )
    if not option.fits(word):
        raise UserError(f"{option.shown} is {word!r}; give {option.wanted}.")
    found.setdefault(option.name, []).append(word)


def _options(kind: type, prefix: str = "") -> list[_Option]:
    """The fields of a dataclass and of the dataclasses in it."""
    import tyro

    found = []
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if is_dataclass(hint) and isinstance(hint, type):
            found += _options(hint, prefix if tyro.conf.OmitArgPrefixes in marks else f"{prefix}{field.name}.")
            continue
        shown = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), field.name.upper())
        required = field.default is MISSING and field.default_factory is MISSING
        found.append(_Option(prefix + field.name, hint, shown, tyro.conf.Positional in marks, required))
    return found


def _in_order(kind: type, told: Told) -> list[str]:
    """What was told as words that leave a parser no choice."""
    words: list[str] = []
    for option in sorted(_options(kind), key=lambda option: not option.positional):
        if option.name not in told:
            continue
        value, flag = told[option.name], _flag(option.name)
        if option.positional:
            words += value
        elif option.kind is bool:
            words.append(flag if value == ["true"] else _off(flag))
        else:
            words += [flag, *value] if option.many else [f"{flag}={value[0]}"]
    return words


def _inner(kind: Any) -> Any:
    """What a value is where it may be left out, or where there may be several."""
    if get_origin(kind) in (Union, UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return get_args(kind)[0] if get_origin(kind) is tuple else kind


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _off(flag: str) -> str:
    """The switch that turns another off."""
    *path, last = flag.removeprefix("--").split(".")
    return "--" + ".".join([*path, f"no-{last}"])


def _is_flag(word: str) -> bool:
    """Whether a word names an option; a negative number does not."""
    return word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-[\d.]\S*|-inf|-nan", word)


def _near(flag: str, known: Sequence[str]) -> str:
    near = get_close_matches(flag, known, n=1, cutoff=0.6)
    return f"; perhaps you meant {near[0]}" if near else ""
