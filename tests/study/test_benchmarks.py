"""Studies run by run into csv files (benchmarks/studies.py): what a csv has is not run again."""

import pytest
from benchmarks import studies
from benchmarks.rows import read

from retorq.study.work import one

WORDS = ["--tasks", "recall 10", "--seeds", "1", "--steps", "1500", "--games", "2"]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the study in this process, up to ``most`` runs; returns the titles of those done."""

    def run(most, *words):
        titles = []

        def work(todo, *, out, workers, games, burn_ins, say):
            for job in todo[:most]:
                assert one(job, games, burn_ins) == 0
                titles.append(job.title)
                say(job.title)
            return 0

        monkeypatch.setattr(studies, "work", work)
        folders = ["--results", str(tmp_path / "csv"), "--out", str(tmp_path / f"runs{len(words)}")]
        assert studies.run("state-refresh", [*WORDS, *folders, *words]) == 0
        return titles

    return run


def test_what_is_in_the_csv_is_not_run_again(command, tmp_path, capsys):
    assert command(1) == ["recall 10, never, seed 0"]
    first = read(tmp_path / "csv" / "state-refresh-scores.csv")
    # Another folder of runs: only the csv tells what is done.
    assert command(5, "--workers", "2") == ["recall 10, refresh 1, seed 0"]
    assert command(5) == []
    rows = read(tmp_path / "csv" / "state-refresh-scores.csv")
    assert [row["variant"] for row in rows] == ["never", "refresh 1"]
    assert rows[0] == first[0]
    assert all(row["commit"] and row["machine"] for row in rows)
    starts = read(tmp_path / "csv" / "state-refresh-delta_q.csv")
    assert [(row["variant"], row["start"], row["burn_in"]) for row in starts] == [
        (variant, start, burn_in)
        for variant in ("never", "refresh 1")
        for start in ("zero", "stored")
        for burn_in in ("0", "10")
    ]
    table = read(tmp_path / "csv" / "state-refresh-table.csv")
    final = {row["variant"]: float(row["mean"]) for row in table if row["measure"] == "final"}
    assert final == {row["variant"]: pytest.approx(float(row["final"])) for row in rows}


def test_shorter_runs_stay_out_of_the_results(capsys):
    with pytest.raises(SystemExit, match="2"):
        studies.run("state-refresh", ["--steps", "100"])
    assert "do not belong into benchmarks/results" in capsys.readouterr().err


def test_runs_whose_curves_were_not_kept_come_last(command, tmp_path):
    assert command(1) == ["recall 10, never, seed 0"]
    (tmp_path / "csv" / "state-refresh-curves.csv").unlink()
    assert command(5, "--workers", "2") == ["recall 10, refresh 1, seed 0", "recall 10, never, seed 0"]
    curves = read(tmp_path / "csv" / "state-refresh-curves.csv")
    assert {row["variant"] for row in curves} == {"never", "refresh 1"}
    assert max(int(row["step"]) for row in curves) >= 1400


def test_pictures_and_tables_come_from_the_csv_files_alone(command, tmp_path, monkeypatch, capsys):
    command(2)
    monkeypatch.setattr(studies, "PICTURES", tmp_path)
    capsys.readouterr()
    nothing = tmp_path / "nothing"
    assert studies.run("state-refresh", ["--draw", "--results", str(tmp_path / "csv"), "--out", str(nothing)]) == 0
    assert {path.name for path in tmp_path.glob("*.svg")} >= {
        f"state-refresh-{name}-recall-10.svg" for name in ("curves", "bars-final", "bars-average")
    }
    printed = capsys.readouterr().out
    assert "**final weights, recall 10**" in printed
    assert "Delta-Q after training" in printed
    assert not nothing.exists()
