"""Names beside the ends of curves: in the margin, where no curve lies, and apart from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

GAP = 15.0
"""Least distance of two lines of text, in picture units."""


class Label(NamedTuple):
    """``text`` in the colors of the CSS class ``kind``, wanted at ``y``; ``edge``: its curve ends at the margin."""

    text: str
    kind: str
    y: float
    edge: bool


def text_width(text: str) -> float:
    """How wide a text is in the charts' font at most: for the wide fonts among those that a viewer may have."""
    return 7.4 * len(text)


def apart(wanted: Sequence[float], low: float, high: float, gap: float = GAP) -> list[float]:
    """Places in ``[low, high]`` at least ``gap`` from each other and as near to the ``wanted`` ones as can be.

    They keep the order of the wanted ones. Where there is no room for all, they are spread evenly.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    blocks: list[list[float]] = []  # sum and number of what stands together, less the gaps before each
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    bases = [total / count for total, count in blocks for _ in range(int(count))]
    highest = high - (len(order) - 1) * gap
    places = [0.0] * len(order)
    for rank, (index, base) in enumerate(zip(order, bases, strict=True)):
        places[index] = min(max(base, low), highest) + rank * gap
    return places


def column(labels: Sequence[Label], x: float, top: float, bottom: float) -> Iterator[str]:
    """The labels right of ``x``, each tied to its curve by a thin line where it had to move."""
    places = apart([label.y for label in labels], top, bottom)
    for label, place in zip(labels, places, strict=True):
        if label.edge and abs(place - label.y) > 3:
            yield f'<path class="tie {label.kind}" d="M{x + 6:.1f} {label.y:.1f}L{x + 13:.1f} {place:.1f}"/>'
        kind = label.kind if label.kind == "rule-name" else f"tag {label.kind}"
        yield f'<text class="{kind}" x="{x + 15:.1f}" y="{place + 4:.1f}">{escape(label.text)}</text>'
