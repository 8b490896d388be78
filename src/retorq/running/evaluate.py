"""Evaluation by named protocols: whole games, raw scores, an interval, and what everything was set to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retorq.acting.actor import Actor
from retorq.acting.explore import Fixed
from retorq.acting.pools import sentences
from retorq.agent import Agent
from retorq.envs.atari import rom_of
from retorq.envs.make import make, toy_names
from retorq.envs.options import EnvOptions
from retorq.nn.network import Network
from retorq.running.scores import bootstrap_interval, human_normalised
from retorq.types import Episode, UserError

if TYPE_CHECKING:
    from retorq.running.again import Tape


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How scores are taken. ``options`` are environment options that replace the run's own (Atari only).

    ``episodes`` games are counted: the first that many *started*, so that short games are not favored; or, with
    ``frames``, the games completed within that many frames.
    """

    name: str
    summary: str
    epsilon: float
    episodes: int
    frames: int | None = None
    atari: dict[str, Any] | None = None


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="recurrent_iqn_2019",
            summary="RLtime: final weights, epsilon 0.001, first 100 games started, up to 30 no-ops, no sticky actions",
            epsilon=0.001,
            episodes=100,
            atari={"noop_max": 30, "sticky": 0.0, "max_frames": 108_000},
        ),
        Protocol(
            name="machado_2018",
            summary="Machado et al.: sticky actions 0.25, no no-ops, first 100 games started, epsilon 0.001",
            epsilon=0.001,
            episodes=100,
            atari={"noop_max": 0, "sticky": 0.25, "max_frames": 108_000},
        ),
        Protocol(
            name="nature_2015",
            summary="Mnih et al.: first 30 games started, of at most 5 minutes, epsilon 0.05, up to 30 no-ops",
            epsilon=0.05,
            episodes=30,
            atari={"noop_max": 30, "sticky": 0.0, "max_frames": 18_000},
        ),
        Protocol(
            name="dqn_zoo",
            summary="dqn_zoo: games completed within 500,000 frames, epsilon 0.01, up to 30 no-ops, no sticky actions",
            epsilon=0.01,
            episodes=0,
            frames=500_000,
            atari={"noop_max": 30, "sticky": 0.0, "max_frames": 108_000},
        ),
        Protocol(
            name="greedy",
            summary="any environment as it was trained on: greedy actions, first 100 games started",
            epsilon=0.0,
            episodes=100,
        ),
    )
}


def protocol(name: str | None, env: str) -> Protocol:
    """The protocol of that name; by default ``recurrent_iqn_2019`` for Atari and ``greedy`` for anything else.

    Raises:
        UserError: No protocol of that name, or one for Atari only on another environment.
    """
    atari = env not in toy_names() and rom_of(env) is not None
    if name is None:
        return PROTOCOLS["recurrent_iqn_2019" if atari else "greedy"]
    if name not in PROTOCOLS:
        near = get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"protocol is {name!r}, which does not exist; perhaps you meant {near!r} (retorq list protocols)."
        )
    chosen = PROTOCOLS[name]
    if chosen.atari is not None and not atari:
        raise UserError(f"protocol is {name!r}, which is for Atari, but the environment is {env!r}; use 'greedy'.")
    return chosen


