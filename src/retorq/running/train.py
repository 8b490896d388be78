"""Training runs: a folder, a plan, the loop, checkpoints, and what to say. The learning itself is in ``trainer.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from retorq.acting.cluster import address_of
from retorq.acting.head_watch import HeadWatch
from retorq.acting.ray_settings import DEFAULT_TOKEN
from retorq.agent import Agent
from retorq.envs.options import EnvOptions
from retorq.running import closing
from retorq.running.actors import actors, cluster_for
from retorq.running.bundles import gorila, require_bundles
from retorq.running.folder import RunFolder
from retorq.running.gorila import Gorila
from retorq.running.keeping import dump, resume, standing, store
from retorq.running.log import Log
from retorq.running.plan import Plan, cores, exploration, plan, require_memory, timed
from retorq.running.shards import require_shards, shards
from retorq.running.signals import StopSignal
from retorq.running.trainer import Trainer
from retorq.types import Diverged, HeadLost, Stopped, UserError

RESUMABLE = 75
"""Exit code of a run that was stopped and can go on."""
MOST_STEPS = 10**12
"""Agent steps: more than a thousand times what any published run took."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run, apart from what to learn. ``steps`` and ``seed`` belong to the run; the rest may change on a resume.

    Attributes:
        steps: Agent steps, all environments together.
        seed: One seed for everything.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads for the learner; 0: one where its updates are small (``running.process``), else as many
            as there are cores, one less where actors play by the clock (``hz``).
        log_every: Agent steps between rows of metrics.jsonl.
        checkpoint_seconds: Seconds between checkpoints; one is also written at the end and when stopped.
        save_replay: Keep the replay in checkpoints; without it a resume refills it first, and is not exact.
        tensorboard: Write TensorBoard events; unset: if it is installed.
        pool: Where acting happens: ``local``, in this process, in turn with learning (deterministic); or at the
            same time, in processes of their own: ``process``, or ``ray`` (extra dist).
        actors: Of a pool that is not local: how many share the environments (``num_envs``).
        actor_rows: Of a pool that is not local: steps of each environment per message.
        hz: Of a pool that is not local: play in real time, so many steps of each environment per second; 0: as fast as
            it goes.
        actor_time_limit: Of a pool that is not local: seconds an actor, a shard or a bundle may be silent before it is
            started anew.
        replay_shards: Of the pool ``ray``: how many processes hold the replay; 0: this one does.
        cluster: Of the pool ``ray``: ``HOST:PORT`` of the cluster to join; empty: Ray is started on this host alone.
        cluster_token: File with that cluster's token.
    """

    steps: int
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    log_every: int = 10_000
    checkpoint_seconds: float = 600.0
    save_replay: bool = True
    tensorboard: bool | None = None
    pool: Literal["local", "process", "ray"] = "local"
    actors: int = 0
    actor_rows: int = 10
    actor_time_limit: float = 60.0
    hz: float = 0.0
    replay_shards: int = 0
    cluster: str = ""
    cluster_token: str = str(DEFAULT_TOKEN)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, lowest in _LOWEST.items():
            value, kind = getattr(self, name), (int, float) if name in _FRACTIONS else int
            if isinstance(value, bool) or not isinstance(value, kind):
                raise UserError(f"{name} is {value!r}; give a {'whole ' if kind is int else ''}number.")
            if not value >= lowest:
                raise UserError(f"{name} is {value}; give at least {lowest}.")
        if self.steps > MOST_STEPS:
            raise UserError(f"steps is {self.steps}; give at most {MOST_STEPS:,}.")
        check_seed(self.seed)
        check_device(self.device)
        self._check_pool()

    def _check_pool(self) -> None:
        if self.pool not in ("local", "process", "ray"):
            raise UserError(f"pool is {self.pool!r}; give local, process or ray.")
        for name in ("actors", "actor_rows", "actor_time_limit", "hz"):
            value = getattr(self, name)
            if self.pool == "local" and value != getattr(type(self), name):
                raise UserError(
                    f"{name} is {value}, but pool is local, where one actor plays in this process; give --pool process "
                    f"or leave {name} away."
                )
        if self.hz and self.actor_rows / self.hz > self.actor_time_limit / 2:
            raise UserError(
                f"hz is {self.hz:g} and actor_rows {self.actor_rows}, so a message takes {self.actor_rows / self.hz:g} "
                f"s, and actor_time_limit is {self.actor_time_limit:g} s; give fewer actor_rows or a longer limit."
            )
        if self.pool != "ray" and self.replay_shards:
            raise UserError(
                f"replay_shards is {self.replay_shards}, but pool is {self.pool}, and shards run on Ray; give --pool "
                "ray or leave replay_shards away."
            )
        for name, needed in (("cluster", self.pool == "ray"), ("cluster_token", bool(self.cluster))):
            value = getattr(self, name)
            if not needed and value != getattr(type(self), name):
                remedy = "give --pool ray" if name == "cluster" else "give --cluster HOST:PORT"
                raise UserError(f"{name} is {value!r}, which would do nothing; {remedy} or leave {name} away.")
        if self.cluster:
            address_of(self.cluster)
        if self.pool != "local" and self.actors < 1:
            raise UserError(f"pool is {self.pool}, but actors is {self.actors}; give the number of actors, at least 1.")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        same = {"steps": self.steps, "log_every": self.log_every, "pool": self.pool, "actors": self.actors}
        return same | ({"replay_shards": self.replay_shards} if self.replay_shards else {})


_LOWEST = {
    "steps": 1,
    "seed": 0,
    "threads": 0,
    "log_every": 1,
    "checkpoint_seconds": 0,
    "actors": 0,
    "actor_rows": 1,
    "actor_time_limit": 1,
    "hz": 0,
    "replay_shards": 0,
}
_FRACTIONS = ("checkpoint_seconds", "actor_time_limit", "hz")


def check_device(device: str) -> None:
    """Refuse what is no device of this machine: ``cpu``, ``cuda`` or ``cuda:N``."""
    kind, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (device != kind and not (kind == "cuda" and index.isdecimal())):
        raise UserError(f"device is {device!r}; give cpu, cuda or cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is {device!r}, but this machine offers no CUDA GPU to PyTorch; use cpu.")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(
            f"device is {device!r}, but there are only {torch.cuda.device_count()} GPUs; give a lower number."
        )


def check_seed(seed: int) -> None:
    """Refuse what no generator takes as a seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed!r}; give a whole number of at least 0 and below 2**63.")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train: an agent made for an environment, and how both were asked for."""

    env: str
    agent: Agent
    options: EnvOptions
    preset: str


