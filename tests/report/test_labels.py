"""Names in a margin: apart from each other, inside it, and near what they name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retorq.report.labels import GAP, Label, apart, column


@given(st.lists(st.floats(-50, 450), max_size=12))
def test_names_never_overlap(wanted: list[float]) -> None:
    places = apart(wanted, 0, 300)
    order = np.argsort(wanted, kind="stable")
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in places)
    assert all(gap >= GAP - 1e-6 for gap in np.diff(np.asarray(places)[order]))


def test_names_with_room_stay_where_they_belong() -> None:
    assert apart([200, 10, 100], 0, 300) == [200, 10, 100]
    assert apart([100, 100], 0, 300) == [100 - GAP / 2, 100 + GAP / 2]
    assert apart([0, 0, 200], 0, 300) == [0, GAP, 200]
    assert apart([300, 300], 0, 300) == [300 - GAP, 300]
    assert apart([], 0, 300) == []


def test_more_names_than_room_are_spread_evenly() -> None:
    assert apart([5.0] * 5, 0, 20) == pytest.approx([0, 5, 10, 15, 20])


def test_a_name_that_had_to_move_is_tied_to_its_curve() -> None:
    labels = [Label("a", "s0", 50, True), Label("b", "s1", 50, True), Label("far", "s2", 90, True)]
    drawn = "".join(column(labels, 300, 0, 100))
    assert drawn.count('class="tie ') == 2
    assert drawn.count('class="tag ') == 3
    assert "tie" not in "".join(column([Label("ends early", "s0", 50, False)] * 2, 300, 0, 100))
