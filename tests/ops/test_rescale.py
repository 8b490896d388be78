"""The value rescaling and its inverse: the textbook form in exact arithmetic, and every digit in float32."""

from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retorq.ops.rescale import rescale, unrescale

EPSILON = 1e-3


def h(x, epsilon):
    """The paper's formula with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x, epsilon = Decimal(x), Decimal(epsilon)
        return ((abs(x) + 1).sqrt() - 1).copy_sign(x) + epsilon * x


def h_inverse(y, epsilon):
    """The textbook inverse with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        y, epsilon = Decimal(y), Decimal(epsilon)
        z = ((1 + 4 * epsilon * (abs(y) + 1 + epsilon)).sqrt() - 1) / (2 * epsilon)
        return (z * z - 1).copy_sign(y)


def numbers(limit):
    return st.floats(-limit, limit, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-12)


@given(numbers(1e6), st.sampled_from([1e-3, 1e-2, 0.5]))
def test_equals_the_textbook_form(x, epsilon):
    value = torch.tensor(x, dtype=torch.float64)
    assert rescale(value, epsilon).item() == pytest.approx(float(h(x, epsilon)), rel=1e-13, abs=0)
    assert unrescale(value, epsilon).item() == pytest.approx(float(h_inverse(x, epsilon)), rel=1e-13, abs=0)


@given(numbers(1e3), st.sampled_from([1e-3, 1e-2, 0.5]))
def test_float32_keeps_its_digits(x, epsilon):
    value = torch.tensor(x)
    assert rescale(value, epsilon).item() == pytest.approx(float(h(value.item(), epsilon)), rel=1e-6, abs=0)
    assert unrescale(value, epsilon).item() == pytest.approx(float(h_inverse(value.item(), epsilon)), rel=1e-6, abs=0)


@given(numbers(1e6), st.sampled_from([0.0, 1e-3, 1e-2, 0.5]))
def test_the_inverse_undoes_it(x, epsilon):
    value = torch.tensor(x, dtype=torch.float64)
    assert unrescale(rescale(value, epsilon), epsilon).item() == pytest.approx(x, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("function", "argument", "expected"),
    [
        (rescale, 1, 0.4152135624),
        (rescale, 10, 2.3266247904),
        (rescale, 1000, 31.6385840391),
        (rescale, -100, -9.1498756211),
        (unrescale, 10, 117.4303227796),
    ],
)
def test_anchors(function, argument, expected):
    assert function(torch.tensor(float(argument), dtype=torch.float64), EPSILON).item() == pytest.approx(expected)


@pytest.mark.parametrize("y", [1e-6, 1e-4, 0.1, 1, 30, 1000])
def test_no_cancellation_near_zero(y):
    value = torch.tensor(float(y))  # the textbook form gives -2.8e-5 for 1e-6, whose inverse is 2e-6
    assert unrescale(value, EPSILON).item() == pytest.approx(float(h_inverse(value.item(), EPSILON)), rel=4e-7, abs=0)


def test_odd_increasing_and_smooth_at_zero():
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    for function, slope in ((rescale, 0.5 + EPSILON), (unrescale, 1 / (0.5 + EPSILON))):
        torch.testing.assert_close(function(-x, EPSILON), -function(x, EPSILON), rtol=0, atol=0)
        assert (function(x, EPSILON).diff() > 0).all()
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        function(zero, EPSILON).backward()
        assert zero.grad.item() == pytest.approx(slope)
    points = x[x != 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: rescale(p, EPSILON), points)
    assert torch.autograd.gradcheck(lambda p: unrescale(p, EPSILON), points)


@pytest.mark.parametrize("function", [rescale, unrescale])
def test_refuses_a_negative_epsilon(function):
    with pytest.raises(ValueError, match="epsilon is -1"):
        function(torch.zeros(1), -1)
