"""What ``retorq list envs`` shows: the toys, the games that are installed, and how to name anything else."""

from __future__ import annotations

from retorq.envs import atari, minatar, toys

_TOYS = {
    "catch": "a ball falls through a board of pixels; the paddle must be under it",
    "memory": "a cue seen once and asked for ten steps later; hopeless without a memory",
    "tmaze": "a sign at the start of a corridor tells which way to turn at its end",
    "two_doors": "two choices of equal mean return and different spread",
    "chain": "a short walk to the right; every algorithm solves it in seconds",
    "masked_cartpole": "CartPole with its velocities hidden",
}


def environments() -> list[tuple[str, str]]:
    """Pairs of (name, what it is): toys, Atari and MinAtar games if installed, then other ways to name one."""
    found = [(name, f"toy: {_TOYS[name]}") for name in toys.names()]
    games = atari.game_names()
    found += [(name, "Atari 2600") for name in games]
    if not games:
        found.append(("ALE/NAME-v5", "Atari 2600 games: pip install 'retorq[atari]'"))
    grids = minatar.game_names()
    found += [(name, "MinAtar: the game on a 10x10 grid (-v0: all six actions)") for name in grids]
    if not grids:
        found.append(("MinAtar/NAME-v1", "Atari games on a 10x10 grid: pip install 'retorq[minatar]'"))
    return [
        *found,
        ("any Gymnasium id", "CartPole-v1, VizdoomBasic-v1 ...; its package must be installed"),
        ("module:Class", "a gymnasium.Env, or a function that makes one, importable from the working directory"),
    ]