@contextmanager
def without_noise(network: Network) -> Iterator[None]:
    """The network in evaluation mode, which silences noisy layers; afterwards in the mode it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _silent(line: str) -> None:
    """Say nothing."""


def _step(actor: Actor, say: Callable[[str], None]) -> list[Episode]:
    """One vector step; says which environments failed. Games that were cut by that are no part of what is played."""
    actor.collect(1)
    for line in sentences(actor.faults()):
        say(line)
    return [episode for episode in actor.drain() if not episode.cut]


def play(
    actor: Actor,
    episodes: int,
    report: Callable[[int], None] | None = None,
    say: Callable[[str], None] = _silent,
) -> list[Episode]:
    """The first ``episodes`` games *started* over all columns, in the order they were started, each to its end.

    In the place of a game whose environment failed comes the next one of its column.
    """
    number = np.arange(actor.env.columns)
    following = actor.env.columns
    done: dict[int, Episode] = {}
    while len(done) < episodes:
        for episode in _step(actor, say):
            if number[episode.column] < episodes:
                done[int(number[episode.column])] = episode
                if report:
                    report(len(done))
            number[episode.column], following = following, following + 1
    return [done[i] for i in range(episodes)]


def play_frames(actor: Actor, steps: int, say: Callable[[str], None] = _silent) -> list[Episode]:
    """All games completed within ``steps`` agent steps over all columns."""
    done: list[Episode] = []
    while actor.steps < steps:
        done += _step(actor, say)
    return done


def games_of(using: Protocol, episodes: int | None) -> int:
    """How many games count: the protocol's number (0: it counts frames), or that which was asked for.

    Raises:
        UserError: A number below 1, or one for a protocol that counts frames.
    """
    if episodes is None:
        return using.episodes
    if using.frames or episodes < 1:
        raise UserError(
            f"episodes is {episodes}; " + ("this protocol counts frames." if using.frames else "give 1 or more.")
        )
    return episodes


def evaluate(
    agent: Agent,
    network: Network,
    env: str,
    options: EnvOptions,
    *,
    using: Protocol,
    episodes: int | None = None,
    seed: int = 0,
    step: int = 0,
    total: int | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int], None] | None = None,
    tape: Tape | None = None,
    say: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """Play by a protocol and return the record that ``eval/*.json`` holds.

    Memory is treated as in training (cleared at a lost life if the run did so); scores always count whole games,
    unclipped. The noise of noisy layers is off. ``episodes`` replaces the protocol's number. ``step`` of ``total`` says
    where in its run the agent stands. With a ``tape`` the games can be played again (``running.again``). ``say`` is
    told of every environment that failed and was replaced, in a line; the record counts them, if there were any.
    """
    options = replace(options, **(using.atari or {}))
    count = games_of(using, episodes)
    columns = min(count, 32) if count else 1  # frames shared by several games would favor short ones
    vector = make(env, columns=columns, seed=seed, options=options)
    if tape is not None:
        vector = tape.over(vector, env=env, options=options, seed=seed)
    explore = Fixed(columns=columns, value=using.epsilon)
    actor = agent.actor(vector, seed=seed, network=network, explore=explore, device=device)
    try:
        with without_noise(network):
            if using.frames:
                games = play_frames(actor, using.frames // vector.spec.frames_per_step, say)
            else:
                games = play(actor, count, report, say)
    finally:
        vector.close()
    replaced = actor.environments_replaced
    return record(agent, env, vector.spec.frames_per_step, using, games, step=step, seed=seed) | {
        "environment": asdict(options) | dict(vector.spec.settings) | {"stack": agent.stack},
        "total_steps": total,
        **({"environments_replaced": replaced} if replaced else {}),
    }


def record(
    agent: Agent, env: str, frames_per_step: int, using: Protocol, games: list[Episode], *, step: int, seed: int
) -> dict[str, Any]:
    """The evaluation as plain data. ``ci95`` is None for a single game, which tells nothing of the spread."""
    scores = np.array([game.score for game in games], dtype=np.float64)
    result: dict[str, Any] = {
        "agent": agent.name,
        "env": env,
        "protocol": using.name,
        "step": step,
        "frames": step * frames_per_step,
        "episodes": len(games),
        "epsilon": using.epsilon,
        "seed": seed,
        "scores": scores.tolist(),
        "lengths": [game.length for game in games],
        "mean": float(scores.mean()) if len(games) else None,
        "median": float(np.median(scores)) if len(games) else None,
        "ci95": list(bootstrap_interval(scores, seed=0)) if len(games) > 1 else None,
    }
    normalized = human_normalised(env, result["mean"]) if len(games) else None
    return result | ({} if normalized is None else {"human_normalised": normalized})


def file_name(record: Mapping[str, Any], *, seed: int | None = None) -> str:
    """Where a run keeps a record: what sets evaluations apart is in the name, so that none takes another's place.

    ``seed`` is the one that was asked for; None: the usual one, which is not named.
    """
    using = PROTOCOLS.get(record["protocol"])
    number = f"{using.frames}frames" if using and using.frames else f"{record['episodes']}games"
    return (
        "-".join([str(record["step"]), record["protocol"], number, *([] if seed is None else [f"seed{seed}"])])
        + ".json"
    )
