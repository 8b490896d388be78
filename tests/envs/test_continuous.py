"""Continuous actions: the same rows wherever the environments run, checks at the door, and what a user is told."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from retorq.envs.check import random_actions
from retorq.envs.guard import check_actions
from retorq.envs.make import check, describe, make
from retorq.envs.options import EnvOptions
from retorq.types import EnvSpec, UserError

SPEC = EnvSpec(id="Reach-v0", observation={}, actions=2, continuous=True)
KINDS = {
    "here": ("sample_envs:Steered", EnvOptions(workers="0")),
    "processes": ("sample_envs:Steered", EnvOptions(workers="each")),
    "vector": ("sample_envs:steered", EnvOptions()),
}


def play(env, steps, seed=0):
    generator, columns = np.random.default_rng(seed), env.columns
    actions = [random_actions(env.spec, columns, generator) for _ in range(steps)]
    return [env.reset()["obs"]], actions, [env.step(action) for action in actions]


def test_the_same_actions_arrive_wherever_environments_run():
    found = {}
    for name, (env, options) in KINDS.items():
        made = make(env, columns=2, options=options)
        assert (made.spec.actions, made.spec.continuous, made.spec.action_names) == (4, True, ())
        _, actions, steps = play(made, 9)
        made.close()
        found[name] = steps
        low, high = np.array([-2, 0, 1, -9]), np.array([2, 1, 5, 9])
        for number, (action, step) in enumerate(zip(actions, steps, strict=True)):
            if number % 5 == 4:  # the step after an end answers with the reset
                assert not step.observation["obs"].any()
                continue
            wanted = low + (action + 1) / 2 * (high - low)
            np.testing.assert_allclose(step.observation["obs"][:, :4], wanted, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(step.reward, wanted.sum(1), rtol=1e-4)
            assert step.truncated.tolist() == [number % 5 == 3] * 2
    for steps in found.values():
        for one, other in zip(found["here"], steps, strict=True):
            np.testing.assert_array_equal(one.observation["obs"], other.observation["obs"])
            np.testing.assert_array_equal(one.reward, other.reward)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (np.zeros((3, 2), np.int64), "floats of shape"),
        (np.zeros(3, np.float32), "floats of shape"),
        (np.zeros((2, 3), np.float32), "floats of shape"),
        (np.array([[0, 0], [0, 1.001], [0, 0]]), "lie in"),
        (np.array([[0, 0], [0, np.nan], [0, 0]]), "lie in"),
    ],
)
def test_actions_that_are_none_are_refused(action, what):
    with pytest.raises(ValueError, match=what):
        check_actions(action, 3, SPEC)


def test_actions_pass_as_they_are():
    given = np.array([[-1.0, 1.0], [0.25, -0.5]])
    checked = check_actions(given, 2, SPEC)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, given)


def test_unbounded_actions_are_refused_with_a_sentence(monkeypatch):
    import sample_envs

    monkeypatch.setattr(sample_envs.Steered, "action_space", Box(-np.inf, np.inf, (1,)))
    with pytest.raises(UserError, match="bounds are not finite"):
        describe("sample_envs:Steered", EnvOptions(workers="0"))


def test_the_doctor_tells_of_continuous_actions():
    findings = check("pendulum")
    assert all(good for good, _ in findings)
    assert "actions of 1 numbers (a Box, for apex_dpg)" in findings[0][1]


def test_mujoco_s_tasks_act_here_or_say_what_is_missing(monkeypatch):
    pytest.importorskip("mujoco", reason="mujoco is not installed: pip install retorq[mujoco]")
    made = make("InvertedPendulum-v5", columns=2)
    assert (made.spec.actions, made.spec.continuous, made.spec.max_steps) == (1, True, 1000)
    assert type(made._backend).__name__ == "InProcess"
    _, _, steps = play(made, 30)
    assert all(np.isfinite(step.observation["obs"]).all() for step in steps)
    made.close()
    monkeypatch.setattr("retorq.envs.gymnasium_ids.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package mujoco; install it with: pip install 'retorq\[mujoco\]'"):
        make("InvertedPendulum-v5", columns=2)
