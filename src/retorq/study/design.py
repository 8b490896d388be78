"""What a study consists of, as data: tasks, variants of an agent, and the runs that they make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from retorq import algorithms, api
from retorq.envs.make import describe
from retorq.envs.options import EnvOptions
from retorq.types import UserError

Settings = Mapping[str, Any]
Named = TypeVar("Named", "Task", "Variant")


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment and a budget in agent steps, with settings for all variants or for those of one agent.

    ``preset`` None is the environment's usual one. ``chance`` and ``best``, where they are known, are the scores of
    guessing and of perfect play: with them scores of several tasks can be put together.
    """

    name: str
    env: str
    steps: int
    preset: str | None = None
    kwargs: Settings = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    of_agent: Mapping[str, Settings] = field(default_factory=dict)
    chance: float | None = None
    best: float | None = None

    @property
    def options(self) -> EnvOptions:
        """The environment's options."""
        return EnvOptions(kwargs=dict(self.kwargs))  # type: ignore[arg-type]  # a mapping is accepted

    def usual(self, agent: str) -> dict[str, Any]:
        """Every setting of an agent on this task, before a variant changes any."""
        module = algorithms.load(agent)
        preset = self.preset or api.default_preset(describe(self.env, self.options), "cpu")
        config = module.PRESETS[preset]()
        known = {f.name: getattr(config, f.name) for f in fields(config)}
        return known | dict(self.settings) | dict(self.of_agent.get(agent, {}))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An agent with settings that differ from its preset's.

    ``borrow`` names other agents and the fields to take over from what is usual for them on the task; no fields at all
    mean all that both have.
    """

    name: str
    agent: str
    settings: Settings = field(default_factory=dict)
    borrow: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def on(self, task: Task) -> dict[str, Any]:
        """The settings of this variant on a task, to be given to ``retorq.train``."""
        mine = task.usual(self.agent)
        changed = {**task.settings, **task.of_agent.get(self.agent, {})}
        for agent, names in self.borrow.items():
            theirs = task.usual(agent)
            changed |= {name: theirs[name] for name in names or (mine.keys() & theirs.keys())}
        return changed | dict(self.settings)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants compared on tasks over several seeds; ``reference`` is the variant that the others are held against.

    ``fallback`` takes the place of tasks whose package is not installed. ``burn_ins``: where not empty, Delta-Q of
    every finished run is measured with burn-ins of these lengths (``study.discrepancy``).
    """

    name: str
    summary: str
    tasks: Sequence[Task]
    variants: Sequence[Variant]
    reference: str
    seeds: int
    fallback: Task | None = None
    burn_ins: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study."""

    task: Task
    variant: str
    agent: str
    settings: Settings
    seed: int
    path: Path

    @property
    def title(self) -> str:
        """What a line of progress calls it."""
        return f"{self.task.name}, {self.variant}, seed {self.seed}"


def slug(text: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9_+.]+", "-", text).strip("-.") or "x"


def chosen(kind: str, items: Sequence[Named], names: Sequence[str]) -> list[Named]:
    """The items of these names, all of them where there is no name.

    Raises:
        UserError: There is no item of a name.
    """
    known = {item.name: item for item in items}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UserError(f"{kind} names {name!r}, which this study does not have; perhaps you meant {near!r}.")
    return [known[name] for name in names] if names else list(items)


def jobs(tasks: Sequence[Task], variants: Sequence[Variant], seeds: int, out: Path) -> list[Job]:
    """All runs: first one seed of everything, then the next, so that a study stopped early is a smaller study."""
    settings = {(task.name, variant.name): variant.on(task) for task in tasks for variant in variants}
    return [
        Job(
            task=task,
            variant=variant.name,
            agent=variant.agent,
            settings=settings[task.name, variant.name],
            seed=seed,
            path=out / "runs" / slug(task.name) / slug(variant.name) / str(seed),
        )
        for seed in range(seeds)
        for task in tasks
        for variant in variants
    ]
