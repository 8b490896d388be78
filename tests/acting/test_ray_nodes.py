"""Faults on a cluster of Ray with several nodes: the run goes on, says what happened, and splices no game."""

import time

import pytest
from tests.acting import elsewhere
from tests.acting.nodes import STORE, cluster_of, settle
from tests.acting.test_pools import check, gathered, importable, recipes  # noqa: F401

from retorq.acting.cluster import hosts
from retorq.acting.head_watch import HeadWatch
from retorq.acting.ray_pool import AHEAD, RayPool, store_bytes
from retorq.acting.remote import Recipe
from retorq.running.actors import require_store
from retorq.types import UserError


@pytest.fixture(scope="module")
def two():
    """A cluster of two nodes, joined; the learner is connected to the first."""
    with cluster_of(1, 1) as made:
        yield made


@pytest.fixture
def pool_of(two):
    """Makes a pool in that cluster; all are closed in the end."""
    made = []

    def build(shares, network, **arguments):
        arguments = {"bytes_per_row": 1_600, "seed": 3, "watch": HeadWatch(two[1])} | arguments
        made.append(RayPool(shares, network, **arguments))
        return made[-1]

    yield build
    for pool in made:
        pool.close()
        pool._watch.close()


def one_failing(**arguments):
    """Two actors, of which the second gets ``arguments``."""
    quiet, other = recipes()
    return [quiet, Recipe(**{**vars(other), "arguments": other.arguments | arguments})]


def where(pool):
    return [held.host.id for held in pool._actors]


def games(stream):
    """How often a stream began anew with the first game, as it does with every new incarnation."""
    return sum(row[:3] == (0, 0, True) for row in stream)


@pytest.mark.slow
def test_actors_of_a_node_that_is_lost_play_on_elsewhere_and_return_to_a_new_one(two, pool_of, capsys):
    """One line for each, every stream whole: cut where its actor was lost or moved, and nowhere else."""
    nodes, joined = two
    third = nodes.add(2)
    settle(joined)
    pool = pool_of(recipes(4), elsewhere.Weighted())
    pool.publish(elsewhere.Weighted(), 0)
    streams, told = gathered(pool, 20, limit=120.0)
    counts = sorted(where(pool).count(host.id) for host in pool._watch.hosts)
    assert (told, counts) == ([], [1, 1, 2])  # by processors
    lost = [actor for actor, host in enumerate(where(pool)) if host == third.node_id]
    nodes.lose(third)

    def added(streams, more):
        return [one + other for one, other in zip(streams, more, strict=True)]

    more, told = gathered(pool, 1, limit=120.0, until=lambda: pool.replaced == 2 and all(h.heard for h in pool._actors))
    streams = added(streams, more)
    assert sorted(line.split()[1] for line in told) == sorted(map(str, lost))
    told = {line.partition(" ")[2].partition(" ")[2] for line in told}
    assert told == {"was lost with host 127.0.0.1; its games were cut and it was started anew"}
    more, told = gathered(pool, 30, limit=120.0)
    streams = added(streams, more)
    assert told == []
    assert len(set(where(pool))) == 2

    fourth = nodes.add(2)
    moved = lambda: where(pool).count(fourth.node_id) == 2 and all(h.heard for h in pool._actors)  # noqa: E731
    more, told = gathered(pool, 1, limit=120.0, until=moved)
    streams = added(streams, more)
    assert len(told) == 2
    assert all("was moved to 127.0.0.1, which has more room" in line for line in told)
    streams = added(streams, gathered(pool, 30, limit=120.0)[0])
    assert (pool.replaced, pool.restarts) == (2, [0] * 4)  # a move is no fault, and a lost host not its actors'
    for stream in streams:
        check(stream, cuts=games(stream) - 1)
    assert sum(games(stream) - 1 for stream in streams) == 4
    assert "raylet" not in capsys.readouterr().out  # Ray would print a page
    pool.close()
    nodes.remove(fourth, joined)


def test_a_slow_actor_holds_up_nobody_and_is_not_replaced(pool_of):
    pool = pool_of(one_failing(what="slow"), elsewhere.Weighted(), time_limit=5.0)
    pool.publish(elsewhere.Weighted(), 0)
    streams, told = gathered(pool, 40, limit=120.0)
    assert (told, pool.replaced) == ([], 0)
    fast, slow = streams[0], streams[2]
    assert len(fast) > 3 * len(slow)
    for stream in streams:
        check(stream)


