"""Whom a watch over Ray takes for lost, without Ray: hosts are asked again, and what died with one is not blamed."""

from types import SimpleNamespace

import pytest

from retorq.acting import head_watch
from retorq.acting.head_watch import PERIOD, TOGETHER, HeadWatch
from retorq.acting.placement import Host
from retorq.acting.ray_pool import RayPool
from retorq.acting.supervised import Supervised
from retorq.types import HeadLost

HERE, THERE = (Host(id=name, address=f"10.0.0.{name}", port=6381, processors=1.0, store=1) for name in "12")


@pytest.fixture
def world(monkeypatch):
    """A clock that only sleeping moves; until when each address answers, if not for ever; and who was asked when."""
    state = SimpleNamespace(now=100.0, ends={}, asked=[], slept=0)

    def sleep(seconds):
        state.now += seconds
        state.slept += 1

    def answers(address, seconds=1.0):
        state.asked.append((address[0], state.now))
        return state.now < state.ends.get(address[0], 1e9)

    monkeypatch.setattr(head_watch, "time", SimpleNamespace(monotonic=lambda: state.now, sleep=sleep))
    monkeypatch.setattr(head_watch, "answers", answers)
    return state


@pytest.fixture
def watch():
    made = HeadWatch.__new__(HeadWatch)
    made.cluster = SimpleNamespace(head=("10.0.0.1", 6379))
    made.failures, made._known, made._gone, made._outlived = 0, [HERE, THERE], {}, {}
    made._line = SimpleNamespace(holds=lambda: True)
    return made


def test_a_host_that_answers_for_a_moment_more_is_lost_with_its_actors(watch, world):
    world.ends[THERE.address] = world.now + PERIOD / 2
    assert not watch.outlives(THERE)
    assert watch.hosts == [HERE]
    assert not watch.outlives(THERE)  # and for the second actor nobody waits
    assert world.slept == 1


def test_a_host_that_outlives_an_actor_holds_up_the_run_once(watch, world):
    assert all(watch.outlives(THERE) for _ in range(5))
    assert world.slept == 1
    assert watch.hosts == [HERE, THERE]
    world.now += TOGETHER
    assert watch.outlives(THERE)
    assert world.slept == 2


@pytest.mark.parametrize("after", [0.0, PERIOD / 2])
def test_nobody_is_blamed_where_ray_ends_a_moment_later(watch, world, after):
    end = world.now + after
    watch._line = SimpleNamespace(holds=lambda: world.now < end)
    with pytest.raises(HeadLost, match="Ray has ended on this host"):
        watch.require_to_blame()


def test_where_ray_goes_on_somebody_may_be_blamed(watch, world):
    watch.require_to_blame()
    assert world.slept == 1


@pytest.mark.parametrize(
    ("host", "told"), [(THERE, [(0, "was lost with host 10.0.0.2", False)]), (HERE, [(0, "died (it fell)", True)])]
)
def test_an_actor_is_blamed_only_where_its_host_outlives_it(host, told, watch, world, monkeypatch):
    said = []
    monkeypatch.setattr(
        Supervised, "_replace", lambda _, actor, reason, *, blamed: said.append((actor, reason, blamed))
    )
    world.ends[THERE.address] = world.now + PERIOD / 2
    pool = RayPool.__new__(RayPool)
    pool._watch, pool._actors = watch, [SimpleNamespace(host=host)]
    pool._ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=OSError))
    pool._replace(0, "died (it fell)")
    assert said == told
