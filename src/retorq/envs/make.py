"""From a name to environments: ``make``, ``describe``, ``check``."""

from __future__ import annotations

from typing import Any

from retorq.envs import atari, minatar, toys
from retorq.envs.check import Finding, examine
from retorq.envs.columns import Columns, InProcess
from retorq.envs.flicker import Flicker
from retorq.envs.gymnasium_ids import build_vector, is_fast, registered_id, user_object, wants_vector
from retorq.envs.options import GYM_FIELDS, EnvOptions
from retorq.envs.processes import Processes
from retorq.envs.vector import GymVector
from retorq.types import EnvSpec, UserError, VectorEnv

__all__ = ["EnvOptions", "check", "describe", "make", "toy_names"]


def toy_names() -> tuple[str, ...]:
    """The ids of the built-in toys."""
    return toys.names()


def make(
    env: str,
    *,
    columns: int,
    seed: int = 0,
    options: EnvOptions | None = None,
    training: bool = True,
    render: bool = False,
) -> VectorEnv:
    """``columns`` copies of the environment ``env``: a toy, an id (Atari, MinAtar, Gymnasium) or ``module:Class``.

    With ``training=False`` a lost life is no end. With ``render=True`` (one column, in this process) the result also
    has ``render() -> uint8 [H, W, 3]``. Raises ``UserError`` for unknown names (offering the nearest), spaces that
    retorq cannot use, and options that have no effect on this environment.
    """
    options = EnvOptions() if options is None else options
    if columns < 1:
        raise UserError(f"{columns} environments were asked for; give at least 1.")
    if render and columns != 1:
        raise UserError(f"render was asked for with {columns} environments; give 1.")
    made = _make(env, columns, seed, options, training, render)
    return Flicker(made, options.flicker, seed) if options.flicker else made


def make_column(env: str, *, columns: int, column: int, seed: int, options: EnvOptions) -> VectorEnv:
    """An environment with pictures in which ``column`` of ``make(env, columns=columns, seed=seed)`` plays as it did.

    It has that column alone, or, where the columns share a generator (toys, whole vector environments), all of them
    and ``render(column)``. Raises what ``make`` raises.
    """
    if options.vector or wants_vector(user_object(env)):
        vector: Any = build_vector(env, columns, options, render=True)
        first = 0
        made: VectorEnv = GymVector(vector, name=env, seed=seed, options=options)
    else:
        first, count = (0, columns) if env in toys.names() else (column, 1)
        made = _make(env, count, seed, options, training=True, render=True, first=first)
    return Flicker(made, options.flicker, seed, first) if options.flicker else made


def _make(
    env: str, columns: int, seed: int, options: EnvOptions, training: bool, render: bool, first: int = 0
) -> VectorEnv:
    if env in toys.names():
        return toys.make_toy(env, columns=columns, seed=seed, options=options)
    rom = atari.rom_of(env)
    if rom is not None and render:
        from retorq.envs.atari_single import AtariSingle

        return AtariSingle(rom, seed=seed, options=options, training=training, column=first)
    if rom is not None:
        return atari.Atari(rom, columns=columns, seed=seed, options=options, training=training)
    if minatar.game_of(env) is not None:
        return minatar.MinAtar(env, columns=columns, seed=seed, options=options, first=first)
    return _make_gymnasium(env, columns, seed, options, render, first)


def _make_gymnasium(env: str, columns: int, seed: int, options: EnvOptions, render: bool, first: int = 0) -> VectorEnv:
    options.refuse_unused(env, GYM_FIELDS)
    found = user_object(env)
    if found is None:
        name = registered_id(env, also=(*toys.names(), *atari.game_names(), *minatar.game_names()))
    whole = wants_vector(found) or options.vector
    here = options.workers == "0" or (options.workers == "auto" and found is None and is_fast(name))
    _refuse_idle(env, options, whole=whole, here=here)
    if wants_vector(found) or (options.vector and not render):
        vector: Any = build_vector(env, columns, options, render=render)
        return GymVector(vector, name=env, seed=seed, options=options)
    if here or render:
        backend = InProcess(env, columns=columns, options=options, render=render)
        return Columns(backend, columns=columns, seed=seed, first=first)
    return Columns(Processes(env, columns=columns, options=options), columns=columns, seed=seed)


def _refuse_idle(env: str, options: EnvOptions, *, whole: bool, here: bool) -> None:
    """Refuse options of worker processes where there are none."""
    if whole:
        remedy = "turn env.vector off" if options.vector else "give single environments"
        why = f"{env} is a whole vector environment, which has no worker processes; {remedy}"
        options.refuse_idle({"workers": why, "step_time_limit": why})
    elif here:
        why = f"{env} runs in this process, where nothing can cut a step short; set env.workers to each"
        options.refuse_idle({"step_time_limit": why})


def describe(env: str, options: EnvOptions | None = None) -> EnvSpec:
    """What an agent must know of the environment; nothing stays open."""
    options = EnvOptions() if options is None else options
    rom = None if env in toys.names() else atari.rom_of(env)
    if rom is not None:
        return atari.describe(rom, options)
    made = make(env, columns=1, options=options)
    made.close()
    return made.spec


def check(env: str, options: EnvOptions | None = None) -> list[Finding]:
    """Try an environment for ``retorq doctor``: pairs of (good, sentence), most basic first."""
    options = EnvOptions() if options is None else options
    return examine(env, lambda seed: make(env, columns=2, seed=seed, options=options))
