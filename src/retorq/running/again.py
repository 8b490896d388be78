"""Games of an evaluation played again from their actions, to be filmed: a vector environment draws no pictures.

An evaluation under a :class:`Tape` is the same evaluation. What the tape keeps is enough to play any of its games once
more with the same actions, in an environment that can ``render``; the scores tell whether it was the same game.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.agent import Agent
from retorq.envs.make import make_column
from retorq.envs.options import EnvOptions
from retorq.nn.network import Network
from retorq.running.film import Moment, film
from retorq.types import Step, Tree, UserError, VectorEnv

NAMED = ("best", "worst", "median")
"""Games that are chosen by their scores."""
ANOTHER = "another"
"""One more game, filmed while it is played: for environments that do not repeat theirs."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """One game of an evaluation: where it was played and all that was done there, its column's earlier games included.

    ``actions [T, B]`` are those of every column and ``begin`` is the step after which the game's first row was seen.
    """

    env: str
    options: EnvOptions
    seed: int
    actions: np.ndarray
    column: int
    begin: int
    number: int
    score: float
    length: int


class Tape:
    """Keeps what is done in the environments of one evaluation; ``over`` puts it around them."""

    def __init__(self) -> None:
        self._env: Any = None
        self._about: dict[str, Any] = {}
        self._actions: list[np.ndarray] = []
        self._ended: list[np.ndarray] = []
        self._broken: list[np.ndarray] = []
        self._same_step = False

    def over(self, vector: VectorEnv, *, env: str, options: EnvOptions, seed: int) -> VectorEnv:
        """The environments, seen through the tape."""
        self._env, self._about = vector, {"env": env, "options": options, "seed": seed}
        self.spec, self.columns = vector.spec, vector.columns
        return self

    def reset(self, seed: int | None = None) -> Tree:
        """New games; the tape begins with them."""
        self._actions, self._ended, self._broken = [], [], []
        found: Tree = self._env.reset(seed)
        return found

    def step(self, action: np.ndarray) -> Step:
        """The environments' step, kept."""
        step: Step = self._env.step(action)
        self._same_step |= step.final is not None
        self._actions.append(np.array(action))
        self._ended.append(step.ended.copy())
        self._broken.append(np.zeros(self.columns, bool) if step.broken is None else step.broken.copy())
        return step

    def close(self) -> None:
        """Close the environments; the tape stays."""
        self._env.close()

    def state_dict(self) -> None:
        """None: an evaluation is not saved in the middle."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Refused: there is nothing to put back."""
        raise UserError("an evaluation cannot be continued; start it again.")

    def game(self, number: int, record: Mapping[str, Any]) -> Played:
        """Game ``number`` of the evaluation whose ``record`` this tape belongs to, counted as its scores are."""
        column, begin = self._begins()[number]
        return Played(
            **self._about,
            actions=np.stack(self._actions),
            column=column,
            begin=begin,
            number=number,
            score=float(record["scores"][number]),
            length=int(record["lengths"][number]),
        )

    def _begins(self) -> dict[int, tuple[int, int]]:
        """Where each game began, by the order in which games were started (``evaluate.play`` counts alike)."""
        found = {column: (column, 0) for column in range(self.columns)}
        number, following = list(range(self.columns)), self.columns
        fresh = np.zeros(self.columns, bool)
        for at, (ended, broken) in enumerate(zip(self._ended, self._broken, strict=True)):
            for column in np.flatnonzero(broken & ~fresh):
                found[number[column]] = (int(column), at + 1)  # cut: the next game takes its number
            for column in np.flatnonzero(ended & ~broken):
                number[column], following = following, following + 1
                found[number[column]] = (int(column), at + 1 if self._same_step else at + 2)
            fresh = ended & ~broken & (not self._same_step)
        return found


def require_choice(words: Sequence[str], episodes: int = 0) -> None:
    """Refuse what ``choose`` could not mean, before anything is played; ``episodes`` is 0 while it is not known.

    Raises UserError.
    """
    if not words:
        raise UserError(f"video names no game; give {', '.join(NAMED)}, {ANOTHER}, or the number of a game.")
    for word in words:
        if word not in (*NAMED, ANOTHER) and not word.isdecimal():
            raise UserError(
                f"video is {word!r}; give {', '.join(NAMED)}, {ANOTHER}, or the number of a game, counted from 0."
            )
        if word.isdecimal() and 0 < episodes <= int(word):
            raise UserError(f"video is {word!r}, but {episodes} games will be played; give 0 to {episodes - 1}.")


