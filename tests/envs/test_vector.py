"""Whole vector environments: what they return is checked, what they raise is named, and Dicts keep their columns."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tests.envs.test_streams import stream

from retorq.envs.cell import Cell
from retorq.envs.columns import Columns, InProcess
from retorq.envs.make import EnvOptions, make
from retorq.envs.vector import GymVector
from retorq.types import Diverged, UserError

RAISED = "the vector environment sample_envs:MisbehavingVector raised RuntimeError in {}: the bridge fell down; mend it"
BAD_OUTPUT = [
    ("nan", Diverged, "observation 'obs' containing nan; return finite numbers"),
    ("shape", UserError, r"observation 'obs' with shape \(2, 3\), but its observation space says \(2, 4\)"),
    ("dtype", UserError, "observation 'obs' with dtype float64, but its observation space says float32"),
    ("nan reward", Diverged, "the reward nan; return a finite number"),
    ("huge reward", Diverged, r"the reward 1e\+300; return a finite number"),
    ("no reward", UserError, "a reward of type ndarray with dtype object"),
    ("text", UserError, "a reward of type ndarray with dtype <U"),
    ("flag", UserError, "terminated = .*yes.*; return True or False"),
    ("four", UserError, "returned 4 values from step; return 5 values, as Gymnasium's do"),
    ("raise", Diverged, RAISED.format("step")),
]


def build(what, **kwargs):
    options = EnvOptions(kwargs={"what": what, **kwargs})
    return make("sample_envs:MisbehavingVector", columns=2, options=options)


@pytest.mark.parametrize(("what", "kind", "sentence"), BAD_OUTPUT)
def test_bad_output_stops_at_once_and_is_named(what, kind, sentence):
    env = build(what)
    env.reset()
    for _ in range(0 if what == "four" else 2):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(UserError, match=sentence) as caught:
        env.step(np.zeros(2, np.int64))
    assert type(caught.value) is kind


def test_a_reset_that_raises_is_named():
    with pytest.raises(Diverged, match=RAISED.format("reset")) as caught:
        build("raise", where="reset").reset()
    assert type(caught.value) is Diverged


def test_a_reset_without_info_is_named():
    env = build("")
    env._env.reset = lambda **_: np.zeros((2, 4), np.float32)
    with pytest.raises(UserError, match="returned a ndarray from reset; return 2 values"):
        env.reset()


def singles(starts):
    backend = InProcess("sample_envs:CountingDict", columns=len(starts), options=EnvOptions())
    backend._cells = [Cell("sample_envs:CountingDict", EnvOptions(kwargs={"start": start})) for start in starts]
    return Columns(backend, columns=len(starts), seed=0)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_parts_of_a_dict_stay_in_their_column(mode):
    """Episodes of different lengths, so that one column ends while the others go on."""
    from sample_envs import CountingDict, CountingDictVector

    starts = (0, 2, 7)
    theirs = SyncVectorEnv([lambda start=start: CountingDict(start) for start in starts], autoreset_mode=mode)
    wanted = stream(singles(starts), 40)
    assert {*wanted[0][0][0]} == {"episode", "rest"}
    for vector in (CountingDictVector(3, mode, starts), theirs):
        assert stream(GymVector(vector, name="counting", seed=0, options=EnvOptions()), 40) == wanted
