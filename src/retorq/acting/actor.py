"""Actor: plays all columns of a vector environment with a network and writes down every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from retorq.acting.explore import Explore
from retorq.nn.cores import Features
from retorq.nn.network import Network
from retorq.ops.generators import put_back
from retorq.ops.states import choose
from retorq.types import Episode, Inputs, Trajectory, Tree, VectorEnv

Chunk = tuple[np.ndarray, Trajectory]
"""Columns ``[b]`` and their rows ``[T, b]``."""


class Actor:
    """Owns environments, memory, exploration and its generators; the network is somebody else's.

    Args:
        env: The columns to play.
        network: Acts; its parameters may change between calls.
        explore: Probability of a random action per column, or how much noise is added to continuous ones.
        total: Agent steps of the whole run, for the exploration schedule.
        stack: Images to stack on the channel axis.
        samples: Quantile samples to act with (None: the head's own number).
        precision: ``"bf16"`` for matrix products in bfloat16.
        tell_values: Write down, as ``extras["value"]`` and ``extras["highest"]``, the value of the action taken and of
            the best one (of a policy: its own): what first priorities are made of (Ape-X, section 3). NaN where nobody
            acted.
        device: Where the network is.
        seed: One seed for environments, random actions, quantile fractions and the noise of noisy layers.
    """

    def __init__(
        self,
        env: VectorEnv,
        network: Network,
        explore: Explore,
        *,
        total: int,
        stack: int = 1,
        samples: int | None = None,
        precision: str = "fp32",
        tell_values: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.tell_values = tell_values
        self.env, self.network, self.explore, self.total = env, network, explore, total
        self.stack, self.samples, self.precision, self.seed = stack, samples, precision, seed
        self.device = torch.device(device)
        # Environments may draw from a generator of the same seed: what explores must not draw the same numbers.
        self.generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self.fractions = torch.Generator(self.device).manual_seed(seed)
        self.columns = np.arange(env.columns)
        self.steps = 0
        self.episodes: list[Episode] = []
        self.environments_replaced = 0
        """How many environments failed and were replaced since the run began."""
        self._faults: list[tuple[int, str]] = []
        self.values: torch.Tensor | None = None
        self.thought: Tree = {}
        self.state: Tree = {}
        self._next_state: Tree = {}
        self._now: dict[str, np.ndarray] = {}
        self.observation: Tree = {}
        self.stacks: Tree = {}

    def start(self) -> None:
        """Begin a new game in every column."""
        observation = self.env.reset(self.seed)
        n = self.env.columns
        self._now = {
            "first": np.ones(n, bool),
            "last": np.zeros(n, bool),
            "elapsed": np.zeros(n, np.int32),
            "previous_action": self.env.spec.no_action(n),
            "previous_reward": np.zeros(n, np.float32),
            "score": np.zeros(n, np.float64),
        }
        self.state = self.network.initial_state(n, self.device)
        self._see(observation, np.ones(n, bool))

    def _see(self, observation: Tree, begun: np.ndarray) -> None:
        """Take the next observation; where a game has ``begun``, older stacked images become zeros."""
        self.observation = {name: np.array(value) for name, value in observation.items()}
        if self.stack == 1:
            return
        for name, leaf in self.env.spec.observation.items():
            if leaf.kind == "image":
                new = self.observation[name]
                old = self.stacks.get(name, np.zeros((len(new), self.stack, *new.shape[1:]), new.dtype))
                old = np.where(begun.reshape(-1, *([1] * (old.ndim - 1))), 0, old)
                self.stacks[name] = np.concatenate([old[:, 1:], new[:, None]], axis=1)

    def _inputs(self) -> Inputs:
        """This row as the network sees it, ``[1, B, ...]`` on the device."""
        seen = {
            name: self.stacks[name].reshape(len(value), -1, *value.shape[2:]) if name in self.stacks else value
            for name, value in self.observation.items()
        }
        row = Inputs(observation=seen, **{k: self._now[k].copy() for k in _INPUT_FIELDS})
        return row.map(lambda a: torch.from_numpy(a).unsqueeze(0).to(self.device))

    def act(self) -> np.ndarray:
        """Run the network on this row and choose actions ``[B]``, or ``[B, A]`` where they are continuous.

        The memory moves on even where the action is random. Without a memory, a network whose answer nobody wants is
        not asked, as in a warm-up with an epsilon of 1.
        """
        explored = self.explore.epsilon(self.steps, self.total)
        if not self.env.spec.continuous:
            explored = self._random(explored)
            if (explored >= 0).all() and not self.state and not self.tell_values:
                return explored
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features, self._next_state = self.network.unroll(self._inputs(), self.state, self.fractions)
            return (self._steered if self.env.spec.continuous else self._picked)(features, explored)

    def _random(self, epsilon: np.ndarray) -> np.ndarray:
        """With probability ``epsilon [B]`` any action ``[B]``, else -1: the network's choice."""
        chance = self.generator.random(len(epsilon))
        return np.where(chance < epsilon, self.generator.integers(self.env.spec.actions, size=len(epsilon)), -1)

    def _picked(self, features: Features, random: np.ndarray) -> np.ndarray:
        """``random [B]``, and where that is negative the best action."""
        self.values = self.network.preferences(features, self.samples, self.fractions)[0]
        action = np.where(random < 0, self.values.argmax(-1).cpu().numpy(), random)
        if self.tell_values:
            known = self.values.cpu().numpy()
            self.thought = {"value": known[np.arange(len(action)), action], "highest": known.max(-1)}
        return action

    def _steered(self, features: Features, deviation: np.ndarray) -> np.ndarray:
        """The policy's action with normal noise of standard ``deviation [B]``, cut to [-1, 1]: float32 ``[B, A]``."""
        policy = self.network.policy(features)
        steered = policy[0].cpu().numpy()
        noise = deviation[:, None] * self.generator.standard_normal(steered.shape)
        action = np.clip(steered + noise, -1.0, 1.0).astype(np.float32)
        if self.tell_values:
            done = torch.from_numpy(action).to(self.device).unsqueeze(0)
            both = {"value": done, "highest": policy}
            self.thought = {name: self.network.value(features, a)[0].cpu().numpy() for name, a in both.items()}
        return action

    def collect(self, steps: int = 1) -> list[Chunk]:
        """Do ``steps`` vector steps; returns the rows, oldest first."""
        if not self._now:
            self.start()
        return [chunk for _ in range(steps) for chunk in self._step()]

    def _step(self) -> list[Chunk]:
        now, n = self._now, self.env.columns
        action = self.act()
        step = self.env.step(action)
        self.environments_replaced += len(step.faults)
        self._faults += step.faults
        broken = step.broken if step.broken is not None else np.zeros(n, bool)
        final_row = now["last"] | broken
        live = ~final_row
        reward = np.where(live, step.reward, 0).astype(np.float32)
        row = Trajectory(
            inputs=self._row(self.observation),
            action=kept(live, action)[None],
            reward=reward[None],
            terminated=(step.terminated & live)[None],
            truncated=((step.truncated & live) | broken)[None],
            last=final_row[None],
            extras=self._extras(self.state) | {name: value[None] for name, value in self.thought.items()},
        )
        self.steps += int(live.sum())
        now["score"] += reward
        self._advance(action, reward, live)
        self.state = self._next_state
        ended = step.ended & live
        self._count(ended, broken & ~now["last"])
        chunks = [(self.columns, row)]
        if step.final is not None and ended.any():
            chunks.append(self._final_rows(np.flatnonzero(ended), step.final))
        begun = now["last"] | broken | (ended if step.final is not None else np.zeros(n, bool))
        self._begin(begun)
        now["first"] = begun | (step.terminated & live & ~step.ended)
        now["last"] = ended if step.final is None else np.zeros(n, bool)
        now["previous_action"] = kept(~now["first"], now["previous_action"])
        now["previous_reward"] = np.where(now["first"], 0, now["previous_reward"]).astype(np.float32)
        self._clear(now["first"])
        self._see(step.observation, begun)
        return chunks

    def _row(self, observation: Tree) -> Inputs:
        """This row as it is stored, ``[1, B, ...]``: single images, not stacks."""
        return Inputs(observation=dict(observation), **{k: self._now[k].copy() for k in _INPUT_FIELDS}).map(
            lambda a: a[None]
        )

    def _silence(self, columns: int) -> Tree:
        """What is told of rows in which the network was not asked."""
        nothing = np.full((1, columns), np.nan, np.float32)
        return {"value": nothing, "highest": nothing} if self.tell_values else {}

    def _extras(self, state: Tree) -> Tree:
        return {f"state.{name}": value.unsqueeze(0) for name, value in state.items()}

    def _advance(self, action: np.ndarray, reward: np.ndarray, live: np.ndarray) -> None:
        now = self._now
        now["elapsed"] = now["elapsed"] + live.astype(np.int32)
        now["previous_action"] = kept(live, action)
        now["previous_reward"] = reward

    def _count(self, ended: np.ndarray, cut: np.ndarray) -> None:
        """Note the games that are over; ``cut`` ones broke off."""
        for column in np.flatnonzero(ended | cut):
            self.episodes.append(
                Episode(
                    score=float(self._now["score"][column]),
                    length=int(self._now["elapsed"][column]),
                    column=int(column),
                    step=self.steps,
                    cut=bool(cut[column]),
                )
            )

    def _final_rows(self, columns: np.ndarray, final: Tree) -> Chunk:
        """The last observations of games whose environment has already begun the next one."""
        flags = np.zeros((1, len(columns)), bool)
        now = {k: self._now[k][columns][None] for k in ("elapsed", "previous_action", "previous_reward")}
        inputs = Inputs(observation={k: np.array(v[columns])[None] for k, v in final.items()}, first=flags, **now)
        row = Trajectory(
            inputs=inputs,
            action=np.zeros_like(now["previous_action"]),
            reward=np.zeros_like(now["previous_reward"]),
            terminated=flags,
            truncated=flags,
            last=~flags,
            extras=self._extras({k: v[torch.from_numpy(columns).to(v.device)] for k, v in self.state.items()})
            | self._silence(len(columns)),
        )
        return columns, row

    def _clear(self, first: np.ndarray) -> None:
        """An empty memory before a first row: what the network makes of it anyway, and what is stored."""
        if not (self.state and first.any()):
            return
        empty = self.network.initial_state(len(first), self.device)
        self.state = choose(torch.from_numpy(first).to(self.device), empty, self.state)

    def _begin(self, begun: np.ndarray) -> None:
        """A new game: the clock and the score start at zero."""
        self._now["elapsed"] = np.where(begun, 0, self._now["elapsed"]).astype(np.int32)
        self._now["score"] = np.where(begun, 0.0, self._now["score"])

    def cut(self) -> list[Chunk]:
        """Close every open stream with its current observation and begin new games (a resume without the games)."""
        now = self._now
        zeros = np.zeros((1, self.env.columns), bool)
        row = Trajectory(
            inputs=self._row(self.observation),
            action=self.env.spec.no_action(1, self.env.columns),
            reward=np.zeros((1, self.env.columns), np.float32),
            terminated=zeros,
            truncated=~zeros,
            last=~zeros,
            extras=self._extras(self.state) | self._silence(self.env.columns),
        )
        self._count(np.zeros(self.env.columns, bool), ~now["last"])
        self.seed = int(self.generator.integers(2**31))
        self.start()
        return [(self.columns, row)]

    def drain(self) -> list[Episode]:
        """Games finished since the last call."""
        done, self.episodes = self.episodes, []
        return done

    def faults(self) -> list[tuple[int, str]]:
        """Environments replaced since the last call: the column, what happened and what was done."""
        told, self._faults = self._faults, []
        return told

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain numbers: the row in hand, memory, generators; the environments if they can be saved."""
        arrays = {f"now.{k}": v for k, v in self._now.items()}
        arrays |= {f"observation.{k}": v for k, v in self.observation.items()}
        arrays |= {f"stack.{k}": v for k, v in self.stacks.items()}
        arrays |= {f"environment.{k}": v for k, v in (self.env.state_dict() or {}).items()}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        tensors |= {f"state.{k}": v.cpu() for k, v in self.state.items()}
        tensors["generator.fractions"] = self.fractions.get_state()
        numbers = {name: getattr(self, name) for name in ("steps", "seed", "environments_replaced")}
        return tensors, numbers | {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> bool:
        """Put back ``state_dict``; False if the environments could not be (then call ``cut``)."""

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self._now = {k: v.numpy().copy() for k, v in part("now.").items()}
        self.observation = {k: v.numpy().copy() for k, v in part("observation.").items()}
        self.stacks = {k: v.numpy().copy() for k, v in part("stack.").items()}
        self.state = {k: v.to(self.device) for k, v in part("state.").items()}
        put_back(self.fractions, tensors["generator.fractions"])
        self.steps, self.seed = int(numbers["steps"]), int(numbers["seed"])
        self.environments_replaced = int(numbers.get("environments_replaced", 0))  # not in checkpoints of before
        self.generator.bit_generator.state = numbers["generator"]
        environment = part("environment.")
        if environment:
            self.env.reset(self.seed)
            self.env.load_state_dict({k: v.numpy() for k, v in environment.items()})
        return bool(environment) or not self._now


def kept(where: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Actions ``[..., B]`` or ``[..., B, A]`` where ``where [..., B]`` is true, zeros elsewhere."""
    return np.where(where.reshape(*where.shape, *[1] * (action.ndim - where.ndim)), action, np.zeros_like(action))


_INPUT_FIELDS = ("previous_action", "previous_reward", "elapsed", "first")
