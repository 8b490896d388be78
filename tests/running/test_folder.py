"""Run folders: the same run goes on, another one is refused, and two processes never share one."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retorq.running import folder
from retorq.running.folder import RunFolder, default_path, differences
from retorq.types import Refused, UserError

ASKED = {
    "agent": "recurrent_iqn",
    "env": "catch",
    "seed": 3,
    "options": {"stack": 1, "noop": (1, 30)},
    "config": {"learning_rate": 1e-4, "double": True, "steps": 100, "core": {"size": 64}},
}


def create(path, **changes):
    return RunFolder.create(path, **{**ASKED, **changes}, command=["retorq", "train", "a b"])


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_new_run_says_what_it_is(tmp_path):
    with create(tmp_path / "deep" / "run") as run:
        assert not run.resumed
        stored = json.loads((run.path / "config.json").read_text())
        assert stored == run.stored
        assert stored["format"] == 1
        assert stored["id"] == run.id
        assert stored["config"] == ASKED["config"]
        assert stored["options"] == {"stack": 1, "noop": [1, 30]}
        assert (run.path / "command.txt").read_text() == "retorq train 'a b'\n"
        told = json.loads((run.path / "versions.json").read_text())
        assert {"python", "retorq", "torch", "numpy", "gymnasium", "ale_py", "platform", "cpu_count"} < told.keys()
        assert run.checkpoints == run.path / "checkpoints"
    with create(tmp_path / "other") as other:
        assert other.id != run.id


def test_the_same_command_goes_on(tmp_path):
    with create(tmp_path) as run:
        identity = run.id
    for take in (create, lambda path: RunFolder.open(path, command=["retorq", "resume"])):
        with take(tmp_path) as again:
            assert again.resumed
            assert again.id == identity
            assert again.notes == []
    assert (tmp_path / "command.txt").read_text().splitlines()[1:] == ["retorq train 'a b'", "retorq resume"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 4}, "seed: 3 → 4;"),
        ({"agent": "dqn"}, "agent: 'recurrent_iqn' → 'dqn';"),
        ({"options": {"stack": 4, "noop": [1, 30]}}, "options.stack: 1 → 4;"),
        ({"options": {"stack": 1, "noop": [0, 30]}}, "options.noop: [1, 30] → [0, 30];"),
        ({"config": ASKED["config"] | {"core": {"size": 65}}}, "config.core.size: 64 → 65;"),
        ({"config": ASKED["config"] | {"double": 1}}, "config.double: True → 1;"),
        ({"config": ASKED["config"] | {"new": 7}}, "config.new: '(not there)' → 7;"),
        ({"env": "memory", "seed": 0}, "env: 'catch' → 'memory'; seed: 3 → 0;"),
    ],
)
def test_another_config_is_refused_with_the_difference(tmp_path, changes, sentence):
    create(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 100}\n')
    before = contents(tmp_path)
    with pytest.raises(Refused) as refusal:
        create(tmp_path, **changes)
    assert f"(stored → asked): {sentence}" in str(refusal.value)
    assert contents(tmp_path) == before
    create(tmp_path).close()  # and the lock was given back


def test_a_run_in_which_nothing_was_trained_gives_way_to_another(tmp_path):
    """Such as one that was refused at its start; what it left behind would only stand in the way."""
    with create(tmp_path, how={"device": "cpu"}) as run:
        (tmp_path / "metrics.jsonl").touch()
        (tmp_path / "episodes.jsonl").touch()
        run.checkpoints.mkdir()
        identity = run.id
    with create(tmp_path) as run:  # the same one goes on
        assert (run.resumed, run.id, run.notes) == (True, identity, [])
    with create(tmp_path, seed=4) as run:
        assert (run.resumed, run.stored["seed"]) == (False, 4)
        assert run.id != identity
        assert run.notes == ["the folder was of another configuration, with which nothing was ever trained"]
    with create(tmp_path, seed=4) as run:
        assert (run.resumed, run.notes) == (True, [])


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "episodes.jsonl", "checkpoints/40/state.json", "notes.txt", "eval/x"]
)
def test_a_run_that_left_anything_gives_way_to_none(tmp_path, name):
    create(tmp_path).close()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(Refused, match="made with another config"):
        create(tmp_path, seed=4)
    assert (tmp_path / "config.json").read_bytes() == before


def test_settings_in_effect_are_written_down_and_no_part_of_the_identity(tmp_path):
    told = {"max_pool": 2, "reward": "raw", "sizes": (1, 2)}
    with create(tmp_path, environment=told) as run:
        assert run.stored["environment"] == told | {"sizes": [1, 2]}
        assert json.loads((tmp_path / "config.json").read_text()) == run.stored
    before = (tmp_path / "config.json").read_bytes()
    with create(tmp_path, environment=told) as run:
        assert run.notes == []
    with create(tmp_path, environment=told | {"max_pool": 1}) as run:
        assert run.notes == ["environment settings changed since the run began: max_pool 2 → 1"]
    assert (tmp_path / "config.json").read_bytes() == before


def test_runs_from_before_settings_in_effect_were_written_down_go_on(tmp_path):
    create(tmp_path).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["environment"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with create(tmp_path, environment={"max_pool": 2}) as run:
        assert (run.resumed, run.notes) == (True, [])


def test_one_at_a_time(tmp_path):
    with create(tmp_path):
        before = contents(tmp_path)
        for take in (create, RunFolder.open):
            with pytest.raises(Refused, match=rf"in use by process {os.getpid()}: stop that one first"):
                take(tmp_path)
        assert contents(tmp_path) == before
        assert RunFolder.open(tmp_path, lock=False).stored["env"] == "catch"  # reading is always allowed
    with RunFolder.open(tmp_path):
        pass


HOLD = """
import sys, time
from retorq.running.folder import RunFolder
run = RunFolder.open(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""


def test_another_process_holds_it_until_it_is_gone_however_it_ends(tmp_path):
    create(tmp_path).close()
    environment = {**os.environ, "PYTHONPATH": str(Path(folder.__file__).parents[2])}
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], env=environment, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Refused, match=f"in use by process {other.pid}:"):
            create(tmp_path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    create(tmp_path).close()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    run = create(tmp_path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(os.getpid) != os.getpid()
        with pytest.raises(Refused):
            create(tmp_path)
        run.close()
        create(tmp_path).close()


def test_what_cannot_be_written_is_the_users_to_choose(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"cannot be written \(.*choose another with --run"):
            create(path)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    create(tmp_path / "run").close()
    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(UserError, match="Permission denied"):
        RunFolder.open(tmp_path / "run")


def test_a_disk_that_fills_up_at_the_start_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        create(tmp_path)
    monkeypatch.undo()
    with create(tmp_path) as run:
        assert not run.resumed


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"holds 'thesis.tex'"):
        create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_run_names_its_neighbor(tmp_path):
    create(tmp_path / "catch-dqn-0").close()
    with pytest.raises(UserError, match=r"does not exist.*perhaps you meant .*catch-dqn-0'"):
        RunFolder.open(tmp_path / "catch-dqn-1")
    with pytest.raises(UserError, match=r"has no config\.json$"):
        RunFolder.open(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "is not the config of a run"),
        ('{"format": 1}', "is not the config of a run"),
        ('{"format": 2, "id": "x"}', "has format 2, and this retorq reads up to 1: update retorq"),
    ],
)
def test_a_damaged_or_newer_config_is_refused(tmp_path, text, sentence):
    create(tmp_path).close()
    (tmp_path / "config.json").write_text(text)
    for take in (create, RunFolder.open, lambda path: RunFolder.open(path, lock=False)):
        with pytest.raises(Refused, match=sentence):
            take(tmp_path)


