"""MinAtar (Young and Tian 2019): five games on a 10x10 grid, all columns stepped in this process.

Rules, sticky actions and random numbers are those of the package's own Gymnasium wrapper, bit for bit (a test compares
them); what is left out is the wrapper itself and what importing the package would load to draw: matplotlib,
pandas and seaborn, which take seconds. The games never truncate, so this door does, after ``CAP`` steps. Freeway ends
by itself after 2,500 steps; the package calls that terminated, and so does this door.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from retorq.envs.atari import seeds_for
from retorq.envs.guard import check_action
from retorq.envs.options import MINATAR_FIELDS, EnvOptions
from retorq.types import EnvSpec, Leaf, Step, Tree, UserError

CAP = 5_000
"""Steps after which a game is truncated unless ``max_episode_steps`` says otherwise: twice the longest fixed one."""

STICKY = 0.1
"""The package's default (and the paper's): probability per step that the previous action is repeated."""

_GAMES = {
    name.title().replace("_", ""): name for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
}
_ACTIONS = ("noop", "left", "up", "right", "down", "fire")
_OLDEST = (1, 0, 11)  # before it Seaquest drew its oxygen bar wrongly, and scores are not comparable
_STATIC = {"channels", "action_map", "random", "ramping"}  # of a game's attributes, those that no step changes
_COLORS = np.array(
    [(16, 18, 22), (108, 180, 244), (245, 154, 80), (78, 205, 166), (209, 151, 232), (223, 187, 75),
     (244, 124, 149), (170, 181, 193), (87, 200, 222), (140, 220, 110), (250, 250, 250)],
    np.uint8,
)  # fmt: skip


def game_of(env: str) -> str | None:
    """The game's module name (``space_invaders``) behind ``MinAtar/SpaceInvaders-v1``, None for any other id.

    Raises ``UserError`` for a MinAtar id of no game.
    """
    if not env.startswith("MinAtar/"):
        return None
    match = re.fullmatch(r"MinAtar/(?P<game>\w+)-v[01]", env)
    if match is None or match["game"] not in _GAMES:
        near = get_close_matches(env, game_names(installed=False), n=1, cutoff=0.0)[0]
        raise UserError(f"env is {env!r}, which is not known; did you mean {near}?")
    return _GAMES[match["game"]]


def game_names(*, installed: bool = True) -> tuple[str, ...]:
    """The five ids with minimal action sets; empty without the package, unless ``installed`` is False."""
    if installed and importlib.util.find_spec("minatar") is None:
        return ()
    return tuple(f"MinAtar/{name}-v1" for name in _GAMES)


@cache
def _rules(game: str) -> Any:
    """The class with a game's rules, from the file of that game alone."""
    found = importlib.util.find_spec("minatar")
    if found is None or found.origin is None:
        raise UserError("MinAtar games need the package minatar; install it with: pip install 'retorq[minatar]'")
    if _numbers(_version()) < _OLDEST:
        raise UserError(f"minatar is {_version()}, whose Seaquest is wrong; install 1.0.11 or newer.")
    file = Path(found.origin).parent / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"_minatar_{game}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Env


def _version() -> str:
    try:
        return version("minatar")
    except PackageNotFoundError:  # a copy of the source on the path
        return "unknown"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text))) or _OLDEST


def _settings(env: str, options: EnvOptions) -> dict[str, Any]:
    """The constructor's arguments by the package's names; ``UserError`` for one that it does not have."""
    options.refuse_unused(env, MINATAR_FIELDS)
    settings: dict[str, Any] = {
        "sticky_action_prob": STICKY,
        "difficulty_ramping": True,
        "use_minimal_action_set": env.endswith("-v1"),
    }
    for key, value in options.arguments().items():
        if key not in settings:
            raise UserError(f"env.kwargs names {key!r}, but {env} takes {', '.join(settings)}.")
        if key == "sticky_action_prob":
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
            good, wanted = number, "a probability between 0 and 1"
        else:
            good, wanted = isinstance(value, bool), "true or false"
        if not good:
            raise UserError(f"env.kwargs sets {key} to {value!r}; {env} takes {wanted} there.")
        settings[key] = value
    return settings


