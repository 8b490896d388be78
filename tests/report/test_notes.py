"""What an agent made of a film: the file beside it, and what the page makes of the file."""

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from retorq.report import notes as module
from retorq.report import panel, write_report, write_video
from retorq.report.notes import Recorder, load_notes
from retorq.types import UserError

PICTURE = np.zeros((64, 64, 3), np.uint8)


def distribution(values, probabilities, fixed=False):
    return SimpleNamespace(values=np.array(values, float), probabilities=np.array(probabilities, float), fixed=fixed)


def film(count, found=None, actions=2):
    """Pictures 0 to count - 1; action i leads to picture i, with reward i / 10."""
    for index in range(count):
        over = index == count - 1
        yield SimpleNamespace(
            picture=PICTURE,
            action=index % actions,
            reward=index / 10,
            values=None if over else np.arange(actions) - index / 4,
            distribution=None if over or found is None else found(index),
        )


def recorded(path, count=5, found=None, actions=2):
    recorder = Recorder(15, [f"do {index}" for index in range(actions)])
    assert len(list(recorder.pictures(film(count, found, actions)))) == count
    assert recorder.save(path.with_suffix(".json"))
    return load_notes(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    notes = recorded(tmp_path / "7-0.mp4")
    assert (notes.fps, notes.stride, notes.actions, notes.bars) == (15, 1, ["do 0", "do 1"], None)
    np.testing.assert_allclose(notes.values, [[-i / 4, 1 - i / 4] for i in range(4)])
    assert notes.taken.tolist() == [1, 0, 1, 0]  # the action done at this picture led to the next one
    np.testing.assert_allclose(notes.score, [0, 0.1, 0.3, 0.6, 1.0])  # the last one after the game


def test_fixed_values_keep_their_probabilities(tmp_path: Path) -> None:
    shares = [[0.5, 0.25, 0.25, 0], [0, 0, 0, 1]]
    notes = recorded(
        tmp_path / "a.mp4", found=lambda index: distribution([[-1, 0, 1, 2]] * 2, shares[:: 1 - 2 * (index % 2)], True)
    )
    assert (notes.low, notes.high) == (-1.5, 2.5)
    assert notes.bars.shape == (4, 2, 4)
    assert notes.bars[0].tolist() == [[128, 64, 64, 0], [0, 0, 0, 255]]
    assert notes.bars[1].tolist() == [[0, 0, 0, 255], [128, 64, 64, 0]]


def test_quantiles_are_counted_in_equal_parts(tmp_path: Path) -> None:
    """Half of the first action's returns lie at 0 and half at 8; the second one's weights are uneven."""
    values = [[8.0] * 50 + [0.0] * 50, [4.0] + [0.0] * 99]
    weights = [[0.01] * 100, [0.25] + [0.75 / 99] * 99]
    notes = recorded(tmp_path / "a.mp4", found=lambda _: distribution(values, weights))
    share = notes.bars.astype(float) / 255
    assert notes.low < 0 < 8 < notes.high
    assert notes.bars.shape == (4, 2, module.BINS)
    width = (notes.high - notes.low) / module.BINS
    at = [int((value - notes.low) / width) for value in (0, 4, 8)]
    np.testing.assert_allclose(share[0, 0, at], [0.5, 0, 0.5], atol=0.01)
    np.testing.assert_allclose(share[0, 1, at], [0.75, 0.25, 0], atol=0.02)
    assert (np.count_nonzero(share, axis=-1) == 2).all()


def test_returns_that_are_all_the_same_can_be_drawn(tmp_path: Path) -> None:
    notes = recorded(tmp_path / "a.mp4", found=lambda _: distribution([[3.0] * 9] * 2, [[1 / 9] * 9] * 2))
    assert notes.low < 3 < notes.high
    assert notes.bars.max() == 255


def test_long_films_are_told_about_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    notes = recorded(tmp_path / "a.mp4", count=32, found=lambda _: distribution([[1.0, 2]] * 2, [[0.5, 0.5]] * 2))
    assert notes.stride == 4
    assert len(notes.values) == len(notes.taken) == len(notes.score) - 1 == len(notes.bars) == 8
    np.testing.assert_allclose(notes.values[:, 0], [-index for index in range(8)])
    np.testing.assert_allclose(notes.score[[1, -1]], [1.0, 49.6])
    assert notes.taken.tolist() == [(4 * index + 1) % 2 for index in range(8)]


def test_a_film_of_one_picture_has_nothing_to_tell(tmp_path: Path) -> None:
    recorder = Recorder(15, ["a", "b"])
    list(recorder.pictures(film(1)))
    assert not recorder.save(tmp_path / "a.json")
    assert load_notes(tmp_path / "a.mp4") is None


@pytest.mark.parametrize(
    "change",
    [
        {"values": [[1, 2]]},
        {"values": "many"},
        {"values": [[float("nan"), 1]] * 4},
        {"taken": [9, 9, 9, 9]},
        {"score": None},
        {"fps": 0},
        {"stride": 0},
        {"bars": "%%%"},
        {"bars": base64.b64encode(b"123").decode()},
        {"low": 5.0, "high": 5.0},
        {"actions": ["one"]},
    ],
)
def test_torn_notes_are_said_to_be_so(tmp_path: Path, change: dict) -> None:
    recorded(tmp_path / "a.mp4", found=lambda _: distribution([[0.0, 1]] * 2, [[0.5, 0.5]] * 2, True))
    file = tmp_path / "a.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=r"notes 'a.json' are torn: record the game again"):
        load_notes(tmp_path / "a.mp4")


@pytest.mark.parametrize("actions", [2, 3, 18])
@pytest.mark.parametrize("kind", ["values", "categorical", "quantiles"])
def test_the_page_holds_the_panel_and_the_chart(make_run, tmp_path: Path, kind: str, actions: int) -> None:
    found = None
    if kind != "values":
        found = lambda _: distribution([[0.0, 1, 2]] * actions, [[0.2, 0.3, 0.5]] * actions, kind == "categorical")  # noqa: E731
    folder = make_run("a")
    video = write_video(folder / "videos" / "5-0.mp4", [PICTURE] * 6, 15)
    recorded(video, 6, found, actions)
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert text.count('<g class="act') == actions
    assert text.count('<g class="act taken') == 1
    told = json.loads(re.search(r'class="told">(.*?)</script>', text)[1])
    assert len(told["values"]) == len(told["taken"]) == 5
    assert ("bars" in told) == (kind != "values")
    if found:
        assert len(base64.b64decode(told["bars"])) == 5 * actions * told["bins"]
    assert "Value of each action over this game" in text
    assert ("The 8 actions done most often" in text) == (actions == 18)
    assert len(panel.most_taken(load_notes(video))) == min(actions, 8)
    (folder / "videos" / "5-0.json").write_text("{")
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert '<g class="act' not in text
    assert text.count("<video") == 1


def test_names_of_actions_cannot_inject_markup(make_run, tmp_path: Path) -> None:
    folder = make_run("a")
    video = write_video(folder / "videos" / "5-0.mp4", [PICTURE] * 5, 15)
    recorder = Recorder(15, ["</script><img src=x onerror=alert(1)>", "b"])
    list(recorder.pictures(film(5)))
    recorder.save(video.with_suffix(".json"))
    assert "<img" not in write_report([folder], tmp_path / "r.html").read_text()


def test_the_first_outline_is_the_first_pictures(tmp_path: Path) -> None:
    """The shape of one action, corner by corner: bars as high as their share of the row's largest."""
    notes = recorded(
        tmp_path / "a.mp4", found=lambda _: distribution([[0, 1, 2]] * 2, [[0.25, 0.5, 0.25], [1, 0, 0]], True)
    )
    scale = (panel.WIDTH - panel.LEFT - panel.RIGHT) / 3
    path = panel._outline(notes.bars[0, 0], 100.0, 50.0)
    corners = re.findall(r"([MVHZ])([\d. ]*)", path)
    heights = [float(number) for letter, number in corners if letter == "V"]
    assert heights == pytest.approx([75, 50, 75, 100], abs=0.3)
    ends = [float(number) for letter, number in corners if letter == "H"]
    assert ends == pytest.approx([panel.LEFT + scale * part for part in (1, 2, 3)], abs=0.1)


def test_the_axis_reaches_as_far_as_the_returns_do(tmp_path: Path) -> None:
    """Of 51 fixed values from -10 to 10 only those around 1 are ever likely."""
    support, shares = np.linspace(-10, 10, 51), np.zeros((2, 51))
    shares[0, 27], shares[1, 28], shares[1, 20] = 1, 0.995, 0.005
    notes = recorded(tmp_path / "a.mp4", found=lambda _: distribution([support] * 2, shares, True))
    notes.values[:] = [[0.8, 1.2]] * len(notes.values)
    low, high, bars = panel._view(notes)
    assert -2 < low < 0.8 < 1.2 < high < 4
    assert bars.shape[2] >= panel.FEWEST
    assert bars.shape[2] == pytest.approx((high - low) / 0.4)
    assert bars[0, 0].max() == 255
    notes.values[2] = [8.0, 1.2]  # what acting maximizes is always in the picture
    assert panel._view(notes)[1] > 8


def test_deciles_lie_where_the_quantiles_are(tmp_path: Path) -> None:
    values = [np.arange(1000) / 100, np.full(1000, 5.0)]
    notes = recorded(tmp_path / "a.mp4", found=lambda _: distribution(values, np.full((2, 1000), 1e-3)))
    at = notes.low + notes.deciles / 255 * (notes.high - notes.low)
    np.testing.assert_allclose(at[0, 0], np.arange(1, 10), atol=0.1)
    np.testing.assert_allclose(at[0, 1], 5, atol=0.03)
    low, high, _ = panel._view(notes)
    np.testing.assert_allclose(low + panel._deciles(notes, low, high)[0, 0] / 255 * (high - low), at[0, 0], atol=0.06)
    assert recorded(tmp_path / "b.mp4", found=lambda _: distribution([[0, 1]] * 2, [[1, 0]] * 2, True)).deciles is None


def test_a_film_is_told_by_its_title_and_its_text_cannot_inject_markup(make_run, tmp_path: Path) -> None:
    folder = make_run("a")
    video = write_video(folder / "videos" / "500-greedy-3.mp4", [PICTURE] * 5, 15)
    recorder = Recorder(15, ["a", "b"], title="the best of 9 games, score <b>7</b>")
    list(recorder.pictures(film(5)))
    recorder.save(video.with_suffix(".json"))
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert "recurrent_iqn, seed 1 at step 500: the best of 9 games, score &lt;b&gt;7&lt;/b&gt;</h3>" in text
