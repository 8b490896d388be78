"""Distortions of fractions: bounds, order, what is neutral, and known distributions under them."""

import math

import pytest
import torch
from scipy import stats

from retorq.ops.risk import Risk
from retorq.types import UserError

KINDS = [
    ("cvar", 0.1),
    ("cvar", 1.0),
    ("wang", -0.75),
    ("wang", 0.75),
    ("power", -2.0),
    ("power", 2.0),
]
# Midpoints of many equal parts: their mean is an integral over uniform fractions.
GRID = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def twin(kind, level, tau):
    normal = stats.norm
    if kind == "cvar":
        return level * tau
    if kind == "wang":
        return float(normal.cdf(normal.ppf(tau) + level))
    if level >= 0:
        return tau ** (1 / (1 + abs(level)))
    return 1 - (1 - tau) ** (1 / (1 + abs(level)))


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_equals_the_paper_at_single_fractions(kind, level):
    for tau in (0.0, 1e-4, 0.2, 0.5, 0.9, 1.0):
        told = Risk(kind, level)(torch.tensor([tau], dtype=torch.float64)).item()
        assert told == pytest.approx(twin(kind, level, tau), abs=1e-12)


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_stays_within_bounds_in_order_and_in_shape(kind, level):
    risk = Risk(kind, level)
    fractions = torch.cat([torch.zeros(1), torch.rand(2000, generator=torch.Generator().manual_seed(0)), torch.ones(1)])
    told = risk(fractions.sort().values)
    assert told.dtype == torch.float32
    assert (told >= 0).all()
    assert (told <= 1).all()
    assert (told.diff() >= 0).all()
    assert risk(torch.rand(3, 2, 5)).shape == (3, 2, 5)
    before = fractions.clone()
    risk(fractions)
    assert torch.equal(fractions, before)


@pytest.mark.parametrize("kind", ["wang", "power"])
def test_level_zero_is_neutral_and_its_sign_says_averse_or_seeking(kind):
    fractions = GRID[::1000]
    torch.testing.assert_close(Risk(kind, 0.0)(fractions), fractions)
    assert (Risk(kind, -0.5)(fractions) < fractions).all()
    assert (Risk(kind, 0.5)(fractions) > fractions).all()


def test_conditional_value_at_risk_of_known_distributions():
    """The mean of the worst ``level`` of all returns."""
    for level in (0.05, 0.25, 1.0):
        fractions = Risk("cvar", level)(GRID)
        assert fractions.mean().item() == pytest.approx(level / 2)  # uniform returns
        normal = stats.norm
        expected = -normal.pdf(normal.ppf(level)) / level if level < 1 else 0.0
        assert torch.special.ndtri(fractions).mean().item() == pytest.approx(expected, abs=1e-3)
        exponential = -torch.log1p(-fractions)  # returns with the quantile function -ln(1 - tau)
        expected = 1 + (1 - level) / level * math.log1p(-level) if level < 1 else 1.0
        assert exponential.mean().item() == pytest.approx(expected, abs=1e-4)


def test_wang_shifts_a_normal_distribution_and_power_reweights_a_uniform_one():
    for level in (-0.75, 0.4):
        assert torch.special.ndtri(Risk("wang", level)(GRID)).mean().item() == pytest.approx(level, abs=1e-3)
    assert Risk("power", 2.0)(GRID).mean().item() == pytest.approx(3 / 4, abs=1e-4)
    assert Risk("power", -2.0)(GRID).mean().item() == pytest.approx(1 / 4, abs=1e-4)


@pytest.mark.parametrize("level", [0.0, -0.1, 1.01])
def test_refuses_levels_out_of_range(level):
    with pytest.raises(UserError, match=f"risk_level is {level}.*at most 1"):
        Risk("cvar", level)


@pytest.mark.parametrize("kind", ["cvar", "wang", "power"])
@pytest.mark.parametrize("level", [math.nan, math.inf])
def test_refuses_levels_that_are_not_finite(kind, level):
    with pytest.raises(UserError, match="finite"):
        Risk(kind, level)


def test_refuses_a_kind_that_does_not_exist():
    with pytest.raises(UserError, match=r"risk is 'mean'.*cvar, wang, power"):
        Risk("mean", 0.1)
