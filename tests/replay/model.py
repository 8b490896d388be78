"""The replay as a list of rows per column: what it must do, as plainly as it can be said."""

import numpy as np
import torch

from retorq.replay.replay import Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec, Inputs, Leaf, Trajectory

SPEC = EnvSpec(
    id="made-up",
    observation={
        "image": Leaf(kind="image", shape=(2, 3, 2), dtype="uint8"),
        "vector": Leaf(kind="vector", shape=(2,), dtype="float32"),
        "number": Leaf(kind="discrete", shape=(), dtype="int64", high=5),
    },
    actions=4,
)
STATE = {"h": (3,), "c": (2, 2)}


class Model:
    """``rows[c]`` lists every row ever made in column ``c``; games, lives and rewards are random."""

    def __init__(self, columns: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.rows = [[] for _ in range(columns)]

    def _row(self, column: int) -> dict:
        past, random = self.rows[column], self.random
        begins = not past or past[-1]["last"]
        last = not begins and random.random() < 0.2
        return {
            "image": random.integers(1, 256, (2, 3, 2)).astype(np.uint8),
            "vector": np.array([column, len(past)], np.float32),
            "number": int(random.integers(5)),
            "previous_action": int(random.integers(4)),
            "previous_reward": float(np.float32(random.normal())),
            "elapsed": 0 if begins else past[-1]["elapsed"] + 1,
            "first": bool(begins or past[-1]["terminated"]),
            "action": int(random.integers(4)),
            "reward": float(np.float32(random.normal())),
            "terminated": bool(not last and random.random() < 0.3),
            "truncated": bool(random.random() < 0.1),
            "last": bool(last),
            "state.h": random.normal(size=3).astype(np.float32),
            "state.c": random.normal(size=(2, 2)).astype(np.float32),
        }

    def make(self, columns: np.ndarray, count: int) -> Trajectory:
        """Add ``count`` rows to some columns, and return them as they would arrive."""
        for column in columns:
            for _ in range(count):
                self.rows[column].append(self._row(column))
        new = [[self.rows[c][len(self.rows[c]) - count + t] for c in columns] for t in range(count)]

        def of(name: str) -> np.ndarray:
            return np.array([[row[name] for row in at] for at in new])

        inputs = Inputs(
            observation={name: of(name).astype(leaf.dtype) for name, leaf in SPEC.observation.items()},
            previous_action=of("previous_action"),
            previous_reward=of("previous_reward").astype(np.float32),
            elapsed=of("elapsed").astype(np.int32),
            first=of("first"),
        )
        return Trajectory(
            inputs=inputs,
            action=of("action"),
            reward=of("reward").astype(np.float32),
            terminated=of("terminated"),
            truncated=of("truncated"),
            last=of("last"),
            extras={f"state.{name}": torch.from_numpy(of(f"state.{name}")) for name in STATE},
        )

    def stacked(self, column: int, row: int, stack: int) -> np.ndarray:
        """The images up to ``row`` of the game that is on, zeros before it; a lost life changes nothing."""
        rows = self.rows[column]
        begin = row
        while begin > 0 and not rows[begin - 1]["last"]:
            begin -= 1
        empty = np.zeros((2, 3, 2), np.uint8)
        images = [rows[r]["image"] if r >= begin else empty for r in range(row - stack + 1, row + 1)]
        return np.concatenate(images)

    def starts(self, window, capacity: int) -> set[tuple[int, int]]:
        """Every (column, row) that can be sampled."""
        found = set()
        for column, rows in enumerate(self.rows):
            oldest = max(0, len(rows) - capacity)
            least = oldest + window.margin if oldest else 0
            for start in range(0, len(rows) - window.rows + 1, window.period):
                if start >= least and not (window.length == 1 and rows[start]["last"]):
                    found.add((column, start))
        return found

    def starts_within(self, window, capacity: int) -> set[tuple[int, int]]:
        """Every (column, first learned row) of sequences within games."""
        found = set()
        for column, rows in enumerate(self.rows):
            oldest = max(0, len(rows) - capacity)
            for row in range(oldest, len(rows) - window.length - window.ahead + 1):
                grid = row - window.burn_in
                least = oldest + window.margin if oldest else 0
                on_grid = grid % window.period == 0 and (grid >= least or oldest == 0)
                if not rows[row]["last"] and (self.begins(column, row) or on_grid):
                    found.add((column, row))
        return found

    def begins(self, column: int, row: int) -> bool:
        """Whether a game begins there; after a lost life none does."""
        return row == 0 or self.rows[column][row - 1]["last"]

    def games(self, window, capacity: int) -> set[tuple[int, int, int]]:
        """Every (column, first row, last row) of the finished games that are held whole, with the rows windows need."""
        found = set()
        for column, rows in enumerate(self.rows):
            oldest, first = max(0, len(rows) - capacity), 0
            for row in range(len(rows)):
                first = row if self.begins(column, row) else first
                held = first >= oldest and row - 1 + window.length + window.ahead <= len(rows)
                if rows[row]["last"] and held and row > first:
                    found.add((column, first, row))
        return found


def made(columns, capacity, stack, *, states=STATE, window, **more):
    """A replay of such rows; windows of 3 + 2 rows that begin at every second one, unless ``window`` says otherwise."""
    window = Window(**{"length": 3, "ahead": 2, "period": 2} | window, margin=stack - 1)
    layout = Layout(spec=SPEC, state=states, period=window.period)
    return Replay(layout=layout, window=window, columns=columns, capacity=capacity, stack=stack, **more)


def restore(one, other):
    """Put into the replay ``other`` all that ``one`` saves, and the same new rows into both."""
    other.load_state_dict(one.state_dict())
    for name, (_, tensors) in one.chunks().items():
        other.storage.restore(name, tensors())
    for replay in (one, other):
        replay.extend(np.array([1]), Model(2, 7).make(np.array([1]), 9))


def check_saved(one, other, count):
    """A replay of ``count`` rows and some priorities, saved and restored into another one, draws what that would."""
    one.extend(np.arange(2), Model(2, 5).make(np.arange(2), count))
    if one.priorities:
        one.update(one.sample(6).keys, torch.rand(3, 6), torch.ones(3, 6))
    restore(one, other)
    for _ in range(3):
        a, b = one.sample(16), other.sample(16)
        np.testing.assert_array_equal(a.keys, b.keys)
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.trajectory.inputs.observation["image"], b.trajectory.inputs.observation["image"])
        assert torch.equal(a.state["h"], b.state["h"])