def introduce(task: Task, run: RunOptions, say: Callable[[str], None]) -> Plan:
    """Print what will run, and refuse what cannot fit.

    Raises:
        Refused: It needs more memory than there is.
        UserError: Its replay cannot be divided as asked.
    """
    require_shards(task, run)
    require_bundles(task, run)
    say(f"{'measuring':>20}  how fast this machine learns")
    replay_on = "cpu" if run.replay_shards else run.device
    table = plan(task.agent, task.env, run.steps, device=run.device, actors=run.actors)
    require_memory(table, replay_on)  # before anything large is made
    table = timed(table, task.agent)
    for what, how_much in table.rows:
        say(f"{what:>20}  {how_much}")
    if run.device == "cpu":
        say(f"{'threads':>20}  {torch.get_num_threads()} of {cores()} cores")
    say(f"{'preset':>20}  {task.preset}")
    settings = ", ".join(f"{name} {'none' if value == '' else value}" for name, value in task.agent.environment.items())
    say(f"{'environment settings':>20}  {settings or 'none'}")
    for what, sentence in exploration(task.agent, run.steps):
        say(f"{what:>20}  {sentence}")
    for note in task.agent.notes:
        say(f"{'note':>20}  {note}")
    return table


def train(
    task: Task,
    run: RunOptions,
    folder: RunFolder,
    *,
    log: Log | None = None,
    stop: StopSignal | None = None,
    then: closing.Next | None = None,
) -> int:
    """Train to the end or until stopped; returns the exit code (0 or 75). ``then``: what it names at its end.

    Raises:
        Diverged: Updates or an environment kept failing; a checkpoint was written, and for updates the batch too
            (``diverged.safetensors``).
        Refused: No checkpoint of this run can be read.
        Stopped: Ray or a parameter server was lost; ``HeadLost`` says whether a checkpoint was written.
    """
    log = log or Log(folder.path, total=run.steps, period=run.log_every, tensorboard=run.tensorboard)
    with ExitStack() as held:
        try:
            trainer = _trainer(task, run, folder, held)
            resume(trainer, folder, log)
        except Stopped as error:
            raise _ended(error, False, folder) from error
        with log, stop if stop is not None else StopSignal(log.notice) as stopping:
            return _loop(trainer, run, folder, log, stopping, then or closing.from_python(folder.path))


