"""The Python surface, ``train`` and ``load``: where algorithms and running meet; the command line calls the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retorq import algorithms
from retorq.acting.explore import Fixed
from retorq.agent import Agent
from retorq.algorithms.unused import unused
from retorq.envs.make import describe, make
from retorq.envs.options import EnvOptions
from retorq.running import evaluate as evaluation
from retorq.running.again import Played, Tape, film_again
from retorq.running.checkpoint import newest
from retorq.running.closing import Next
from retorq.running.distributions import ReturnDistribution, look
from retorq.running.film import Moment, film
from retorq.running.folder import RunFolder, default_path
from retorq.running.train import (
    RESUMABLE,
    RunOptions,
    Task,
    check_device,
    check_seed,
    introduce,
    prepare,
    stored_config,
)
from retorq.running.train import train as run_training
from retorq.types import EnvSpec, Inputs, Refused, Tree, UserError

SAME = ("pool", "actors", "replay_shards")
"""How a run is divided over processes, which a resume cannot change."""
STEPS = {"atari": 50_000_000, "laptop": 750_000, "minatar": 200_000, "toy": 20_000}
"""Agent steps of a run where none are given, by preset."""


def compose(
    env: str,
    *,
    agent: str,
    preset: str | None,
    config: Mapping[str, Any] | Any,
    options: EnvOptions,
    device: str,
    seed: int,
) -> Task:
    """Make an agent for an environment. ``config`` is a ``Config`` or fields that differ from the preset's.

    Raises:
        UserError: Unknown agent, preset, field or environment, or a value that makes no sense.
    """
    module = algorithms.load(agent)
    spec = describe(env, options)
    preset = preset or default_preset(spec, device)
    base = algorithms.preset(agent, preset)
    if isinstance(config, Mapping):
        known = {field.name for field in fields(base)}
        for name in config:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise UserError(f"field {name!r} does not exist in {agent}; perhaps you meant {near!r}.")
        config = replace(base, **config)
    check_seed(seed)
    torch.manual_seed(seed)  # the initial weights
    return Task(env=env, agent=module.make(config, spec), options=options, preset=preset)


def idle(task: Task, run: RunOptions, asked: Collection[str]) -> list[str]:
    """A sentence for every field in ``asked`` that does nothing beside the others."""
    config = task.agent.config
    why = unused(config, task.agent.spec, pool=run.pool)
    return [f"{name} is {getattr(config, name)}, which would do nothing: {why[name]}." for name in asked if name in why]


def default_preset(spec: EnvSpec, device: str) -> str:
    """``minatar`` for MinAtar; for images of 36 pixels and more ``atari`` (GPU) or ``laptop`` (CPU); else ``toy``."""
    if spec.id.startswith("MinAtar/"):
        return "minatar"
    images = [leaf for leaf in spec.observation.values() if leaf.kind == "image"]
    if not images or min(min(leaf.shape[1:]) for leaf in images) < 36:
        return "toy"
    return "atari" if device.startswith("cuda") else "laptop"


@dataclass(frozen=True)
class Run:
    """A run folder and how training in it ended (exit code 0: done, 75: stopped, can go on)."""

    path: Path
    code: int

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def load(self) -> Player:
        """The trained agent."""
        return load(self.path)


def train(
    env: str,
    agent: str = "recurrent_iqn",
    *,
    steps: int | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    preset: str | None = None,
    options: EnvOptions | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    **settings: Any,
) -> Run:
    """Train an agent; on an existing folder of the same run, go on with it.

    Args:
        env: A Gymnasium id, ``ALE/NAME-v5``, a built-in toy, or ``module:Class``.
        agent: A name of ``retorq list agents``.
        steps: Agent steps, all environments together (default: by preset).
        seed: One seed for everything.
        run: The run folder (default: ``runs/ENV-AGENT-SEED``).
        preset: Where the settings start from (default: by environment and device).
        options: Environment options.
        device: ``cpu`` or ``cuda``.
        say: Takes the lines printed before the run begins; progress goes to the standard output.
        settings: Fields of the agent's ``Config`` or of ``RunOptions``.

    Raises:
        UserError: Something asked for does not exist or makes no sense (also its kinds ``Refused`` and ``Diverged``).
    """
    of_run = {f.name for f in fields(RunOptions)}
    options = options or EnvOptions()
    config = {name: value for name, value in settings.items() if name not in of_run}
    task = compose(env, agent=agent, preset=preset, config=config, options=options, device=device, seed=seed)
    chosen = {name: value for name, value in settings.items() if name in of_run}
    total = STEPS[task.preset] if steps is None else steps
    if not isinstance(total, int):
        raise UserError(f"steps is {total!r}; give a whole number.")
    how = RunOptions(**{"log_every": log_period(total)} | chosen, steps=total, seed=seed, device=device)
    for sentence in idle(task, how, config):  # told, not refused: one set of settings may be for several agents
        say(f"{'note':>20}  {sentence}")
    return start(task, how, Path(run) if run else default_path(env, agent, seed), say=say)


def log_period(steps: int) -> int:
    """Agent steps between rows of metrics.jsonl: about 200 rows a run."""
    return max(100, steps // 200)


def start(
    task: Task, run: RunOptions, path: Path, *, say: Callable[[str], None] = print, then: Next | None = None
) -> Run:
    """Introduce the run, open its folder, and train; see ``train``. ``then``: the commands it names at its end."""
    open_folder = partial(
        RunFolder.create,
        path,
        agent=task.agent.name,
        env=task.env,
        seed=run.seed,
        options=asdict(task.options),
        config=stored_config(task, run),
    )
    prepare(run)
    with ExitStack() as held:
        # A run that is there refuses before anything is measured; a new one is made when nothing else can be refused.
        folder = held.enter_context(open_folder()) if RunFolder.there(path) else None
        introduce(task, run, say)
        folder = folder or held.enter_context(open_folder())
        say(f"{'run folder':>20}  {path}" + (" (goes on)" if folder.resumed else ""))
        return Run(path, run_training(task, run, folder, then=then))


def reopen(path: Path, *, device: str = "cpu") -> tuple[Task, dict[str, Any]]:
    """The task of an existing run, and what its ``config.json`` holds; changes nothing on disk.

    Raises:
        Refused: The settings stored are not those of this version's agent.
    """
    stored = RunFolder.open(path, lock=False).stored
    config = dict(stored["config"])
    try:
        preset = config.pop("preset")
        for name in ("steps", "log_every", "pool", "actors"):
            config.pop(name)
        config.pop("replay_shards", None)
        options = EnvOptions(**stored["options"])
    except (KeyError, TypeError) as error:
        raise Refused(
            f"run {str(path)!r} has settings that this version of retorq does not know ({error}); use the version "
            "named in its versions.json."
        ) from error
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    known = {field.name for field in fields(algorithms.load(stored["agent"]).Config)}
    if strange := sorted(config.keys() ^ known):
        raise Refused(
            f"run {str(path)!r} was made by another version of retorq, whose {stored['agent']} differs in "
            f"{', '.join(strange)}; use the version named in its versions.json."
        )
    task = compose(
        stored["env"],
        agent=stored["agent"],
        preset=preset,
        config=config,
        options=options,
        device=device,
        seed=stored["seed"],
    )
    return task, stored


def resume(
    path: str | Path,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    then: Next | None = None,
    **run: Any,
) -> Run:
    """Go on with a stopped run; ``run`` may change fields of ``RunOptions`` that are not the run's identity."""
    path = Path(path)
    known = {f.name for f in fields(RunOptions)} - {"steps", "seed", "log_every", "device", *SAME}
    for name in run:
        if name not in known:
            raise UserError(f"{name} cannot change when a run is resumed; what can: {', '.join(sorted(known))}.")
    task, stored = reopen(path, device=device)
    config = stored["config"]
    same = {name: config[name] for name in ("steps", "log_every", *SAME) if name in config}
    how = RunOptions(**same, seed=stored["seed"], device=device, **run)
    return start(task, how, path, say=say, then=then)


