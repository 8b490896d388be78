"""Actors are shared out by processors, whichever hosts come and go, and moving them comes to an end."""

import numpy as np
import pytest

from retorq.acting.placement import Host, move, place


def host(name, processors):
    return Host(id=name, address=f"10.0.0.{name}", port=6381, processors=processors)


def shared_out(hosts, actors):
    where = []
    for _ in range(actors):
        where.append(place(hosts, where).id)
    return where


@pytest.mark.parametrize(
    ("processors", "actors", "counts"),
    [
        ([4, 4], 8, [4, 4]),
        ([2, 6], 8, [2, 6]),
        ([2, 6], 4, [1, 3]),
        ([1, 1, 1], 2, None),
        ([0, 4], 8, [0, 8]),
        ([0], 3, [3]),
        ([0, 0], 4, [2, 2]),
    ],
)
def test_actors_are_shared_out_by_processors(processors, actors, counts):
    hosts = [host(str(number), each) for number, each in enumerate(processors)]
    where = shared_out(hosts, actors)
    found = [where.count(h.id) for h in hosts]
    assert sum(found) == actors
    if counts is None:
        assert max(found) == 1
    else:
        assert found == counts
    assert move(hosts, where) is None


def test_a_host_that_joins_gets_its_share_one_actor_at_a_time():
    old, new = host("1", 2), host("2", 6)
    where = shared_out([old], 8)
    for actor in (7, 6, 5, 4, 3, 2):
        assert move([old, new], where) == (actor, new)
        where[actor] = "2"
    assert move([old, new], where) is None


def test_actors_of_a_host_that_is_gone_are_not_moved_from_it():
    """They are replaced: their host is no longer among those that live."""
    assert move([host("1", 2), host("2", 2)], ["3", "3", None]) is None
    assert place([host("1", 2), host("2", 2)], ["1", "3", "3"]).id == "2"


def test_moving_comes_to_an_end_and_leaves_nothing_to_gain():
    generator = np.random.default_rng(0)
    for _ in range(300):
        hosts = [host(str(n), int(generator.integers(0, 9))) for n in range(int(generator.integers(1, 6)))]
        where = [hosts[int(generator.integers(len(hosts)))].id for _ in range(int(generator.integers(1, 30)))]
        for moves in range(1_000):  # noqa: B007
            found = move(hosts, where)
            if found is None:
                break
            where[found[0]] = found[1].id
        assert moves <= len(where)
        loads = [where.count(h.id) / h.processors for h in hosts if h.processors]
        if loads:
            assert all(where.count(h.id) == 0 for h in hosts if not h.processors)
            steps = [1 / h.processors for h in hosts if h.processors]
            assert max(loads) <= min(load + step for load, step in zip(loads, steps, strict=True)) + 1e-9
