"""Scores of the 57 Atari games: human-normalized, published, and averages with their uncertainty.

A human-normalized score is ``(score - random) / (human - random)``: 0 plays like a uniformly random policy, 1 like the
professional human tester of the DQN papers. Functions here return that fraction, not percent.

**Video Pinball.** Two random scores for this game are in circulation, 16256.9 and 0.0, which makes a factor of twelve
in its human-normalized score and hundreds of points in a mean over the 57 games. The published means only come out with
0.0, so 0.0 is used here; ``video_pinball_random=16256.9`` gives the other one. Medians are the same with both.

Sources: ``data/atari57_reference.csv`` holds random and human scores as in DQN Zoo; ``data/atari57_published.csv`` the
per-game results of the papers named in ``PUBLISHED``. An empty cell is a game that the paper does not list.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from retorq.types import UserError

VIDEO_PINBALL_RANDOM = 0.0
_ATARI_ID = re.compile(r"(?:ALE/)?([A-Z][A-Za-z]+?)(?:NoFrameskip|Deterministic)?-v\d+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A column of published scores: the algorithm's name, where the numbers are from, and how they were measured."""

    name: str
    paper: str
    protocol: str


_BEST = "best intermediate network, evaluated again; no-op starts, 200M frames"
PUBLISHED: Mapping[str, Source] = {
    "dqn_nature": Source(
        name="DQN (2015)",
        paper="Mnih et al. 2015",
        protocol="best intermediate network; no-op starts, games cut after 5 minutes",
    ),
    "dqn": Source(name="DQN", paper="run again by Wang et al. 2016", protocol=_BEST),
    "dueling_ddqn": Source(name="Dueling Double DQN", paper="Wang et al. 2016", protocol=_BEST),
    "prior_dueling_ddqn": Source(name="Prioritized Dueling DDQN", paper="Wang et al. 2016", protocol=_BEST),
    "noisynet_dqn": Source(name="NoisyNet DQN", paper="Fortunato et al. 2018", protocol=_BEST),
    "c51": Source(name="C51", paper="Bellemare et al. 2017", protocol=_BEST),
    "qr_dqn": Source(name="QR-DQN", paper="Dabney et al. 2018", protocol=_BEST),
    "rainbow": Source(name="Rainbow", paper="Hessel et al. 2018", protocol=_BEST),
    "iqn": Source(name="IQN", paper="Dabney et al. 2018", protocol=_BEST),
    "impala_deep": Source(
        name="IMPALA (deep, experts)",
        paper="Espeholt et al. 2018",
        protocol="one agent per game; no-op starts, 200M frames",
    ),
    "recurrent_iqn": Source(
        name="Recurrent IQN (2019)",
        paper="rltime, 2019",
        protocol="final network, 100 games, epsilon 0.001; one run per game, 200M frames",
    ),
    "ape_x_dqn": Source(
        name="Ape-X DQN",
        paper="Horgan et al. 2018",
        protocol="best network; no-op starts, distributed, about a hundred times the frames of DQN",
    ),
    "r2d2": Source(
        name="R2D2",
        paper="Kapturowski et al. 2019",
        protocol="final network, 3 seeds; full action set, no life-loss signal, distributed, billions of frames",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Human-normalized scores of several games: how many, median and mean (fractions), and games at human level."""

    games: int
    median: float
    mean: float
    at_least_human: int


@cache
def _table(name: str) -> dict[str, dict[str, float]]:
    """A csv of the package as ``{game: {column: value}}``, empty cells left out."""
    text = files("retorq").joinpath("data", name).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row.pop("game_id"): {key: float(value) for key, value in row.items() if value} for row in rows}


def games() -> tuple[str, ...]:
    """The 57 games by the names ALE uses (``"Pong"``, ``"VideoPinball"``), in alphabetical order."""
    return tuple(_table("atari57_reference.csv"))


def game_id(env_id: str) -> str | None:
    """The game an id names (``ALE/Pong-v5``, ``PongNoFrameskip-v4``, ``Pong``), None if it is not one of the 57."""
    match = _ATARI_ID.fullmatch(env_id)
    name = match[1] if match else env_id
    return name if name in _table("atari57_reference.csv") else None


def reference(env_id: str, *, video_pinball_random: float = VIDEO_PINBALL_RANDOM) -> tuple[float, float] | None:
    """Raw scores of the uniformly random policy and of the human tester, None if the game is not one of the 57."""
    game = game_id(env_id)
    if game is None:
        return None
    row = _table("atari57_reference.csv")[game]
    return (video_pinball_random if game == "VideoPinball" else row["random"]), row["human"]


def human_normalised(env_id: str, score: float, *, video_pinball_random: float = VIDEO_PINBALL_RANDOM) -> float | None:
    """``(score - random) / (human - random)`` as a fraction, None if the game is not one of the 57.

    ``score`` is the undiscounted, unclipped return of whole games. See the module's note on Video Pinball.
    """
    pair = reference(env_id, video_pinball_random=video_pinball_random)
    if pair is None:
        return None
    random, human = pair
    return (score - random) / (human - random)


def published(env_id: str) -> dict[str, float]:
    """Published raw scores ``{algorithm: score}`` of the game; empty if it is not one of the 57. Keys: `PUBLISHED`."""
    game = game_id(env_id)
    return dict(_table("atari57_published.csv")[game]) if game else {}


def published_column(algorithm: str) -> dict[str, float]:
    """Published raw scores ``{game: score}`` of one algorithm; games its paper does not list are left out."""
    if algorithm not in PUBLISHED:
        raise UserError(f"algorithm {algorithm!r} has no published scores here: use one of {', '.join(PUBLISHED)}")
    table = _table("atari57_published.csv")
    return {game: row[algorithm] for game, row in table.items() if algorithm in row}


def summarize(scores: Mapping[str, float], *, video_pinball_random: float = VIDEO_PINBALL_RANDOM) -> Summary:
    """Median and mean human-normalized score of raw ``{game: score}``; compare columns on the same games only."""
    values = []
    for game, score in scores.items():
        value = human_normalised(game, score, video_pinball_random=video_pinball_random)
        if value is None:
            raise UserError(f"game {game!r} has no human reference: it must be one of the 57 that games() lists")
        values.append(value)
    if not values:
        raise UserError("no games to summarize: give at least one score")
    array = np.asarray(values)
    return Summary(
        games=len(values),
        median=float(np.median(array)),
        mean=float(np.mean(array)),
        at_least_human=int(np.count_nonzero(array >= 1)),
    )


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979): what the mean could have been with other episodes.

    Episodes are resampled with replacement, so the interval covers chance within this one trained network, not between
    training runs. A single score gives an interval of width zero, which says nothing. The same seed gives the same
    interval. Raises UserError for an empty list, a score that is not finite, or a level outside (0, 1).
    """
    values = _finite(scores)
    if not 0 < level < 1:
        raise UserError(f"level {level} must lie strictly between 0 and 1, for example 0.95")
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, 2_000_000 // values.size))  # at most 16 MB of indices at a time
    means: list[np.ndarray] = []
    while sum(part.size for part in means) < resamples:
        means.append(values[generator.integers(values.size, size=(rows, values.size))].mean(axis=1))
    low, high = np.quantile(np.concatenate(means)[:resamples], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def iqm(scores: Sequence[float] | np.ndarray) -> float:
    """Interquartile mean: the mean without the lowest and the highest ``floor(n / 4)`` scores (Agarwal et al. 2021)."""
    values = np.sort(_finite(scores))
    cut = values.size // 4
    return float(values[cut : values.size - cut].mean())


def _finite(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Scores as a float64 array ``[n]``, n at least 1."""
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not values.size:
        raise UserError("scores is empty: give at least one finished episode")
    for index in np.flatnonzero(~np.isfinite(values)):
        raise UserError(f"scores[{index}] is {values[index]}: a score must be a finite number")
    return values
