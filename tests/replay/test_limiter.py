"""The replay ratio holds, and nobody waits for ever, whatever the speeds, deaths and delays."""

import heapq
from dataclasses import dataclass

import numpy as np
import pytest

from retorq import api
from retorq.acting.messages import Inbox, Message
from retorq.envs.make import make
from retorq.envs.options import EnvOptions
from retorq.replay.limiter import Limiter
from retorq.running.trainer import Trainer


@dataclass
class Told:
    """What a simulation ends with."""

    inserted: int
    trained: float
    lost: int
    repeated: int
    fenced: int
    longest_queue: int
    cost: float
    ratio: float


def simulate(seed: int, steps: int = 6_000) -> Told:
    """Actors with bounded queues, a learner and a limiter, in simulated time: who comes next is a matter of chance.

    Every actor takes its own time for a message, some a hundred times that of others; messages are delayed, repeated
    and reordered; actors die with what they have not sent, and come back as the next incarnation, while their last
    messages are still under way. The learner takes its own time for an update.
    """
    chance = np.random.default_rng(seed)
    actors, slots, rows = int(chance.integers(1, 9)), int(chance.integers(1, 5)), int(chance.integers(1, 40))
    cost, ratio = float(10 ** chance.uniform(0, 2)), float(10 ** chance.uniform(-1, 1))
    limiter, inbox = Limiter(ratio=ratio, cost=cost), Inbox(actors)
    pace = 10 ** chance.uniform(-2, 0, actors)
    update_time = 10 ** chance.uniform(-3, 0)
    deadly, repeats = chance.choice([0.0, 0.02]), chance.choice([0.0, 0.2])
    alive = [inbox.begin(actor) for actor in range(actors)]
    number, unfreed = [0] * actors, [0] * actors
    queue: list[tuple[float, int, Message]] = []  # under way: when it arrives
    events = [(float(pace[actor]), actor, 0) for actor in range(actors)]  # when its next message is done
    heapq.heapify(events)
    waiting: set[int] = set()
    now, tick, inserted, trained, lost, longest = 0.0, 0, 0, 0.0, 0, 0
    for _ in range(400 * steps):
        while events and events[0][0] <= now:
            done, actor, incarnation = heapq.heappop(events)
            if incarnation != alive[actor]:
                continue  # it died meanwhile
            if chance.random() < deadly:
                lost += rows
                alive[actor], number[actor], unfreed[actor] = inbox.begin(actor), 0, 0
                waiting.discard(actor)
                heapq.heappush(events, (done + float(pace[actor]) * 3, actor, alive[actor]))
                continue
            message = Message(actor=actor, incarnation=incarnation, number=number[actor], chunks=[])
            for _ in range(1 + (chance.random() < repeats)):
                tick += 1
                heapq.heappush(queue, (done + float(chance.exponential(pace[actor])), tick, message))
            number[actor] += 1
            unfreed[actor] += 1
            if unfreed[actor] < slots:
                heapq.heappush(events, (done + float(pace[actor]), actor, incarnation))
            else:
                waiting.add(actor)
        longest = max(longest, *unfreed)
        if queue and queue[0][0] <= now:
            message = heapq.heappop(queue)[2]
            for ordered in inbox.accept(message):
                inserted += rows
                limiter.inserted(rows)
                unfreed[ordered.actor] -= 1
                if ordered.actor in waiting:
                    waiting.discard(ordered.actor)
                    heapq.heappush(events, (now + float(pace[ordered.actor]), ordered.actor, alive[ordered.actor]))
            while limiter.may_sample:
                trained += cost
                now += update_time
                limiter.sampled()
            if inserted >= steps:
                break
        else:
            later = [entry[0][0] for entry in (events, queue) if entry]
            assert later, f"seed {seed}: nobody can go on, {len(waiting)} of {actors} actors wait"
            now = max(now, min(later))
    else:
        raise AssertionError(f"seed {seed}: {inserted} of {steps} steps after so many events")
    return Told(inserted, trained, lost, inbox.repeated, inbox.fenced, longest - slots, cost, ratio)


def test_the_ratio_holds_and_nothing_stops_over_a_thousand_histories():
    told, held = [], 0
    for seed in range(1_000):
        end = simulate(seed, steps=1_500)
        # Never behind; ahead by less than one update.
        assert 0 <= end.trained - end.ratio * end.inserted < end.cost
        if end.cost <= 0.02 * end.ratio * end.inserted:
            assert end.trained / end.inserted == pytest.approx(end.ratio, rel=0.02)
            held += 1
        assert end.longest_queue <= 0
        told.append(end)
    assert held > 400  # budgets of fifty updates and more
    assert sum(end.lost > 0 for end in told) > 200
    assert sum(end.repeated > 0 for end in told) > 200
    assert sum(end.fenced > 0 for end in told) > 100


@pytest.mark.parametrize("wrong", [{"ratio": -1.0}, {"cost": 0.0}, {"ratio": float("nan")}])
def test_a_limiter_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="give a ratio of 0 or more"):
        Limiter(**({"ratio": 1.0, "cost": 1.0} | wrong))


def test_the_first_long_games_are_not_followed_by_a_burst_of_updates():
    """Where whole games are drawn nothing can be learned before one has ended, however long it took."""
    options = EnvOptions(kwargs={"length": 400, "cap": 400})
    made = api.compose(
        "chain", agent="drqn", preset="toy", config={"warmup": 8}, options=options, device="cpu", seed=0
    ).agent
    trainer = Trainer(made, make("chain", columns=made.columns, options=options), total=100_000)
    trainer._learn = lambda: setattr(trainer.learner, "updates", trainer.learner.updates + 1)
    while not trainer.learner.updates:
        trainer.step()
    assert trainer.steps > 400
    assert trainer.learner.updates <= 1 + made.columns * made.samples_per_step / made.rows_per_update
