"""The command line of studies: what it refuses, what it lists, where it goes on."""

import pytest
from tests.small import command

from retorq.study import NAMES, work


def test_studies_are_listed():
    code, out, _ = command("list", "studies")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(NAMES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["start-stat"], "study is 'start-stat', which does not exist; perhaps you meant 'start-state'"),
        (["start-state", "--seeds", "0"], "seeds is 0; give at least 1"),
        (["start-state", "--workers", "-1"], "workers is -1; give at least 1"),
        (["start-state", "--tasks", "recall 11"], "tasks names 'recall 11'"),
        (["start-state", "--variants", "zeros"], "perhaps you meant 'zero'"),
        (["start-state", "--env", "catch", "--tasks", "recall 10"], "env and tasks are both given"),
        (["rainbow-ablations", "--env", "cacth"], "env is 'cacth', which is not known"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("study", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--env", "catch", "--seeds", "2", "--steps", "700", "--variants", "dqn", "1-step", "--dry-run"]
    code, out, _ = command("study", "rainbow-ablations", *words)
    assert code == 0
    assert [line.split("  ")[-1] for line in out.splitlines()] == [
        f"runs/studies/rainbow-ablations/runs/catch/{variant}/{seed}"
        for seed in (0, 1)
        for variant in ("dqn", "1-step")
    ]
    assert all("700 steps" in line for line in out.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_study_from_the_first_run_to_its_page(tmp_path, monkeypatch):
    """The runs are done in this process, so that no interpreter has to be started."""
    asked = {}

    def here(jobs, *, out, workers, games, burn_ins, say):
        asked.update(workers=workers, games=games, burn_ins=tuple(burn_ins))
        return max(work.one(job, games, burn_ins) for job in jobs)

    monkeypatch.setattr(work, "work", here)
    words = ["rainbow-ablations", "--env", "chain", "--seeds", "1", "--steps", "1100", "--variants", "rainbow", "dqn"]
    words += ["--games", "3", "--workers", "2", "--out", str(tmp_path / "out")]
    code, out, err = command("study", *words)
    assert (code, err) == (0, "")
    assert asked == {"workers": 2, "games": 3, "burn_ins": ()}
    for name in ("scores.csv", "table.csv", "tables.md", "index.html", "bars-final-chain.svg", "curves-chain.svg"):
        assert (tmp_path / "out" / name).exists()
    assert f"written to {tmp_path / 'out' / 'index.html'}" in out
    assert "Delta-Q" not in (tmp_path / "out" / "index.html").read_text()


def test_the_code_of_a_stopped_study(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "work", lambda jobs, **rest: 75)
    code, out, _ = command("study", "rainbow-ablations", "--env", "catch", "--out", str(tmp_path))
    assert code == 75
    assert out.splitlines()[-1] == "stopped; the same command goes on"