def choose(words: Sequence[str], scores: Sequence[float]) -> dict[int, str]:
    """Which games are asked for, each with the name by which it was: ``{37: "best", 0: ""}``, in the order asked.

    The median is the lower one of two; of equal scores the first counts. Raises UserError for a game that was not
    played.
    """
    if not words:
        return {}
    if not len(scores):
        raise UserError(f"video is {words[0]!r}, but no game was completed.")
    by_score = np.sort(scores)
    wanted = {"best": by_score[-1], "worst": by_score[0], "median": by_score[(len(scores) - 1) // 2]}
    named = {name: int(np.argmax(scores == value)) for name, value in wanted.items()}
    found: dict[int, list[str]] = {}
    for word in words:
        number = named[word] if word in NAMED else int(word)
        if number >= len(scores):
            raise UserError(f"video is {word!r}, but {len(scores)} games were played; give 0 to {len(scores) - 1}.")
        found.setdefault(number, []).extend([word] if word in NAMED else [])
    return {number: _listed(list(dict.fromkeys(names))) for number, names in found.items()}


def _listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class _Column:
    """One column of environments that do again what they did, whatever they are told."""

    def __init__(self, env: Any, played: Played) -> None:
        self._env, self._at = env, 0
        self._whole = env.columns > 1
        self._place = played.column if self._whole else 0
        self._actions = played.actions if self._whole else played.actions[:, played.column : played.column + 1]
        self._begin = played.begin
        self.spec, self.columns = env.spec, 1

    def _one(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)[self._place : self._place + 1]

    def reset(self, seed: int | None = None) -> Tree:
        """Play up to the game's first row."""
        seen = self._env.reset(seed)
        while self._at < self._begin:
            seen = self._forward().observation
        return {name: self._one(value) for name, value in seen.items()}

    def _forward(self) -> Step:
        self._at += 1
        return self._env.step(self._actions[self._at - 1])

    def step(self, action: np.ndarray) -> Step:
        """What followed in this column."""
        step = self._forward()
        return replace(
            step,
            observation={name: self._one(value) for name, value in step.observation.items()},
            final=step.final and {name: self._one(value) for name, value in step.final.items()},
            broken=None if step.broken is None else self._one(step.broken),
            faults=(),
            **{name: self._one(getattr(step, name)) for name in ("reward", "terminated", "truncated", "ended")},
        )

    def render(self) -> np.ndarray:
        """The column's picture."""
        picture: np.ndarray = self._env.render(self._place) if self._whole else self._env.render()
        return picture

    def close(self) -> None:
        self._env.close()

    def state_dict(self) -> None:
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        raise NotImplementedError


class _Again(Actor):
    """An actor whose actions are given; its memory moves on as it would."""

    def __init__(self, *args: Any, actions: np.ndarray, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given = iter(actions)

    def act(self) -> np.ndarray:
        super().act()
        return np.array([next(self._given)])


def film_again(
    agent: Agent, network: Network, played: Played, *, looking: bool = True, device: torch.device | str = "cpu"
) -> Iterator[Moment]:
    """A game of an evaluation once more, as ``film.film`` tells it.

    Raises:
        UserError: It was another game: the environment does not repeat itself from a seed and the same actions.
    """
    env = _Column(
        make_column(
            played.env,
            columns=played.actions.shape[1],
            column=played.column,
            seed=played.seed,
            options=played.options,
        ),
        played,
    )
    actor = _Again(
        env,
        network,
        Fixed(columns=1, value=0.0),
        total=1,
        stack=agent.stack,
        samples=agent.action_samples,
        precision=agent.precision,
        device=device,
        seed=played.seed,
        actions=played.actions[played.begin :, played.column],
    )
    try:
        yield from film(actor, longest=played.length, looking=looking, rescale=agent.rescale)
    finally:
        env.close()
    games = actor.drain()
    if [(game.score, game.length, game.cut) for game in games] != [(played.score, played.length, False)]:
        raise UserError(
            f"game {played.number} of {played.env} went differently when it was played again, so there is no film of "
            "it: the environment does not repeat a game from its seed and actions; --video another films one more."
        )