@dataclass
class PlayerState:
    """What a :class:`Player` remembers between steps of one game: memory, and what it did and got last."""

    memory: Tree
    action: int = 0
    elapsed: int = 0
    first: bool = True


class Player:
    """A trained agent: ``act``, ``values``, ``distribution`` and ``evaluate``."""

    def __init__(self, task: Task, *, step: int, device: str = "cpu") -> None:
        self.task, self.step, self.device = task, step, device
        self.agent: Agent = task.agent
        self.network = task.agent.network
        self._generator = torch.Generator(device).manual_seed(0)

    def act(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[int, PlayerState]:
        """The greedy action for one observation, and the state to hand in with the next.

        Args:
            observation: One observation as the environment's door gives it: a dict of arrays, or the array itself
                where there is only one; images are ``(channels, height, width)``.
            state: None at the start of a game, else what the last call returned.
            reward: The raw reward that followed the last action.
        """
        values, state = self.values(observation, state, reward=reward)
        action = int(values.argmax())
        return action, replace(state, action=action)

    def values(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[np.ndarray, PlayerState]:
        """Value of each action ``[A]`` (the mean, under the agent's risk if any), and the state after seeing this."""
        row, state = self._row(observation, state, reward)
        with torch.inference_mode(), evaluation.without_noise(self.network):
            features, memory = self.network.unroll(row, state.memory, self._generator)
            values = self.network.preferences(features, self.agent.action_samples, self._generator)[0, 0]
        return values.cpu().numpy(), PlayerState(memory=memory, action=0, elapsed=state.elapsed + 1, first=False)

    def distribution(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[ReturnDistribution, PlayerState]:
        """The learned distribution of each action's return, and the state after seeing the observation.

        Raises:
            UserError: The agent learns single values.
        """
        row, state = self._row(observation, state, reward)
        with evaluation.without_noise(self.network):
            _, found, memory = look(self.network, row, state.memory, self._generator)
        if found is None:
            raise UserError(
                f"agent is {self.agent.name!r}, which learns single values and no distribution of returns; use "
                "values(), or train c51, qr_dqn, iqn or recurrent_iqn."
            )
        return found, PlayerState(memory=memory, action=0, elapsed=state.elapsed + 1, first=False)

    def _row(self, observation: Any, state: PlayerState | None, reward: float) -> tuple[Inputs, PlayerState]:
        """One observation as the network's input ``[1, 1, ...]``, and the state before it."""
        if self.agent.stack > 1:
            raise Refused(f"stack is {self.agent.stack}; act() holds one image at a time, use evaluate().")
        state = state or PlayerState(memory=self.network.initial_state(1, self.device))
        seen = (
            observation if isinstance(observation, Mapping) else {next(iter(self.agent.spec.observation)): observation}
        )
        row = Inputs(
            observation=self._require_observation(seen),
            previous_action=np.asarray(state.action),
            previous_reward=np.asarray(reward, np.float32),
            elapsed=np.asarray(state.elapsed, np.int32),
            first=np.asarray(state.first),
        ).map(lambda a: torch.from_numpy(np.array(a))[None, None].to(self.device))
        return row, state

    def _require_same_spaces(self, other: EnvSpec) -> None:
        mine = self.agent.spec
        if (dict(other.observation), other.actions) != (dict(mine.observation), mine.actions):
            raise UserError(
                f"env is {other.id!r}, whose observations or actions are not those of {mine.id!r}; evaluate on an "
                "environment like the one trained on."
            )

    def _require_observation(self, seen: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The observation as arrays, if it is one of this agent's."""
        expected = {name: leaf.shape for name, leaf in self.agent.spec.observation.items()}
        arrays = {name: np.asarray(value) for name, value in seen.items()}
        shapes = {name: value.shape for name, value in arrays.items()}
        if shapes != expected:
            raise UserError(
                f"observation has the shapes {shapes}; give {expected} (images with their channels first), as "
                "retorq.envs.make shows them."
            )
        return arrays

    def evaluate(
        self,
        *,
        protocol: str | None = None,
        episodes: int | None = None,
        seed: int = 0,
        env: str | None = None,
        tape: Tape | None = None,
    ) -> dict[str, Any]:
        """Play by a named protocol; the record that ``eval/*.json`` holds. A ``tape`` keeps what ``again`` needs."""
        env = env or self.task.env
        check_seed(seed)
        if env != self.task.env:
            self._require_same_spaces(describe(env, self.task.options))
        return evaluation.evaluate(
            self.agent,
            self.network,
            env,
            self.task.options,
            using=evaluation.protocol(protocol, env),
            episodes=episodes,
            seed=seed,
            step=self.step,
            device=self.device,
            tape=tape,
        )

    def watch(self, *, protocol: str | None = None, seed: int = 0, longest: int = 30_000) -> Iterator[np.ndarray]:
        """Play one whole game as a protocol would, giving each picture ``uint8 [H, W, 3]`` as it comes.

        ``longest`` is the number of steps after which even an unfinished game ends.
        """
        for moment in self._film(protocol, seed, longest, looking=False):
            yield moment.picture

    def film(self, *, protocol: str | None = None, seed: int = 0, longest: int = 30_000) -> Iterator[Moment]:
        """The same game as ``watch``, with what the agent made of each picture."""
        return self._film(protocol, seed, longest, looking=True)

    def again(self, game: Played) -> Iterator[Moment]:
        """A game of an evaluation (``tape.game(number, record)``) once more, with what the agent made of each picture.

        Raises:
            UserError: The environment does not repeat its games.
        """
        return film_again(self.agent, self.network, game, device=self.device)

    def _film(self, protocol: str | None, seed: int, longest: int, *, looking: bool) -> Iterator[Moment]:
        using = evaluation.protocol(protocol, self.task.env)
        options = replace(self.task.options, **(using.atari or {}))
        env = make(self.task.env, columns=1, seed=seed, options=options, render=True)
        explore = Fixed(columns=1, value=using.epsilon)
        actor = self.agent.actor(env, seed=seed, network=self.network, explore=explore, device=self.device)
        try:
            yield from film(actor, longest=longest, looking=looking)
        finally:
            env.close()


def load(run: str | Path, *, device: str = "cpu") -> Player:
    """The agent of a run at its newest good checkpoint.

    Raises:
        UserError: There is no such run, or it has no checkpoint.
        Refused: No checkpoint is whole.
    """
    check_device(device)
    path = Path(run)
    task, stored = reopen(path, device=device)
    found = newest(path / "checkpoints", run=stored["id"])
    if found is None:
        raise UserError(f"run {str(path)!r} has no checkpoint yet; train it first.")
    weights = {
        name.removeprefix("online."): value
        for name, value in found.tensors("learner", device=device).items()
        if name.startswith("online.")
    }
    task.agent.network.to(device).load_state_dict(weights)
    return Player(task, step=found.step, device=device)


__all__ = ["RESUMABLE", "Player", "PlayerState", "Run", "load", "resume", "train"]
