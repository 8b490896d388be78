"""The Python surface, ``train`` and ``load``: where algorithms and running meet; the command line calls the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch

from retorq import algorithms
from retorq.algorithms.unused import unused
from retorq.envs.make import describe
from retorq.envs.options import EnvOptions
from retorq.learner import load_weights
from retorq.player import Player, PlayerState
from retorq.running.actors import require_pool
from retorq.running.checkpoint import newest
from retorq.running.closing import Next
from retorq.running.folder import RunFolder, default_path
from retorq.running.folder import how as how_it_ran
from retorq.running.process import prepare
from retorq.running.train import RESUMABLE, RunOptions, Task, check_device, check_seed, introduce, stored_config
from retorq.running.train import train as run_training
from retorq.types import EnvSpec, Refused, UserError

SAME = ("pool", "actors", "replay_shards")
"""How a run is divided over processes, which a resume cannot change."""
HOW = tuple(f.name for f in fields(RunOptions) if f.name not in {"steps", "seed", "log_every", *SAME})
"""Fields of ``RunOptions`` that may change from one start of a run to the next; a resume keeps what it is not told."""
STEPS = {"atari": 50_000_000, "published": 10_000_000, "laptop": 1_000_000, "minatar": 200_000, "toy": 25_000}
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
    _require_words(env=env, agent=agent, preset="" if preset is None else preset)
    if not isinstance(options, EnvOptions):
        raise UserError(f"options is {options!r}; give retorq.EnvOptions(...).")
    module = algorithms.load(agent)
    spec = describe(env, options)
    preset = preset or default_preset(spec, device)
    algorithms.require_actions(agent, spec)
    base = algorithms.preset(agent, preset)
    if isinstance(config, Mapping):
        known = {field.name for field in fields(base)}
        for name in config:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise UserError(f"field {name!r} does not exist in {agent}; perhaps you meant {near!r}.")
        config = replace(base, **config)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the caller's own numbers go on as if nothing had been drawn
        torch.manual_seed(seed)  # the initial weights
        made = module.make(config, spec)
    return Task(env=env, agent=made, options=options, preset=preset)


def _require_words(**given: Any) -> None:
    """Refuse what is no name."""
    for name, value in given.items():
        if not isinstance(value, str):
            what = "give its id, or module:Class" if name == "env" else "give a name"
            raise UserError(f"{name} is {value!r}; {what}, as text.")


def _folder(run: Any) -> Path:
    """The folder of a run, given as a ``Run`` or by its path."""
    if isinstance(run, Run):
        return run.path
    if not isinstance(run, str | Path):
        raise UserError(f"run is {run!r}; give a run folder's path, or what retorq.train returned.")
    return Path(run)


def idle(task: Task, run: RunOptions, asked: Collection[str]) -> list[str]:
    """A sentence for every field in ``asked`` that does nothing beside the others."""
    config = task.agent.config
    why = unused(config, task.agent.spec, pool=run.pool)
    return [f"{name} is {getattr(config, name)}, which would do nothing: {why[name]}." for name in asked if name in why]


def default_preset(spec: EnvSpec, device: str) -> str:
    """``minatar`` for MinAtar; for images of 36 pixels and more ``atari`` (GPU) or ``laptop`` (CPU); else ``toy``."""
    if spec.continuous:
        return "toy"
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

    How many threads PyTorch has, and that it flushes denormal numbers, stays so in this process.

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
    options = EnvOptions() if options is None else options
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
        environment=task.agent.environment,
        how={name: getattr(run, name) for name in HOW},
    )
    prepare(run, task.agent)
    require_pool(run)
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
    path: str | Path | Run,
    *,
    say: Callable[[str], None] = print,
    then: Next | None = None,
    **run: Any,
) -> Run:
    """Go on with a stopped run, as it was last started; ``run`` changes fields of ``RunOptions`` that are in ``HOW``.

    Raises:
        UserError: What was given cannot change, or no longer is possible here (a GPU that is gone).
        Refused: The run was made by another version, or its files are damaged.
    """
    path = _folder(path)
    for name in run:
        if name not in HOW:
            raise UserError(f"{name} cannot change when a run is resumed; what can: {', '.join(sorted(HOW))}.")
    earlier = how_it_ran(path)
    if strange := sorted(earlier.keys() - set(HOW)):
        raise Refused(
            f"run {str(path)!r} was last started by another version of retorq, which knows {', '.join(strange)}; use "
            "the version named in its versions.json."
        )
    run = earlier | run
    task, stored = reopen(path, device=run.get("device", "cpu"))
    config = stored["config"]
    same = {name: config[name] for name in ("steps", "log_every", *SAME) if name in config}
    return start(task, RunOptions(**same, seed=stored["seed"], **run), path, say=say, then=then)


def load(run: str | Path | Run, *, device: str = "cpu") -> Player:
    """The agent of a run at its newest good checkpoint.

    Raises:
        UserError: There is no such run, or it has no checkpoint.
        Refused: No checkpoint is whole, or the environment has other observations or actions now.
    """
    check_device(device)
    path = _folder(run)
    task, stored = reopen(path, device=device)
    found = newest(path / "checkpoints", run=stored["id"])
    if found is None:
        raise UserError(f"run {str(path)!r} has no checkpoint yet; train it first.")
    weights = {
        name.removeprefix("online."): value
        for name, value in found.tensors("learner", device=device).items()
        if name.startswith("online.")
    }
    load_weights(task.agent.network.to(device), weights)
    return Player(task, step=found.step, total=stored["config"]["steps"], device=device)


__all__ = ["RESUMABLE", "Player", "PlayerState", "Run", "load", "resume", "train"]
