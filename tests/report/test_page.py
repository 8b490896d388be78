import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.small import command

from retorq.report import films, write_curve, write_report, write_video
from retorq.report import page as module
from retorq.report.__main__ import main
from retorq.types import UserError

Make = Callable[..., Path]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects text, addresses and tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "poster", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").replace("\u202f", " ").split())


def report(out: Path, *runs: Path) -> tuple[str, Outline]:
    text = write_report(list(runs), out).read_text(encoding="utf-8")
    return text, Outline(text)


def test_a_page_tells_what_a_run_reached(make_run: Make, tmp_path: Path) -> None:
    folder = make_run("pong", games=40)
    record = json.loads((folder / "eval" / "1000000.json").read_text())
    text, outline = report(tmp_path / "r.html", folder)
    assert "Pong: recurrent_iqn" in outline.text
    assert f"{record['mean']:.2f} (95% interval {record['ci95'][0]:.2f} to {record['ci95'][1]:.2f})" in outline.text
    assert f"in 40 evaluation games, {100 * record['human_normalised']:.0f}% of human" in outline.text
    assert "4 M frames · 1 h 17 min · 215 steps/s on average" in outline.text
    assert "Notes on the data" not in outline.text
    for words in ("Score against emulator frames", "Score against wall time", "R2D2", "learning_rate", "torch", "seed"):
        assert words in outline.text, words
    assert "at most 4 M frames were trained here, 200 M or more there" in outline.text
    assert text.count('class="wide"') == text.count('class="narrow"') == 2


def test_the_page_needs_nothing_but_itself(make_run: Make, tmp_path: Path) -> None:
    text, outline = report(tmp_path / "r.html", make_run("a"), make_run("b", env="catch"))
    assert "default-src 'none'" in text
    assert not [address for address in outline.addresses if not address.startswith("data:")]
    assert not {"link", "iframe", "object", "embed", "base"} & set(outline.tags)
    links = set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"//[^'\n]*\n", "\n", text)))
    assert links <= {"http://www.w3.org"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)


def test_names_from_a_run_cannot_inject_markup(make_run: Make, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)></script>&\"'"
    folder = make_run("evil", env=evil, agent=evil, note=evil)
    (folder / "command.txt").write_text(evil)
    (folder / "versions.json").write_text(json.dumps({evil: evil}))
    _, outline = report(tmp_path / "r.html", folder)
    assert "img" not in outline.tags
    assert outline.text.count(evil) > 5


