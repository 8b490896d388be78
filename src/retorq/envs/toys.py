"""Small games in batched numpy that each test one ability: pixels, memory, risk, plain value propagation.

All answer the step after an end with the reset, run hundreds of thousands of steps per second, and can be saved and
continued exactly, their random generator included.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np

from retorq.envs.options import TOY_FIELDS, EnvOptions
from retorq.envs.toy import Toy
from retorq.types import Leaf, Tree, UserError


class Catch(Toy):
    """A ball falls through a board of pixels; the paddle in the bottom row must be under it (bsuite's rules).

    Observation: image ``[1, rows, width]`` with 255 at ball and paddle. Reward at the bottom: 1 caught, -1 missed.
    ``shown`` above 0 hides the ball after its first so many rows, which makes catching it a matter of memory.
    """

    name, action_names = "catch", ("left", "stay", "right")

    def __init__(self, *, columns: int, seed: int, rows: int = 10, width: int = 5, shown: int = 0) -> None:
        if rows < 2 or width < 1:
            raise UserError(f"env.kwargs gives catch a board of {rows} x {width}; give rows >= 2 and width >= 1.")
        if not 0 <= shown <= rows:
            raise UserError(f"env.kwargs sets shown to {shown} for catch; give 0 (always shown) to {rows} rows.")
        leaf = Leaf(kind="image", shape=(1, rows, width), dtype="uint8")
        settings = {"rows": rows, "width": width, "shown": shown}
        super().__init__(columns=columns, seed=seed, cap=rows - 1, observation={"obs": leaf}, **settings)
        self._rows, self._width, self._shown = rows, width, shown or rows

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        ball = self._random.integers(self._width, size=count)
        return {"ball": ball, "row": np.zeros_like(ball), "paddle": np.full_like(ball, self._width // 2)}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        state = self.state
        state["paddle"] = np.where(live, np.clip(state["paddle"] + action - 1, 0, self._width - 1), state["paddle"])
        state["row"] = state["row"] + live
        over = state["row"] >= self._rows - 1
        return np.where(over, np.where(state["ball"] == state["paddle"], 1.0, -1.0), 0.0), over

    def observe(self) -> Tree:  # noqa: D102
        board = np.zeros((self.columns, 1, self._rows, self._width), np.uint8)
        column = np.arange(self.columns)
        board[column, 0, self.state["row"], self.state["ball"]] = 255 * (self.state["row"] < self._shown)
        board[column, 0, self._rows - 1, self.state["paddle"]] = 255
        return {"obs": board}

    def picture(self, column: int) -> np.ndarray:  # noqa: D102
        board = self.observe()["obs"][column, 0] / 255.0
        board[-1] *= 0.6
        return board


class Memory(Toy):
    """A cue is seen at step 0 only and asked for ``length`` steps later; hopeless without memory.

    Observation: vector (cue: -1 or 1 at step 0, else 0; query: 1 at the step that asks, else 0). At the query action 0
    answers -1 and action 1 answers 1: reward 1 if right, -1 if wrong, and the game ends. Other actions do nothing.
    """

    name, action_names = "memory", ("minus", "plus")

    def __init__(self, *, columns: int, seed: int, length: int = 10) -> None:
        if length < 1:
            raise UserError(f"env.kwargs sets length to {length} for memory; give at least 1 step.")
        leaf = Leaf(kind="vector", shape=(2,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=length + 1, observation={"obs": leaf}, length=length)
        self._length = length

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"cue": 2 * self._random.integers(2, size=count) - 1}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        asked = self._elapsed == self._length + 1
        return np.where(asked, np.where(2 * action - 1 == self.state["cue"], 1.0, -1.0), 0.0), asked

    def observe(self) -> Tree:  # noqa: D102
        seen = np.where(self._elapsed == 0, self.state["cue"], 0)
        return {"obs": np.stack([seen, self._elapsed == self._length], axis=1).astype(np.float32)}


class TMaze(Toy):
    """A sign at the start of a corridor tells which way to turn at its end (Bakker 2002); hopeless without memory.

    Observation: vector of 3 bits, (1, 1, 0) or (0, 1, 1) at the start for a goal in the north or in the south,
    (1, 0, 1) in the corridor, (0, 1, 0) at the junction, ``corridor`` steps east of the start. Turning north or south
    there ends the game: 4 if right, -0.1 if not. Standing still, which is what walking into a wall comes to, costs 0.1.
    """

    name, action_names = "tmaze", ("north", "east", "south", "west")

    def __init__(self, *, columns: int, seed: int, corridor: int = 10, cap: int = 100) -> None:
        if corridor < 1:
            raise UserError(f"env.kwargs sets corridor to {corridor} for tmaze; give at least 1 step.")
        leaf = Leaf(kind="vector", shape=(3,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=cap, observation={"obs": leaf}, corridor=corridor)
        self._corridor = corridor

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"south": self._random.integers(2, size=count), "place": np.zeros(count, np.int64)}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        before, turns = self.state["place"], action % 2 == 0
        over = turns & (before == self._corridor)
        place = np.clip(before + np.where(turns, 0, 2 - action), 0, self._corridor)
        self.state["place"] = np.where(live, place, before)
        right = over & (action == 2 * self.state["south"])
        return np.where(right, 4.0, np.where(over | (place == before), -0.1, 0.0)), over

    def observe(self) -> Tree:  # noqa: D102
        place, south = self.state["place"], self.state["south"]
        junction = place == self._corridor
        seen = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], np.float32)
        return {"obs": seen[np.where(place == 0, south, 2 + junction)]}

    def picture(self, column: int) -> np.ndarray:  # noqa: D102
        canvas = np.zeros((3, self._corridor + 1))
        canvas[1], canvas[:, -1] = 0.2, 0.2
        canvas[2 * self.state["south"][column], -1] = 0.5
        canvas[1, self.state["place"][column]] = 1.0
        return canvas


_DOORS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.5, 1.5), (0.5, 0.5)),
    ((-4.0, 2.25), (0.2, 0.8)),
)


def two_doors_returns(door: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of the reward behind ``door`` (0 safe, 1 risky); both have the mean 1."""
    values, probabilities = _DOORS[door]
    return np.array(values), np.array(probabilities)


class TwoDoors(Toy):
    """Choose a door, walk through (any action), get a random reward: equal means, different spread.

    Observation: one-hot vector (hall, behind the safe door, behind the risky door). The undiscounted return of each
    door is ``two_doors_returns``; the reward comes one step after the choice.
    """

    name, action_names = "two_doors", ("safe", "risky")

    def __init__(self, *, columns: int, seed: int) -> None:
        leaf = Leaf(kind="vector", shape=(3,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=2, observation={"obs": leaf})
        self._values = np.array([values for values, _ in _DOORS])
        self._first = np.array([probabilities[0] for _, probabilities in _DOORS])

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"place": np.zeros(count, np.int64)}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        place, over = self.state["place"], self._elapsed == 2
        door = np.maximum(place - 1, 0)
        second = self._random.random(self.columns) >= self._first[door]
        self.state["place"] = np.where(live & ~over, action + 1, place)
        return np.where(over, self._values[door, second.astype(np.int64)], 0.0), over

    def observe(self) -> Tree:  # noqa: D102
        return {"obs": np.eye(3, dtype=np.float32)[self.state["place"]]}


class Chain(Toy):
    """Walk right to the end of a row of states: every step costs 0.1, the end pays 1 and finishes the game.

    Observation: one-hot position. The best return is ``1 - 0.1 * (length - 2)``: 0.6 for 6 states.
    """

    name, action_names = "chain", ("left", "right")

    def __init__(self, *, columns: int, seed: int, length: int = 6, cap: int = 30) -> None:
        if length < 2:
            raise UserError(f"env.kwargs sets length to {length} for chain; give at least 2 states.")
        leaf = Leaf(kind="vector", shape=(length,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=cap, observation={"obs": leaf}, length=length)
        self._length = length

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"place": np.zeros(count, np.int64)}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        moved = np.clip(self.state["place"] + 2 * action - 1, 0, self._length - 1)
        self.state["place"] = np.where(live, moved, self.state["place"])
        over = self.state["place"] == self._length - 1
        return np.where(over, 1.0, -0.1), over

    def observe(self) -> Tree:  # noqa: D102
        return {"obs": np.eye(self._length, dtype=np.float32)[self.state["place"]]}


class MaskedCartPole(Toy):
    """The cart and pole of Barto, Sutton & Anderson (1983) with the constants of CartPole-v1, velocities hidden.

    Observation: vector (cart position / 2.4 m, pole angle / 12 degrees). Reward 1 per step, at most ``cap`` steps.
    """

    name, action_names = "masked_cartpole", ("left", "right")

    def __init__(self, *, columns: int, seed: int, cap: int = 500) -> None:
        leaf = Leaf(kind="vector", shape=(2,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=cap, observation={"obs": leaf})

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"pole": self._random.uniform(-0.05, 0.05, size=(count, 4))}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        _, speed, angle, spin = self.state["pole"].T
        sine, cosine = np.sin(angle), np.cos(angle)
        push = (20.0 * action - 10.0 + 0.05 * spin**2 * sine) / 1.1  # 10 N; pole: 0.1 kg, half length 0.5 m
        torque = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
        rate = np.stack([speed, push - 0.05 * torque * cosine / 1.1, spin, torque], axis=1)
        self.state["pole"] = np.where(live[:, None], self.state["pole"] + 0.02 * rate, self.state["pole"])
        over = (np.abs(self.state["pole"][:, 0]) > 2.4) | (np.abs(self.state["pole"][:, 2]) > _TILT)
        return np.ones(self.columns), over

    def observe(self) -> Tree:  # noqa: D102
        return {"obs": (self.state["pole"][:, ::2] / np.array([2.4, _TILT])).astype(np.float32)}

    def picture(self, column: int) -> np.ndarray:  # noqa: D102
        canvas, (x, _, angle, _) = np.zeros((12, 25)), self.state["pole"][column]
        cart = np.clip(12 + round(float(x) * 5), 1, 23)
        canvas[11, cart - 1 : cart + 2] = 1.0
        for height in range(10):
            canvas[10 - height, np.clip(round(cart + float(np.tan(angle)) * height * 2), 0, 24)] = 0.6
        return canvas


_TILT = 12 * 2 * np.pi / 360


class Pendulum(Toy):
    """The pendulum to swing up and hold, with the constants of Pendulum-v1; its one action is a torque, at most 2 N m.

    Observation: vector (cosine and sine of the angle from upright, angular velocity in rad/s). Reward per step:
    ``-(angle^2 + 0.1 velocity^2 + 0.001 torque^2)``, before the step. It never terminates.
    """

    name, numbers = "pendulum", 1

    def __init__(self, *, columns: int, seed: int, cap: int = 200) -> None:
        leaf = Leaf(kind="vector", shape=(3,), dtype="float32")
        super().__init__(columns=columns, seed=seed, cap=cap, observation={"obs": leaf})

    def begin(self, count: int) -> dict[str, np.ndarray]:  # noqa: D102
        return {"angle": self._random.uniform(-np.pi, np.pi, count), "spin": self._random.uniform(-1.0, 1.0, count)}

    def advance(self, action: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        angle, spin, torque = self.state["angle"], self.state["spin"], 2.0 * action[:, 0].astype(np.float64)
        reward = -((((angle + np.pi) % (2 * np.pi)) - np.pi) ** 2 + 0.1 * spin**2 + 0.001 * torque**2)
        faster = np.clip(spin + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque), -8.0, 8.0)  # g 10 m/s2, 1 kg, 1 m, 0.05 s
        self.state["spin"] = np.where(live, faster, spin)
        self.state["angle"] = np.where(live, angle + 0.05 * faster, angle)
        return reward, np.zeros(self.columns, bool)

    def observe(self) -> Tree:  # noqa: D102
        angle, spin = self.state["angle"], self.state["spin"]
        return {"obs": np.stack([np.cos(angle), np.sin(angle), spin], axis=1).astype(np.float32)}


_TOYS: dict[str, Any] = {toy.name: toy for toy in (Catch, Memory, TMaze, TwoDoors, Chain, MaskedCartPole, Pendulum)}


def names() -> tuple[str, ...]:
    """The ids of all toys."""
    return tuple(_TOYS)


def make_toy(name: str, *, columns: int, seed: int, options: EnvOptions) -> Toy:
    """Build a toy by name with ``options.kwargs``; ``UserError`` for arguments that it does not have."""
    options.refuse_unused(name, TOY_FIELDS)
    known = [key for key in signature(_TOYS[name]).parameters if key not in ("columns", "seed")]
    for key, value in (arguments := options.arguments()).items():
        if key not in known:
            raise UserError(f"env.kwargs names {key!r}, but {name} takes {', '.join(known) or 'no arguments'}.")
        if type(value) is not int:
            raise UserError(f"env.kwargs sets {key} to {value!r}; {name} takes a whole number there.")
    return _TOYS[name](columns=columns, seed=seed, **arguments)
