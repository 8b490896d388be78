"""`eval --video`: the games that were asked for, filmed as they were played, and nothing else."""

import json
import sys

import pytest
from tests.small import command, flags

from retorq.report.notes import load_notes
from retorq.report.record import pace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Hardly trained, so that its games differ."""
    path = tmp_path_factory.mktemp("films") / "run"
    settings = flags(torso="flat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retorq.running.log._has_tensorboard", lambda: False)
        assert command("train", "catch", "--run", path, *settings, "--steps", 60, "--threads", 1)[0] == 0
    return path


@pytest.fixture
def filmed(monkeypatch):
    """Pictures are counted, not encoded."""
    counts = {}

    def write(path, frames, fps):
        path.parent.mkdir(exist_ok=True)
        counts[path.name] = (len(list(frames)), fps)

    monkeypatch.setattr("retorq.report.record.write_video", write)
    return counts


def test_the_best_the_worst_and_a_number(run, filmed):
    code, out, err = command("eval", run, "--episodes", 7, "--seed", 5, "--video", "best", "worst", 3, "median", "best")
    assert (code, err) == (0, "")
    (file,) = (run / "eval").glob("*-7games-seed5.json")
    told = json.loads(file.read_text())
    scores, lengths = told["scores"], told["lengths"]
    assert len(set(scores)) > 1, "games that look alike prove nothing"
    best, worst, median = (scores.index(value) for value in (max(scores), min(scores), sorted(scores)[3]))
    assert {int(name.rsplit("-", 1)[1][:-4]) for name in filmed} == {best, worst, median, 3}
    for name, (pictures, _) in filmed.items():
        number = int(name.removesuffix(".mp4").rsplit("-", 1)[1])
        assert name == f"{file.stem}-{number}.mp4"
        assert pictures == lengths[number] + 1
        notes = load_notes(run / "videos" / name)
        assert notes.score[-1] == pytest.approx(scores[number])
        assert f"score {scores[number]:g}" in notes.title
    assert f"the best of 7 games (number {best}), score {max(scores):g}" in out


def test_filming_changes_no_score(run, filmed):
    plain = json.loads(command("eval", run, "--episodes", 5, "--json")[1])
    code, out, _ = command("eval", run, "--episodes", 5, "--json", "--video", "another")
    assert (code, json.loads(out)) == (0, plain)
    (name,) = filmed
    assert name.endswith("-5games-another.mp4")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bets"], "video is 'bets'; give best, worst, median, another, or the number of a game"),
        (["-1"], "video is '-1'; give best"),
        (["5"], "video is '5', but 5 games will be played; give 0 to 4"),
        ([], "video names no game; give best"),
    ],
)
def test_what_cannot_be_filmed_is_told_before_anything_is_played(run, words, sentence):
    code, out, err = command("eval", run, "--episodes", 5, "--video", *words)
    assert (code, "playing" in out) == (2, False)
    assert sentence in err
    assert err.count("\n") == 1


def test_a_missing_encoder_is_told_before_anything_is_played(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    code, out, err = command("eval", run, "--video", "best")
    assert (code, "playing" in out) == (2, False)
    assert "pip install 'retorq[video]'" in err


@pytest.mark.parametrize(
    ("length", "frames", "fps"), [(9, 1, 2), (30, 1, 5), (500, 1, 15), (9, 4, 2), (2000, 4, 15), (2000, 3, 20)]
)
def test_short_games_are_slow_enough_to_be_seen(length, frames, fps):
    assert pace(length, frames) == fps
