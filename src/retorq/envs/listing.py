"""What ``retorq list envs`` shows: the toys, how to name anything else, and how many games of each family there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retorq.envs import atari, minatar, toys

_TOYS = {
    "catch": "a ball falls through a board of pixels; the paddle must be under it",
    "memory": "a cue seen once and asked for ten steps later; hopeless without a memory",
    "tmaze": "a sign at the start of a corridor tells which way to turn at its end",
    "two_doors": "two choices of equal mean return and different spread",
    "chain": "a short walk to the right; every algorithm solves it in seconds",
    "masked_cartpole": "CartPole with its velocities hidden",
    "pendulum": "swing a pendulum up and hold it, by a torque: continuous actions, for apex_dpg",
}


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Games that one package brings, named alike."""

    form: str
    about: str
    example: str
    extra: str
    names: Callable[[], tuple[str, ...]]


_FAMILIES = (
    _Family(
        form="ALE/NAME-v5",
        about="Atari 2600",
        example="ALE/Pong-v5",
        extra="atari",
        names=lambda: atari.game_names(),
    ),
    _Family(
        form="MinAtar/NAME-v1",
        about="Atari on a 10x10 grid",
        example="MinAtar/Breakout-v1",
        extra="minatar",
        names=lambda: minatar.game_names(),
    ),
)


def environments() -> list[tuple[str, str]]:
    """Pairs of (name, what it is): toys, families of games, and other ways to name an environment."""
    found = [(name, f"toy: {_TOYS[name]}") for name in toys.names()]
    for family in _FAMILIES:
        names = family.names()
        if names:
            found.append(
                (
                    family.form,
                    f"{family.about}: {len(names)} games, such as {family.example}; --all names them",
                )
            )
        else:
            found.append((family.form, f"{family.about}, not installed: pip install 'retorq[{family.extra}]'"))
    return [
        *found,
        ("any Gymnasium id", "CartPole-v1, VizdoomBasic-v1 ...; its package must be installed"),
        ("module:Class", "your own gymnasium.Env, or a function that makes one, importable from here"),
    ]


def games() -> list[tuple[str, str]]:
    """The same with every game of the installed families by its name, below everything else."""
    return environments() + [(name, family.about) for family in _FAMILIES for name in family.names()]
