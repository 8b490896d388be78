"""The same formulas by an independent library: values and gradients equal those of rlax (extra ``oracle``)."""

import os
import warnings

import numpy as np
import pytest
import torch
from tests.losses.table import Table, rows

from retorq.losses.munchausen import scaled_log_policy, soft_value
from retorq.losses.q_learning import QLearning
from retorq.ops.distributions import categorical_projection, huber, quantile_huber
from retorq.ops.rescale import rescale, unrescale
from retorq.ops.returns import n_step
from retorq.values import Categorical, Quantiles, Scalars, greedy

os.environ.setdefault("JAX_PLATFORMS", "cpu")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what importing the oracle says is not about this package
    jax = pytest.importorskip("jax")
    rlax = pytest.importorskip("rlax")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # jax computes in float32


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def compare(ours, theirs, *arguments, **tolerance):
    """Values, and gradients of their sum to the first argument."""
    tolerance = tolerance or TOLERANCE
    leaf = torch.from_numpy(arguments[0]).requires_grad_()
    value = ours(leaf, *(torch.from_numpy(a) for a in arguments[1:]))
    value.sum().backward()
    np.testing.assert_allclose(value.detach(), theirs(*arguments), **tolerance)
    gradient = jax.grad(lambda x: theirs(x, *arguments[1:]).sum())(arguments[0])
    np.testing.assert_allclose(leaf.grad, gradient, **tolerance)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_rescaling(generator, epsilon):
    x = generator.normal(size=200).astype(np.float32) * 10
    compare(lambda x: rescale(x, epsilon), lambda x: rlax.signed_hyperbolic(x, epsilon), x)
    # The inverse there is the textbook form, which float32 rounds to about 1e-4: see test_rescale.
    compare(lambda x: unrescale(x, epsilon), lambda x: rlax.signed_parabolic(x, epsilon), x, rtol=1e-3, atol=3e-4)


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

    def ours(reward, discount, value):
        total, product, index = n_step(reward[:, None], discount[:, None], none, n)
        return (total + product * value[:, None].gather(0, index))[:-1, 0]

    def theirs(reward, discount, value):
        return rlax.n_step_bootstrapped_returns(reward[:-1], discount[:-1], value[1:], n)

    compare(ours, theirs, reward, discount, value)
    # The gradients to discounts and values, too.
    compare(lambda d, r, v: ours(r, d, v), lambda d, r, v: theirs(r, d, v), discount, reward, value)
    compare(
        lambda v, r, d: ours(r, d, v),
        lambda v, r, d: rlax.n_step_bootstrapped_returns(r[:-1], d[:-1], v[1:], n, stop_target_gradients=False),
        value,
        reward,
        discount,
    )


COLUMNS, ACTIONS = 40, 4


def transitions(generator):
    """Actions, rewards and discounts of ``COLUMNS`` transitions; some are terminations."""
    action = generator.integers(0, ACTIONS, COLUMNS)
    reward = 2 * generator.normal(size=COLUMNS).astype(np.float32)
    return action, reward, (0.9 * (generator.random(COLUMNS) > 0.3)).astype(np.float32)


def row(array):
    return torch.from_numpy(array)[None]


