import json
from collections.abc import Callable
from pathlib import Path

import pytest

from retorq.report.runs import load_run, number, write_text
from retorq.types import UserError

Make = Callable[..., Path]


def test_a_whole_run(make_run: Make) -> None:
    run = load_run(make_run("one", seed=3))
    assert (run.agent, run.env, run.seed, run.name, run.label) == (
        "recurrent_iqn",
        "ALE/Pong-v5",
        3,
        "one",
        "recurrent_iqn, seed 3",
    )
    assert (len(run.metrics), len(run.episodes), len(run.evaluations), run.notes) == (120, 480, 2, [])
    assert run.command.startswith("retorq train ALE/Pong-v5")
    assert run.last("step") == 1_000_000


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds none of config\.json"):
        load_run(tmp_path)


def test_torn_lines_are_counted_and_left_out(make_run: Make) -> None:
    folder = make_run()
    file = folder / "metrics.jsonl"
    file.write_text(file.read_text()[:-25] + '\n[1]\n{"no": "step"}\n')
    run = load_run(folder)
    assert len(run.metrics) == 119
    assert "metrics.jsonl: 2 of 122 lines cannot be read and are left out" in run.notes
    assert "metrics.jsonl: 1 rows have no step and are left out" in run.notes


def test_rows_trained_again_after_a_resume_replace_the_first_ones(tmp_path: Path) -> None:
    rows = [(10, 1.0), (20, 2.0), (30, 3.0), (20, 2.5), (30, 3.5), (40, 4.5)]
    text = "".join(json.dumps({"step": step, "loss": loss, "seconds": 1.0}) + "\n" for step, loss in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    run = load_run(tmp_path)
    assert run.series("step", "loss") == ([10, 20, 30, 40], [1.0, 2.5, 3.5, 4.5])
    assert any("2 rows were trained again" in note for note in run.notes)


def test_a_clock_that_starts_again_goes_on(tmp_path: Path) -> None:
    clock = [5, 10, 15, 2, 4, 1]
    text = "".join(json.dumps({"step": step, "seconds": seconds}) + "\n" for step, seconds in enumerate(clock))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert load_run(tmp_path).series("step", "seconds")[1] == [5, 10, 15, 17, 19, 20]


@pytest.mark.parametrize("value", [None, "3", True, [1], float("nan"), float("inf"), 1e200, 10**400])
def test_what_is_no_number(value: object) -> None:
    assert number({"x": value}, "x") is None


def test_files_of_any_kind_never_stop_the_page(make_run: Make) -> None:
    folder = make_run()
    (folder / "versions.json").write_text("[" * 100_000)
    (folder / "command.txt").unlink()
    (folder / "eval" / "7.json").write_text('{"step": 7, "scores": [null, "x"]}')
    (folder / "eval" / "8.json").write_text('{"scores": [1')
    run = load_run(folder)
    assert len(run.evaluations) == 2
    for part in ("versions.json is torn", "command.txt", "eval/7.json", "8.json is torn"):
        assert any(part in note for note in run.notes), part


def test_a_lost_configuration_is_made_up_for_and_a_torn_one_is_not(make_run: Make) -> None:
    folder = make_run()
    (folder / "config.json").unlink()
    run = load_run(folder)
    assert (run.env, run.agent) == ("ALE/Pong-v5", "recurrent_iqn"), "told by the evaluations"
    assert "config.json is missing or cannot be read" in run.notes
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(UserError, match=r"has a torn config\.json, which is no JSON object: put a copy"):
        load_run(folder)


def test_videos_are_in_the_order_of_training(make_run: Make) -> None:
    folder = make_run() / "videos"
    folder.mkdir()
    names = ["500-0", "500-2", "500-10", "1000-0", "last"]
    for name in reversed(names):
        (folder / f"{name}.mp4").write_bytes(b"")
    (folder / ".300-greedy-0.part.mp4").write_bytes(b"")  # of a film that was interrupted
    assert [video.stem for video in load_run(folder.parent).videos] == names


def test_nested_configurations_are_understood(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"format": 1, "spec": {"env": {"id": "catch"}}, "run": {"agent": {"name": "dqn"}, "seed": 0}})
    )
    run = load_run(tmp_path)
    assert (run.env, run.agent, run.seed) == ("catch", "dqn", 0)


def test_writing_leaves_the_old_file_where_it_fails(tmp_path: Path) -> None:
    out = write_text(tmp_path / "new" / "page.html", "old")
    with pytest.raises(UserError, match="is a folder"):
        write_text(tmp_path / "new", "text")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(out / "below.html", "text")
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]
    assert out.read_text() == "old"
