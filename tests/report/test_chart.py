import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retorq.report.chart import INK, Chart, Line, Mark, Rule, draw, read_out, shade
from retorq.report.labels import GAP, text_width
from retorq.report.ticks import interval, nice_ticks, short, tick_labels

SVG = "{http://www.w3.org/2000/svg}"


def chart(**how: object) -> Chart:
    return Chart(**{"title": "t", "x_label": "steps", "y_label": "score", **how})  # type: ignore[arg-type]


def parse(drawn: Chart, **how: object) -> ElementTree.Element:
    return ElementTree.fromstring(draw(drawn, 400, 200, attributes='xmlns="http://www.w3.org/2000/svg"', **how))  # type: ignore[arg-type]


def points(path: str) -> np.ndarray:
    return np.array([[float(n) for n in pair.split()] for pair in path.strip("MZ").split("L")])


def by_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if name in node.get("class", "").split()]


@given(
    st.floats(-1e9, 1e9, allow_subnormal=False),
    st.floats(1e-6, 1e9, allow_subnormal=False),
    st.integers(2, 8),
)
def test_ticks_are_round_inside_and_about_as_many_as_asked(low: float, width: float, count: int) -> None:
    width = max(width, 1e-9 * abs(low))
    high = low + width
    ticks = nice_ticks(low, high, count)
    steps = np.diff(ticks)
    assert all(low - 1e-6 * width <= tick <= high + 1e-6 * width for tick in ticks)
    assert count / 1.5 - 1 <= len(ticks) <= 1.8 * count + 1
    if len(steps):
        mantissa = float(f"{steps[0]:.6e}".split("e")[0])
        assert mantissa in (1, 2, 5) or abs(low) > 1e6 * width


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([-20, -10, 0, 10], ["−20", "−10", "0", "10"]),
        ([0, 0.5, 1], ["0", "0.5", "1.0"]),
        ([0, 0.02, 0.04], ["0", "0.02", "0.04"]),
        ([0, 2000, 4000], ["0", "2,000", "4,000"]),
        ([0, 20_000, 40_000], ["0", "20k", "40k"]),
        ([0, 500_000, 1_000_000], ["0", "0.5M", "1.0M"]),
        ([1e9, 2e9], ["1B", "2B"]),
        ([1e-7, 2e-7], ["1e−07", "2e−07"]),
    ],
)
def test_tick_labels(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (20, "20"), (19.87, "19.87"), (-20.7, "−20.7"), (1234.5, "1,234"), (54321.0, "54,321"),
        (4_200_000, "4.2\u202fM"), (0.00123, "0.00123"), (1e-9, "1.00e−09"), (100, "100"), (2e15, "2.00e+15"),
    ],
)  # fmt: skip
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_an_interval_has_one_number_of_decimals() -> None:
    assert interval(19.8667, 19.5, 20.2) == ("19.87", "19.50", "20.20")
    assert interval(15_321.4, 14_900.2, 15_777.7) == ("15,321", "14,900", "15,778")
    assert interval(1, 1, 1) == ("1", "1", "1")


def test_a_line_is_drawn_where_its_numbers_say() -> None:
    root = parse(chart(lines=[Line(name="a", x=[0, 50, 100], y=[0.0, 10.0, 5.0])]))
    left, top, width, height = map(float, root.get("data-box", "").split())
    x0, x1, y0, y1, log = map(float, root.get("data-span", "").split())
    drawn = points(by_class(root, "line")[0].get("d", ""))
    assert (x0, x1, log) == (0, 100, 0)
    assert y0 < 0 < 10 < y1
    assert drawn[:, 0] == pytest.approx([left, left + width / 2, left + width], abs=0.06)
    want = [top + height * (y1 - y) / (y1 - y0) for y in (0, 10, 5)]
    assert drawn[:, 1] == pytest.approx(want, abs=0.06)


def test_a_logarithmic_axis_puts_decades_evenly() -> None:
    root = parse(chart(lines=[Line(name="a", x=[0, 1, 2], y=[0.01, 1.0, 100.0])], log_y=True))
    heights = points(by_class(root, "line")[0].get("d", ""))[:, 1]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert {"0.01", "1", "100"} <= {node.text for node in root.iter(f"{SVG}text")}


def test_bands_enclose_their_line_and_stay_inside() -> None:
    band = Line(name="a", x=[0, 1], y=[1, 2], low=[0, 1], high=[2, 3])
    root = parse(chart(lines=[band]))
    edge = points(by_class(root, "band")[0].get("d", ""))
    line = points(by_class(root, "line")[0].get("d", ""))
    _, top, _, height = map(float, root.get("data-box", "").split())
    assert (edge[:2, 1] < line[:, 1]).all()
    assert (edge[2:, 1][::-1] > line[:, 1]).all()
    assert edge[:, 1].min() >= top
    assert edge[:, 1].max() <= top + height


