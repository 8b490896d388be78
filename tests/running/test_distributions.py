"""Learned return distributions as plain numbers: every kind of head, and the distance between two of them."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from retorq.running.distributions import FRACTIONS, distribution_of, wasserstein
from retorq.values import Categorical, Quantiles, Scalars


def test_categorical_values_keep_their_probabilities():
    support = torch.tensor([-1.0, 0.0, 2.0])
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    found = distribution_of(Categorical(probabilities.log().T[None, None], support))
    np.testing.assert_allclose(found.values, [[-1, 0, 2], [-1, 0, 2]])
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-7)
    np.testing.assert_allclose(found.mean(), [0.8, 1 / 3], atol=1e-6)


def test_fixed_quantiles_weigh_the_same():
    values = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0], [8.0, -1.0]])
    found = distribution_of(Quantiles(values[None, None], torch.tensor([0.125, 0.375, 0.625, 0.875])[None, None]))
    np.testing.assert_allclose(found.values, values.T)
    np.testing.assert_allclose(found.probabilities, np.full((2, 4), 0.25))


def test_sampled_quantiles_stand_for_the_fractions_nearest_to_theirs():
    fractions = torch.tensor([0.9, 0.1, 0.4], dtype=torch.float64)
    values = torch.tensor([[90.0], [10.0], [40.0]])
    found = distribution_of(Quantiles(values[None, None], fractions[None, None]))
    np.testing.assert_allclose(found.values, [[10, 40, 90]])
    np.testing.assert_allclose(found.probabilities, [[0.25, 0.4, 0.35]])


def test_scalars_have_no_distribution():
    assert distribution_of(Scalars(torch.zeros(1, 1, 3))) is None


@pytest.mark.parametrize("sizes", [(1, 1), (4, 9), (30, 2)])
def test_the_distance_is_scipys(sizes):
    generator = np.random.default_rng(sizes)
    (u, p), (v, q) = ((generator.normal(size=n), generator.dirichlet(np.ones(n))) for n in sizes)
    assert wasserstein(u, p, v, q) == pytest.approx(wasserstein_distance(u, v, p, q), abs=1e-12)
    assert wasserstein(v, q, u, p) == pytest.approx(wasserstein(u, p, v, q))
    assert wasserstein(u + 3, p, u, p) == pytest.approx(3)


def test_the_distance_is_zero_for_the_same_distribution_in_another_order():
    assert wasserstein(np.array([1.0, 2, 2]), np.array([0.5, 0.2, 0.3]), np.array([2.0, 1]), np.array([0.5, 0.5])) == (
        pytest.approx(0)
    )
    assert FRACTIONS >= 200
