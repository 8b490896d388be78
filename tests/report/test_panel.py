"""Every number and shape beside a film belongs to the action whose name it stands by, and to the picture shown."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.report.test_notes import distribution, recorded

from retorq.report import moving, panel
from retorq.report.notes import Notes

NODE = shutil.which("node")
SHARES = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])


def rows(text: str) -> list[dict[str, str]]:
    """The rows of the panel: name, shape, number, and whether it is the one that was done."""
    found = re.findall(
        r'<g class="act( taken)?">.*?class="name"[^>]*>([^<]*)</text><path class="shape" d="([^"]*)"/>'
        r'.*?class="mean" x1="([\d.]*)".*?class="number"[^>]*>([^<]*)</text></g>',
        text,
    )
    return [dict(zip(("taken", "name", "shape", "mean", "number"), row, strict=True)) for row in found]


@pytest.mark.parametrize("fixed", [True, False])
def test_each_row_shows_its_own_action(tmp_path: Path, fixed: bool) -> None:
    """Name, outline of the distribution, line and number, for the first picture."""
    notes = recorded(tmp_path / "a.mp4", found=lambda _: distribution([[0, 1, 2]] * 3, SHARES, fixed), actions=3)
    shown = rows(panel.panel(notes))
    low, high, bars = panel._view(notes)
    assert bars is not None
    assert [row["name"] for row in shown] == list(notes.actions) == ["do 0", "do 1", "do 2"]
    row_height = 76.0
    scale = (panel.WIDTH - panel.LEFT - panel.RIGHT) / (high - low)
    for index, row in enumerate(shown):
        assert row["shape"] == panel._outline(bars[0, index], (index + 1) * row_height - 6, row_height * 0.74)
        assert float(row["number"].replace("−", "-")) == pytest.approx(notes.values[0, index], abs=0.01)
        assert float(row["mean"]) == pytest.approx(panel.LEFT + scale * (notes.values[0, index] - low), abs=0.06)
        assert bool(row["taken"]) == (notes.taken[0] == index)
    assert len({row["shape"] for row in shown}) == 3
    if fixed:  # the likeliest of three returns, by action
        whole = notes.bars
        assert whole is not None
        assert whole[0].argmax(-1).tolist() == SHARES.argmax(-1).tolist()


def test_what_moves_with_the_film_is_what_was_noted(tmp_path: Path) -> None:
    notes = recorded(
        tmp_path / "a.mp4", found=lambda t: distribution([[0, 1, 2]] * 3, np.roll(SHARES, t, 0), True), actions=3
    )
    told = json.loads(re.search(r'class="told">(.*?)</script>', panel.panel(notes))[1])
    assert told["values"] == notes.values.tolist()
    assert told["taken"] == notes.taken.tolist()
    bars = np.frombuffer(base64.b64decode(told["bars"]), np.uint8).reshape(len(notes.taken), 3, told["bins"])
    _, _, expected = panel._view(notes)
    np.testing.assert_array_equal(bars, expected)


@pytest.mark.parametrize("count", [3, 12])
def test_each_line_of_the_chart_is_the_value_of_the_action_it_is_named_after(count: int) -> None:
    """Of twelve actions those are drawn that were done most often, which are not the first ones."""
    values = np.arange(5)[:, None] + 10.0 * np.arange(count)[None]
    taken = np.array([count - 1, count - 1, count - 2, count - 2, -1])
    notes = Notes(
        fps=15,
        stride=2,
        actions=[f"do {index}" for index in range(count)],
        values=values,
        taken=taken,
        score=np.zeros(5),
    )
    text = panel.values_chart(notes)
    told = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])
    shown = panel.most_taken(notes)
    lines = {line["name"]: line["y"] for line in told["series"]}
    assert lines == {f"do {index}": values[:, index].tolist() for index in shown}
    assert all(line["x"] == [0, 2, 4, 6, 8] for line in told["series"])
    assert {count - 1, count - 2} <= set(shown)


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path)]


@pytest.mark.skipif(NODE is None, reason="node is not there to run the page's script")
@pytest.mark.parametrize("kind", ["bars", "samples", "values"])
def test_every_picture_shows_each_action_its_own(tmp_path: Path, kind: str) -> None:
    """The page's script, run: what it draws as the film plays is what is drawn here, picture by picture."""
    assert NODE is not None
    found = {
        "bars": lambda t: distribution([[0, 1, 2]] * 3, np.roll(SHARES, t, 0), True),
        "samples": lambda t: distribution([[0, 1 + t, 2]] * 3, np.roll(SHARES, t, 0), False),
        "values": None,
    }[kind]
    notes = recorded(tmp_path / "a.mp4", found=found, actions=3)
    text = panel.panel(notes)
    told = json.loads(re.search(r'class="told">(.*?)</script>', text)[1])
    pictures = len(notes.taken) * notes.stride
    (tmp_path / "script.js").write_text(moving.SCRIPT)
    ran = subprocess.run(
        [NODE, str(Path(__file__).with_name("moving.js")), str(tmp_path / "script.js")],
        input=json.dumps({"told": told, "pictures": pictures, "wide": panel.WIDTH - panel.RIGHT}),
        capture_output=True,
        text=True,
        check=True,
    )
    shown = json.loads(ran.stdout)
    low, high, bars = panel._view(notes)
    deciles = panel._deciles(notes, low, high)
    scale = (panel.WIDTH - panel.LEFT - panel.RIGHT) / (high - low)
    for picture, acts in enumerate(shown):
        at = picture // notes.stride
        for index, act in enumerate(acts):
            value, base = float(notes.values[at, index]), (index + 1) * told["row"] - 6
            drawn = (
                panel._bar(value, base, told["row"] * 0.46, low, scale)
                if bars is None
                else panel._outline(bars[at, index], base, told["row"] * 0.74)
            )
            assert numbers(act["shape"]) == pytest.approx(numbers(drawn), abs=0.06)
            if deciles is not None:
                assert numbers(act["deciles"]) == pytest.approx(
                    numbers(panel._ticks(deciles[at, index], base)), abs=0.06
                )
            assert act["mean"] == pytest.approx(panel.LEFT + scale * (min(max(value, low), high) - low), abs=0.06)
            assert act["number"] == panel._number(value, told["digits"])
            assert act["taken"] == (notes.taken[at] == index)
    assert len({act["shape"] for acts in shown for act in acts}) >= 3
