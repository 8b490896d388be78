"""Delta-Q while an agent trains: when it is measured, of which sequences, and what recomputed states do to it."""

import numpy as np
import pytest
import torch
from tests.running.test_trainer import trainer_of

from retorq.losses.discrepancy import delta_q


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