def test_changed_versions_are_noted_and_remembered(tmp_path, monkeypatch):
    create(tmp_path).close()
    first = folder.versions()
    monkeypatch.setattr(folder, "versions", lambda: first | {"torch": "99.0"})
    with create(tmp_path) as run:
        assert f"torch {first['torch']} → 99.0" in run.notes[0]
    told = json.loads((tmp_path / "versions.json").read_text())
    assert told["torch"] == "99.0"
    assert told["earlier"] == [first]
    with create(tmp_path) as run:
        assert run.notes == []
    assert len(json.loads((tmp_path / "versions.json").read_text())["earlier"]) == 1


def test_default_names_are_plain():
    assert default_path("ALE/Pong-v5", "recurrent_iqn", 0) == Path("runs/ALE-Pong-v5-recurrent_iqn-0")
    assert default_path("my.module:Game", "dqn", 12, base="x") == Path("x/my.module-Game-dqn-12")
    assert default_path("../../é", "..", 1).parts == ("runs", "x-x-1")


def test_differences_are_exact():
    assert differences({"a": 1, "b": {"c": [1]}}, {"a": 1.0, "b": {"c": [1]}}) == []
    assert differences({"a": None}, {}) == [("a", None, "(not there)")]
    assert differences({"a": {}}, {"a": 3}) == [("a", {}, 3)]


def test_imports_no_torch():
    code = "import sys, retorq.running.folder, retorq.running.manifest; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(folder.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_whether_a_run_is_there_before_anything_is_made(tmp_path):
    assert not RunFolder.there(tmp_path / "a/b")
    assert not RunFolder.there(tmp_path)
    assert contents(tmp_path) == {}
    create(tmp_path / "run").close()
    assert RunFolder.there(tmp_path / "run")
    with pytest.raises(UserError, match="holds 'run': choose an empty or new one"):
        RunFolder.there(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\): choose another with --run"):
        RunFolder.there(tmp_path / "file/run")
    assert not (tmp_path / "file/run").exists()