class MinAtar:
    """``columns`` games of one kind; a ``VectorEnv`` that answers the step after an end with the reset.

    Observation: image ``[C, 10, 10]``, one channel per kind of object, 255 where there is one. One step is one frame.
    ``-v1`` has the game's minimal set of actions and ``-v0`` all six, unless ``use_minimal_action_set`` is given.
    ``first`` above 0 gives the columns the seeds that they would have behind so many others.
    """

    def __init__(self, env: str, *, columns: int, seed: int, options: EnvOptions, first: int = 0) -> None:
        game = game_of(env)
        assert game is not None
        settings, rules = _settings(env, options), _rules(game)
        self.columns, self._first = columns, first
        self._games = [rules(ramping=settings["difficulty_ramping"]) for _ in range(columns)]
        minimal = settings["use_minimal_action_set"]
        self._actions = self._games[0].minimal_action_set() if minimal else list(range(len(_ACTIONS)))
        self._channels = len(self._games[0].channels)
        self._sticky = float(settings["sticky_action_prob"])
        self._cap = options.max_episode_steps or CAP
        self.spec = EnvSpec(
            id=env,
            observation={"obs": Leaf(kind="image", shape=(self._channels, 10, 10), dtype="uint8")},
            actions=len(self._actions),
            max_steps=self._cap,
            settings={**settings, "cap": self._cap, "flicker": options.flicker, "minatar": _version()},
            action_names=tuple(_ACTIONS[index] for index in self._actions),
        )
        self._previous = [0] * columns
        self._elapsed = np.zeros(columns, np.int64)
        self._pending = np.zeros(columns, bool)
        self._seed(seed)

    def _seed(self, seed: int) -> None:
        for game, own in zip(self._games, seeds_for(seed, self.columns, self._first), strict=True):
            game.random = np.random.RandomState(int(own))

    def reset(self, seed: int | None = None) -> Tree:
        """New games in all columns, from new generators where a seed is given."""
        if seed is not None:
            self._seed(seed)
        for game in self._games:
            game.reset()
        self._elapsed[:], self._pending[:] = 0, False
        return self._observe()

    def _observe(self) -> Tree:
        seen = np.stack([game.state() for game in self._games])
        return {"obs": np.ascontiguousarray(np.moveaxis(seen, -1, 1)).view(np.uint8) * np.uint8(255)}

    def step(self, action: np.ndarray) -> Step:
        """One action ``[B]`` per column; where the last step ended the game it is ignored and a new game begins."""
        chosen = check_action(action, self.columns, self.spec.actions)
        reward = np.zeros(self.columns, np.float32)
        terminated = np.zeros(self.columns, bool)
        for column, game in enumerate(self._games):
            if self._pending[column]:
                game.reset()
                continue
            # As in the package, also across the end of a game: the last action done there may be repeated here.
            if not game.random.rand() < self._sticky:
                self._previous[column] = self._actions[chosen[column]]
            reward[column], terminated[column] = game.act(self._previous[column])
        self._elapsed = np.where(self._pending, 0, self._elapsed + 1)
        truncated = (self._elapsed >= self._cap) & ~terminated
        self._pending = terminated | truncated
        return Step(
            observation=self._observe(),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            ended=self._pending.copy(),
        )

    def render(self) -> np.ndarray:
        """Column 0 as a picture, uint8 ``[320, 320, 3]``; where objects meet, the later channel is drawn."""
        seen = self._games[0].state()
        kind = (seen * np.arange(1, self._channels + 1)).max(axis=2)
        return np.kron(_COLORS[kind], np.ones((32, 32, 1), np.uint8))

    def close(self) -> None:
        """Nothing to free."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Games (as JSON in bytes), clocks and generators, as arrays."""
        games = [
            {"previous": before, **{name: value for name, value in vars(game).items() if name not in _STATIC}}
            for game, before in zip(self._games, self._previous, strict=True)
        ]
        generators = [game.random.get_state(legacy=False) for game in self._games]
        return {
            "games": np.frombuffer(json.dumps(games, default=_plain).encode(), np.uint8).copy(),
            "elapsed": self._elapsed.copy(),
            "pending": self._pending.copy(),
            "generator": np.stack([state["state"]["key"].astype(np.int64) for state in generators]),
            "position": np.array([state["state"]["pos"] for state in generators], np.int64),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what ``state_dict`` gave; the number of columns must be the same."""
        if len(state["elapsed"]) != self.columns:
            raise UserError(
                f"the saved {self.spec.id} has {len(state['elapsed'])} columns, this one {self.columns}; "
                "continue with the number of environments that the run was started with."
            )
        for column, saved in enumerate(json.loads(np.asarray(state["games"]).tobytes())):
            self._previous[column] = saved.pop("previous")
            game = self._games[column]
            for name, value in saved.items():
                setattr(game, name, np.array(value["array"]) if isinstance(value, dict) else value)
            key, position = np.asarray(state["generator"][column]).astype(np.uint32), int(state["position"][column])
            game.random.set_state(("MT19937", key, position))
        self._elapsed, self._pending = np.array(state["elapsed"]), np.array(state["pending"])


def _plain(value: Any) -> Any:
    """A numpy value as JSON: boards (float64) as ``{"array": rows}``, numbers as numbers."""
    return {"array": value.tolist()} if isinstance(value, np.ndarray) else value.item()
