"""A trained agent in a Gymnasium environment of the user's own loop."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from tests.envs.sample_envs import Steered
from tests.envs.senses import Senses

from retorq import api
from retorq.envs.cell import Cell
from retorq.envs.options import EnvOptions
from retorq.types import UserError


class FromFive(Senses):
    """The same game, whose choices are 5, 6 and 7."""

    action_space = Discrete(3, start=5)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action - 5)


def player(env: str, agent: str, options: EnvOptions) -> api.Player:
    made = api.compose(env, agent=agent, preset="toy", config={}, options=options, device="cpu", seed=3)
    return api.Player(made, step=0)


@pytest.mark.parametrize(
    ("name", "own", "agent", "options"),
    [
        (f"{__name__}:FromFive", FromFive(), "drqn", EnvOptions(drop="buttons", resize=16, grayscale=True)),
        ("tests.envs.sample_envs:Steered", Steered(), "apex_dpg", EnvOptions()),
    ],
)
def test_it_plays_as_behind_the_door(name, own, agent, options):
    """Two games: the agent sees and does what it would by ``act``, on observations converted as in training."""
    mine, cell = player(name, agent, options), Cell(name, options)
    playing = mine.on(own)
    for seed in (7, 8):
        raw, _ = own.reset(seed=seed)
        seen, state, last, steps, over = cell.reset(seed), None, 0.0, 0, False
        action = playing.begin(raw)
        while not over:
            wanted, state = mine.act(seen, state, reward=last)
            assert playing.state.elapsed == state.elapsed == steps + 1
            assert all((playing.state.memory[key] == value).all() for key, value in state.memory.items())
            seen, reward, *ends = cell.step(wanted)
            raw, last, over, cut, _ = own.step(action)
            over, steps = over or cut, steps + 1
            assert last == reward
            assert over == any(ends)
            if not over:
                action = playing.act(raw, last)
        assert steps == (6 if agent == "drqn" else 4)


def test_what_it_refuses():
    mine = player("CartPole-v1", "drqn", EnvOptions())
    with pytest.raises(
        UserError, match=r"'Acrobot-v1' has observations obs vector float32 \(6,\) and 3 choices.* \(4,\)"
    ):
        mine.on(gymnasium.make("Acrobot-v1"))
    with pytest.raises(UserError, match=r"'Steered' has .* 4 numbers as its action"):
        mine.on(Steered())
    with pytest.raises(UserError, match=r"env is a str, which has no observation_space"):
        mine.on("CartPole-v1")
    playing = mine.on(gymnasium.make("CartPole-v1"))
    with pytest.raises(UserError, match="act was called before begin"):
        playing.act(np.zeros(4, np.float32), 0.0)
    with pytest.raises(UserError, match="observation"):
        playing.begin(np.zeros(3, np.float32))
