"""Rows of results: new ones in the place of old ones, new columns beside old rows, and what made them."""

import subprocess
from pathlib import Path

import pytest
from benchmarks import family, learning, rows

from retorq.bench import machine

ORDER = {"task": ("easy", "hard")}


def put(path: Path, *new: rows.Row) -> list[str]:
    """The lines of the csv after adding these rows."""
    rows.put(path, new, key=("task", "seed"), order=ORDER)
    return path.read_text().splitlines()


def test_a_new_row_takes_the_place_of_the_one_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "results" / "some.csv"
    put(path, {"task": "hard", "seed": 10, "mean": 1.0}, {"task": "easy", "seed": 1, "mean": 2.0})
    put(path, {"task": "hard", "seed": 9, "mean": 3.0}, {"task": "gone", "seed": 0, "mean": 0.0})
    assert put(path, {"task": "hard", "seed": 10, "mean": 4.5}) == [
        "task,seed,mean",
        "easy,1,2.0",
        "hard,9,3.0",
        "hard,10,4.5",
        "gone,0,0.0",
    ]
    assert rows.read(path)[2] == {"task": "hard", "seed": "10", "mean": "4.5"}


def test_old_rows_have_empty_cells_in_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("task,seed,old\r\neasy,1,a\r\n")
    new = put(path, {"task": "easy", "seed": 2, "commit": "abc"})
    assert new == ["task,seed,commit,old", "easy,1,,a", "easy,2,abc,"]
    assert rows.read(tmp_path / "none.csv") == []


def test_the_commit_is_that_of_the_checkout_a_file_belongs_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, file = machine.commit.__wrapped__, tmp_path / "src" / "some.py"
    file.parent.mkdir()
    file.write_text("")
    assert commit(file) == ""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init")
    assert commit(file) == ""  # as where the package is installed into a folder of somebody's checkout
    git("add", "src")
    git("commit", "-m", "a")
    short = git("rev-parse", "--short", "HEAD").strip()
    assert commit(file) == short
    (tmp_path / "results.csv").write_text("1")  # results are no part of the program
    assert commit(file) == short
    (tmp_path / "src" / "other.py").write_text("")
    assert commit(file) == f"{short}+"
    monkeypatch.setenv("PATH", "")
    assert commit(file) == ""


def test_what_made_a_row() -> None:
    made = rows.made_by()
    assert made["commit"] == machine.commit() == machine.facts(machine.Setup())["commit"]
    assert made["machine"].endswith(" cores")


class Trained:
    """A run that is over, as far as the tables look at it."""

    code, metrics = 0, ({"updates": 7, "score_mean": 0.5},)

    def load(self) -> "Trained":
        return self

    def evaluate(self, **_: object) -> dict[str, object]:
        return {"scores": [1.0, 2.0], "mean": 1.5}


def test_learning_tables_tell_what_made_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retorq.train", lambda *_, **__: Trained())
    for row in (learning.run("catch", 0, 1), family.run("dqn", "catch", 0)):
        assert rows.made_by().items() <= row.items()
        assert (row["task"], row["updates"], row["mean"], row["passed"]) == ("catch", 7, 1.5, True)
