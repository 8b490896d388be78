"""Numbers as people write them: round ticks for an axis, short numbers for a sentence, a mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

UNITS = ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""From which size on an axis counts in a unit: ``(least, unit, suffix)``."""


def nice_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) inside ``[low, high]``.

    ``whole`` allows no fractions, where that leaves any.
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor, most in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if rough < most * power)
    if whole and step < 1 <= high - low:
        step = 1
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text with one unit (k, M, B) and one number of decimals for the whole axis."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e13 or 0 < largest < 1e-4:
        return [f"{tick:.0e}".replace("-", "−") for tick in ticks]
    unit, suffix = next(((u, s) for least, u, s in UNITS if largest >= least), (1.0, ""))
    step = min((b - a for a, b in pairwise(ticks)), default=largest) / unit
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return [f"{tick / unit:,.{decimals}f}{suffix}".replace("-", "−") if tick else "0" for tick in ticks]


def short(value: float) -> str:
    """A number for a sentence or a table: four significant digits, thousands grouped, M and B for millions and up."""
    size = abs(value)
    if size >= 1e13 or 0 < size < 1e-4:
        return f"{value:.2e}".replace("-", "−")
    unit, suffix = next(((u, s) for u, s in ((1e9, "\u202fB"), (1e6, "\u202fM")) if size >= u), (1.0, ""))
    scaled = value / unit
    digits = 0 if scaled == 0 else max(0, 3 - math.floor(math.log10(abs(scaled))))
    text = f"{scaled:,.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") + suffix


def interval(mean: float, low: float, high: float) -> tuple[str, str, str]:
    """A mean and its interval with the decimals that the interval's width deserves: two digits of it."""
    width = high - low
    if not 1e-4 <= width < 1e6 or max(abs(low), abs(high)) >= 1e6:
        return short(mean), short(low), short(high)
    decimals = max(0, 1 - math.floor(math.log10(width)))
    mean_text, low_text, high_text = (f"{value:,.{decimals}f}".replace("-", "−") for value in (mean, low, high))
    return mean_text, low_text, high_text
