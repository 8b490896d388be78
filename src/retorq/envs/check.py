"""What ``retorq doctor ENV`` finds out about an environment by playing it at random."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from retorq.types import EnvSpec, Step, Tree, UserError, VectorEnv

Finding = tuple[bool, str]
"""Whether it is good, and one sentence about it."""

_STEPS = 300


def examine(env: str, build: Callable[[int], VectorEnv]) -> list[Finding]:
    """Build twice with one seed, play the same random actions, compare, time, and save and restore if possible."""
    try:
        first = build(0)
    except UserError as error:
        return [(False, str(error))]
    findings: list[Finding] = [(True, _told(first.spec))]
    try:
        start = time.perf_counter()
        played = _play(first, _STEPS)
        seconds = time.perf_counter() - start
        findings.append((True, f"{_STEPS} random steps in 2 columns passed every check at the door."))
        findings.append((True, f"It does about {_STEPS * 2 / seconds:,.0f} steps per second in 2 columns."))
        findings += [_ends(played), _repeats(build, played), _saves(first)]
    except UserError as error:
        findings.append((False, str(error)))
    finally:
        first.close()
    return findings


def _told(spec: EnvSpec) -> str:
    parts = ", ".join(f"{name}: {leaf.kind} {leaf.shape} {leaf.dtype}" for name, leaf in spec.observation.items())
    cap = f"at most {spec.max_steps} steps per episode" if spec.max_steps else "announces no limit on an episode"
    kind = f"actions of {spec.actions} numbers (a Box, for apex_dpg)" if spec.continuous else f"{spec.actions} actions"
    return f"{spec.id} has {kind}, observations {parts}, and {cap}."


def random_actions(spec: EnvSpec, columns: int, generator: np.random.Generator) -> np.ndarray:
    """Uniformly random actions: ``[columns]`` int64, or ``[columns, A]`` float32 in [-1, 1)."""
    if spec.continuous:
        return generator.uniform(-1.0, 1.0, (columns, spec.actions)).astype(np.float32)
    return generator.integers(spec.actions, size=columns)


def _play(env: VectorEnv, steps: int) -> list[tuple[Tree, Step | None]]:
    generator = np.random.default_rng(7)
    rows: list[tuple[Tree, Step | None]] = [(env.reset(), None)]
    for _ in range(steps):
        step = env.step(random_actions(env.spec, env.columns, generator))
        rows.append((step.observation, step))
    return rows


def _ends(played: list[tuple[Tree, Step | None]]) -> Finding:
    ended = sum(int(step.ended.sum()) for _, step in played if step is not None)
    if ended:
        return True, f"{ended} episodes ended during the random steps."
    return True, f"No episode ended within {_STEPS} random steps; give env.max_episode_steps if they may never end."


def _repeats(build: Callable[[int], VectorEnv], played: list[tuple[Tree, Step | None]]) -> Finding:
    """Whether a second copy with the same seed shows the same observations for the same actions."""
    second = build(0)
    try:
        again = _play(second, 50)
    finally:
        second.close()
    same = all(
        np.array_equal(value, tree[name])
        for (tree, _), (other, _) in zip(played, again, strict=False)
        for name, value in other.items()
    )
    if same:
        return True, "The same seed and actions give the same observations."
    return False, "The same seed and actions give different observations: runs on it cannot be repeated exactly."


def _saves(env: VectorEnv) -> Finding:
    if env.state_dict() is None:
        return True, "It cannot be saved in the middle of an episode: a resumed run starts new episodes."
    return True, "It can be saved in the middle of an episode: a resumed run goes on exactly."
