"""First priorities from what actors thought, and the soft cap: against loops over each column's rows."""

import numpy as np
import pytest
import torch

from retorq.losses.q_learning import QLearning
from retorq.ops.rescale import rescale, unrescale
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec, Inputs, Leaf, Trajectory

SPEC = EnvSpec(id="numbers", observation={"obs": Leaf(kind="vector", shape=(1,), dtype="float32")}, actions=3)


def stream(chance, columns):
    """Endless rows ``[1, columns]`` of random games, with the values somebody thought them to have."""
    first = np.ones(columns, bool)
    elapsed, ended = np.zeros(columns, np.int32), np.zeros(columns, bool)
    while True:
        last = ended & ~first
        over = ~last & (chance.random(columns) < 0.2)
        cut = chance.random(columns) < 0.3  # half of the games are cut off, not over
        asked = chance.random(columns) > 0.05
        values = {
            name: np.where(asked, chance.normal(size=columns), np.nan).astype(np.float32)[None]
            for name in ("value", "highest")
        }
        yield Trajectory(
            inputs=Inputs(
                observation={"obs": chance.normal(size=(1, columns, 1)).astype(np.float32)},
                previous_action=np.zeros((1, columns), np.int64),
                previous_reward=np.zeros((1, columns), np.float32),
                elapsed=elapsed[None].copy(),
                first=first[None].copy(),
            ),
            action=np.zeros((1, columns), np.int64),
            reward=np.where(last, 0, chance.normal(size=columns) * 3).astype(np.float32)[None],
            terminated=(over & ~cut)[None],
            truncated=(over & cut)[None],
            last=last[None],
            extras=values,
        )
        elapsed = np.where(last, 0, elapsed + 1).astype(np.int32)
        first, ended = last, over


def error_of(rows, t, n, gamma, epsilon):
    """Slow twin: the n-step error of row ``t`` by the definition, from one column's rows in order."""
    total, discount, k = 0.0, 1.0, t
    while k < t + n and not rows[k]["last"]:
        total += discount * float(np.clip(rows[k]["reward"], -1, 1))
        discount *= gamma * (not rows[k]["terminated"])
        k += 1
    bootstrap = torch.tensor(0.0) if discount == 0 else torch.tensor(rows[k]["highest"])
    if epsilon:
        goal = rescale(total + discount * unrescale(bootstrap, epsilon), epsilon)
    else:
        goal = total + discount * bootstrap
    return abs(float(goal) - rows[t]["value"])


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 1, 0), (4, 2, 2, 0), (3, 1, 3, 3)])
def test_first_priorities_are_what_the_actor_thought(shape, within, epsilon):
    """Of transitions and sequences, through laps of the ring; without a thought the highest priority so far."""
    length, n, period, burn_in = shape
    columns, eta, exponent, gamma = 2, 0.7, 0.6, 0.9
    window = Window(length=length, ahead=n, burn_in=burn_in, period=period, within=within)
    loss = QLearning(
        burn_in=burn_in, length=length, n=n, gamma=gamma, clip="clip", rescale=epsilon, within=within, error="td"
    )
    replay = Replay(
        layout=Layout(spec=SPEC, state={}, period=period, values=True),
        window=window,
        columns=columns,
        capacity=60,
        priorities=Priorities(exponent=exponent, eta=eta),
        initial_state=lambda n, device: {},
        first_errors=loss.first_errors,
    )
    sampler = replay.prioritized
    rows, seen, unknown = [[] for _ in range(columns)], set(), 0
    for _, row in zip(range(150), stream(np.random.default_rng(sum(shape)), columns), strict=False):
        before = sampler._tree.leaves
        highest = sampler.highest
        replay.extend(np.arange(columns), row)
        for c in range(columns):
            rows[c].append(
                {name: getattr(row, name)[0, c] for name in ("reward", "terminated", "last")}
                | {name: float(row.extras[name][0, c]) for name in ("value", "highest")}
            )
        after = sampler._tree.leaves
        for leaf in np.flatnonzero((after > 0) & (before != after)):
            slots = replay.storage.rows if within else replay.slots
            column, slot = divmod(int(leaf), slots)
            written = len(rows[column])
            start = written - (length + n) if within else written - window.rows
            assert slot == (start % replay.storage.rows if within else start // period % replay.slots)
            learned = start if within else start + burn_in
            ends = [t for t in range(learned, learned + length) if rows[column][t]["last"]]
            stop = ends[0] if within and ends else learned + length
            errors = [
                error_of(rows[column], t, n, gamma, epsilon)
                for t in range(learned, stop)
                if not rows[column][t]["last"]
            ]
            wanted = eta * max(errors) + (1 - eta) * np.mean(errors) if errors else 0.0
            seen.add((column, start))
            if np.isfinite(wanted):
                np.testing.assert_allclose(after[leaf], max(wanted, sampler.FLOOR) ** exponent, rtol=1e-4)
            else:
                unknown += 1
                assert after[leaf] >= highest**exponent * (1 - 1e-9)
    assert len(seen) > 50
    assert unknown > 3
    assert replay.clamped == 0


def soft(surplus, columns=3, capacity=90):
    return Replay(
        layout=Layout(spec=SPEC, state={}),
        window=Window(length=1, ahead=1),
        columns=columns,
        capacity=capacity,
        priorities=Priorities(),
        surplus=surplus,
    )


def test_a_soft_cap_is_exceeded_until_the_replay_is_trimmed():
    replay = soft(0.2)
    assert replay.storage.rows == 36
    rows = stream(np.random.default_rng(0), 3)

    def starts():
        leaves = replay.prioritized._tree.leaves.reshape(3, 36)
        return [
            {int(replay._start_of(np.array([c * 36 + slot]))[0]) for slot in np.flatnonzero(leaves[c])}
            for c in range(3)
        ]

    for count in range(1, 120):
        replay.extend(np.arange(3), next(rows))
        before = starts()
        if count > 36:
            assert min(map(min, before)) < count - 30 + 2
        if count % 7 == 0:
            replay.trim()
            after = starts()
            for was, now in zip(before, after, strict=True):
                assert now == {start for start in was if start >= count - 30}
            batch = replay.sample(64) if any(after) else None
            assert batch is None or batch.keys[:, 1].min() >= count - 30


def test_a_trimmed_window_gets_no_priority_from_a_late_update():
    replay = soft(0.2)
    rows = stream(np.random.default_rng(1), 3)
    for _ in range(33):
        replay.extend(np.arange(3), next(rows))
    batch = replay.sample(32)
    replay.trim()
    total = replay.prioritized.total
    old = batch.keys[:, 1] < 3
    assert old.any()
    replay.update(batch.keys[old], torch.full((1, int(old.sum())), 9.0), torch.ones(1, int(old.sum())))
    assert replay.prioritized.total == total


@pytest.mark.parametrize(
    "wrong",
    [
        {"priorities": None, "surplus": 0.1},
        {"priorities": None, "first_errors": lambda told: None},
        {"surplus": 0.1, "window": Window(length=3, ahead=1, within=True)},
    ],
)
def test_what_needs_priorities_is_refused_without(wrong):
    settings = {"priorities": Priorities(), "window": Window(length=1, ahead=1)} | wrong
    with pytest.raises(ValueError, match=r"give priorities|begin anywhere"):
        Replay(
            layout=Layout(spec=SPEC, state={}),
            columns=1,
            capacity=50,
            initial_state=lambda n, device: {},
            **settings,
        )