@pytest.mark.parametrize("double", [False, True])
def test_categorical_q_learning(generator, double):
    """C51 from logits to loss; the support is narrow, so that atoms fall off both ends."""
    atoms = np.linspace(-2, 2, 11, dtype=np.float32)
    logits, following, selector = generator.normal(size=(3, COLUMNS, 11, ACTIONS)).astype(np.float32)
    action, reward, discount = transitions(generator)

    def ours(logits, following, reward, discount):
        target = Categorical(following[None], torch.from_numpy(atoms))
        chooser = Categorical(row(selector), torch.from_numpy(atoms)) if double else target
        goal = target.bellman(greedy(chooser), reward[None], discount[None], 0.0)
        assert (goal.sum(-1) - 1).abs().max() < 1e-6
        return Categorical(logits[None], torch.from_numpy(atoms)).regress(row(action), goal, 1.0)[0][0]

    def theirs(logits, following, reward, discount):
        def one(logits, following, selector, action, reward, discount):
            here = (atoms, logits.T, action, reward, discount, atoms, following.T)
            if not double:
                return rlax.categorical_q_learning(*here)
            means = (jax.nn.softmax(selector.T) * atoms).sum(-1)
            return rlax.categorical_double_q_learning(*here, means)

        return jax.vmap(one)(logits, following, selector, action, reward, discount)

    compare(ours, theirs, logits, following, reward, discount)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_quantile_q_learning(generator, kappa):
    """QR-DQN from quantiles to loss, with another network's choice of action."""
    values, following, selector = generator.normal(size=(3, COLUMNS, 8, ACTIONS)).astype(np.float32)
    fractions = np.tile((np.arange(8, dtype=np.float32) + 0.5) / 8, (COLUMNS, 1))
    action, reward, discount = transitions(generator)

    def ours(values, following, reward, discount):
        target, chooser = (Quantiles(x, row(fractions)) for x in (following[None], row(selector)))
        goal = target.bellman(greedy(chooser), reward[None], discount[None], 0.0)
        return Quantiles(values[None], row(fractions)).regress(row(action), goal, kappa)[0][0]

    def theirs(values, following, reward, discount):
        each = jax.vmap(lambda v, f, a, r, d, s, n: rlax.quantile_q_learning(v, f, a, r, d, s, n, kappa))
        return each(values, fractions, action, reward, discount, selector, following)

    compare(ours, theirs, values, following, reward, discount)


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_munchausen_quantiles(generator, temperature):
    """Quantile by quantile the mean over actions; rlax's own expected SARSA regresses on the mixture of all instead."""
    values, following = generator.normal(size=(2, COLUMNS, 8, ACTIONS)).astype(np.float32)
    now, ahead = generator.normal(size=(2, COLUMNS, ACTIONS)).astype(np.float32)
    fractions = generator.random((COLUMNS, 8)).astype(np.float32)
    action, reward, discount = transitions(generator)

    def ours(values, following):
        log_policy = scaled_log_policy(row(now), temperature)
        bonus = 0.9 * log_policy.gather(-1, row(action)[..., None])[..., 0].clamp(-1, 0)
        value = soft_value(following[None], scaled_log_policy(row(ahead), temperature), temperature)
        goal = (row(reward) + bonus)[..., None] + row(discount)[..., None] * value
        return Quantiles(values[None], row(fractions)).regress(row(action), goal.detach(), 1.0)[0][0]

    def theirs(values, following):
        def one(values, fractions, action, reward, discount, following, now, ahead):
            log_now, log_ahead = (temperature * jax.nn.log_softmax(q / temperature) for q in (now, ahead))
            reward = reward + 0.9 * jax.numpy.clip(log_now[action], -1, 0)
            goal = reward + discount * (following - log_ahead) @ jax.nn.softmax(ahead / temperature)
            return rlax.quantile_regression_loss(values[:, action], fractions, goal, 1.0)

        return jax.vmap(one)(values, fractions, action, reward, discount, following, now, ahead)

    compare(ours, theirs, values, following)


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_munchausen_scalars(generator, temperature):
    """Expected SARSA of a softmax policy whose log-probability joins the reward and leaves the next values."""
    values, now, ahead = generator.normal(size=(3, COLUMNS, ACTIONS)).astype(np.float32)
    action, reward, discount = transitions(generator)

    def ours(values, ahead):
        bonus = 0.9 * scaled_log_policy(row(now), temperature).gather(-1, row(action)[..., None])[0, :, 0].clamp(-1, 0)
        value = soft_value(ahead[None], scaled_log_policy(ahead[None], temperature), temperature)[0]
        taken = values.gather(-1, torch.from_numpy(action)[:, None])[:, 0]
        return torch.from_numpy(reward) + bonus + torch.from_numpy(discount) * value.detach() - taken

    def theirs(values, ahead):
        def one(values, action, reward, discount, now, ahead):
            log_now, log_ahead = (temperature * jax.nn.log_softmax(q / temperature) for q in (now, ahead))
            reward = reward + 0.9 * jax.numpy.clip(log_now[action], -1, 0)
            probs = jax.nn.softmax(ahead / temperature)
            return rlax.expected_sarsa(values, action, reward, discount, ahead - log_ahead, probs)

        return jax.vmap(one)(values, action, reward, discount, now, ahead)

    compare(ours, theirs, values, ahead)


@pytest.mark.parametrize("double", [False, True])
def test_q_learning(generator, double):
    """DQN's error and its clipped gradient, with the target's or another network's choice of action."""
    values, following, selector = 2 * generator.normal(size=(3, COLUMNS, ACTIONS)).astype(np.float32)
    action, reward, discount = transitions(generator)

    def ours(values, following, reward, discount):
        target = Scalars(following[None])
        chooser = Scalars(row(selector)) if double else target
        goal = target.bellman(greedy(chooser), reward[None], discount[None], 0.0)
        return Scalars(values[None]).regress(row(action), goal.detach(), 1.0)[0][0]

    def theirs(values, following, reward, discount):
        here = (values, action, reward, discount, following)
        error = jax.vmap(rlax.double_q_learning)(*here, selector) if double else jax.vmap(rlax.q_learning)(*here)
        return rlax.huber_loss(error, 1.0)

    compare(ours, theirs, values, following, reward, discount)


@pytest.mark.parametrize("length", [5, 12])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_rescaled_n_step_double_q_learning(generator, n, length):
    """R2D2's loss of a sequence; of 5 learned rows each has its full return, of 12 the last ones have shorter ones."""
    rows_in_all, epsilon = 13, 1e-3
    values, following = 3 * generator.normal(size=(2, rows_in_all, ACTIONS)).astype(np.float32)
    action = generator.integers(0, ACTIONS, rows_in_all)
    reward = 4 * generator.normal(size=rows_in_all).astype(np.float32)
    terminated = generator.random(rows_in_all) < 0.2
    loss = QLearning(length=length, n=n, gamma=0.9, double=True, clip="none", rescale=epsilon, kappa=float("inf"))

    def ours(values):
        batch = rows(*(torch.from_numpy(x)[:, None] for x in (action, reward, terminated)))
        return loss(Table(values[:, None]), Table(torch.from_numpy(following)[:, None]), batch).loss[:, 0]

    def theirs(values):
        discount = (0.9 * ~terminated).astype(np.float32)
        error = rlax.transformed_n_step_q_learning(
            values[:-1],
            action[:-1],
            following[1:],
            jax.lax.stop_gradient(values)[1:].argmax(-1),
            reward[:-1],
            discount[:-1],
            n,
            tx_pair=rlax.SIGNED_HYPERBOLIC_PAIR,
        )
        return 0.5 * error[:length] ** 2

    compare(ours, theirs, values, rtol=2e-3, atol=2e-3)  # their inverse is the textbook form in float32