@pytest.mark.slow
def test_a_slow_learner_loses_nothing_and_nothing_grows(pool_of):
    """It takes longer than actors may; their answers wait, on whatever node, and they with them."""
    pool = pool_of(recipes(), elsewhere.Weighted(), time_limit=2.0)
    pool.publish(elsewhere.Weighted(), 0)
    streams, _ = gathered(pool, 20, limit=120.0)
    for _ in range(2):
        time.sleep(3.0)
        assert [len(held.calls) for held in pool._actors] == [AHEAD, AHEAD]
        numbers = [pool.inbox._next[actor] for actor in range(2)]
        more, told = gathered(pool, 20, limit=120.0)
        assert told == []
        assert all(now > before for now, before in zip(pool.inbox._next, numbers, strict=True))
        streams = [one + other for one, other in zip(streams, more, strict=True)]
    for stream in streams:
        check(stream)


def test_a_message_looks_for_the_newest_weights_when_it_is_begun(pool_of, tmp_path):
    """Not when it was asked for: calls that wait behind a slow one see what was published meanwhile."""
    marker = tmp_path / "go on"
    shares = [Recipe(**{**vars(recipes(1)[0]), "arguments": recipes(1)[0].arguments | {"what": "wait", "at": 7}})]
    shares[0].arguments["marker"] = str(marker)
    network = elsewhere.Weighted()
    pool = pool_of(shares, network)
    pool.publish(network, 0)
    gathered(pool, 4, limit=120.0)  # the first message; the second waits in its second step, the third behind it
    network.weight.data.fill_(7.0)
    pool.publish(network, 7)
    [held] = pool._actors
    end = time.monotonic() + 120.0
    while held.offer is not None:
        assert time.monotonic() < end
        assert pool.receive() == []
    marker.touch()
    seen = []
    while len(seen) < 2:
        if pool.receive():
            seen.append(pool.versions[0])
    assert seen == [0, 7]


def test_versions_of_the_weights_are_let_go(two, pool_of):
    """However many were published while actors played: the store holds no more than what it is made for."""
    _, joined = two
    network = elsewhere.Weighted(size=500_000)  # 2 MB
    pool = pool_of(recipes(size=500_000), network)
    room = store_bytes(pool.recipes, network, 1_600)
    assert room < STORE
    used = []
    for version in range(1, 101):  # 200 MB in all, in two stores of 120
        network.weight.data.fill_(float(version))
        pool.publish(network, version)
        gathered(pool, 2, limit=120.0)
        total = joined.ray.cluster_resources()["object_store_memory"]
        used.append(total - joined.ray.available_resources()["object_store_memory"])
    assert max(used) < 5 * network.weight.nbytes + 2 * 2 * AHEAD * 100_000  # the newest; two of each actor; messages
    assert all(version > 90 for version in pool.versions)


def test_the_clock_of_the_run_reaches_every_actor(pool_of):
    pool = pool_of(recipes(until=elsewhere.TURN), elsewhere.Weighted())
    pool.publish(elsewhere.Weighted(), 0)
    elsewhere.check_clock(pool)


def test_a_store_that_is_too_small_is_refused(two):
    there = hosts(two[1].ray)
    require_store(there, STORE)
    sentence = r"host 127.0.0.1 has 120 MiB, and this run needs 121 MiB; start it again with --store 121\."
    with pytest.raises(UserError, match=sentence):
        require_store(there, STORE + 1)


@pytest.mark.slow
def test_offers_are_never_more_than_one_ahead(pool_of):
    pool = pool_of(recipes(), elsewhere.Weighted())
    pool.publish(elsewhere.Weighted(), 0)
    gathered(pool, 10, limit=120.0)
    for version in range(1, 20):
        pool.publish(elsewhere.Weighted(), version)
        assert all(held.edition <= pool._edition for held in pool._actors)
    gathered(pool, 30, limit=120.0)
    assert [held.edition for held in pool._actors] == [pool._edition] * 2
    assert pool.versions == [19, 19]
