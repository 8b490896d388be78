"""The cluster that is played through on paper: limits in which its rates are known."""

import pytest
from benchmarks.cluster_size import SYSTEMS, UNDER_WAY, Costs, System, fewest, simulate

SMALL = System(steps=1_000.0, updates=5.0, batch=10, window_rows=1, stack=1)
FREE = 1e12


def rates(actors=4, shards=2, system=SMALL, seconds=200.0, **costs):
    made = Costs(**{"actor_steps": 100.0, "update_seconds": 1e-9, "shard_rows": FREE, "shard_bytes": FREE} | costs)
    return simulate(made, system, actors=actors, shards=shards, seconds=seconds)


def test_where_nothing_else_takes_time_actors_and_learner_go_at_their_own_pace():
    got = rates(update_seconds=0.25)
    assert got["steps_per_second"] == pytest.approx(400, rel=0.02)
    assert got["updates_per_second"] == pytest.approx(4, rel=0.02)
    assert got["busiest_shard"] < 0.01


def test_shards_that_are_too_slow_hold_up_the_actors():
    got = rates(actors=40, shard_rows=500.0, update_seconds=1e9)
    assert got["steps_per_second"] == pytest.approx(2 * 500, rel=0.05)
    assert got["busiest_shard"] > 0.95
    per_actor = got["steps_per_second"] / 40
    assert per_actor < 100 / UNDER_WAY  # they wait for room


def test_a_learner_that_is_faster_than_the_shards_waits_for_batches():
    bytes_per_second = 3.0 * SMALL.batch_bytes
    got = rates(shards=1, actors=1, shard_bytes=bytes_per_second)
    assert got["updates_per_second"] == pytest.approx(3.0, rel=0.03)
    with_three = rates(shards=3, actors=1, shard_bytes=bytes_per_second)
    assert 6.0 < with_three["updates_per_second"] <= 9.0  # asked of any shard: now and then one has nothing to do


def test_the_fewest_are_enough_and_fewer_are_not():
    costs = Costs(actor_steps=100.0, update_seconds=0.1, shard_rows=400.0, shard_bytes=20.0 * SMALL.batch_bytes)
    actors, shards = fewest(costs, SMALL, seconds=60.0)
    got = simulate(costs, SMALL, actors=actors, shards=shards, seconds=60.0)
    assert got["steps_per_second"] >= 0.98 * SMALL.steps
    assert got["updates_per_second"] >= 0.98 * SMALL.updates
    for fewer in range(1, actors + shards - 11):  # with one process less in all, however they are shared out
        got = simulate(costs, SMALL, actors=actors + shards - 1 - fewer, shards=fewer, seconds=60.0)
        assert got["steps_per_second"] < 0.98 * SMALL.steps or got["updates_per_second"] < 0.98 * SMALL.updates
    assert actors >= 10
    assert shards >= 3


def test_the_published_rates_are_those_of_the_papers():
    apex, r2d2 = SYSTEMS["apex_dqn"], SYSTEMS["r2d2"]
    assert apex.steps == pytest.approx(50_000 / 4)
    assert (apex.updates, apex.batch) == (19, 512)
    assert r2d2.steps == pytest.approx(256 * 260 / 4)
    assert (r2d2.updates, r2d2.batch, r2d2.window_rows) == (5, 64, 40 + 80 + 5)
