"""What `train` and `resume` hand on."""

import re
from dataclasses import fields

import pytest
from tests.small import command

from retorq import api
from retorq.algorithms import dqn
from retorq.running.train import RunOptions

OF_RUNS = {
    "steps": 70,
    "seed": 3,
    "device": "cpu",
    "threads": 1,
    "log_every": 7,
    "checkpoint_seconds": 5.0,
    "save_replay": False,
    "pool": "ray",
    "actors": 2,
    "actor_rows": 5,
    "actor_time_limit": 30.0,
    "replay_shards": 2,
    "hz": 15.0,
    "cluster": "127.0.0.1:6379",
    "cluster_token": "token",
}


def flags(values):
    words = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        words += [flag.replace("--", "--no-")] if value is False else [flag, value]
    return words


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would have been trained."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        api, "start", lambda task, run, path, say, then: asked.append((task, run, path, then)) or api.Run(path, 0)
    )
    return asked


def test_every_option_of_a_run_arrives(started):
    assert {field.name for field in fields(RunOptions)} == {*OF_RUNS, "tensorboard"}  # which is on where it can be
    assert command("train", "memory", *flags(OF_RUNS))[0] == 0
    assert started[0][1] == RunOptions(**OF_RUNS)
    assert command("train", "memory", "--steps", 1_000)[0] == 0
    assert started[1][1] == RunOptions(steps=1_000, log_every=100)


def test_only_what_is_asked_for_differs_from_the_preset(started):
    assert command("train", "memory", "--agent", "dqn", "--gamma", "0.5", "--torso-hidden", 8, 9, "--double")[0] == 0
    task = started[0][0]
    assert vars(task.agent.config) == vars(dqn.toy()) | {"gamma": 0.5, "torso_hidden": (8, 9), "double": True}
    assert (task.preset, started[0][2].as_posix()) == ("toy", "runs/memory-dqn-0")


def test_the_environments_options_may_decide_what_it_is(started):
    assert command("train", "memory", "--env.kwargs", '{"length": 4}')[0] == 0
    assert started[0][0].agent.spec.settings["length"] == 4
    code, _, err = command("train", "memory", "--env.kwargs", '{"lenght": 4}')
    assert (code, "lenght" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--burn-in", "3"], "burn_in"),
        (["--publish-period", "3"], "publish_period"),
        (["--memory", "none", "--sequence-length", "1", "--memory-size", "8"], "memory_size"),
        (["--start-state", "whole", "--sequences", "within"], "sequences"),
        (["--num-envs", "1", "--epsilon-steps", "9"], "epsilon_steps"),
        (["--num-envs", "1", "--epsilon-final", "0.2"], "epsilon_final"),
        (["--memory", "none", "--sequence-length", "1", "--prioritized", "--priority-eta", "0.2"], "priority_eta"),
        (["--agent", "rainbow", "--epsilon-steps", "9"], "epsilon_steps"),
        (["--center-images"], "center_images"),
    ],
)
def test_a_setting_that_does_nothing_is_refused_where_it_is_asked_for(words, name, started):
    code, _, err = command("train", "memory", *words)
    assert code == 2
    assert err.startswith(f"retorq: {name} is ")
    assert "which would do nothing: " in err
    assert started == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--agent", "dqn", "--risk", "cvar"],
            "option --risk does not exist for dqn, but for recurrent_iqn, iqn; change",
        ),
        (
            ["--agent", "dqn", "--memory-size=8"],
            "option --memory-size does not exist for dqn, but for recurrent_iqn, drqn",
        ),
        (
            ["--agent", "qr_dqn", "--atoms", "3"],
            "option --atoms does not exist for qr_dqn, but for c51, rainbow; change",
        ),
        (["--agent", "dqn", "--risc", "cvar"], "option --risc does not exist; perhaps you meant"),
    ],
)
def test_an_option_of_other_agents_names_them(words, sentence, started):
    code, _, err = command("train", "memory", *words)
    assert (code, started) == (2, [])
    assert sentence in err


