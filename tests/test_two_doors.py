"""The benchmark of learned distributions measures what it says, and its settings are settings."""

import numpy as np
import pytest
from benchmarks import two_doors
from benchmarks.rows import read

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.envs.toys import two_doors_returns
from retorq.running.distributions import ReturnDistribution, wasserstein


def learned(shift: float) -> ReturnDistribution:
    values, probabilities = zip(*map(two_doors_returns, (0, 1)), strict=True)
    return ReturnDistribution(np.stack(values) + shift, np.stack(probabilities))


@pytest.mark.parametrize(("door", "name", "span"), [(0, "safe", 1.0), (1, "risky", 6.25)])
def test_the_distance_is_a_share_of_the_true_range(door: int, name: str, span: float) -> None:
    row = two_doors.measured(learned(0.0), door)
    assert (row["door"], row["range"], row["share"], row["passed"]) == (name, span, 0.0, True)
    row = two_doors.measured(learned(0.1), door)
    assert row["distance"] == pytest.approx(0.1)
    assert row["share"] == pytest.approx(0.1 / span)
    assert row["passed"] == (0.1 / span <= two_doors.AIM)
    values, chances = two_doors_returns(door)
    quantiles = np.array([float(value) for value in row["quantiles"].split()])
    assert (quantiles[: round(50 * chances[0])] == values[0] + 0.1).all()
    assert (quantiles[round(50 * chances[0]) :] == values[1] + 0.1).all()


def test_a_distribution_function_is_drawn_corner_by_corner() -> None:
    x, y = two_doors.steps_of(np.array([3.0, 1.0]), np.array([0.25, 0.75]), 0.0, 4.0)
    assert list(zip(x, y, strict=True)) == [(0, 0), (1, 0), (1, 0.75), (3, 0.75), (3, 1), (4, 1)]


@pytest.mark.parametrize("agent", two_doors.AGENTS)
def test_every_agent_can_be_composed_and_asked(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_doors, "CHOICES", 5)
    task = api.compose(
        "two_doors",
        agent=agent,
        preset="toy",
        config=two_doors.AGENTS[agent],
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )
    player = api.Player(task, step=0)
    found, _ = player.distribution(two_doors.HALL)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert 0 <= two_doors.safe_choices(player) <= 1
    if agent in two_doors.SAMPLED:
        cautious = two_doors.cautious(player)
        assert cautious.agent.config.risk == "cvar"
        fresh = api.Player(task, step=0)  # the same fractions for both
        assert not np.allclose(cautious.values(two_doors.HALL)[0], fresh.values(two_doors.HALL)[0], rtol=1e-3)
        same, _ = cautious.distribution(two_doors.HALL)
        np.testing.assert_allclose(same.mean(), fresh.distribution(two_doors.HALL)[0].mean(), rtol=1e-5)


def test_the_table_holds_what_the_page_of_results_claims() -> None:
    """Every agent, seed and door within the aim; the quantiles that are drawn are those that were measured."""
    rows = read(two_doors.OUT)
    doors = {(row["agent"], row["seed"], row["door"]) for row in rows}
    assert doors == {
        (agent, str(seed), door) for agent in two_doors.AGENTS for seed in range(3) for door in two_doors.DOORS
    }
    assert len(rows) == 24
    for row in rows:
        assert float(row["share"]) <= two_doors.AIM == 0.05
        truth, chances = two_doors_returns(two_doors.DOORS.index(row["door"]))
        assert float(row["range"]) == truth.max() - truth.min()
        shown = np.array([float(value) for value in row["quantiles"].split()])
        again = wasserstein(shown, np.full(len(shown), 1 / len(shown)), truth, chances)
        assert again == pytest.approx(float(row["distance"]), abs=0.02 * float(row["range"]))
        if row["agent"] in two_doors.SAMPLED:
            assert row["safe_by_cvar"] == "1.0"
            assert 0.25 < float(row["safe_by_mean"]) < 0.75
