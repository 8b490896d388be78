"""What goes wrong outside retorq: one clear sentence, the right exit code, and nothing learned is lost."""

import json
from pathlib import Path

import pytest
from tests.small import command, flags

from retorq.running.checkpoint import newest


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "envs"))
    monkeypatch.setattr("retorq.running.log._has_tensorboard", lambda: False)  # its import takes seconds


def train(path, what, *more, at=40, workers="0"):
    arguments = json.dumps({"what": what, "at": at})
    words = [
        "train",
        "sample_envs:Misbehaving",
        "--run",
        path,
        *flags(num_envs=1, epsilon_final=None, epsilon_steps=None),
    ]
    words += ["--env.kwargs", arguments, "--env.workers", workers, "--steps", "300", "--threads", "1", *more]
    return command(*words)


@pytest.fixture
def longer_games(monkeypatch):
    """Games of 60 steps, so that an environment that fails at step 40 has been learned from."""
    import sample_envs

    plain = sample_envs.Misbehaving.step

    def step(self, action):
        seen, reward, over, _, *rest = plain(self, action)
        return seen, reward, over, self._step == 60, *rest

    monkeypatch.setattr(sample_envs.Misbehaving, "step", step)


@pytest.mark.usefixtures("longer_games")
@pytest.mark.parametrize(
    ("what", "code", "sentence"),
    [
        ("nan", 4, "observation 'obs' containing nan; return finite numbers"),
        ("nan reward", 4, "the reward nan; return a finite number"),
        ("shape", 2, "observation 'obs' with shape (3,), but its observation space says (4,)"),
        ("dtype", 2, "observation 'obs' with dtype float64, but its observation space says float32"),
        ("raise", 4, "failed 5 times within 1000 steps, the last time because it raised RuntimeError: the bridge fell"),
    ],
)
def test_an_environment_that_goes_bad(what, code, sentence, tmp_path):
    ended, out, err = train(tmp_path / "run", what)
    assert sentence in err
    assert (ended, err.count("\n")) == (code, 1)
    assert "Traceback" not in out + err
    found = newest(tmp_path / "run/checkpoints")
    assert found.step >= 39
    assert found.state["trainer"]["learner"]["updates"] > 0
    # No game can be played to its end, and a game that was cut is no result.
    assert command("eval", tmp_path / "run", "--episodes", "1")[0] == code
    then = 0 if what == "raise" else code  # too few steps are left for five more failures
    resumed, out, err = command("resume", tmp_path / "run", "--threads", "1")
    assert f"going on at step {found.step} of 300" in " ".join(out.split())
    assert resumed == then


@pytest.mark.parametrize(("what", "sentence"), [("hang", "gave no answer within 3 s"), ("die", "exit")])
def test_an_environment_that_hangs_or_dies(what, sentence, tmp_path, monkeypatch):
    """At the first failure here; that the environment is restarted first is tested with the environments."""
    monkeypatch.setattr("retorq.envs.columns.FAILURES", 1)
    limit = ("--env.step-time-limit", "3") if what == "hang" else ()
    code, out, err = train(tmp_path / "run", what, *limit, at=3, workers="each")
    assert code == 4
    assert sentence in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert newest(tmp_path / "run/checkpoints").step == 2


def test_an_environment_that_cannot_be_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "sample_envs:Misbehaving", "--env.workers", "0", "--env.kwargs"]
    code, _, err = command(*words, '{"what": "raise", "where": "constructor"}')
    assert (code, "could not be built" in err, err.count("\n")) == (2, True, 1)
    code, _, err = command(*words, '{"wat": 1}')
    assert (code, "wat" in err, err.count("\n")) == (2, True, 1)
    code, _, err = command("train", "sample_envs:Misbehavin")
    assert (code, "did you mean Misbehaving" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = command("train", "memory", "--run", tmp_path, *flags(), "--steps", "20")
    assert (code, "holds 'notes.txt'" in err) == (2, True)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "config.json").write_text("{broken")
    for words in (["resume", tmp_path], ["eval", tmp_path], ["train", "memory", "--run", tmp_path, *flags()]):
        code, _, err = command(*words)
        assert (code, "config.json cannot be read" in err, err.count("\n")) == (3, True, 1)
