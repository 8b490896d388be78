"""What a run will do and need, before it starts: the resource table, the memory check, the time estimate."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from retorq.agent import Agent
from retorq.learner import Learner
from retorq.replay.windows import require_capacity
from retorq.types import Batch, Inputs, Refused, Trajectory

PROCESS_BYTES = 600_000_000  # Python, torch and the emulators, measured on Linux; see benchmarks/memory.py
WORKING = 3.2  # what an update takes at its height, over what it keeps for its backward pass; measured likewise
ACTOR_BYTES = 250_000_000  # of an actor in a process of its own; see benchmarks/scaling.py


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of the resource table. Bytes are of main memory (replay and learner: of the learning device)."""

    env: str
    agent: str
    steps: int
    frames: int
    rows_trained: int
    updates: int
    batch: str
    replay_rows: int
    replay_bytes: int
    row_bytes: float
    process_bytes: int
    learner_bytes: int
    weights: int
    seconds: float | None
    device: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The table, as (what, how much)."""
        measured = "" if self.seconds is None else duration(self.seconds)
        time_left = f"about {measured} of learning and acting, environments on top" if measured else "not measured"
        return [
            ("environment", self.env),
            ("agent", f"{self.agent}, {self.weights:,} weights, on {self.device}"),
            ("environment frames", f"{self.frames:,} ({self.steps:,} agent steps)"),
            ("steps trained", f"{self.rows_trained:,}"),
            ("updates", f"{self.updates:,} of {self.batch}"),
            (
                "replay memory",
                f"{size(self.replay_bytes)} for {self.replay_rows:,} steps, {self.row_bytes:,.0f} bytes per step",
            ),
            ("process memory", f"at most {size(self.process_bytes)} besides"),
            ("estimated time", time_left),
        ]


def size(count: float) -> str:
    """Bytes for people: 7.3 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def duration(seconds: float) -> str:
    """Seconds for people: 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def plan(
    agent: Agent,
    env: str,
    steps: int,
    *,
    device: torch.device | str = "cpu",
    actors: int = 0,
) -> Plan:
    """Work out the table, without the time (see ``timed``). ``actors``: processes beside this one.

    Raises:
        UserError: The replay is too small for its windows.
    """
    require_capacity(agent.capacity, agent.window, agent.columns)
    learning = max(0, steps - agent.warmup)
    trained = int(learning * agent.samples_per_step)
    updates = trained // agent.rows_per_update
    weights = sum(p.numel() for p in agent.network.parameters())
    learner = learner_bytes(agent)
    rows = -(-(agent.capacity // agent.columns) // agent.layout.period) * agent.layout.period * agent.columns
    return Plan(
        env=env,
        agent=agent.name,
        steps=steps,
        frames=steps * agent.spec.frames_per_step,
        rows_trained=trained,
        updates=updates,
        batch=f"{agent.batch_size} x {agent.window.length} steps"
        if agent.window.length > 1
        else f"{agent.batch_size} steps",
        replay_rows=rows,
        replay_bytes=int(agent.layout.bytes_per_row() * rows * (1 + agent.surplus)),
        row_bytes=agent.layout.bytes_per_row(),
        process_bytes=PROCESS_BYTES + actors * ACTOR_BYTES + learner,
        learner_bytes=learner,
        weights=weights,
        seconds=None,
        device=str(device),
    )


def learner_bytes(agent: Agent) -> int:
    """What a learner takes at the height of an update: weights, gradients, moments, target, batch and activations.

    The largest moment is ``WORKING`` times what an update keeps for its backward pass.
    """
    frame = sum(int(np.prod(leaf.shape)) * agent.stack * 4 for leaf in agent.spec.observation.values())
    weights = sum(p.numel() for p in agent.network.parameters())
    return weights * 4 * 5 + frame * agent.window.rows * agent.batch_size + int(WORKING * activation_bytes(agent))


def activation_bytes(agent: Agent) -> int:
    """What an update keeps for its backward pass.

    Two updates of one and two windows tell a window's share, which is that of any batch. Both are made on the CPU.
    """
    cpu = torch.device("cpu")
    with _trial(agent, cpu, cuda_graph=False) as learner:
        kept = [_kept(learner, _made_up(replace(agent, batch_size=columns), cpu)) for columns in (1, 2)]
    return kept[0] + max(0, kept[1] - kept[0]) * (agent.batch_size - 1)


def _kept(learner: Learner, batch: Batch) -> int:
    """Bytes that an update keeps for its backward pass, the weights not among them."""
    parameters = [*learner.online.parameters(), *learner.target.parameters()]
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    held: dict[int, torch.UntypedStorage] = {}  # themselves: the address of one that is gone would be another's next

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.update(batch)
    return sum(storage.nbytes() for storage in held.values())


def timed(table: Plan, agent: Agent) -> Plan:
    """The same table with the estimated time, for which two updates and a few acting steps are made."""
    return replace(table, seconds=_measure(agent, table.steps, table.updates, torch.device(table.device)))


def exploration(agent: Agent, steps: int) -> list[tuple[str, str]]:
    """How the agent will explore in a run of so many steps, as (what, how), and warnings where that cannot be meant."""
    explore, noisy = agent.explore, agent.network.noisy
    epsilons = [float(explore.epsilon(step, steps).max()) for step in (0, steps // 2, steps)]
    if any(epsilons):
        sentence = explore.sentence + (", beside noisy layers" if noisy else "")
    else:
        sentence = "no epsilon: noisy layers explore" if noisy else "none: no epsilon, and no noisy layers"
    told = [("exploration", sentence)]
    last, lowest = (float(explore.epsilon(step, steps).mean()) for step in (steps, 10**18))
    if agent.warmup >= steps:
        told.append(
            (
                "warning",
                f"nothing will be learned: warmup is {agent.warmup:,} and steps {steps:,}; lower warmup or raise steps",
            )
        )
    elif last > lowest + 0.001:
        told.append(
            (
                "warning",
                f"exploration outlasts the run: epsilon ends at {last:.2g}, not {lowest:.2g}; lower epsilon_steps or "
                "warmup, or raise steps",
            )
        )
    return told


def require_memory(plan: Plan, device: torch.device | str = "cpu") -> None:
    """Refuse what cannot fit into the memory that is free now.

    Raises:
        Refused: Replay and process need more than there is.
    """
    on_gpu = torch.device(device).type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    need = plan.replay_bytes + (plan.learner_bytes if on_gpu else plan.process_bytes)
    if need > free:
        row = plan.replay_bytes / plan.replay_rows
        fits = max(0, int((free * 0.9 - (need - plan.replay_bytes)) / row))
        remedy = f"set replay_size to at most {fits:,}" if fits > 1000 else "use a machine with more memory"
        raise Refused(
            f"replay_size is {plan.replay_rows:,} steps, so the run needs {size(need)} of memory, but {size(free)} are "
            f"free; {remedy}."
        )


@contextmanager
def _trial(agent: Agent, device: torch.device, **settings: Any) -> Iterator[Learner]:
    """A learner whose updates leave no trace: same weights afterwards, same random numbers as without it."""
    spare = copy.deepcopy(agent.network)
    learner = agent.learner(device=device, **settings)
    learner.online.load_state_dict(spare.state_dict())
    generator = learner.generator.get_state()
    try:
        yield learner
    finally:
        agent.network.load_state_dict(spare.state_dict())
        learner.generator.set_state(generator)
        agent.network.zero_grad(set_to_none=True)


def _measure(agent: Agent, steps: int, updates: int, device: torch.device) -> float:
    """Seconds the run would take: learner and acting network timed here; environments are not included."""
    batch = _made_up(agent, device)

    def mean(function: object, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            function()  # type: ignore[operator]
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    def act() -> None:
        row = batch.trajectory.inputs.map(lambda a: a[:1, :1].expand(1, agent.columns, *a.shape[2:]).contiguous())
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=agent.precision == "bf16"):
            features, _ = agent.network.unroll(row, agent.network.initial_state(agent.columns, device))
            agent.network.head(features, agent.action_samples)

    with _trial(agent, device) as learner:
        learner.update(batch)
        per_update = mean(lambda: learner.update(batch), 2)
        act()
        per_step = mean(act, 3) / agent.columns
    return per_update * updates + per_step * steps


def _made_up(agent: Agent, device: torch.device) -> Batch:
    """A batch of the right shapes, all zeros."""
    rows, columns = agent.window.rows, agent.batch_size

    def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.zeros(rows, columns, *shape, dtype=dtype, device=device)

    observation = {}
    for name, leaf in agent.spec.observation.items():
        shape = (leaf.shape[0] * agent.stack, *leaf.shape[1:]) if leaf.kind == "image" else leaf.shape
        observation[name] = zeros(getattr(torch, leaf.dtype), *shape)
    action = torch.from_numpy(agent.spec.no_action(rows, columns)).to(device)
    inputs = Inputs(
        observation=observation,
        previous_action=action,
        previous_reward=zeros(torch.float32),
        elapsed=zeros(torch.int32),
        first=zeros(torch.bool),
    )
    trajectory = Trajectory(
        inputs=inputs,
        action=action,
        reward=zeros(torch.float32),
        terminated=zeros(torch.bool),
        truncated=zeros(torch.bool),
        last=zeros(torch.bool),
    )
    return Batch(
        trajectory=trajectory,
        state=agent.network.initial_state(columns, device),
        weight=torch.ones(columns, device=device),
        keys=np.zeros((columns, 2), dtype=np.int64),
    )
