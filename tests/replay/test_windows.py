"""Where windows may start, against a definition by enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retorq.replay.windows import Window


def starts_by_definition(window, written, capacity):
    """Every absolute row on the grid whose window, and the margin before it, is held."""
    oldest = max(0, written - capacity)
    held = range(oldest, written)
    return [
        start
        for start in range(0, written, window.period)
        if start in held
        and start + window.rows <= written
        and (start - window.margin in held or oldest == 0)  # before a stream's first row there is nothing to hold
    ]


@given(
    length=st.integers(1, 5),
    ahead=st.integers(0, 3),
    burn_in=st.integers(0, 3),
    period=st.integers(1, 4),
    margin=st.integers(0, 3),
    laps=st.integers(3, 9),
    written=st.integers(0, 60),
)
def test_starts_are_those_of_the_definition(length, ahead, burn_in, period, margin, laps, written):
    window = Window(length=length, ahead=ahead, burn_in=burn_in, period=period, margin=margin)
    capacity = period * -(-(window.rows + margin + period) // period) + period * laps
    first, count = window.range(np.array([written]), capacity)
    found = [int(first[0]) + i * period for i in range(int(count[0]))]
    assert found == starts_by_definition(window, written, capacity)


@pytest.mark.parametrize(
    ("written", "first", "count"),
    [(0, 0, 0), (5, 0, 0), (6, 0, 1), (7, 0, 1), (8, 0, 2), (12, 0, 4), (13, 2, 3), (14, 2, 4)],
)
def test_by_hand(written, first, count):
    """Windows of 6 rows (1 + 3 + 2) every 2 rows in a ring of 12."""
    window = Window(burn_in=1, length=3, ahead=2, period=2)
    assert window.rows == 6
    found = window.range(np.array([written]), 12)
    assert (int(found[1][0]), int(found[0][0]) if count else first) == (count, first)
