"""The loop's single step: credits, warm-up, publishing, and updates that fail."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small import agent

from retorq.envs.make import make
from retorq.running.trainer import MAX_SKIPPED, Trainer
from retorq.types import Diverged


def trainer_of(total=100_000, learn=False, **settings):
    measured = {name: settings.pop(name) for name in ("discrepancy_period",) if name in settings}
    small = replace(agent("chain", **settings), **measured)
    trainer = Trainer(small, make("chain", columns=small.columns), total=total)
    if not learn:  # the update itself is tested elsewhere, and takes long

        def update(batch, progress):
            trainer.learner.updates += 1
            rows = torch.zeros(small.window.length, small.batch_size)
            return rows, rows, {"loss": torch.tensor(float(trainer.learner.updates)), "skipped": torch.tensor(0.0)}, {}

        trainer.learner.update = update
    return trainer


@pytest.mark.parametrize(("ratio", "length", "batch", "columns"), [(4.0, 5, 8, 1), (0.3, 3, 2, 3), (8.0, 4, 2, 3)])
def test_the_replay_ratio_is_exact_within_one_batch(ratio, length, batch, columns):
    """From the end of warm-up on, rows trained per step acted; games' final rows are no steps."""
    trainer = trainer_of(
        replay_ratio=ratio, sequence_length=length, batch_size=batch, num_envs=columns, warmup=40, replay_size=300
    )
    while not trainer.warm:
        begin = trainer.steps
        trainer.step()
    assert begin < 40 <= trainer.steps
    for _ in range(120):
        trainer.step()
        # What the round that ended the warm-up acted is counted, so that a run without warm-up learns from all.
        debt = trainer.learner.updates * batch * length - ratio * (trainer.steps - begin)
        assert 0 <= debt < batch * length
        assert trainer.limiter.credits == pytest.approx(-debt)


def test_nothing_is_learned_or_earned_in_warm_up():
    trainer = trainer_of(warmup=60)
    before = 0
    while trainer.steps < 60:
        assert (trainer.learner.updates, trainer.limiter.credits) == (0, 0.0)
        before = trainer.steps
        trainer.step()
    assert trainer.learner.updates == 1  # the first credit is positive, and a batch of 8 rows is paid
    assert trainer.limiter.credits == pytest.approx((trainer.steps - before) * 0.8 - 8)


class Clocked:
    """A pool of which every update lets ``lag`` messages pile up, as games do that go on meanwhile."""

    late = 0

    def __init__(self, pool, lag):
        self.pool, self.lag, self.waiting, self.waited = pool, lag, 1, 0

    steps = property(lambda self: self.pool.steps)

    def receive(self, *, wait=True):
        self.waited += wait and not self.waiting
        if not (self.waiting or wait):
            return []
        self.waiting = max(0, self.waiting - 1)
        return self.pool.receive()

    def publish(self, network, version):
        self.waiting += self.lag


def test_who_plays_by_the_clock_does_not_wait_for_a_learner_that_is_behind():
    """All that has come is taken before each update, and the replay ratio falls instead."""
    trainer = trainer_of(replay_ratio=400.0, warmup=40, replay_size=300)
    trainer.pool = Clocked(trainer.pool, lag=3)
    while not trainer.warm:
        trainer.step()
    trainer.pool.waited = 0
    rows = trainer.agent.rows_per_update
    for _ in range(50):
        updates, steps = trainer.learner.updates, trainer.steps
        trainer.step()
        assert trainer.learner.updates == updates + 1
        assert trainer.steps - steps <= 3 * trainer.agent.columns
        assert trainer.pool.waiting == 3  # of this update
    assert trainer.pool.waited == 0
    assert trainer.learner.updates * rows < 0.5 * 400.0 * trainer.steps


