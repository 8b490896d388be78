"""Finding and building what a user names: a Gymnasium id, or ``module:Class`` of the user's own."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import gymnasium

from retorq.envs.guard import FAULTS
from retorq.envs.options import EnvOptions
from retorq.types import UserError

# Packages that register their ids when they are imported.
_REGISTER = (
    ("Vizdoom", "vizdoom.gymnasium_wrapper", "vizdoom"),
    ("MiniGrid-", "minigrid", "minigrid"),
    ("BabyAI-", "minigrid", "minigrid"),
    ("popgym-", "popgym", "popgym"),
    ("highway-", "highway_env", "highway-env"),
)
# Environments that take microseconds and cannot hang: a process each would only cost time.
_FAST = (
    "gymnasium.envs.classic_control",
    "gymnasium.envs.toy_text",
    "gymnasium.envs.tabular",
    "gymnasium.envs.mujoco",
)


def register(env: str) -> None:
    """Import the package that registers ``env``, where its name tells which."""
    for prefix, module, package in _REGISTER:
        if env.startswith(prefix) and env not in gymnasium.registry:
            try:
                imported = importlib.import_module(module)
            except ImportError:
                raise UserError(f"{env} needs the package {package}; install it with: pip install {package}") from None
            if hasattr(imported, "register_envs"):
                imported.register_envs()


def _split(env: str) -> tuple[str, str] | None:
    """``(module, name)`` of ``module:name``; None for plain ids. ``module:Id-v0`` imports the module first."""
    match = re.fullmatch(r"([A-Za-z_][\w.]*):(.+)", env)
    if match is None:
        return None
    return match[1], match[2]


def user_object(env: str) -> Callable[..., Any] | None:
    """What ``module:name`` names (a class or function), None for an id; modules in the working directory count."""
    parts = _split(env)
    if parts is None:
        return None
    module_name, name = parts
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"env is {env!r}, but the module {module_name!r} cannot be imported ({error}); run from the folder that "
            "holds it, or add that folder to PYTHONPATH."
        ) from error
    if re.search(r"-v\d+$", name):
        return None
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = get_close_matches(name, names, n=3, cutoff=0.4)
        raise UserError(
            f"env is {env!r}, but the module {module_name!r} has no class or function {name!r}"
            + (f"; did you mean {', '.join(near)}?" if near else ".")
        )
    return found


def registered_id(env: str, also: tuple[str, ...] = ()) -> str:
    """``env`` as an id of Gymnasium's registry; ``UserError`` with the nearest names (those of ``also`` too)."""
    parts = _split(env)
    name = parts[1] if parts else env
    register(name)
    if name in gymnasium.registry:
        return name
    known = {key.lower(): key for key in (*gymnasium.registry, *also)}
    bare = {key.rsplit("/", 1)[-1].rsplit("-v", 1)[0]: key for key in known}
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    near += [bare[match] for match in get_close_matches(name.lower().rsplit("-v", 1)[0], bare, n=2, cutoff=0.75)]
    offers = ", ".join(dict.fromkeys(known[match] for match in near))
    raise UserError(
        f"env is {env!r}, which is not known"
        + (f"; did you mean {offers}?" if offers else "; see `retorq list envs`, or give module:Class of your own.")
    )


def wants_vector(found: Callable[..., Any] | None) -> bool:
    """Whether a user's class or function makes a whole vector environment (it takes ``num_envs``)."""
    if found is None:
        return False
    if inspect.isclass(found) and issubclass(found, gymnasium.vector.VectorEnv):
        return True
    return not inspect.isclass(found) and "num_envs" in _parameters(found)


def _parameters(found: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return {}


def is_fast(env: str) -> bool:
    """Whether the environment is known to be fast and safe enough to run in this process."""
    if env not in gymnasium.registry:
        return False
    entry = gymnasium.registry[env].entry_point
    return isinstance(entry, str) and entry.startswith(_FAST)


def _require_package(name: str) -> None:
    """Gymnasium registers MuJoCo's tasks whether there is MuJoCo or not."""
    entry = gymnasium.registry[name].entry_point
    if isinstance(entry, str) and entry.startswith("gymnasium.envs.mujoco"):
        for package in ("mujoco", "imageio"):
            if find_spec(package) is None:
                raise UserError(f"{name} needs the package {package}; install it with: pip install 'retorq[mujoco]'")


def build(env: str, options: EnvOptions, *, render: bool = False) -> gymnasium.Env[Any, Any]:
    """One environment; whatever its constructor raises becomes a ``UserError`` that names it."""
    found = user_object(env)
    arguments = options.arguments()
    limit = options.max_episode_steps or None
    try:
        if found is None:
            name = registered_id(env)
            _require_package(name)
            if render:
                arguments.setdefault("render_mode", "rgb_array")
            return gymnasium.make(name, disable_env_checker=True, max_episode_steps=limit, **arguments)
        if render and "render_mode" in _parameters(found):
            arguments.setdefault("render_mode", "rgb_array")
        made = found(**arguments)
        if not isinstance(made, gymnasium.Env):
            raise UserError(f"env is {env!r}, which made a {type(made).__name__}; it must make a gymnasium.Env.")
        return gymnasium.wrappers.TimeLimit(made, limit) if limit else made
    except UserError:
        raise
    except FAULTS as error:
        raise UserError(
            f"{env} could not be built with env.kwargs {options.kwargs}: {type(error).__name__}: {error}"
        ) from error


def build_vector(
    env: str, columns: int, options: EnvOptions, *, render: bool = False
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """A whole vector environment, of a user's ``module:Class`` or an id's own vector entry point."""
    found = user_object(env)
    arguments = options.arguments()
    if options.max_episode_steps:
        arguments["max_episode_steps"] = options.max_episode_steps
    if render and (found is None or "render_mode" in _parameters(found)):
        arguments.setdefault("render_mode", "rgb_array")
    try:
        if found is not None:
            made = found(num_envs=columns, **arguments)
        else:
            name = registered_id(env)
            if gymnasium.registry[name].vector_entry_point is None:
                raise UserError(f"env.vector is on, but {env} has no vector environment of its own; turn it off.")
            made = gymnasium.make_vec(name, num_envs=columns, vectorization_mode="vector_entry_point", **arguments)
    except UserError:
        raise
    except FAULTS as error:
        raise UserError(
            f"{env} could not be built with env.kwargs {options.kwargs}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, gymnasium.vector.VectorEnv):
        raise UserError(f"{env} made a {type(made).__name__}; a function with num_envs must make a vector environment.")
    return made


def step_limit(env: gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any]) -> int | None:
    """The episode cap that the environment announces in its spec, or the one of a TimeLimit around it."""
    cap = env.spec.max_episode_steps if env.spec is not None else None
    return cap if cap is not None else getattr(env, "_max_episode_steps", None)
