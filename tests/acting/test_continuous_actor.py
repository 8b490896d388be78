"""An actor with a policy: what is done, with how much noise, what is written down, and what the replay keeps."""

from itertools import pairwise
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tests.continuous import make_network

from retorq.acting.actor import Actor
from retorq.acting.explore import Gaussian
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.envs.vector import GymVector
from retorq.replay.replay import Replay
from retorq.replay.storage import Layout
from retorq.replay.windows import Window


@pytest.fixture
def sample_envs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))


def pendulums(deviation, columns=3, seed=0, **more):
    env = make("pendulum", columns=columns, seed=seed)
    network = make_network(seed, size=3, squash=more.pop("squash", "tanh"))
    return Actor(env, network, Gaussian(columns=columns, deviation=deviation), total=1, seed=seed, **more)


def rows_of(actor, steps):
    return [rows for _, rows in actor.collect(steps)]


def policy_of(actor, rows):
    with torch.no_grad():
        return actor.network._head.policy(torch.from_numpy(rows.inputs.observation["obs"])).numpy()


def test_without_noise_it_does_what_the_policy_says():
    actor = pendulums(0.0)
    for rows in rows_of(actor, 20):
        assert (rows.action.shape, rows.action.dtype) == ((1, 3, 1), np.float32)
        np.testing.assert_allclose(rows.action, policy_of(actor, rows), atol=1e-6)


def test_the_noise_is_normal_and_cut_at_the_bounds():
    actor = pendulums(0.3, columns=50)
    with torch.no_grad():
        actor.network._head.policy.out.weight.zero_()
        actor.network._head.policy.out.bias.fill_(float(np.arctanh(0.5)))
    action = np.concatenate([rows.action.ravel() for rows in rows_of(actor, 150)])
    assert np.abs(action).max() == 1.0
    noise = action - 0.5
    at_bound = 1 - 0.952210  # P(N(0, 1) > 0.5 / 0.3), and next to none at -1
    assert (noise == 0.5).mean() == pytest.approx(at_bound, abs=0.01)
    for deviations, share in ((-1, 0.158655), (0, 0.5), (1, 0.841345)):
        assert (noise < 0.3 * deviations).mean() == pytest.approx(share, abs=0.02)


def test_each_part_of_an_action_has_its_own_noise(sample_envs):
    """One draw for all parts would be the same difference four times."""
    from sample_envs import Steered

    vector = gymnasium.vector.SyncVectorEnv([Steered] * 40)
    env = GymVector(vector, name="steered", seed=0, options=EnvOptions())
    network = make_network(0, actions=env.spec.actions, size=5)
    assert env.spec.actions == 4
    with torch.no_grad():
        network._head.policy.out.weight.zero_()
        network._head.policy.out.bias.zero_()
    actor = Actor(env, network, Gaussian(columns=40, deviation=0.3), total=1, seed=0)
    noise = np.concatenate([rows.action[0][~rows.last[0]] for rows in rows_of(actor, 60)])
    assert len(noise) > 1_000
    assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 0.1


def test_previous_actions_follow_and_nothing_is_done_in_a_last_row(sample_envs):
    actor = pendulums(0.3)
    rows = rows_of(actor, 405)
    ends = [t for t, row in enumerate(rows) if row.last.any()]
    assert ends == [200, 401]
    for t, (row, following) in enumerate(pairwise(rows)):
        ended = t in ends
        assert row.action.any() != ended
        np.testing.assert_array_equal(
            following.inputs.previous_action, np.zeros_like(row.action) if ended else row.action
        )
        assert row.truncated.all() == (t + 1 in ends)
    ((_, cut),) = actor.cut()
    assert (cut.action.shape, cut.action.dtype) == ((1, 3, 1), np.float32)


@pytest.mark.usefixtures("sample_envs")
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_autoreset_mode_fills_the_replay_alike(mode):
    from sample_envs import Steered

    vector = gymnasium.vector.SyncVectorEnv([Steered] * 2, autoreset_mode=mode)
    env = GymVector(vector, name="steered", seed=0, options=EnvOptions())
    actor = Actor(env, make_network(0, actions=4, size=5), Gaussian(columns=2, deviation=0.0), total=1)
    replay = Replay(layout=Layout(spec=env.spec, state={}), window=Window(length=1, ahead=1), columns=2, capacity=200)
    acted = []
    while replay.storage.written.min() < 30:
        for columns, rows in actor.collect(1):
            replay.extend(columns, rows)
            acted.append(rows)
    assert replay.storage.arrays["action"].dtype == torch.float32
    rows = replay.storage.gather(np.array([0, 1]), np.array([0, 0]), 30)
    assert (rows.action.shape, rows.inputs.previous_action.shape) == ((30, 2, 4), (30, 2, 4))
    assert torch.nonzero(rows.last[:, 0]).flatten().tolist() == [4, 9, 14, 19, 24, 29]
    with torch.no_grad():
        wanted = actor.network._head.policy(rows.inputs.observation["obs"])
    live = ~rows.last
    torch.testing.assert_close(rows.action[live], wanted[live])
    assert not rows.action[rows.last].any()
    before = torch.where(rows.inputs.first[1:, :, None], 0.0, rows.action[:-1])
    torch.testing.assert_close(rows.inputs.previous_action[1:], before, rtol=0, atol=0)
    seen = rows.inputs.observation["obs"]
    low, high = torch.tensor([-2.0, 0, 1, -9]), torch.tensor([2.0, 1, 5, 9])
    told = low + (rows.action + 1) / 2 * (high - low)
    torch.testing.assert_close(seen[1:, :, :4][live[:-1]], told[:-1][live[:-1]], rtol=1e-4, atol=1e-4)


def test_it_tells_what_its_critic_thinks_of_what_it_did_and_of_the_policy():
    actor = pendulums(0.5, tell_values=True)
    for rows in rows_of(actor, 15):
        seen = torch.from_numpy(rows.inputs.observation["obs"])
        head = actor.network._head
        with torch.no_grad():
            done, best = head.critic(seen, torch.from_numpy(rows.action)), head.critic(seen, head.policy(seen))
        np.testing.assert_allclose(rows.extras["value"], done, atol=1e-5)
        np.testing.assert_allclose(rows.extras["highest"], best, atol=1e-5)
        assert not np.allclose(done, best)
    assert rows_of(pendulums(0.5), 1)[0].extras == {}


def test_a_saved_actor_goes_on_exactly():
    one, other = pendulums(0.3), pendulums(0.3, seed=4)
    rows_of(one, 230)
    assert other.load_state_dict(*one.state_dict()) is True
    other.network = one.network
    for a, b in zip(rows_of(one, 200), rows_of(other, 200), strict=True):
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.inputs.observation["obs"], b.inputs.observation["obs"])
        np.testing.assert_array_equal(a.last, b.last)


def test_weights_in_bfloat16_act_nearly_alike():
    from retorq.acting.pools import LocalPool

    actor = pendulums(0.0, precision="bf16")
    exact = actor.network
    pool = LocalPool(actor)
    pool.publish(exact, 0)
    assert next(actor.network.parameters()).dtype == torch.bfloat16
    for rows in rows_of(actor, 5):
        with torch.no_grad():
            wanted = exact._head.policy(torch.from_numpy(rows.inputs.observation["obs"])).numpy()
        assert rows.action.dtype == np.float32
        np.testing.assert_allclose(rows.action, wanted, atol=0.03)