def test_every_kind_of_damage_still_gives_a_page(make_run: Make, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    torn = make_run("torn", evaluations=0)
    (torn / "metrics.jsonl").write_text((torn / "metrics.jsonl").read_text()[:5000])
    (torn / "videos").mkdir()
    (torn / "videos" / "1.mp4").write_bytes(b"not a video")
    strange = make_run("strange", rows=2, games=1)
    (strange / "metrics.jsonl").write_text('{"step": 5, "score_mean": NaN, "loss": Infinity, "seconds": "soon"}\n')
    _, outline = report(tmp_path / "r.html", bare, torn, strange, make_run("whole"))
    for words in (
        "metrics.jsonl: 1 of",
        "no evaluation yet",
        "No scores yet.",
        "torn/videos/1.mp4",
        "one game",
    ):
        assert words in outline.text, words


def test_only_the_57_games_are_compared(make_run: Make, tmp_path: Path) -> None:
    _, outline = report(tmp_path / "r.html", make_run("toy", env="catch", frames=1))
    assert "Rainbow" not in outline.text
    assert "of human" not in outline.text
    _, outline = report(tmp_path / "r.html", make_run("vp", env="ALE/VideoPinball-v5", low=0, high=20_000))
    assert "random score of 0.0" in outline.text


def test_sticky_actions_are_told_beside_published_scores(make_run: Make, tmp_path: Path) -> None:
    _, outline = report(tmp_path / "r.html", make_run("a", repeat_action_probability=0.25))
    assert "sticky actions are on here" in outline.text
    _, outline = report(tmp_path / "r.html", make_run("b", repeat_action_probability=0.0))
    assert "sticky actions are on here" not in outline.text


def test_published_rows_are_sorted_with_ours_among_them(make_run: Make, tmp_path: Path) -> None:
    text, _ = report(tmp_path / "r.html", make_run("a", high=18.0, seed=5), make_run("b", high=18.0, seed=6))
    part = text[text.index("Beside published") :]
    rows = re.findall(r'<tr class="([^"]*)"><th scope="row">([^<]*)</th><td class="n">([^<]*)<', part)
    scores = [float(score.replace("−", "-")) for _, _, score in rows]
    assert scores == sorted(scores, reverse=True)
    assert [name for kind, name, _ in rows if kind.startswith("ours")] == ["recurrent_iqn"]
    assert len(rows) == 13 + 2 + 1
    assert "mean of 2 runs" in part


def test_videos_are_inside_and_their_room_is_limited(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("a")
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (0, 80, 160)]
    for number in range(5):
        write_video(folder / "videos" / f"{number}.mp4", frames, 30)
    text, outline = report(tmp_path / "r.html", folder)
    assert text.count("data:video/mp4;base64,") == films.VIDEOS_PER_RUN
    assert "a/videos/1.mp4, a/videos/0.mp4" in outline.text, "of the newest step first"
    monkeypatch.setattr(films.Films.__init__, "__defaults__", (100,))
    text, outline = report(tmp_path / "r.html", folder)
    assert "data:video/mp4" not in text
    assert "a/videos/4.mp4" in outline.text


def test_mistakes_are_named(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(UserError, match="not a run folder"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(UserError, match="is a folder"):
        write_report([make_run()], tmp_path)


@pytest.mark.parametrize("text", ["", '{"env": "ALE/Po', "[1]"])
def test_a_torn_configuration_is_told_and_no_page_is_written(make_run: Make, tmp_path: Path, text: str) -> None:
    folder = make_run("torn")
    (folder / "config.json").write_text(text)
    out = tmp_path / "r.html"
    code, _, err = command("report", make_run("whole"), folder, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert f"run '{folder}' has a torn config.json" in err
    assert not out.exists()


def test_a_folder_that_is_made_is_told(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = make_run(), tmp_path / "new" / "deep" / "r.html"
    assert command("report", folder, "--out", out)[1] == f"written to {out} (and made the folder {out.parent})\n"
    assert command("report", folder, "--out", out)[1] == f"written to {out}\n"
    assert main([str(folder), "--out", str(tmp_path / "other" / "r.html")]) == 0
    assert capsys.readouterr().out.endswith(f"(and made the folder {tmp_path / 'other'})\n")


def test_a_run_named_twice_counts_once(make_run: Make, tmp_path: Path) -> None:
    folder = make_run("a")
    _, outline = report(tmp_path / "r.html", folder, folder / ".." / "a")
    assert "One run on ALE/Pong-v5." in outline.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (75, "1 min 15 s"), (3600, "1 h"), (4339, "1 h 12 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert module.duration(seconds).replace("\u00a0", " ") == text


def test_a_picture_stands_alone(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", agent="dqn")]
    text = write_curve(runs, tmp_path / "c.svg").read_text()
    assert text.startswith("<svg ")
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    assert "Pong: recurrent_iqn, dqn" in text
    assert "emulator frames" in text
    assert "wall time" in write_curve(runs, tmp_path / "c.svg", against="time").read_text()
    with pytest.raises(UserError, match=r"not an \.svg"):
        write_curve(runs, tmp_path / "c.png")
    with pytest.raises(UserError, match="2 environments"):
        write_curve([*runs, make_run("toy", env="catch")], tmp_path / "c.svg")


def test_the_command(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    assert main([str(folder), "--out", str(tmp_path / "r.html")]) == 0
    assert main([str(folder), "--out", str(tmp_path / "c.svg"), "--title", "Mine"]) == 0
    assert ">Mine</text>" in (tmp_path / "c.svg").read_text()
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: run ")


def test_the_report_does_not_load_torch() -> None:
    code = "import sys, retorq.report, retorq.report.__main__; print('torch' in sys.modules)"
    source = Path(module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(source)})
    assert done.stdout == "False\n", done.stderr[-500:]