def test_names_stand_in_the_margin_where_no_curve_lies() -> None:
    lines = [Line(name=f"line {i}", x=[0, 50, 100], y=[0, 9, 5 + i / 100], color=i) for i in range(3)]
    mark = Mark(name="m", x=100, y=5, low=4, high=6, label="evaluation: 5")
    root = parse(chart(lines=lines, marks=[mark], rules=[Rule(name="human", y=5)], named=True))
    left, top, width, height = map(float, root.get("data-box", "").split())
    names = [*by_class(root, "tag"), *by_class(root, "rule-name")]
    assert [node.text for node in names] == ["line 0", "line 1", "line 2", "evaluation: 5", "human 5"]
    assert [node.get("class") for node in names[:3]] == ["tag s0", "tag s1", "tag s2"]
    places = sorted(float(node.get("y", "")) for node in names)
    assert (np.diff(places) >= GAP - 0.2).all()
    assert top <= places[0] - 4
    assert places[-1] - 4 <= top + height
    for node in names:
        assert float(node.get("x", "")) > left + width
        assert float(node.get("x", "")) + text_width(node.text or "") <= 400
    unnamed = parse(chart(lines=lines, marks=[mark]))
    assert not by_class(unnamed, "tag")
    assert float(unnamed.get("data-box", "").split()[2]) > width


def test_more_series_than_colors_are_told_apart() -> None:
    shades = [shade(color) for color in range(16)]
    assert len(set(shades)) == 16
    assert shade(INK) not in shades
    root = parse(chart(lines=[Line(name="a", x=[0, 1], y=[0, 1], color=9)]))
    assert by_class(root, "line")[0].get("class") == "line s1 again"


def test_steps_of_a_short_game_are_whole() -> None:
    line = Line(name="a", x=[0, 3], y=[0, 1])
    texts = [node.text for node in parse(chart(lines=[line], whole_x=True)).iter(f"{SVG}text")]
    assert texts[-6:-2] == ["0", "1", "2", "3"], "the x axis comes last, before the labels of both"
    assert nice_ticks(0, 0.5, whole=True) == nice_ticks(0, 0.5)


def test_a_far_rule_does_not_flatten_the_picture() -> None:
    line = Line(name="a", x=[0, 1], y=[0, 10])
    rules = [Rule(name="human", y=7000), Rule(name="random", y=11)]
    root = parse(chart(lines=[line], rules=rules))
    assert [node.text for node in by_class(root, "rule-name")] == ["random 11"]


def test_faint_lines_lie_behind_and_are_not_read_out() -> None:
    lines = [Line(name="mean", x=[0, 1], y=[0, 1]), Line(name="single", x=[0, 1], y=[0, 2], faint=True)]
    drawn = chart(lines=lines)
    order = [node.get("class") for node in by_class(parse(drawn), "line")]
    assert order == ["line faint s0", "line s0"]
    assert [(series["name"], series["color"]) for series in json.loads(read_out(drawn))["series"]] == [("mean", "s0")]


def test_names_cannot_break_out_of_their_place() -> None:
    evil = "</script></title><script>alert(1)</script>&\"'"
    drawn = chart(
        title=evil,
        y_label=evil,
        x_label=evil,
        lines=[Line(name=evil, x=[0, 1], y=[0, 1])],
        marks=[Mark(name=evil, x=1, y=1, low=0, high=2)],
        rules=[Rule(name=evil, y=1)],
    )
    root = parse(drawn)
    assert not list(root.iter(f"{SVG}script"))
    assert root.findtext(f"{SVG}title") == evil
    assert "<" not in read_out(drawn)
    assert json.loads(read_out(drawn))["series"][0]["name"] == evil


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-5.0, -5.0], [1e99, -1e99], [1e-30, 2e-30], [1e12, 1e12 + 1]])
@pytest.mark.parametrize("zero", [False, True])
def test_odd_values_give_finite_pictures(values: list[float], zero: bool) -> None:
    text = draw(chart(lines=[Line(name="a", x=list(range(len(values))), y=values)], zero=zero), 400, 200)
    assert "nan" not in text
    assert "inf" not in text


def test_nothing_to_draw_is_a_mistake() -> None:
    assert chart(lines=[Line(name="a", x=[], y=[])]).empty
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(chart(), 400, 200)