def test_who_plays_by_the_clock_is_waited_for_where_the_learner_is_not_behind():
    trainer = trainer_of(replay_ratio=0.1, warmup=40, replay_size=300)
    trainer.pool = Clocked(trainer.pool, lag=0)
    while not trainer.warm:
        trainer.step()
    trainer.pool.waited, begin = 0, (trainer.steps, trainer.learner.updates)
    for _ in range(200):
        trainer.step()
    assert trainer.pool.waited > 150
    learned = (trainer.learner.updates - begin[1]) * trainer.agent.rows_per_update
    assert learned == pytest.approx(0.1 * (trainer.steps - begin[0]), abs=trainer.agent.rows_per_update)


def test_nothing_is_earned_before_there_is_something_to_sample():
    trainer = trainer_of(warmup=0, num_envs=1)
    for _ in range(5):  # windows need 6 rows
        trainer.step()
    assert (trainer.learner.updates, trainer.limiter.credits) == (0, 0.0)
    trainer.step()
    assert trainer.learner.updates == 1


def test_weights_are_published_on_their_period():
    trainer = trainer_of(publish_period=3, replay_ratio=8.0)
    told = []
    trainer.pool.publish = lambda network, version: told.append(version)
    while trainer.learner.updates < 10:
        trainer.step()
    assert told == [3, 6, 9]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mean_image_of_the_warm_up_is_set_once_and_everywhere(precision):
    small = agent("catch", center_images=True, warmup=60, precision=precision)
    trainer = Trainer(small, make("catch", columns=small.columns), total=10_000)

    def means():
        networks = (trainer.learner.online, trainer.learner.target, trainer.pool.actor.network)
        return [network.torso.image("obs").mean.float().clone() for network in networks]

    while trainer.learner.updates == 0:
        assert all(mean.abs().sum() == 0 for mean in means())
        trainer.step()
    online, target, acting = means()
    # Two of the 50 pixels are lit: the ball and the paddle, which may cover each other in the last row.
    assert 1.5 / 50 < online.mean() <= 2 / 50
    assert torch.equal(online, target)
    torch.testing.assert_close(online, acting, rtol=1e-2, atol=1e-6)
    for _ in range(20):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(means(), (online, target, acting), strict=True))


def test_means_are_over_the_updates_since_the_last_call():
    trainer = trainer_of(replay_ratio=8.0)
    while trainer.learner.updates < 4:
        trainer.step()
    count = trainer.learner.updates
    assert trainer.means()["loss"] == pytest.approx((1 + count) / 2)
    assert trainer.means() == {}


def test_progress_and_errors_reach_learner_and_replay():
    trainer = trainer_of(total=400, prioritized=True)
    seen, told, drawn = [], [], []
    plain, sample = trainer.learner.update, trainer.replay.sample

    def draw(size, progress):
        drawn.append(progress)  # the exponent of the importance weights grows with it
        return sample(size, progress)

    trainer.replay.sample = draw

    def update(batch, progress):
        seen.append((trainer.steps, progress))
        error, mask, metrics, state = plain(batch, progress)
        return error + 5.0, mask + 1, metrics, state | {"h": torch.tensor(7.0)}

    trainer.learner.update = update
    trainer.replay.update = lambda keys, error, mask, state: told.append(
        (keys.shape, float(error.min()), float(mask.min()), float(state["h"]))
    )
    while not trainer.done:
        trainer.step()
    assert all(progress == min(1.0, steps / 400) for steps, progress in seen)
    assert drawn == [progress for _, progress in seen]
    assert drawn[0] < 0.3
    assert drawn[-1] > 0.9
    assert set(told) == {((2, 2), 5.0, 1.0, 7.0)}
    assert 400 <= trainer.steps <= 401


