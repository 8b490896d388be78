"""Player: a trained agent in the hand. It acts on one observation after the other, tells values, is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from retorq.acting.explore import Fixed
from retorq.agent import Agent
from retorq.envs.make import describe, make
from retorq.envs.spaces import Actions, Door
from retorq.ops.rescale import unrescale
from retorq.running import evaluate as evaluation
from retorq.running.again import Played, Tape, film_again
from retorq.running.distributions import ReturnDistribution, look
from retorq.running.film import Moment, film
from retorq.running.train import Task, check_seed
from retorq.types import EnvSpec, Inputs, Tree, UserError


@dataclass
class PlayerState:
    """What a :class:`Player` remembers between steps of one game: memory, what it did last, and the images it stacks.

    ``stacks`` holds the newest images of every image leaf ``[stack, channels, height, width]``, oldest first.
    """

    memory: Tree
    action: int | np.ndarray = 0
    elapsed: int = 0
    first: bool = True
    stacks: Tree = field(default_factory=dict)

    def after(self, memory: Tree) -> PlayerState:
        """The state once a row has been seen; its action is not chosen yet."""
        return replace(self, memory=memory, action=0 * self.action, elapsed=self.elapsed + 1, first=False)


class Player:
    """A trained agent: ``act``, ``values``, ``distribution`` and ``evaluate``.

    Its weights are those of agent step ``step`` of ``total`` (None: of a run without a known end).
    """

    def __init__(self, task: Task, *, step: int, total: int | None = None, device: str = "cpu") -> None:
        self.task, self.step, self.total, self.device = task, step, total, device
        self.agent: Agent = task.agent
        self.network = task.agent.network
        self._generator = torch.Generator(device).manual_seed(0)

    def act(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[int | np.ndarray, PlayerState]:
        """The greedy action for one observation, and the state to hand in with the next.

        As ``step`` of ``retorq.envs.make`` takes it: choices count from 0, also where a ``Discrete`` starts elsewhere;
        a continuous one is float32 ``[A]`` in [-1, 1], where -1 and 1 stand for the bounds of the ``Box``. For a
        Gymnasium environment in a loop of your own, :meth:`on` speaks its units.

        Args:
            observation: One observation as the environment's door gives it: a dict of arrays, or the array itself
                where there is only one; images are ``(channels, height, width)``.
            state: None at the start of a game, else what the last call returned.
            reward: The raw reward that followed the last action.
        """
        action: int | np.ndarray
        if self.agent.spec.continuous:
            row, state = self._row(observation, state, reward)
            with torch.inference_mode():
                features, memory = self.network.unroll(row, state.memory)
                action = self.network.policy(features)[0, 0].cpu().numpy()
            return action, replace(state.after(memory), action=action)
        values, state = self.values(observation, state, reward=reward)
        action = int(values.argmax())
        return action, replace(state, action=action)

    def on(self, env: Any) -> Playing:
        """Acting in a Gymnasium environment like the one trained on, in its own units; see :class:`Playing`.

        Raises:
            UserError: Its observations or actions are not those that the agent knows.
        """
        return Playing(self, env)

    def values(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[np.ndarray, PlayerState]:
        """Value of each action ``[A]`` (the mean, under the agent's risk if any), and the state after seeing this.

        In units of return: where the agent learns rescaled values, that is undone.

        Where actions are continuous, the value of the one that the policy would do, ``[1]``.
        """
        row, state = self._row(observation, state, reward)
        with torch.inference_mode(), evaluation.without_noise(self.network):
            features, memory = self.network.unroll(row, state.memory, self._generator)
            values = self.network.preferences(features, self.agent.action_samples, self._generator)[0, 0]
            values = unrescale(values, self.agent.rescale) if self.agent.rescale else values
        return values.cpu().numpy(), state.after(memory)

    def distribution(
        self, observation: Any, state: PlayerState | None = None, *, reward: float = 0.0
    ) -> tuple[ReturnDistribution, PlayerState]:
        """The learned distribution of each action's return, and the state after seeing the observation.

        Raises:
            UserError: The agent learns single values.
        """
        row, state = self._row(observation, state, reward)
        with evaluation.without_noise(self.network):
            _, found, memory = look(self.network, row, state.memory, self._generator, self.agent.rescale)
        if found is None:
            raise UserError(
                f"agent is {self.agent.name!r}, which learns single values and no distribution of returns; use "
                "values(), or train c51, qr_dqn, iqn or recurrent_iqn."
            )
        return found, state.after(memory)

    def _row(self, observation: Any, state: PlayerState | None, reward: float) -> tuple[Inputs, PlayerState]:
        """One observation as the network's input ``[1, 1, ...]``, and the state before it with its images."""
        nothing = self.agent.spec.no_action()
        state = state or PlayerState(memory=self.network.initial_state(1, self.device), action=nothing)
        named = (
            observation if isinstance(observation, Mapping) else {next(iter(self.agent.spec.observation)): observation}
        )
        seen, stacks = self._stacked(self._require_observation(named), state.stacks)
        row = Inputs(
            observation=seen,
            previous_action=np.asarray(state.action),
            previous_reward=np.asarray(reward, np.float32),
            elapsed=np.asarray(state.elapsed, np.int32),
            first=np.asarray(state.first),
        ).map(lambda a: torch.from_numpy(np.array(a))[None, None].to(self.device))
        return row, replace(state, stacks=stacks)

    def _stacked(self, seen: Tree, before: Tree) -> tuple[Tree, Tree]:
        """Images as the network sees them, on the channel axis, and as the next call needs them.

        Before a game's first image are zeros, as where the agent learned.
        """
        if self.agent.stack == 1:
            return seen, {}
        stacks: Tree = {}
        for name, leaf in self.agent.spec.observation.items():
            if leaf.kind == "image":
                new = seen[name]
                old = before.get(name, np.zeros((self.agent.stack, *new.shape), new.dtype))
                stacks[name] = np.concatenate([old[1:], new[None]])
        return seen | {name: stack.reshape(-1, *stack.shape[2:]) for name, stack in stacks.items()}, stacks

    def require_spaces(self, other: EnvSpec) -> None:
        """Refuse an environment whose observations and actions are not those trained on.

        Raises:
            UserError: They differ.
        """
        mine = self.agent.spec
        if any(getattr(other, name) != getattr(mine, name) for name in ("observation", "actions", "continuous")):
            raise UserError(
                f"env {other.id!r} has {_told(other)}; this agent was trained on {mine.id!r} with {_told(mine)}: give "
                "an environment like that one."
            )

    def _require_observation(self, seen: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The observation as arrays, if it is one of this agent's."""
        expected = {name: leaf.shape for name, leaf in self.agent.spec.observation.items()}
        arrays = {name: np.asarray(value) for name, value in seen.items()}
        shapes = {name: value.shape for name, value in arrays.items()}
        if shapes != expected:
            raise UserError(
                f"observation has the shapes {shapes}; give {expected} (images with their channels first), as "
                "retorq.envs.make shows them."
            )
        return arrays

    def evaluate(
        self,
        *,
        protocol: str | None = None,
        episodes: int | None = None,
        seed: int = 0,
        env: str | None = None,
        tape: Tape | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> dict[str, Any]:
        """Play by a named protocol; the record that ``eval/*.json`` holds.

        A ``tape`` keeps what ``again`` needs; ``say`` is told of environments that failed and were replaced.
        """
        env = env or self.task.env
        check_seed(seed)
        if env != self.task.env:
            self.require_spaces(describe(env, self.task.options))
        return evaluation.evaluate(
            self.agent,
            self.network,
            env,
            self.task.options,
            using=evaluation.protocol(protocol, env),
            episodes=episodes,
            seed=seed,
            step=self.step,
            total=self.total,
            device=self.device,
            tape=tape,
            say=say,
        )

    def watch(self, *, protocol: str | None = None, seed: int = 0, longest: int = 30_000) -> Iterator[np.ndarray]:
        """Play one whole game as a protocol would, giving each picture ``uint8 [H, W, 3]`` as it comes.

        ``longest`` is the number of steps after which even an unfinished game ends.
        """
        for moment in self._film(protocol, seed, longest, looking=False):
            yield moment.picture

    def film(self, *, protocol: str | None = None, seed: int = 0, longest: int = 30_000) -> Iterator[Moment]:
        """The same game as ``watch``, with what the agent made of each picture."""
        return self._film(protocol, seed, longest, looking=True)

    def again(self, game: Played) -> Iterator[Moment]:
        """A game of an evaluation (``tape.game(number, record)``) once more, with what the agent made of each picture.

        Raises:
            UserError: The environment does not repeat its games.
        """
        return film_again(self.agent, self.network, game, device=self.device)

    def _film(self, protocol: str | None, seed: int, longest: int, *, looking: bool) -> Iterator[Moment]:
        using = evaluation.protocol(protocol, self.task.env)
        options = replace(self.task.options, **(using.atari or {}))
        env = make(self.task.env, columns=1, seed=seed, options=options, render=True)
        explore = Fixed(columns=1, value=using.epsilon)
        actor = self.agent.actor(env, seed=seed, network=self.network, explore=explore, device=self.device)
        try:
            yield from film(actor, longest=longest, looking=looking, rescale=self.agent.rescale)
        finally:
            env.close()


def _told(spec: EnvSpec) -> str:
    seen = ", ".join(f"{name} {leaf.kind} {leaf.dtype} {leaf.shape}" for name, leaf in spec.observation.items())
    return f"observations {seen} and {spec.actions} {'numbers' if spec.continuous else 'choices'} as its action"


class Playing:
    """What ``Player.on(env)`` returns: observations and actions are ``env``'s own, and the memory is kept in here.

    One game at a time: ``begin`` with its first observation, then ``act`` with every later one.
    """

    def __init__(self, player: Player, env: Any) -> None:
        seen, told = (getattr(env, name, None) for name in ("observation_space", "action_space"))
        if seen is None or told is None:
            raise UserError(
                f"env is a {type(env).__name__}, which has no observation_space or no action_space; give a Gymnasium "
                "environment."
            )
        self._player = player
        self._door, self._actions = Door(seen, player.task.options), Actions(told)
        player.require_spaces(
            EnvSpec(
                id=str(getattr(getattr(env, "spec", None), "id", None) or type(env).__name__),
                observation=self._door.leaves,
                actions=self._actions.count,
                continuous=self._actions.continuous,
            )
        )
        self.state: PlayerState | None = None

    def begin(self, observation: Any) -> Any:
        """The action for the first observation of a game, whatever was played before."""
        self.state = None
        return self._act(observation, 0.0)

    def act(self, observation: Any, reward: float) -> Any:
        """The action for the next observation of the game.

        Args:
            observation: As ``env.step`` returned it.
            reward: As ``env.step`` returned it: the raw reward that followed the last action.

        Returns:
            What ``env.step`` takes: an int of its ``Discrete``, or an array of its ``Box``.

        Raises:
            UserError: No game was begun, or the observation is not one of the environment's space.
        """
        if self.state is None:
            raise UserError("act was called before begin; give begin the first observation of a game.")
        return self._act(observation, reward)

    def _act(self, observation: Any, reward: float) -> Any:
        action, self.state = self._player.act(self._door(observation), self.state, reward=float(reward))
        return self._actions(action)
