"""Every option of an environment, with its default; each is a command-line flag ``--env.FIELD``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from retorq.types import UserError

ATARI_FIELDS = frozenset(
    {
        "frame_skip", "frame_size", "grayscale", "noop_max", "sticky", "full_actions", "life_loss",
        "max_frames", "fire_reset", "flicker",
    }
)  # fmt: skip
TOY_FIELDS = frozenset({"flicker", "kwargs"})
MINATAR_FIELDS = frozenset({"flicker", "kwargs", "max_episode_steps"})
GYM_FIELDS = frozenset(
    {"flicker", "kwargs", "grayscale", "resize", "drop", "max_episode_steps", "step_time_limit", "workers", "vector"}
)

VECTOR_FIELDS = GYM_FIELDS - {"step_time_limit", "workers"}
"""What whole vector environments can use, which have no worker processes."""
NOOPS = 3_600
"""Most no-op frames at a game's start: a minute. After longer ones a game may be over before it begins."""

_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """How an environment is built and preprocessed. A field that the chosen environment cannot use is refused.

    Defaults of the Atari fields are the preprocessing of Mnih et al. (2015). Frames are
    never stacked here, so that each is stored once: an agent's own ``stack`` does it where it reads them.
    """

    frame_skip: int = 4
    """Atari: emulator frames per agent step; the action is repeated, the rewards are added up."""
    frame_size: int = 84
    """Atari: height and width of the observation in pixels (area averaging of the 210x160 screen)."""
    grayscale: bool = True
    """Atari: one gray channel instead of three. Other environments: the same for color images when resize is on."""
    noop_max: int = 30
    """Atari: a game starts after 0 to this many no-op frames, drawn anew for each game (a start can have none)."""
    sticky: float = 0.0
    """Atari: probability per frame that the emulator repeats the previous action (Machado et al. 2018 use 0.25)."""
    full_actions: bool = False
    """Atari: all 18 actions instead of the game's minimal set."""
    life_loss: bool = True
    """Atari: a lost life ends the learning episode and clears the memory, not the game; scores count whole games."""
    max_frames: int = 108_000
    """Atari: emulator frames after which a game is truncated (108,000 = 30 minutes)."""
    fire_reset: bool = False
    """Atari: press FIRE once at the start of a game that has that action."""
    flicker: float = 0.0
    """Any: probability that a whole observation is zeroed, drawn per step and column (Hausknecht & Stone 2015)."""
    kwargs: str = "{}"
    """Toys, MinAtar, Gymnasium: arguments of the constructor as a JSON object, such as {"length": 20}."""
    resize: int = 0
    """Gymnasium: height and width to which images are resized by area averaging; 0 leaves them as they are."""
    drop: str = ""
    """Gymnasium: keys of a Dict observation to leave out, separated by commas (texts must be left out)."""
    max_episode_steps: int = 0
    """MinAtar, Gymnasium: truncate episodes after this many steps; 0: the environment's own limit, MinAtar 5,000."""
    step_time_limit: float = 60.0
    """Gymnasium, worker processes: seconds after which a step counts as hung and the environment is restarted."""
    workers: Literal["auto", "0", "each"] = "auto"
    """Gymnasium: each = one process per environment, 0 = all in this process, auto = 0 only for known fast ones."""
    vector: bool = False
    """Gymnasium: use the id's own vector environment."""

    def __post_init__(self) -> None:
        if isinstance(self.kwargs, Mapping):
            object.__setattr__(self, "kwargs", json.dumps(dict(self.kwargs), sort_keys=True))
        for f in fields(self):
            kind = type(f.default)
            value, allowed = getattr(self, f.name), (int, float) if kind is float else kind
            good = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
            self._require(f.name, good, _KINDS[kind])
        for name in ("frame_skip", "frame_size", "max_frames"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("noop_max", "resize", "max_episode_steps"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("noop_max", self.noop_max <= NOOPS, f"at most {NOOPS:,} frames")
        for name in ("sticky", "flicker"):
            self._require(name, 0.0 <= getattr(self, name) <= 1.0, "a probability between 0 and 1")
        self._require("step_time_limit", 0.0 < self.step_time_limit < float("inf"), "a positive number of seconds")
        self._require("workers", self.workers in ("auto", "0", "each"), "auto, 0 or each")
        self.arguments()

    def _require(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise UserError(f"env.{name} is {getattr(self, name)!r}; give {wanted}.")

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that ``kwargs`` holds; raises ``UserError`` if it is no JSON object."""
        try:
            value = json.loads(self.kwargs)
        except ValueError as error:
            raise UserError(
                f"env.kwargs is {self.kwargs!r}, which is not JSON ({error}); give an object such as "
                "'{\"length\": 20}'."
            ) from None
        if not isinstance(value, dict):
            raise UserError(f"env.kwargs is {self.kwargs!r}; give a JSON object such as '{{\"length\": 20}}'.")
        return value

    def settings(self, used: frozenset[str]) -> dict[str, Any]:
        """The fields in ``used`` with their values, as stored with a run."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in used}

    def refuse_unused(self, env: str, used: frozenset[str]) -> None:
        """Raise ``UserError`` if a field outside ``used`` was set: an accepted option must have an effect."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in used and value != f.default:
                raise UserError(
                    f"env.{f.name} is {value!r}, but {env} cannot use that option; remove it "
                    f"(this environment takes {', '.join(sorted(used))})."
                )

    def refuse_idle(self, why: Mapping[str, str]) -> None:
        """Raise ``UserError`` if a field that has no effect beside the others was set; ``why`` by the field's name."""
        defaults = EnvOptions()
        for name, reason in why.items():
            value = getattr(self, name)
            if value != getattr(defaults, name):
                raise UserError(f"env.{name} is {value!r}, which would do nothing: {reason} or leave {name} out.")


def options_from_json(text: str) -> EnvOptions:
    """The inverse of ``json.dumps(dataclasses.asdict(options))``, for worker processes."""
    return EnvOptions(**json.loads(text))