def test_the_diary_tells_of_priorities_that_were_not_finite():
    trainer = trainer_of(replay_ratio=8.0, prioritized=True, discrepancy_period=0)
    while trainer.learner.updates < 2:
        trainer.step()
    assert "priorities_clamped" not in trainer.means()
    keys = trainer.replay.sample(2).keys
    trainer.replay.update(keys, torch.full((4, 2), math.inf), torch.ones(4, 2))
    trainer.step()
    assert trainer.means()["priorities_clamped"] == 2


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({"refresh": 1.7, "discrepancy_period": 2}, set()),
        ({"start_state": "whole"}, {"refresh_credits", "refresh_position"}),
    ],
)
def test_what_a_checkpoint_holds_comes_back(settings, unused):
    """Numbers and arrays equal, also those of measurements and sweeps that were under way."""
    one, other = (trainer_of(learn=True, replay_ratio=7.0, warmup=60, **settings) for _ in range(2))
    while one.learner.updates < 6:
        one.step()
    one.learner.skipped_in_a_row.fill_(3)
    one.refill = 5
    fresh = other.numbers()
    assert {name for name, value in one.numbers().items() if value == fresh[name]} == unused  # none is equal by chance
    parts = one.tensors() | {name: tensors() for name, (_, tensors) in one.replay.chunks().items()}
    other.load(lambda name: parts[name], parts, one.numbers(), rows=True)
    assert other.numbers() == one.numbers()
    if one.refresh is not None:
        assert one.numbers()["refresh_position"] != [0, 0]
        assert 1 <= one.numbers()["discrepancies"]["initial"][1] <= 3
    for part, tensors in other.tensors().items():
        assert all(torch.equal(tensors[name], parts[part][name]) for name in parts[part])


@pytest.mark.parametrize("prioritized", [False, True])
def test_five_updates_in_a_row_that_are_not_finite_end_the_run(prioritized):
    trainer = trainer_of(learn=True, clip_rewards="none", replay_ratio=8.0, prioritized=prioritized)
    while trainer.learner.updates < 2:
        trainer.step()
    weights = [p.clone() for p in trainer.learner.online.parameters()]
    trainer.replay.storage.arrays["reward"].fill_(math.nan)
    updates = trainer.learner.updates
    receive = trainer.pool.receive

    def poisoned(**_):
        for columns, rows in receive():
            rows.reward[:] = math.nan
            yield columns, rows

    trainer.pool.receive = poisoned

    def on():
        for _ in range(20):
            trainer.step()

    with pytest.raises(Diverged, match=r"not finite in 5 updates in a row, at step \d+; .*Lower learning_rate"):
        on()
    assert trainer.learner.updates == updates + MAX_SKIPPED
    assert trainer.last_batch is not None
    assert trainer.last_batch.trajectory.reward.isnan().any()
    for before, after in zip(weights, trainer.learner.online.parameters(), strict=True):
        assert torch.equal(before, after)


def test_one_bad_update_is_survived_and_counted():
    trainer = trainer_of(learn=True, replay_ratio=8.0)
    plain = trainer.replay.sample

    def sometimes(size, progress):
        batch = plain(size, progress)
        if trainer.learner.updates % 3:
            batch.weight.fill_(math.nan)
        return batch

    trainer.replay.sample = sometimes
    while trainer.learner.updates < 9:
        trainer.step()
    means = trainer.means()
    assert means["skipped"] == 6  # of 9 or a few more updates, and no part of the means
    assert all(math.isfinite(value) for value in means.values())
    assert means["loss"] > 0
    assert all(p.isfinite().all() for p in trainer.learner.online.parameters())


def test_the_parts_have_seeds_of_their_own():
    made = [Trainer(agent("memory"), make("memory", columns=2), total=100, seed=seed) for seed in (0, 1)]
    learners, actors = [t.learner.generator.initial_seed() for t in made], [t.pool.actor.seed for t in made]
    draws = [float(t.replay.generator.random()) for t in made]
    others = [float(np.random.default_rng(seed).random()) for seed in (*learners, *actors, 0, 1)]
    assert len({*learners, *actors}) == 4
    assert len({*draws, *others}) == 8
