"""Samplers against models that scan everything, their distributions, and exact continuation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from retorq.replay.samplers import Prioritized, SumTree, Uniform
from retorq.types import UserError

CAPACITIES = st.sampled_from([1, 7, 16, 17, 300, SumTree.TOP, SumTree.TOP + 1, 16 * SumTree.TOP + 3])


class SmallTree(SumTree):
    """Many levels at small sizes."""

    TOP = 3
    WIDTH = 2
    _MANY = 5


def scan(leaves, u):
    """The definition: the first index whose cumulative sum is greater than u * total."""
    return [next(i for i, c in enumerate(np.cumsum(leaves)) if c > x * np.sum(leaves)) for x in u]


writes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 8)), max_size=12)


@given(st.sampled_from([SmallTree, SumTree]), st.integers(1, 60), st.lists(writes, max_size=8), st.integers(0, 10**6))
def test_tree_equals_a_scan(cls, capacity, batches, seed):
    tree, model = cls(capacity), np.zeros(capacity)
    for batch in batches:
        index = np.array([i % capacity for i, _ in batch], np.int64)
        value = np.array([v for _, v in batch], float)  # small integers: every sum is exact in any order
        tree.set(index, value)
        for i, v in zip(index, value, strict=True):
            model[i] = v
        assert tree.total == model.sum()
    np.testing.assert_array_equal(tree.leaves, model)
    np.testing.assert_array_equal(tree.get(np.arange(capacity)), model)
    u = np.concatenate([np.random.default_rng(seed).random(20), [0, 0.5, 1 - 2**-53]])
    if model.sum():
        # Also exactly where one leaf ends and the next begins.
        u = np.concatenate([u, np.cumsum(model)[:-1] / model.sum()])
        u = u[u < 1]
        np.testing.assert_array_equal(tree.sample(u), scan(model, u))
    else:
        with pytest.raises(ValueError, match="every weight is 0"):
            tree.sample(u)


@given(CAPACITIES, st.integers(0, 10**6))
def test_tree_finds_every_leaf_at_any_size(capacity, seed):
    generator = np.random.default_rng(seed)
    tree, held = SumTree(capacity), np.unique(generator.integers(0, capacity, 40))
    tree.set(held, np.ones(len(held)))
    np.testing.assert_array_equal(tree.sample(np.arange(len(held)) / len(held) + 1e-9), held)


@given(
    st.sampled_from([SmallTree, SumTree]),
    arrays.arrays(float, st.integers(1, 70), elements=st.sampled_from([0.0, 5e-324, 1e-300, 1e-6, 0.1, 0.3, 1e17])),
)
def test_a_zero_leaf_is_never_returned(cls, leaves):
    tree = cls(len(leaves))
    tree.load(leaves)
    if leaves.any():
        u = np.concatenate([np.linspace(0, 1, 200, endpoint=False), [1 - 2**-53]])
        assert (leaves[tree.sample(u)] > 0).all()


class OneNode(SumTree):
    """Sixteen leaves beneath one node."""

    TOP = 1


def test_rounding_at_the_end_of_a_node_does_not_lead_to_a_zero_leaf():
    generator, differ = np.random.default_rng(0), 0
    for _ in range(100):
        leaves = generator.random(OneNode.WIDTH)
        leaves[[0, -1]] = 0  # where nothing exceeded the target, a zero leaf would be taken: the first or the last
        tree = OneNode(OneNode.WIDTH)
        tree.load(leaves)
        differ += np.cumsum(leaves)[-1] < tree.total
        assert tree.sample([1 - 2**-53]) == 14
    assert differ > 10  # sums in two orders do round differently


def test_random_weights_are_found_up_to_rounding():
    generator = np.random.default_rng(1)
    leaves = generator.random(20_000) * (generator.random(20_000) > 0.3)
    tree, u = SumTree(20_000), generator.random(5_000)
    tree.load(leaves)
    expected = np.searchsorted(np.cumsum(leaves), u * leaves.sum(), side="right")
    assert (tree.sample(u) != expected).mean() < 1e-3  # a sum in another order may end on the other side


@given(st.sampled_from([SmallTree, SumTree]), st.integers(1, 5000), st.integers(0, 10**6))
def test_tree_depends_on_its_leaves_alone(cls, capacity, seed):
    """Bit for bit: after any history the tree equals a fresh one with these leaves."""
    generator = np.random.default_rng(seed)
    tree, fresh = cls(capacity), cls(capacity)
    for size in (1, 3, 40, 2000):
        tree.set(generator.integers(0, capacity, size), generator.exponential(size=size) ** 5)
    fresh.load(tree.leaves)
    for level, other in zip(tree._levels, fresh._levels, strict=True):
        np.testing.assert_array_equal(level, other)
    assert tree.total == fresh.total


def test_of_duplicates_the_last_write_wins():
    tree = SumTree(10_000)
    tree.set([5, 9000, 5], [1, 2, 3])
    assert tree.total == 5
    assert tree.get([5, 9000]).tolist() == [3, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 1e308])
def test_weights_that_cannot_be_are_refused_and_change_nothing(bad):
    tree = SumTree(100)
    tree.set([1, 2], [1, 2])
    with pytest.raises(ValueError, match="a weight is"):
        tree.set([1, 3], [7, bad])
    assert tree.leaves.sum() == tree.total == 3


@pytest.mark.parametrize("index", [-1, 100])
def test_indices_outside_are_refused(index):
    tree = SumTree(100)
    for act in (lambda: tree.set([0, index], 1.0), lambda: tree.get([index])):
        with pytest.raises(ValueError, match=r"do not fit into 0\.\.99"):
            act()
    assert tree.total == 0


def test_impossible_trees_are_refused():
    with pytest.raises(ValueError, match="capacity is 0"):
        SumTree(0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        SumTree(4).load(np.ones(3))


def four():
    sampler = Prioritized(4)
    sampler.add([0, 1, 2, 3])
    sampler.update([0, 1, 2, 3], [1, 2, 0.5, 4])
    return sampler


def test_probabilities_and_weights_worked_by_hand():
    sampler = four()
    indices, probabilities = sampler.sample(1000, np.random.default_rng(0))
    expected = np.array([0.18272, 0.276951, 0.12055, 0.419779])
    np.testing.assert_allclose(probabilities, expected[indices], atol=1e-6)
    weights = sampler.weights(probabilities, 0.0)
    np.testing.assert_allclose(weights, np.array([0.846745, 0.716978, 1, 0.607097])[indices], atol=1e-6)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(-1, 2), st.integers(1, 1000))
def test_weights_are_those_of_the_paper(mass, progress, count):
    sampler = Prioritized(4, beta=0.3, beta_final=0.8)
    beta = 0.3 + 0.5 * min(max(progress, 0), 1)
    probabilities = np.array(mass) / (sum(mass) + 1)
    raw = [(count * p) ** -beta for p in probabilities]
    np.testing.assert_allclose(sampler.weights(probabilities, progress), np.array(raw) / max(raw), rtol=1e-9)


def test_draws_follow_the_priorities():
    sampler, generator = four(), np.random.default_rng(3)
    draws = np.concatenate([sampler.sample(32, generator)[0] for _ in range(4000)])
    share = np.bincount(draws, minlength=4) / len(draws)
    expected = np.array([1, 2, 0.5, 4]) ** 0.6
    # Independent draws would have a standard error below 0.0014; strata have less.
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.003)


def test_strata_give_every_batch_its_share():
    """Where each of 8 equal items has a stratum of its own, every batch holds each exactly once."""
    sampler, generator = Prioritized(8), np.random.default_rng(0)
    sampler.add(np.arange(8))
    for _ in range(50):
        assert sampler.sample(8, generator)[0].tolist() == list(range(8))
    halves = np.array([sampler.sample(4, generator)[0] for _ in range(2000)])
    np.testing.assert_array_equal(halves // 2, np.tile(np.arange(4), (2000, 1)))
    assert 0.48 < (halves % 2).mean() < 0.52  # within its stratum a draw is uniform


def test_new_items_enter_with_the_highest_priority_seen():
    sampler = Prioritized(4, exponent=0.5)
    sampler.add([0])
    assert sampler.total == 1
    sampler.update([0], [9])
    sampler.add([1])
    assert sampler.total == 6
    sampler.update([0, 1], [1, 1])
    sampler.add([2])  # seen so far, not held now
    assert sampler.total == 1 + 1 + 3


class Model:
    """The same by a dictionary of priorities."""

    def __init__(self):
        self.held, self.highest, self.clamped = {}, 1.0, 0

    def add(self, indices):
        self.held.update(dict.fromkeys(indices, self.highest))

    def remove(self, indices):
        for i in indices:
            self.held.pop(i, None)

    def update(self, indices, priorities):
        self.highest = max([self.highest, *(p for p in priorities if np.isfinite(p))])
        for i, p in zip(indices, priorities, strict=True):
            self.clamped += not np.isfinite(p)
            if i in self.held:
                self.held[i] = max(p, 1e-6) if np.isfinite(p) else self.held[i]


slots = st.lists(st.integers(0, 19), max_size=6)
priority = st.one_of(st.floats(0, 1e3), st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), slots),
        st.tuples(st.just("remove"), slots),
        st.tuples(st.just("update"), st.lists(st.tuples(st.integers(0, 19), priority), max_size=6)),
    ),
    max_size=20,
)


@given(operations, st.floats(0, 1), st.integers(0, 10**6))
def test_prioritized_equals_a_dictionary(history, exponent, seed):
    sampler, model = Prioritized(20, exponent=exponent), Model()
    for name, argument in history:
        arguments = tuple(zip(*argument, strict=True)) if name == "update" else (argument,)
        for each in (sampler, model):
            getattr(each, name)(*(arguments or ([], [])))
    mass = {i: p**exponent for i, p in model.held.items()}
    assert (sampler.highest, sampler.clamped) == (model.highest, model.clamped)
    assert sampler.total == pytest.approx(sum(mass.values()))
    if not mass:
        assert sampler.total == 0
        return
    indices, probabilities = sampler.sample(64, np.random.default_rng(seed))
    assert set(indices.tolist()) <= mass.keys()
    np.testing.assert_allclose(probabilities, [mass[i] / sum(mass.values()) for i in indices.tolist()], rtol=1e-9)


def test_a_reloaded_sampler_goes_on_bit_for_bit():
    generator = np.random.default_rng(5)
    sampler = Prioritized(30_000, exponent=0.9)
    sampler.add(np.arange(20_000))

    def go_on(sampler, generator):
        trace = []
        for step in range(20):
            indices, probabilities = sampler.sample(64, generator)
            sampler.update(indices, generator.exponential(size=64))
            sampler.add(np.arange(20_000 + step * 7, 20_007 + step * 7))
            sampler.remove(np.arange(step * 3, step * 3 + 3))
            trace += [indices, probabilities, sampler.weights(probabilities, step / 20), np.array(sampler.total)]
        return np.concatenate([x.ravel() for x in trace]).tobytes()

    go_on(sampler, generator)
    sampler.update([50], [np.nan])
    saved, state = {k: v.copy() for k, v in sampler.state_dict().items()}, generator.bit_generator.state
    fresh, second = Prioritized(30_000, exponent=0.9), np.random.default_rng()
    fresh.load_state_dict(saved)
    second.bit_generator.state = state
    assert (fresh.highest, fresh.clamped) == (sampler.highest, 1)
    assert go_on(fresh, second) == go_on(sampler, generator)


def test_prioritized_refuses_what_makes_no_sense():
    for name in ("exponent", "beta", "beta_final"):
        for value in (-0.1, 1.1, np.nan):
            with pytest.raises(UserError, match=rf"^{name} of the prioritized replay is {value}"):
                Prioritized(4, **{name: value})
    sampler = four()
    before = sampler.total
    with pytest.raises(ValueError, match=r"a priority is -0\.5"):
        sampler.update([0, 1], [3, -0.5])
    assert (sampler.total, sampler.highest) == (before, 4)
    with pytest.raises(ValueError, match="every weight is 0"):
        Prioritized(4).sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        Prioritized(5).load_state_dict(sampler.state_dict())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(0, 10**6))
def test_uniform_draws_what_exists(count, seed):
    column, offset = Uniform().sample(np.array(count), 50, np.random.default_rng(seed))
    assert column.dtype == offset.dtype == np.int64
    assert ((offset >= 0) & (offset < np.array(count)[column])).all()


def test_uniform_gives_every_start_the_same_chance():
    count = np.array([3, 0, 1, 4])
    column, offset = Uniform().sample(count, 80_000, np.random.default_rng(0))
    share = np.zeros((4, 4))
    np.add.at(share, (column, offset), 1 / 80_000)
    expected = (np.arange(4) < count[:, None]) / 8
    np.testing.assert_allclose(share, expected, atol=0.005)  # four standard errors


@pytest.mark.parametrize("count", [[0, 0], [3, -1]])
def test_uniform_refuses_empty_and_negative_counts(count):
    with pytest.raises(ValueError, match="nothing to sample"):
        Uniform().sample(np.array(count), 1, np.random.default_rng(0))
