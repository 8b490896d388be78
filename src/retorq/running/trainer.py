"""Trainer: the state of one training run and the loop's single step. No files, no clocks, no printing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retorq.acting.pools import ActorPool, LocalPool
from retorq.agent import Agent
from retorq.distributed.gradients import Sending
from retorq.distributed.sharded import ShardedReplay
from retorq.learner import Learner, seeds
from retorq.losses.discrepancy import delta_q, same_game
from retorq.nn.network import Network
from retorq.replay.limiter import Limiter
from retorq.replay.refresh import Refresh
from retorq.replay.replay import Replay
from retorq.types import Batch, Diverged, Episode, Inputs, Tree, VectorEnv

PoolMaker = Callable[[Network, int], ActorPool]
ReplayMaker = Callable[[int], ShardedReplay]
MAX_SKIPPED = 5  # non-finite updates in a row that end a run


class Trainer:
    """Take arrived rows, extend the replay, and learn while the replay ratio allows.

    The replay ratio is kept by a :class:`Limiter`, whose credits are earned by steps and spent by updates. Nothing is
    earned during warm-up. Actors elsewhere go on meanwhile, and wait where their queues are full.

    Args:
        agent: The bill of materials.
        actors: Its environments, to be played in this process; or what makes a pool of actors from the learner's
            network and a seed.
        total: Agent steps of the whole run.
        seed: One seed for everything.
        device: Where to learn and act.
        shards: What makes a replay in shards from a seed; None: the agent's own, in this process.
        learner: Where the agent's learner sends its gradients; None: it makes its updates itself.

    Raises:
        ValueError: stored states are to be refreshed, and lie in shards.
    """

    def __init__(
        self,
        agent: Agent,
        actors: VectorEnv | PoolMaker,
        *,
        total: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shards: ReplayMaker | None = None,
        learner: Callable[[Learner], Sending] | None = None,
    ) -> None:
        self.agent, self.total = agent, total
        of_learner, of_replay, of_actor = seeds(seed, 3)
        own = agent.learner(device=device, seed=of_learner)
        self.learner: Learner | Sending = own if learner is None else learner(own)
        self.replay: Replay | ShardedReplay
        self.replay = agent.replay(device=device, seed=of_replay) if shards is None else shards(of_replay)
        self.pool = (
            actors(self.learner.online, of_actor)
            if callable(actors)
            else LocalPool(
                agent.actor(actors, seed=of_actor, total=total, tell_values=agent.tell_values, device=device)
            )
        )
        try:
            self.pool.publish(self.learner.online, 0)
        except BaseException:
            self.close()  # nobody else knows of it yet
            raise
        self.limiter = Limiter(ratio=agent.samples_per_step, cost=agent.rows_per_update)
        self.refill = 0
        self.sums: dict[str, Tensor] = {}
        self.updates_summed = 0
        self.discrepancies = {"initial": [0.0, 0.0], "final": [0.0, 0.0]}  # sum and count
        self.refresh: Refresh | None = None
        if agent.refresh > 0:
            if isinstance(self.replay, ShardedReplay):
                raise ValueError("stored states that lie in shards cannot be refreshed")
            self.refresh = Refresh(self.replay, self._unrolled)
        self.refresh_credits = 0.0
        self.last_batch: Batch | None = None

    @property
    def steps(self) -> int:
        """Agent steps acted so far, all columns together."""
        return self.pool.steps

    keeps_rows = True
    """Whether checkpoints can hold the replay."""

    @property
    def reseeded(self) -> bool:
        """Whether a checkpoint of another kind of device was loaded, whose random numbers could not go on."""
        return isinstance(self.learner, Learner) and self.learner.reseeded

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.learner.updates

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.steps >= self.total

    @property
    def warm(self) -> bool:
        """Whether the warm-up is over."""
        return self.steps >= max(self.agent.warmup, self.refill)

    @property
    def epsilon(self) -> float:
        """Mean exploration over the columns, now."""
        return float(self.agent.explore.epsilon(self.steps, self.total).mean())

    def step(self) -> None:
        """One round: act, store, learn."""
        # Who plays by the clock does not wait for learning: whatever has come is taken before every single update. A
        # learner that is too slow falls behind the replay ratio instead.
        by_the_clock = self.late is not None
        arrived = self._take(wait=not (by_the_clock and self._may_learn()))
        while by_the_clock and arrived:
            arrived = self._take(wait=False)
        while self._may_learn():
            self._learn()
            self.limiter.sampled()
            if by_the_clock:
                return

    def _take(self, *, wait: bool) -> bool:
        """Store rows that have arrived, and earn credits for them; whether there were any."""
        before = self.steps
        arrived = False
        for columns, rows in self.pool.receive(wait=wait):
            self.replay.extend(columns, rows)
            arrived = True
        if self.warm:
            self.limiter.inserted(self.steps - before)
        return arrived

    def _may_learn(self) -> bool:
        """Whether an update is paid for and can be made; only then is the replay asked, which may be elsewhere."""
        if not (self.warm and self.limiter.may_sample):
            return False
        if not self.replay.ready:
            self.limiter.credits = 0.0  # else all would be spent at once when it is, in one long round
            return False
        return True

    def _center(self) -> None:
        """Before the first update: the mean image is that of a sample of what was seen during warm-up."""
        self.learner.center(self.replay.look(64).inputs.observation)
        self.pool.publish(self.learner.online, 0)

    def _learn(self) -> None:
        if self.learner.updates == 0 and self.learner.online.centered:
            self._center()
        progress = min(1.0, self.steps / self.total)
        batch = self.replay.sample(self.agent.batch_size, progress)
        period = self.agent.discrepancy_period
        if period and self.learner.updates % period == 0:
            self._measure(batch)
        error, mask, metrics, state = self.learner.update(batch, progress)
        self.replay.update(batch.keys, error, mask, state)
        if self.refresh is not None:
            self._refresh(self.refresh)
        if self.agent.trim_period and self.learner.updates % self.agent.trim_period == 0:
            self.replay.trim()
        if self.learner.updates % self.agent.publish_period == 0:
            self.pool.publish(self.learner.online, self.learner.updates)
        self.updates_summed += 1
        for name, value in metrics.items():
            # An update that was skipped is counted, and its numbers are no part of the means.
            finite = (value > 0).float() if name == "skipped" else torch.nan_to_num(value, 0.0, 0.0, 0.0)
            self.sums[name] = self.sums[name] + finite if name in self.sums else finite
        # On a GPU this would wait for the device, so it looks only now and then there.
        if self.learner.device.type == "cpu" or self.learner.updates % 100 == 0:
            self._check(metrics["skipped"], batch)

    def _measure(self, batch: Batch) -> None:
        """How far the values at both ends of the learned rows depend on where the memory started (Delta-Q).

        States are stored on the grid alone, so the ends are the first row of the grid that is learned from, and the
        last one up to the row after these; the paper has the first and the last learned row. Not measured are states
        that lie in shards: a window's rows may be gone there by now.
        """
        replay = self.replay
        if isinstance(replay, ShardedReplay) or not replay.storage.states:
            return
        window = self.agent.window
        trajectory = batch.trajectory.part(0, window.burn_in + window.length + 1)
        start = {name: value for name, value in batch.state.items() if not name.startswith("target.")}
        row = replay.first_row(batch.keys)
        initial = -(-(row + window.burn_in) // window.period) * window.period - row
        final = (row + window.burn_in + window.length) // window.period * window.period - row
        if (initial > final).any():
            return  # the grid is wider than the window
        measured = [
            (replay.states_at(batch.keys, offset), torch.from_numpy(offset).to(self.learner.device))
            for offset in (initial, final)
        ]
        values = delta_q(self.learner.online, trajectory, start, measured)
        for name, value, (_, at) in zip(("initial", "final"), values, measured, strict=True):
            kept = value[same_game(trajectory.last, window.burn_in, at) & value.isfinite()]
            if len(kept):
                self.discrepancies[name][0] += float(kept.mean())
                self.discrepancies[name][1] += 1

    def _unrolled(self, inputs: Inputs, state: Tree) -> Tree:
        """The state after rows, by the weights of today; fractions depend on the number of updates alone."""
        generator = torch.Generator(self.learner.device).manual_seed(self.learner.updates)
        return self.learner.online.unroll(inputs, state, generator)[1]

    def _refresh(self, refresh: Refresh) -> None:
        """Compute stored states anew for ``agent.refresh`` rows per row trained."""
        self.refresh_credits += self.agent.refresh * self.agent.rows_per_update
        while self.refresh_credits >= refresh.rows:
            refresh.step()
            self.refresh_credits -= refresh.rows

    def _check(self, skipped: Tensor, batch: Batch) -> None:
        if float(skipped) >= MAX_SKIPPED:
            self.last_batch = batch
            raise Diverged(
                f"loss or gradient was not finite in {int(skipped)} updates in a row, at step {self.steps:,}; nothing "
                "was changed by them. Lower learning_rate, or check the rewards in the batch saved beside the run."
            )

    def means(self) -> dict[str, float]:
        """Mean of every learner metric since the last call, and how many updates were skipped (``skipped``).

        With a memory also ``delta_q_initial`` and ``delta_q_final``, where they were measured since;
        ``priorities_clamped`` counts priorities that were not finite since the run began, where there were any.
        """
        if not self.sums:
            return {}
        sums = {name: float(value) for name, value in self.sums.items()}
        skipped = sums.pop("skipped", 0.0)
        count = max(1.0, self.updates_summed - skipped)
        self.sums, self.updates_summed = {}, 0
        means = {name: value / count for name, value in sums.items()} | {"skipped": skipped}
        means |= {f"delta_q_{name}": total / n for name, (total, n) in self.discrepancies.items() if n}
        self.discrepancies = {name: [0.0, 0.0] for name in self.discrepancies}
        if clamped := self.replay.clamped:
            means["priorities_clamped"] = float(clamped)
        return means

    def told(self) -> dict[str, float]:
        """What else belongs into a row of metrics: what was lost, and the rates of shards since the last call."""
        return self.pool.told() | (self.replay.metrics() if isinstance(self.replay, ShardedReplay) else {})

    @property
    def waiting(self) -> str:
        """Who is waited for before all act; empty: nobody."""
        return self.pool.waiting

    @property
    def late(self) -> int | None:
        """Actions that came too late since the run began; None where nobody plays by the clock."""
        return self.pool.late

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        return self.pool.drain()

    def chunks(self) -> dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]:
        """The replay's rows in pieces for a checkpoint."""
        return self.replay.chunks()

    def faults(self) -> list[str]:
        """What went wrong elsewhere since the last call and what was done, a sentence each."""
        return self.pool.faults() + (self.replay.faults() if isinstance(self.replay, ShardedReplay) else [])

    def close(self) -> None:
        """End everything that runs elsewhere; safe to call twice."""
        self.pool.close()
        if isinstance(self.replay, ShardedReplay):
            self.replay.close()

    @property
    def lives(self) -> tuple[int, ...]:
        """Which incarnation of each shard is called now: a checkpoint must not mix two lives of one."""
        return self.replay.lives if isinstance(self.replay, ShardedReplay) else ()

    def tensors(self, alone: bool = False) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold as tensors, by part; the replay's rows come by ``replay.chunks()``.

        Args:
            alone: Leave the replay out, whose shards may be out of reach: the checkpoint holds no rows.
        """
        learner, _ = self.learner.state_dict()
        actor, _ = self.pool.state_dict()
        replay = {} if alone else _arrays(self.replay.state_dict())
        index = {name: torch.from_numpy(np.asarray(value)) for name, value in replay.items()}
        sums = {f"sum.{name}": value.detach().cpu() for name, value in self.sums.items()}
        return {"learner": learner, "actor": actor, "replay-index": index | sums}

    def numbers(self, alone: bool = False) -> dict[str, Any]:
        """What a checkpoint must hold as plain JSON; ``alone`` as for ``tensors``."""
        replay = {} if alone else self.replay.state_dict()
        return {
            "credits": self.limiter.credits,
            "refill": self.refill,
            "updates_summed": self.updates_summed,
            "skipped": float(self.learner.skipped_in_a_row),
            "discrepancies": self.discrepancies,
            "refresh_credits": self.refresh_credits,
            "refresh_position": self.refresh.position.tolist() if self.refresh is not None else [],
            "learner": self.learner.state_dict()[1],
            "actor": self.pool.state_dict()[1],
            "replay": _plain(replay),
        }

    def load(
        self,
        read: Callable[[str], Mapping[str, Tensor]],
        parts: Iterable[str],
        numbers: Mapping[str, Any],
        *,
        rows: bool,
    ) -> bool:
        """Put everything back, reading one part after the other; False if new games had to be begun.

        Without ``rows`` (a checkpoint that holds no replay) the replay starts empty, and warm-up is done again.
        """
        self.learner.load_state_dict(read("learner"), numbers["learner"])
        self.learner.skipped_in_a_row.fill_(numbers.get("skipped", 0.0))
        self.pool.publish(self.learner.online, self.learner.updates)
        exact = self.pool.load_state_dict(read("actor"), numbers["actor"])
        index = read("replay-index")
        arrays = {name: value.numpy() for name, value in index.items() if not name.startswith("sum.")}
        self.sums = {
            k.removeprefix("sum."): v.to(self.learner.device) for k, v in index.items() if k.startswith("sum.")
        }
        if rows:
            self.replay.load_state_dict(merged(arrays, numbers["replay"]))
            for name in parts:
                if name != "replay-index" and name.startswith("replay-"):
                    self.replay.restore(name, read(name))
        self.refill = int(numbers["refill"]) if rows else self.steps + self.agent.warmup
        self.limiter.credits, self.updates_summed = float(numbers["credits"]), int(numbers["updates_summed"])
        self.discrepancies = {name: [*told] for name, told in numbers["discrepancies"].items()}
        self.refresh_credits = float(numbers["refresh_credits"])
        if self.refresh is not None and rows:
            self.refresh.position[:] = numbers["refresh_position"]
        if not exact:
            for columns, cut in self.pool.cut():
                self.replay.extend(columns, cut)
        return exact


def _arrays(state: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """The numpy arrays of a nested state, by dotted name."""
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            found[prefix + name] = value
        elif isinstance(value, Mapping):
            found |= _arrays(value, f"{prefix}{name}.")
    return found


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A nested state without its numpy arrays."""
    return {
        name: _plain(value) if isinstance(value, Mapping) else value
        for name, value in state.items()
        if not isinstance(value, np.ndarray)
    }


def merged(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The nested state that ``_arrays`` and ``_plain`` took apart."""
    state: dict[str, Any] = {
        name: merged({}, value) if isinstance(value, Mapping) else value for name, value in plain.items()
    }
    for name, value in arrays.items():
        *path, leaf = name.split(".")
        inside = state
        for part in path:
            inside = inside.setdefault(part, {})
        inside[leaf] = value
    return state
