"""What a study writes from run folders: every number can be traced to the runs."""

import csv
import json
import xml.etree.ElementTree as ET

import pytest

from retorq.study import bars, results
from retorq.study.page import csv_text, markdown, write
from retorq.study.pictures import pictures
from retorq.study.work import DELTA_Q

SVG = "{http://www.w3.org/2000/svg}"


def test_raw_scores_are_those_of_the_folders(small, pretended):
    rows = results.scores("small", pretended)
    assert len(rows) == 12
    for row, job in zip(rows, pretended, strict=True):
        number = ["zero", "stored", "stored+burn_in"].index(job.variant)
        assert (row["task"], row["variant"], row["seed"]) == (job.task.name, job.variant, job.seed)
        assert (row["final"], row["lowest"], row["games"]) == (10 * job.seed + number, 10 * job.seed + number - 1, 2)
        assert row["average"] == pytest.approx((0 + 1 + number + 2 + number) / 3, rel=1e-3)
        assert (row["best_while_training"], row["last_while_training"]) == (2 + number, 2 + number)
        assert (row["updates"], row["minutes"]) == (2, 0.2)


def test_the_table_is_that_of_the_scores(small, pretended):
    rows = results.scores("small", pretended)
    names = [variant.name for variant in small.variants]
    table = results.statistics_table(rows, small.tasks, names, "stored", resamples=50)
    assert [(r["measure"], r["task"], r["variant"]) for r in table] == [
        (m, t, v) for m in ("final", "average") for t in ("recall 3", "maze", results.TOGETHER) for v in names
    ]
    last = table[2]  # stored+burn_in on recall 3: scores 2 and 12
    assert (last["runs"], last["iqm"], last["median"], last["mean"]) == (2, 7.0, 7.0, 7.0)
    assert (last["iqm_low"], last["iqm_high"]) == (2.0, 12.0)
    assert last["reference_better"] == 0.25  # 1 and 11 against 2 and 12: only 11 > 2
    assert table[1]["reference_better"] is None  # itself
    together = table[8]
    # recall 3 as it is; the maze's 2 and 12 become 0 and 5
    assert (together["runs"], together["mean"]) == (4, pytest.approx((2 + 12 + 0 + 5) / 4))
    assert together["iqm"] == pytest.approx((2 + 5) / 2)


def test_a_variant_without_runs_has_no_row_and_half_a_study_no_total(small, pretended):
    rows = [row for row in results.scores("small", pretended) if (row["task"], row["variant"]) != ("maze", "zero")]
    names = [variant.name for variant in small.variants]
    table = results.statistics_table(rows, small.tasks, names, "stored", resamples=5)
    found = [(r["task"], r["variant"]) for r in table if r["measure"] == "final"]
    assert ("maze", "zero") not in found
    assert (results.TOGETHER, "zero") not in found
    assert (results.TOGETHER, "stored") in found


def test_delta_q_of_all_seeds(small, pretended):
    for job in pretended[:3] + pretended[6:9]:  # recall 3 with both seeds
        value = 0.5 if job.seed else 0.25
        rows = [{"start": "zero", "burn_in": 0, "initial": value, "final": None if job.seed else 0.125}]
        (job.path / DELTA_Q).write_text(json.dumps(rows))
    table = results.discrepancy_table(results.discrepancies(pretended))
    assert [r["trained with"] for r in table] == ["zero", "stored", "stored+burn_in"]
    assert {(r["runs"], r["initial"], r["final"]) for r in table} == {(2, 0.375, 0.125)}


def test_a_run_with_values_near_zero_does_not_set_the_delta_q_of_all():
    about = {"task": "maze", "variant": "stored", "start": "zero", "burn_in": 2}
    rows = [
        about | {"seed": seed, "initial": value, "final": 10 * value} for seed, value in enumerate((0.5, 0.25, 70.0))
    ]
    [row] = results.discrepancy_table(rows)
    assert (row["runs"], row["initial"], row["final"]) == (3, 0.5, 5.0)


