"""The same formulas by an independent library: values and gradients equal those of rlax (extra ``oracle``)."""

import os
import warnings

import numpy as np
import pytest
import torch

from retorq.ops.distributions import categorical_projection, huber, quantile_huber
from retorq.ops.rescale import rescale, unrescale
from retorq.ops.returns import n_step

os.environ.setdefault("JAX_PLATFORMS", "cpu")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what importing the oracle says is not about this package
    jax = pytest.importorskip("jax")
    rlax = pytest.importorskip("rlax")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # jax computes in float32


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def compare(ours, theirs, *arguments):
    """Values, and gradients of their sum to the first argument."""
    leaf = torch.from_numpy(arguments[0]).requires_grad_()
    value = ours(leaf, *(torch.from_numpy(a) for a in arguments[1:]))
    value.sum().backward()
    np.testing.assert_allclose(value.detach(), theirs(*arguments), **TOLERANCE)
    gradient = jax.grad(lambda x: theirs(x, *arguments[1:]).sum())(arguments[0])
    np.testing.assert_allclose(leaf.grad, gradient, **TOLERANCE)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_rescaling(generator, epsilon):
    x = generator.normal(size=200).astype(np.float32) * 10
    compare(lambda x: rescale(x, epsilon), lambda x: rlax.signed_hyperbolic(x, epsilon), x)
    # The inverse there is the textbook form, which float32 rounds to about 1e-4: see test_rescale.
    theirs = rlax.signed_parabolic(x, epsilon)
    np.testing.assert_allclose(unrescale(torch.from_numpy(x), epsilon), theirs, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_huber(generator, kappa):
    compare(
        lambda x: huber(x, kappa), lambda x: rlax.huber_loss(x, kappa), generator.normal(size=50).astype(np.float32)
    )


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
def test_quantile_huber(generator, kappa):
    prediction, target = generator.normal(size=(6, 8)), 2 * generator.normal(size=(6, 5))
    arguments = [a.astype(np.float32) for a in (prediction, generator.random((6, 8)), target)]

    def theirs(prediction, fractions, target):
        each = jax.vmap(lambda p, f, t: rlax.quantile_regression_loss(p, f, t, kappa))
        return each(prediction, fractions, target) / (kappa or 1.0)  # rlax does not divide by kappa

    compare(lambda *a: quantile_huber(*a, kappa)[0], theirs, *arguments)


def test_projection(generator):
    support = np.linspace(-2, 2, 11, dtype=np.float32)
    probs = generator.dirichlet(np.ones(11), size=6).astype(np.float32)
    moved = (generator.normal(size=(6, 1)) + 0.9 * support).astype(np.float32)
    compare(
        lambda p, z: categorical_projection(z, p, torch.from_numpy(support)),
        jax.vmap(lambda p, z: rlax.categorical_l2_project(z, p, support)),
        probs,
        moved,
    )


@pytest.mark.parametrize("n", [1, 3, 5, 20])
def test_n_step(generator, n):
    rows = 12
    reward, value = (generator.normal(size=rows).astype(np.float32) for _ in range(2))
    discount = (0.9 * (generator.random(rows) > 0.2)).astype(np.float32)
    none = torch.zeros(rows, 1, dtype=torch.bool)
    total, product, index = n_step(torch.from_numpy(reward)[:, None], torch.from_numpy(discount)[:, None], none, n)
    ours = (total + product * torch.from_numpy(value)[:, None].gather(0, index))[:-1, 0]
    theirs = rlax.n_step_bootstrapped_returns(reward[:-1], discount[:-1], value[1:], n)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
