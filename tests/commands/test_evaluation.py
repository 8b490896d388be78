"""What `eval` writes and says; no evaluation takes another's place."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from tests.small import SETTINGS, command

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.report.page import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "one"
    options = {"steps": 40, "log_every": 20, "tensorboard": False, "threads": 1, "preset": "toy"}
    api.train("memory", run=path, say=lambda line: None, **SETTINGS | options)
    return path


def evaluated(run, *words):
    code, out, err = command("eval", run, *words)
    assert (code, err) == (0, "")
    return out


def test_a_quick_look_takes_no_other_evaluations_place(run):
    evaluated(run, "--episodes", 12)
    evaluated(run, "--episodes", 1)
    evaluated(run, "--episodes", 12, "--seed", 7)
    evaluated(run, "--episodes", 12)  # the same again is the same
    files = {file.name: json.loads(file.read_text()) for file in (run / "eval").iterdir()}
    assert {name: (record["episodes"], record["seed"]) for name, record in files.items()} == {
        "40-greedy-12games.json": (12, 1000),
        "40-greedy-1games.json": (1, 1000),
        "40-greedy-12games-seed7.json": (12, 7),
    }
    page = write_report([run], run / "report.html").read_text()
    assert page.count("<td>greedy</td>") == 3
    assert "one game" in page


def test_a_full_disk_takes_no_older_evaluation_and_the_games_are_told(run, monkeypatch):
    evaluated(run, "--episodes", 3)
    before = (run / "eval" / "40-greedy-3games.json").read_text()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("retorq.running.folder.os.fsync", full)
    code, out, err = command("eval", run, "--episodes", 3)
    assert code == 2
    assert "over 3 games, by protocol greedy" in out
    assert err.count("\n") == 1
    assert "40-greedy-3games.json' (No space left on device): make room" in err
    assert (run / "eval" / "40-greedy-3games.json").read_text() == before
    assert not list((run / "eval").glob("*.tmp"))


def test_what_is_said_names_the_protocol(run):
    out = evaluated(run, "--episodes", 2)
    starting, playing, told, written = out.splitlines()
    assert starting.split(maxsplit=1) == ["starting", "loading the agent"]
    assert playing.startswith("playing at step 40 of 40 by protocol greedy: ")
    assert playing.endswith("first 2 games started")
    assert "(95% interval " in told
    assert told.endswith(" over 2 games, by protocol greedy at step 40 of 40")
    assert written == f"written to {run}/eval/40-greedy-2games.json"
    assert evaluated(run).splitlines()[1].endswith("first 100 games started")


LINE = "environment 0 raised RuntimeError: the bridge fell down; its game was cut and it was replaced"


def test_an_environment_that_fails_is_told_in_a_line_and_counted_in_the_record(tmp_path, monkeypatch):
    """As in training; its game is no part of the score, and where none failed nothing is counted."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    (marker := tmp_path / "failed").touch()
    options = EnvOptions(kwargs={"marker": str(marker)}, workers="0")
    settings = SETTINGS | {"steps": 40, "log_every": 20, "tensorboard": False, "threads": 1, "preset": "toy"}
    api.train("sample_envs:FailsOnce", run=tmp_path / "run", say=lambda line: None, options=options, **settings)
    assert LINE not in evaluated(tmp_path / "run", "--episodes", 2)
    (tmp_path / "run" / "eval" / "40-greedy-2games.json").unlink()
    marker.unlink()
    out = evaluated(tmp_path / "run", "--episodes", 2)
    assert out.splitlines()[2] == LINE
    assert out.count("replaced") == 1
    record = json.loads((tmp_path / "run" / "eval" / "40-greedy-2games.json").read_text())
    assert (record["environments_replaced"], record["lengths"]) == (1, [6, 6])
    marker.unlink()
    assert json.loads(evaluated(tmp_path / "run", "--episodes", 2, "--json"))["environments_replaced"] == 1
    assert "environments_replaced" not in json.loads(evaluated(tmp_path / "run", "--episodes", 2, "--json"))


def test_one_game_claims_no_interval(run):
    told = evaluated(run, "--episodes", 1).splitlines()[2]
    assert told.startswith("score ")
    assert told.endswith(" in one game, by protocol greedy at step 40 of 40")
    assert json.loads(evaluated(run, "--episodes", 1, "--json"))["ci95"] is None


def test_an_unfinished_run_is_called_one(run, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    config = json.loads((stopped / "config.json").read_text())
    config["config"]["steps"] = 90_000
    (stopped / "config.json").write_text(json.dumps(config))
    out = evaluated(stopped, "--episodes", 2)
    assert "\nplaying at step 40 of 90,000 by protocol greedy: " in out
    assert "by protocol greedy at step 40 of 90,000\n" in out
    (record,) = [json.loads(file.read_text()) for file in (stopped / "eval").glob("40-greedy-2games.json")]
    assert (record["step"], record["total_steps"]) == (40, 90_000)


@pytest.mark.parametrize("words", [["--episodes", -1], ["--episodes", 0]])
def test_a_number_of_games_is_refused_before_anything_is_promised(run, words):
    code, out, err = command("eval", run, *words)
    assert (code, err) == (2, f"retorq: episodes is {words[1]}; give 1 or more.\n")
    assert "playing" not in out
