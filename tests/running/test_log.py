"""Logs: an interrupted and resumed run leaves the rows of one that was not, and a full disk stops nothing."""

import io
import json
import math
import os

import numpy as np
import pytest
from rich.console import Console

from retorq.running import log as logs
from retorq.running.log import WALL_CLOCK_FIELDS, Log
from retorq.types import Episode, UserError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def open_log(folder, clock=None, **keywords):
    screen = Console(file=io.StringIO(), width=200, force_terminal=keywords.get("live", False))
    keywords = {"total": 1000, "period": 100, "tensorboard": False, "console": screen} | keywords
    return Log(folder, clock=clock or Clock(), **keywords)


def rows(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def deterministic(folder):
    names = ("metrics.jsonl", "episodes.jsonl")
    return {
        name: [{k: v for k, v in r.items() if k not in WALL_CLOCK_FIELDS} for r in rows(folder, name)] for name in names
    }


def shown(log):
    return log._display._console.file.getvalue()


def play(log, clock, steps, *, stop=None):
    """A run of its own: games of varying length, rows when due; returns the states saved every 50 steps."""
    states = {}
    for step in steps:
        if step > (stop or math.inf):
            break
        clock.now += 0.5
        if step % 7 == 0:
            log.episode(Episode(score=float(step % 11), length=7, column=0, step=step))
        if log.due(step):
            log.metrics(step, step * 4, step // 2, {"loss": step / 3, "epsilon": 0.1, "replay_ratio": 4.0})
        if step % 50 == 0:
            states[step] = log.state_dict()
    return states


def test_a_row_has_the_promised_fields(tmp_path):
    clock = Clock()
    log = open_log(tmp_path, clock)
    log.episode(Episode(score=3.0, length=8, column=1, step=40))
    log.episode(Episode(score=4.0, length=9, column=0, step=50))
    clock.now += 10
    returned = log.metrics(100, 400, 25, {"loss": 0.5, "epsilon": np.float32(0.25), "entropy": 2})
    clock.now += 10
    log.metrics(300, 1200, 125, {})
    first, second = rows(tmp_path)
    assert first == returned
    memory = first.pop("memory_mb")
    assert 5 < memory < 1e6
    assert first == {
        "step": 100,
        "frames": 400,
        "seconds": 10.0,
        "updates": 25,
        "score_mean": 3.5,
        "score_count": 2,
        "episodes": 2,
        "steps_per_second": 10.0,
        "updates_per_second": 2.5,
        "loss": 0.5,
        "epsilon": 0.25,
        "entropy": 2,
    }
    assert (second["steps_per_second"], second["updates_per_second"], second["loss"]) == (20.0, 10.0, None)
    expected = {"step": 50, "score": 4.0, "length": 9, "column": 0, "cut": False, "seconds": 0.0}
    assert rows(tmp_path, "episodes.jsonl")[1] == expected


def test_the_score_is_of_the_last_hundred_games(tmp_path):
    log = open_log(tmp_path)
    assert log.metrics(1, 1, 0, {})["score_mean"] is None
    for step in range(150):
        log.episode(Episode(score=float(step), length=1, column=0, step=step))
    row = log.metrics(200, 1, 0, {})
    assert (row["score_mean"], row["score_count"], row["episodes"]) == (99.5, 100, 150)


def test_rows_are_due_at_multiples_of_the_period(tmp_path):
    log = open_log(tmp_path)
    written = []
    for step in range(0, 1000, 32):
        if log.due(step):
            log.metrics(step, 0, 0, {})
            written.append(step)
    assert written == [128, 224, 320, 416, 512, 608, 704, 800, 928]


def test_numbers_json_has_not_are_null_and_names_do_not_clash(tmp_path):
    log = open_log(tmp_path)
    log.metrics(1, 1, 1, {"loss": math.nan, "a": np.float32(np.inf), "b": -math.inf})
    row = rows(tmp_path)[0]
    assert [row["loss"], row["a"], row["b"]] == [None] * 3
    with pytest.raises(ValueError, match="'frames'"):
        log.metrics(1, 1, 1, {"frames": 3})


@pytest.mark.parametrize(("saved", "killed"), [(50, 51), (50, 149), (100, 100), (250, 399), (700, 1000), (950, 950)])
@pytest.mark.parametrize("torn", [b"", b'{"step": 99', b"\n", b"\xff\n"])
def test_resumed_rows_equal_the_uninterrupted_ones(tmp_path, saved, killed, torn):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    with open_log(whole, clock := Clock()) as log:
        play(log, clock, range(1, 1001))
    first = open_log(broken, clock := Clock())
    states = play(first, clock, range(1, 1001), stop=killed)
    with (broken / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    clock = Clock()
    clock.now = 5.0  # another boot of the machine
    with open_log(broken, clock) as log:
        log.load_state_dict(json.loads(json.dumps(states[saved])))
        play(log, clock, range(saved + 1, 1001))
    assert deterministic(broken) == deterministic(whole)
    assert [row["seconds"] for row in rows(broken)] == [row["seconds"] for row in rows(whole)]


def test_a_run_from_nothing_empties_what_a_killed_one_left(tmp_path):
    clock = Clock()
    play(open_log(tmp_path, clock), clock, range(1, 120))  # killed before the first checkpoint
    fresh = open_log(tmp_path)
    assert len(rows(tmp_path)) == 1  # nothing is lost until the new run has something to say
    fresh.metrics(100, 1, 1, {})
    fresh.episode(Episode(score=0.0, length=1, column=0, step=101))
    assert len(rows(tmp_path)) == len(rows(tmp_path, "episodes.jsonl")) == 1


@pytest.mark.parametrize("beyond", [-1, 100])  # the line break of the second row, half of the third
def test_a_shortened_file_is_gone_on_with(tmp_path, beyond):
    clock = Clock()
    log = open_log(tmp_path, clock)
    state = play(log, clock, range(1, 800))[750]
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    os.truncate(tmp_path / "metrics.jsonl", len(lines[0] + lines[1]) + beyond)
    again = open_log(tmp_path)
    again.load_state_dict(state)
    again.metrics(800, 1, 1, {})
    assert [row["step"] for row in rows(tmp_path)] == ([100, 800] if beyond < 0 else [100, 200, 800])


def test_a_full_disk_stops_nothing_and_loses_nothing(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    log.metrics(100, 1, 1, {})
    real, space = os.pwrite, [50]

    def nearly_full(descriptor, data, offset):
        if not space[0]:
            raise OSError(28, "No space left on device")
        data, space[0] = data[: space[0]], max(0, space[0] - len(data))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", nearly_full)
    log.metrics(200, 1, 1, {})
    log.metrics(300, 1, 1, {})
    assert shown(log).count("rows wait in memory") == 1
    assert log.state_dict()["rows"]["metrics.jsonl"] == 3
    space[0] = 10**6
    log.close()
    assert [row["step"] for row in rows(tmp_path)] == [100, 200, 300]


def test_plain_progress_is_one_line_per_interval(tmp_path):
    clock = Clock()
    log = open_log(tmp_path, clock, interval=10.0)
    log.episode(Episode(score=-20.25, length=8, column=1, step=40))
    log.metrics(100, 400, 25, {"loss": 0.0125, "epsilon": 0.5})
    told = []
    for step in range(100, 200):
        clock.now += 1
        told.append(log.progress(step, step // 4, replay_ratio=4.0, buffer=12345))
    assert sum(told) == 10
    lines = shown(log).splitlines()
    assert len(lines) == 10
    assert "[" not in lines[-1]
    for piece in ("step 190/1,000 (19%)", "score -20.2 (last 1)", "steps/s 1 ", "updates/s 0.2", "replay ratio 4"):
        assert piece in lines[-1]
    for piece in ("epsilon 0.5", "loss 0.0125", " MB ", "time 0:01:31", "left 0:13:30", "buffer 12,345"):
        assert piece in lines[-1]


def test_progress_before_anything_is_known(tmp_path):
    log = open_log(tmp_path)
    assert log.progress(0, 0)
    assert "score - (last 0) · steps/s - " in shown(log)
    assert "left -" in shown(log)


def test_whoever_is_waited_for_is_named_instead_of_zeros(tmp_path):
    clock = Clock()
    log = open_log(tmp_path, clock)
    log.progress(0, 0, waiting="actors: 0 of 2 up", epsilon=1.0)
    line = shown(log).splitlines()[-1]
    assert line.startswith("waiting for actors: 0 of 2 up · memory ")
    assert "step" not in line
    clock.now += 100
    log.progress(20, 0, waiting="actors: 1 of 2 up")
    assert shown(log).splitlines()[-1].startswith("waiting for actors: 1 of 2 up · step 20/")
    clock.now += 100
    log.progress(40, 0)
    assert shown(log).splitlines()[-1].startswith("step 40/")


def test_a_terminal_gets_a_table(tmp_path):
    clock = Clock()
    with open_log(tmp_path, clock, live=True) as log:
        assert log.progress(10, 0)
        assert not log.progress(20, 0)
        clock.now += 1
        assert log.progress(20, 0)
        log.say("checkpoint [bold] saved")
        assert "\x1b[?25l" in shown(log)
    text = shown(log)
    assert "checkpoint [bold] saved" in text
    assert "20/1,000 (2%)" in text
    assert text.count("\x1b[?25h") == 1  # the cursor is given back
    log.close()


def test_at_the_end_the_last_state_stands_above_what_is_said(tmp_path):
    clock = Clock()
    with open_log(tmp_path, clock, live=True) as log:
        log.progress(10, 0)
        log.episode(Episode(score=2.0, length=8, column=1, step=10))
        log.end(12, 3, epsilon=0.25)  # sooner than another progress would be shown
        log.say("stopped [x]")
    text = shown(log)
    assert text.index("12/1,000 (1%)") < text.index("\x1b[?25h") < text.index("stopped [x]")
    assert "0.25" in text
    assert log.score == (2.0, 1)
    with open_log(tmp_path) as log:
        log.end(12, 3)
        log.say("stopped")
    assert (shown(log), log.score) == ("stopped\n", (None, 0))


def test_a_notice_spoils_no_table(tmp_path):
    with open_log(tmp_path, live=True) as log:
        assert log.notice("wait") == b"\nwait\n"
        log.progress(10, 0)
        assert log.notice("wait") == b"\r\x1b[2Kwait"
        assert len(log.notice("x" * 500)) == 199 + 5
        log.end(10, 0)
        assert log.notice("wait") == b"\nwait\n"
    assert open_log(tmp_path).notice("wait") == b"\nwait\n"


def test_tensorboard_gets_the_values_and_a_resume_hides_what_was_cut(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    clock = Clock()
    log = open_log(tmp_path, clock, tensorboard=True)
    states = play(log, clock, range(1, 451))
    log.close()
    with open_log(tmp_path, clock, tensorboard=True) as log:
        log.load_state_dict(states[250])
        play(log, clock, range(251, 351))
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert {"loss", "epsilon", "score_mean", "replay_ratio", "steps_per_second"} <= set(events.Tags()["scalars"])
    told = events.Scalars("loss")
    assert [event.step for event in told] == [100, 200, 300]
    assert told[0].value == pytest.approx(100 / 3)


def test_tensorboard_is_off_by_itself_but_not_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_has_tensorboard", lambda: False)
    log = open_log(tmp_path, tensorboard=None)
    log.metrics(1, 1, 1, {})
    assert not (tmp_path / "events").exists()
    with pytest.raises(UserError, match=r"tensorboard is True, but it is not installed: pip install 'retorq\[log\]'"):
        open_log(tmp_path, tensorboard=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be opened"):
        open_log(tmp_path / "missing")


def test_a_game_that_was_cut_has_its_row_but_no_part_in_the_scores(tmp_path) -> None:
    with Log(tmp_path, total=10, period=5, tensorboard=False, live=False) as log:
        log.episode(Episode(score=1.0, length=3, column=0, step=3))
        log.episode(Episode(score=-9.0, length=2, column=1, step=4, cut=True))
        row = log.metrics(5, 5, 0, {})
    assert (row["score_mean"], row["score_count"], row["episodes"]) == (1.0, 1, 1)
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2