@pytest.mark.parametrize(
    "words",
    [
        ["--start-state", "stored+burn_in", "--burn-in", "3"],
        ["--burn-in", "0"],
        ["--publish-period", "1"],
        ["--publish-period", "3", "--pool", "process", "--actors", "2"],
        ["--memory", "none", "--sequence-length", "1"],
        ["--preset", "laptop"],  # whose publish_period, torso and center_images say nothing here
    ],
)
def test_presets_and_settings_that_ask_for_nothing_are_accepted(words, started):
    code, _, err = command("train", "memory", *words)
    assert (code, err) == (0, "")
    assert len(started) == 1


def test_from_python_it_is_told(monkeypatch, tmp_path):
    """One set of settings may be for several agents there."""
    lines = []
    monkeypatch.setattr(api, "start", lambda task, run, path, say: api.Run(path, 0))
    api.train("memory", steps=10, run=tmp_path / "x", burn_in=3, say=lines.append)
    assert [line.strip().split("  ")[0] for line in lines] == ["note"]
    assert "burn_in is 3, which would do nothing: start_state is 'stored'" in lines[0]
    api.train("memory", steps=10, run=tmp_path / "x", say=lines.append)
    assert len(lines) == 1


def stored(monkeypatch, path, **how):
    """A run that was stopped at once."""
    from retorq.running import folder

    with monkeypatch.context() as patch:
        patch.setattr(api, "run_training", lambda *_, **__: 75)
        patch.setattr(api, "introduce", lambda *_: None)
        patch.setattr(api, "prepare", lambda *_: None)
        patch.setattr(api, "require_pool", lambda *_: None)  # there is no cluster
        api.train("memory", run=path, **how, say=lambda line: None)
    assert folder.how(path).keys() == set(api.HOW)


def test_a_run_goes_on_as_it_was_last_started(monkeypatch, tmp_path, request):
    """The command that is named at the end of a run says nothing of how it runs; nothing of that is lost."""
    stored(monkeypatch, tmp_path / "run", **OF_RUNS | {"threads": 3})
    stored(monkeypatch, tmp_path / "run", **OF_RUNS, tensorboard=False)
    started = request.getfixturevalue("started")
    assert command("resume", tmp_path / "run")[0] == 0
    assert command("resume", tmp_path / "run", "--threads", 2, "--save-replay", "--hz", 0)[0] == 0
    api.resume(tmp_path / "run", tensorboard=True, say=lambda line: None, then=None)
    first, second, third = (run for _, run, _, _ in started)
    assert first == RunOptions(**OF_RUNS, tensorboard=False)
    assert second == RunOptions(**OF_RUNS | {"threads": 2, "save_replay": True, "hz": 0.0}, tensorboard=False)
    assert third == RunOptions(**OF_RUNS, tensorboard=True)


def test_a_run_of_before_goes_on_with_the_defaults(monkeypatch, tmp_path, request):
    stored(monkeypatch, tmp_path / "run", steps=70, threads=1)
    (tmp_path / "run" / "how.json").unlink()
    started = request.getfixturevalue("started")
    assert command("resume", tmp_path / "run")[0] == 0
    assert started[0][1] == RunOptions(steps=70, log_every=100)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "how.json cannot be read .*: delete it, and give anew what the defaults are not"),
        ("[]", "how.json does not tell how a run was started: delete it"),
        ('{"warp": 9}', "was last started by another version of retorq, which knows warp; use the version named in"),
    ],
)
def test_what_cannot_be_read_of_the_last_start_is_refused(content, sentence, monkeypatch, tmp_path, request):
    stored(monkeypatch, tmp_path / "run", steps=70)
    (tmp_path / "run" / "how.json").write_text(content)
    started = request.getfixturevalue("started")
    code, _, err = command("resume", tmp_path / "run")
    assert (code, started) == (3, [])
    assert re.search(sentence, err)


def test_a_gpu_that_is_gone_is_told(monkeypatch, tmp_path):
    stored(monkeypatch, tmp_path / "run", steps=70)
    how = tmp_path / "run" / "how.json"
    how.write_text(how.read_text().replace('"cpu"', '"cuda:77"'))
    code, _, err = command("resume", tmp_path / "run")
    assert code == 2
    assert "device is 'cuda:77', but" in err


def test_what_is_no_run_is_told(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nothing"):
        code, _, err = command("resume", path)
        assert code == 2
        assert "does not exist: it has no config.json" in err