def _trainer(task: Task, run: RunOptions, folder: RunFolder, held: ExitStack) -> Trainer | Gorila:
    """What trains; ``held`` ends it, and what it runs on."""
    cluster, watch = cluster_for(task, run), None
    if cluster is not None:
        held.callback(cluster.close)
        watch = HeadWatch(cluster)
        held.callback(watch.close)
    if task.agent.bundles is not None:
        divided = gorila(task, run, watch)
        held.callback(divided.close)
        return divided
    playing = actors(task, run, watch)
    if not callable(playing):
        held.callback(playing.close)
    holding = shards(task, run, folder, watch) if watch is not None and run.replay_shards else None
    trainer = Trainer(task.agent, playing, total=run.steps, seed=run.seed, device=run.device, shards=holding)
    held.callback(trainer.close)
    return trainer


def _loop(
    trainer: Trainer | Gorila, run: RunOptions, folder: RunFolder, log: Log, stopping: StopSignal, then: closing.Next
) -> int:
    saved_at = time.monotonic()
    per_step = trainer.agent.spec.frames_per_step
    try:
        while not trainer.done and not stopping:
            trainer.step()
            for episode in trainer.drain():
                log.episode(episode)
            for fault in trainer.faults():
                log.say(fault)
            if log.due(trainer.steps) or trainer.done:
                log.metrics(trainer.steps, trainer.steps * per_step, trainer.updates, _values(trainer))
            late = {} if trainer.late is None else {"late": float(trainer.late)}
            shown = {"replay_ratio": _ratio(trainer), "epsilon": trainer.epsilon, **late}
            log.progress(trainer.steps, trainer.updates, waiting=trainer.waiting, **shown)
            if time.monotonic() - saved_at >= run.checkpoint_seconds:
                store(trainer, folder, log, run)
                saved_at = time.monotonic()
    except Exception as error:
        if isinstance(error, Diverged):
            dump(trainer, folder.path / "diverged.safetensors")
        if isinstance(error, Stopped) and not isinstance(error, HeadLost):
            raise _ended(error, False, folder) from error  # the weights are gone
        # Whatever else failed, an environment above all, what was learned up to here is sound.
        stored = store(trainer, folder, log, run, last=True, lost=isinstance(error, HeadLost))
        if isinstance(error, HeadLost):
            raise _ended(error, stored, folder) from error
        raise
    log.end(trainer.steps, trainer.updates, replay_ratio=_ratio(trainer), epsilon=trainer.epsilon)
    signal = "" if trainer.done else stopping.name
    log.say(closing.reason(signal, trainer.steps, trainer.total, trainer.updates, log.seconds))
    stored = store(trainer, folder, log, run, last=True)
    path = folder.checkpoints / str(trainer.steps) if stored else None
    left = "" if stored else closing.unsaved(standing(folder))
    for line in closing.lines(log.score, path, then, done=trainer.done, unsaved=left):
        log.say(line)
    return 0 if trainer.done and path else RESUMABLE


def _ended(error: Stopped, saved: bool, folder: RunFolder) -> Stopped:
    """The same with what is left of the run."""
    left = standing(folder)
    if isinstance(error, HeadLost):
        return HeadLost(closing.headless(str(error), saved, left))
    return Stopped(closing.weightless(str(error), left))


def _values(trainer: Trainer | Gorila) -> dict[str, float]:
    return trainer.means() | {"epsilon": trainer.epsilon, "replay_ratio": _ratio(trainer)} | trainer.told()


def _ratio(trainer: Trainer | Gorila) -> float:
    learned = trainer.steps - trainer.agent.warmup
    if learned < trainer.agent.warmup / 10:  # the first update comes with the first step: no ratio yet
        return 0.0
    return round(trainer.updates * trainer.agent.rows_per_update / max(1, learned), 3)


def stored_config(task: Task, run: RunOptions) -> dict[str, Any]:
    """What ``config.json`` keeps of a run's settings."""
    return {**asdict(task.agent.config), "preset": task.preset, **run.identity}