def test_everything_is_written_and_well_formed(small, pretended, tmp_path):
    for burn_in_rows, job in (([0], pretended[0]), ([0, 2], pretended[3])):  # recall 3, and the maze with two lengths
        rows = [{"start": "zero", "burn_in": rows, "initial": 0.1, "final": 0.5 - 0.1 * rows} for rows in burn_in_rows]
        (job.path / DELTA_Q).write_text(json.dumps(rows))
    out = tmp_path / "out"
    written = {path.name for path in write(small, pretended, out, resamples=20)}
    pictures = {
        f"{kind}-{task}.svg" for kind in ("bars-final", "bars-average", "curves") for task in ("recall-3", "maze")
    } | {"delta_q-zero-maze.svg"}
    assert written == {"scores.csv", "curves.csv", "table.csv", "delta_q.csv", "tables.md", "index.html"} | pictures
    for name in pictures:
        assert ET.parse(out / name).getroot().tag == f"{SVG}svg"
    with (out / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    page = (out / "index.html").read_text()
    for text in ("stored+burn_in", "Delta-Q", "all tasks", "over training"):
        assert text in page
        assert text in (out / "tables.md").read_text() or text == "stored+burn_in"
    assert page.count("<svg") == len(pictures)


def test_curves_are_those_of_the_folders_thinned(small, pretended):
    long = [float(i) for i in range(90)]
    (pretended[0].path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": 10 * i, "score_mean": y}) + "\n" for i, y in enumerate(long))
    )
    rows = results.curves(pretended)
    first = [row for row in rows if (row["task"], row["variant"], row["seed"]) == ("recall 3", "zero", 0)]
    assert [row["step"] for row in first] == [10 * i for i in range(2, 90, 3)]  # the last of every three
    assert [row["score"] for row in first] == [float(i) for i in range(1, 90, 3)]  # and their mean
    assert {row["seed"] for row in rows} == {0, 1}
    other = [(row["step"], row["score"]) for row in rows if (row["task"], row["seed"]) == ("maze", 1)]
    assert other[:3] == [(0, 0.0), (100, 1.0), (200, 2.0)]


def test_a_curve_is_the_mean_of_its_seeds_and_one_seed_stands_alone(small):
    def curve(seed, *scores):
        return [
            {"task": "maze", "variant": "stored", "seed": seed, "step": 100 * i, "score": y}
            for i, y in enumerate(scores)
        ]

    def middle(*curves):
        """Heights of the drawn line at the middle of the x axis, and the band's."""
        found = results.Told(scores=[], curves=[row for rows in curves for row in rows])
        text = pictures(found, [], small.tasks, ["zero", "stored"])["curves-maze"]
        paths = [p.attrib for p in ET.fromstring(text).iter(f"{SVG}path") if "M20 54" not in p.attrib.get("d", "")]
        return [p for p in paths if "line" in p.get("class", "")], [p for p in paths if "band" in p.get("class", "")]

    lines, bands = middle(curve(0, 0.0, 1.0, 2.0))
    assert (len(lines), len(bands)) == (1, 0)
    lines, bands = middle(curve(0, 0.0, 1.0, 2.0), curve(1, 2.0, 3.0, 4.0))
    assert (len(lines), len(bands)) == (1, 1)
    assert "s1" in lines[0]["class"]  # the second variant's color


def test_without_any_run_nothing_is_written(small, tmp_path):
    assert write(small, [], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_tables_as_text():
    rows = [{"a": "x", "b": 1.5}, {"a": "y", "b": None, "c": 2}]
    assert csv_text(rows) == "a,b,c\nx,1.5,\ny,,2\n"
    assert markdown(rows) == "| a | b | c |\n| --- | --- | --- |\n| x | 1.5 | - |\n| y | - | 2 |"


def test_bars_stand_where_their_values_are():
    text = bars.draw(
        "A & B",
        "score",
        [
            bars.Bar(name="one <1>", value=2.0, low=1.0, high=3.0, runs=[1.0, 3.0]),
            bars.Bar(name="other", value=5.0, low=4.0, high=6.0, runs=[5.0], color=1),
        ],
    )
    root = ET.fromstring(text)
    dots = [float(dot.attrib["cx"]) for dot in root.iter(f"{SVG}circle")]
    (first, second) = (
        float(p.attrib["d"][1:].split(" ")[0]) for p in root.iter(f"{SVG}path") if "line" in p.attrib["class"]
    )
    assert first == pytest.approx((dots[0] + dots[1]) / 2, abs=0.11)
    assert second == dots[2]
    assert (dots[2] - dots[0]) / (dots[1] - dots[0]) == pytest.approx(2.0, abs=0.01)
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[0] == "A & B"
    assert titles[1].startswith("one <1>: 2.0 (1.0 to 3.0)")
    with pytest.raises(ValueError, match="no bars"):
        bars.draw("x", "y", [])
