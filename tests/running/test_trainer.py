"""The loop's single step: credits, warm-up, publishing, and updates that fail."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small import agent

from retorq.envs.make import make
from retorq.losses.discrepancy import delta_q
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


def test_delta_q_is_measured_on_its_period_at_both_ends_of_the_learned_rows(monkeypatch):
    """Windows of 3 + 4 + 2 rows, states every 2 rows: measured before rows 4 and 6, or before 3, 5 and 7."""
    trainer = trainer_of(
        replay_ratio=8.0,
        burn_in=3,
        start_state="stored+burn_in",
        sequences="within",
        discrepancy_period=3,
        replay_size=300,
    )
    asked, plain = [], trainer.replay.states_at
    unrolled, measure = [], delta_q
    monkeypatch.setattr("retorq.running.trainer.delta_q", lambda *more: unrolled.append(more) or measure(*more))

    def states_at(keys, offset):
        asked.append((trainer.learner.updates, offset.copy()))
        assert ((trainer.replay.first_row(keys) + offset) % 2 == 0).all()
        return plain(keys, offset)

    trainer.replay.states_at = states_at
    while trainer.learner.updates < 12:
        trainer.step()
    assert {updates for updates, _ in asked} == set(range(0, trainer.learner.updates, 3))
    assert len(unrolled) == len(asked) / 2  # one unroll serves both ends
    for (updates, initial), (same, final) in zip(asked[::2], asked[1::2], strict=True):
        assert updates == same
        assert set(initial) <= {3, 4}
        assert set(final) <= {6, 7}
    sums = dict(trainer.discrepancies)
    means = trainer.means()
    for name, (total, count) in sums.items():
        assert 0 < count <= 5
        assert means[f"delta_q_{name}"] == total / count
        assert 0 <= means[f"delta_q_{name}"] < 10
    trainer.sums = {"loss": torch.tensor(1.0)}
    assert "delta_q_initial" not in trainer.means()


def test_delta_q_counts_sequences_within_one_game_and_finite_values(monkeypatch):
    """Windows of 2 + 6 + 2 rows over games of a few rows: column by column, what is left out and what is counted."""
    trainer = trainer_of(
        replay_ratio=8.0,
        burn_in=2,
        sequence_length=6,
        start_state="stored+burn_in",
        sequences="within",
        discrepancy_period=1,
        replay_size=300,
        batch_size=6,
    )
    expected = {"initial": [0.0, 0], "final": [0.0, 0]}
    reasons = {"initial": set(), "final": set()}

    def made_up(network, trajectory, start, measured):
        values = []
        for name, (_, offset) in zip(expected, measured, strict=True):
            value = 1.0 + torch.rand(len(offset), generator=random)
            value[0] = torch.inf
            counted = []
            for column, at in enumerate(offset.tolist()):
                ends = trajectory.last[2 : at + 1, column].any().item()
                before = trajectory.last[:2, column].any().item()
                reasons[name].add("ends" if ends else "infinite" if column == 0 else "before" if before else "counted")
                if not ends and column:
                    counted.append(value[column].item())
            if counted:
                expected[name][0] += float(np.mean(counted))
                expected[name][1] += 1
            values.append(value)
        return values

    random = torch.Generator().manual_seed(0)
    monkeypatch.setattr("retorq.running.trainer.delta_q", made_up)
    while trainer.learner.updates < 30:
        trainer.step()
    assert reasons["initial"] >= {"infinite", "before", "counted"}
    assert reasons["final"] == {"ends", "infinite", "before", "counted"}
    for name, (total, count) in trainer.discrepancies.items():
        assert count == expected[name][1]
        assert total == pytest.approx(expected[name][0])


@pytest.mark.parametrize("settings", [{"discrepancy_period": 0}, {"memory": "none", "sequence_length": 1}])
def test_delta_q_is_not_measured_where_it_means_nothing(settings):
    trainer = trainer_of(replay_ratio=8.0, **settings)
    while trainer.learner.updates < 3:
        trainer.step()
    assert trainer.discrepancies == {"initial": [0, 0], "final": [0, 0]}
    assert set(trainer.means()) == {"loss", "skipped"}


def test_measuring_delta_q_changes_nothing():
    """With and without it a run is the same, and what it measures of its own fresh states is small."""
    runs = []
    for period in (0, 2):
        trainer = trainer_of(learn=True, replay_ratio=8.0, discrepancy_period=period)
        while trainer.learner.updates < 9:
            trainer.step()
        runs.append((trainer.learner.state_dict()[0], trainer.replay.sample(5).keys.tolist()))
    (one, keys), (other, other_keys) = runs
    assert keys == other_keys
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_before_anything_was_learned_stored_states_are_fresh():
    trainer = trainer_of(replay_ratio=8.0, discrepancy_period=1, warmup=60, replay_size=400)
    while trainer.learner.updates < 3:  # the network stays as it is here
        trainer.step()
    means = trainer.means()
    assert means["delta_q_initial"] == 0  # no burn-in: the stored state itself
    assert 0 < means["delta_q_final"] < 0.02  # what half precision leaves


@pytest.mark.parametrize("refresh", [0.5, 3.0])
def test_states_are_refreshed_by_credits(refresh):
    """Rows refreshed per row trained; a step refreshes the period of every column: 4 rows here."""
    trainer = trainer_of(replay_ratio=2.0, refresh=refresh, warmup=60)
    steps, plain = [], trainer.refresh.step
    trainer.refresh.step = lambda: steps.append(1) or plain()
    assert trainer.refresh.rows == 4
    while trainer.learner.updates < 20:
        trainer.step()
        trained = trainer.learner.updates * 8
        assert 4 * len(steps) == refresh * trained - trainer.refresh_credits
        assert 0 <= trainer.refresh_credits < 4
    assert trainer_of(refresh=0.0).refresh is None


def test_refreshing_brings_delta_q_down():
    """States stored under other weights are stale; a sweep with today's makes them fresh."""
    trainer = trainer_of(replay_ratio=8.0, refresh=1e-9, warmup=100, replay_size=400, burn_in=2,
                         start_state="stored+burn_in", discrepancy_period=0)  # fmt: skip
    while trainer.learner.updates < 1:
        trainer.step()
    with torch.no_grad():
        for p in trainer.learner.online.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)), alpha=0.3)

    def measured():
        trainer.discrepancies = {"initial": [0.0, 0], "final": [0.0, 0]}
        trainer._measure(trainer.replay.sample(64))
        return trainer.discrepancies

    stale = measured()
    for _ in range(trainer.replay.storage.rows):
        trainer.refresh.step()
    fresh = measured()
    for name in ("initial", "final"):
        assert stale[name][1] == fresh[name][1] == 1
        assert fresh[name][0] < 0.1 * stale[name][0]


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
