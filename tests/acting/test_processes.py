"""Of the pool of processes alone: slots, late arrivals, names of signals, and who may be slow."""

import os
import signal
import time
from dataclasses import replace

import pytest
from tests.acting import elsewhere
from tests.acting.test_pools import check, gathered, importable, processes, recipes  # noqa: F401

from retorq.acting.processes import SLOTS


@pytest.fixture
def pool_of():
    made = []

    def build(**arguments):
        made.append(processes(elsewhere.Weighted(), **arguments))
        made[-1].publish(elsewhere.Weighted(), 0)
        return made[-1]

    yield build
    for pool in made:
        pool.close()


def test_the_clock_of_the_run_reaches_every_actor(pool_of):
    elsewhere.check_clock(pool_of(until=elsewhere.TURN))


def test_what_a_replaced_actor_had_sent_is_thrown_away(pool_of):
    """Else a slot that its next incarnation never filled would be given back to it."""
    pool = pool_of()
    gathered(pool, 10)
    end = time.monotonic() + 120.0
    while {actor for actor, _ in pool._arrived} != {0, 1}:
        assert time.monotonic() < end
        pool._before()
        pool._arrived.clear()  # as if they had been taken
        for held in pool._actors:
            held.in_hand = 0
        time.sleep(0.2)
        pool._listen(0.1)
    pool._to_free = (1, 0)
    pool._replace(1, "was taken away")
    assert {actor for actor, _ in pool._arrived} == {0}
    assert pool._to_free is None
    gathered(pool, 20)
    assert all(0 <= held.in_hand <= SLOTS for held in pool._actors)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "SIGKILL"),
        pytest.param(signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}", marks=pytest.mark.slow),
    ],
)
def test_an_actor_that_is_killed_is_told_with_its_signal(pool_of, number, name):
    """Real-time signals have no names."""
    pool = pool_of()
    streams, _ = gathered(pool, 10)
    os.kill(pool._actors[0].process.pid, number)
    more, told = gathered(pool, 20, until=lambda: pool.replaced == 1)
    assert told == [
        f"actor 0 was killed by {name} (out of memory or a crash in native code); its games were cut and it was "
        "started anew"
    ]
    for one, other in zip(streams, more, strict=True):
        stream = one + other
        check(stream, cuts=sum(row[:3] == (0, 0, True) for row in stream) - 1)


def test_a_slow_actor_holds_up_nobody_and_is_not_replaced(pool_of):
    quiet, other = recipes()
    slow = replace(other, arguments=other.arguments | {"what": "slow"})
    pool = pool_of(shares=[quiet, slow], time_limit=5.0)
    begun, _ = gathered(pool, 5, limit=120.0)  # both are there
    streams, told = gathered(pool, 40, limit=120.0)
    assert (told, pool.replaced) == ([], 0)
    assert len(streams[0]) > 3 * len(streams[2])
    for one, other in zip(begun, streams, strict=True):
        check(one + other)


def test_a_slow_learner_loses_nothing_and_nothing_grows(pool_of):
    """It takes longer than actors may; their messages wait for it, and they with them."""
    pool = pool_of(time_limit=2.0)
    streams, _ = gathered(pool, 20, limit=120.0)
    for _ in range(2):
        time.sleep(3.0)
        assert all(held.pipe.poll() for held in pool._actors)
        numbers = list(pool.inbox._next)
        more, told = gathered(pool, 40, limit=120.0)
        assert told == []
        assert all(now > before for now, before in zip(pool.inbox._next, numbers, strict=True))
        assert all(held.in_hand <= SLOTS for held in pool._actors)
        streams = [one + other for one, other in zip(streams, more, strict=True)]
    assert pool.replaced == 0
    for stream in streams:
        check(stream)
