"""What only the pool of processes can do wrong: slots, arrivals of actors that were replaced, names of signals."""

import os
import signal
import time

import pytest
from tests.acting import elsewhere
from tests.acting.test_pools import check, gathered, importable, processes  # noqa: F401

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
    end = time.monotonic() + 30.0
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
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")],
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
