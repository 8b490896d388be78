"""The loop's single step: credits, warm-up, publishing, and updates that fail."""

import math

import pytest
import torch
from tests.small import agent

from retorq.envs.make import make
from retorq.running.trainer import MAX_SKIPPED, Trainer
from retorq.types import Diverged


def trainer_of(total=100_000, learn=False, **settings):
    small = agent("chain", **settings)
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
        assert trainer.credits == pytest.approx(-debt)


def test_nothing_is_learned_or_earned_in_warm_up():
    trainer = trainer_of(warmup=60)
    before = 0
    while trainer.steps < 60:
        assert (trainer.learner.updates, trainer.credits) == (0, 0.0)
        before = trainer.steps
        trainer.step()
    assert trainer.learner.updates == 1  # the first credit is positive, and a batch of 8 rows is paid
    assert trainer.credits == pytest.approx((trainer.steps - before) * 0.8 - 8)


def test_credits_wait_for_something_to_sample():
    trainer = trainer_of(warmup=0, num_envs=1)
    for _ in range(5):  # windows need 6 rows
        trainer.step()
    assert (trainer.learner.updates, trainer.credits) == (0, pytest.approx(4.0))
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
    seen, told = [], []
    plain = trainer.learner.update

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
    assert set(told) == {((2, 2), 5.0, 1.0, 7.0)}
    assert 400 <= trainer.steps <= 401


@pytest.mark.parametrize("prioritized", [False, True])
def test_five_updates_in_a_row_that_are_not_finite_end_the_run(prioritized):
    trainer = trainer_of(learn=True, clip_rewards="none", replay_ratio=8.0, prioritized=prioritized)
    while trainer.learner.updates < 2:
        trainer.step()
    weights = [p.clone() for p in trainer.learner.online.parameters()]
    trainer.replay.storage.arrays["reward"].fill_(math.nan)
    updates = trainer.learner.updates
    receive = trainer.pool.receive

    def poisoned():
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
