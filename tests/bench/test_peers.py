"""The comparison with other libraries: pairs do the same work, or are refused."""

import argparse

import numpy as np
import pytest
from benchmarks import peer_common, peers
from benchmarks.rows import write

from retorq import api
from retorq.envs.options import EnvOptions


def turn(**changes):
    made = {"steps": 800, "updates": 200, "seconds": 2.0, "parameters": 7, "threads": 2, "torch": "2"}
    return made | {"peak_mb": 100.0, "score": 1.0, "all_steps": 900, "version": "1"} | changes


def test_the_table_is_made_from_the_csv_of_turns(tmp_path):
    named = {"task": "pong", "turn": 0}
    made = [
        turn(measurement="speed", side="retorq_dqn", seconds=1.0, **named),
        turn(measurement="speed", side="retorq_dqn_bf16", seconds=0.5, **named),
        turn(measurement="speed", side="sb3_dqn", **named),
        turn(measurement="speed", side="sb3_qr_dqn", **named),  # without ours beside it: no row
        turn(measurement="memory_small", side="retorq_dqn", peak_mb=60.0, score=None, **named),
        turn(measurement="memory", side="retorq_dqn", score=None, **named),
    ]
    write(tmp_path / "turns.csv", made)
    rows = peers.rows_of(peers.turns_of(tmp_path / "turns.csv"))
    assert [
        (r["measurement"], r["side"], r["retorq_over_it"], r["retorq_bf16_over_it"], r["replay_mb"]) for r in rows
    ] == [
        ("speed", "retorq_dqn", 1.0, 2.0, None),
        ("speed", "retorq_dqn_bf16", 0.5, 1.0, None),
        ("speed", "sb3_dqn", 2.0, 4.0, None),
        ("memory", "retorq_dqn", None, None, 40.0),
    ]
    assert peers.markdown(rows).splitlines()[2:] == [
        "| pong | retorq_dqn | 800 | - | - | 40 MB | - |",
        "| pong | retorq_dqn_bf16 | 1,600 | - | - | - | - |",
        "| pong | sb3_dqn | 400 | 2.00x | 4.00x | - | - |",
    ]


def test_a_row_has_medians_and_refuses_unlike_work():
    ours = [turn(seconds=s) for s in (1.0, 2.0, 4.0)]
    row = peers.row("speed", "minatar", "sb3_dqn", [turn(seconds=s) for s in (4.0, 8.0, 2.0)], ours)
    assert (row["steps_per_second"], row["lowest"], row["highest"], row["retorq_over_it"]) == (200.0, 100.0, 400.0, 2.0)
    assert (row["score"], row["scores"]) == (None, None)
    row = peers.row("score", "minatar", "sb3_dqn", [turn(score=2.0), turn(score=5.0)], ours)
    assert (row["score"], row["scores"]) == (3.5, "2.00 5.00")
    assert row["retorq_over_it"] is row["steps_per_second"] is None  # runs for scores may share the cores
    small, half = [turn(peak_mb=30.0)], [turn(seconds=0.5)]
    assert peers.row("memory", "pong", "sb3_dqn", [turn()], ours, small=small)["replay_mb"] == 70.0
    row = peers.row("speed", "pong", "sb3_dqn", [turn()], ours, half=half)
    assert (row["retorq_over_it"], row["retorq_bf16_over_it"]) == (1.0, 4.0)
    for unlike, reason in (
        ({"parameters": 8}, "parameters of sb3_dqn differ"),
        ({"threads": 1}, "threads of sb3_dqn differ"),
        ({"torch": "3"}, "torch of sb3_dqn differ"),
        ({"updates": 100}, r"replay ratio of sb3_dqn is 4\.00"),
    ):
        with pytest.raises(ValueError, match=reason):
            peers.row("speed", "minatar", "sb3_dqn", [turn(**unlike)], ours)


@pytest.mark.parametrize(("what", "workers", "threads"), [("score", 2, 1), ("score", 3, 1), ("speed", 2, 2)])
def test_runs_for_scores_share_the_threads_and_are_not_made_twice(what, workers, threads, tmp_path, monkeypatch):
    taken = []

    def take_turn(side, what, plan, quick):
        taken.append((side, plan.seed, plan.threads))
        if len(taken) == 5:
            raise SystemExit("failed")
        return turn(score=float(plan.seed))

    monkeypatch.setattr(peers, "take_turn", take_turn)
    asked = argparse.Namespace(
        sides=["retorq_dqn", "retorq_dqn_bf16", "sb3_dqn"], seeds=3, repeats=2, environments=8, quick=False, again=False
    )
    asked.workers = workers
    file = tmp_path / "turns.csv"
    if what == "speed":
        taken += [()] * 5  # no failure
        peers.measured(what, "minatar", asked, 2, file)
        assert [t[2] for t in taken[5:]] == [threads] * 6  # the threads of a measured rate are never shared
        return
    with pytest.raises(SystemExit, match="failed"):
        peers.measured(what, "minatar", asked, 2, file)
    kept = {(row["side"], int(row["turn"])) for row in peers.turns_of(file)}
    assert len(kept) < 6
    taken += [()] * 5
    del taken[:-5]
    peers.measured(what, "minatar", asked, 2, file)
    wanted = {(side, seed) for side in ("retorq_dqn", "sb3_dqn") for seed in range(3)}
    assert {t[:2] for t in taken[5:]} == wanted - kept
    assert {t[2] for t in taken[5:]} == {threads}
    scores = {row["side"]: row["scores"] for row in peers.rows_of(peers.turns_of(file))}
    assert scores == {"retorq_dqn": "0.00 1.00 2.00", "sb3_dqn": "0.00 1.00 2.00"}


@pytest.mark.parametrize("what", ["speed", "memory", "score"])
def test_plans(what):
    for task in peers.TASKS:
        plan = peers.plan_of(what, task, 8, 2, 0, False)
        assert plan.steps > plan.warmup + peer_common.SETTLE
        assert plan.capacity >= plan.warmup
        assert (plan.decay > 0) == (what == "score")


@pytest.mark.parametrize(
    ("agent", "parameters"), [("dqn", 132_179), ("qr_dqn", 209_192), ("iqn", 198_739), ("rainbow", 578_024)]
)
def test_our_network_has_the_parameters_of_theirs(agent, parameters):
    """What the other libraries' networks have on MinAtar Breakout, as their sides report it."""
    pytest.importorskip("minatar")
    plan = peers.plan_of("speed", "minatar", 8, 1, 0, False)
    made = api.compose(
        peers.TASKS["minatar"],
        agent=agent,
        preset="minatar",
        config=peers.settings(plan, agent, "fp32"),
        options=EnvOptions(),
        device="cpu",
        seed=0,
    )
    assert sum(p.numel() for p in made.agent.network.parameters()) == parameters
    assert made.agent.samples_per_step * 4 == made.agent.batch_size


def test_the_clock_counts_from_the_end_of_the_warm_up():
    plan = peer_common.Plan("minatar", 1, 1_000, 300, 100, 1, 0)
    clock = peer_common.Clock(plan)
    assert all(clock.tick(step, step // 4) for step in range(1, 1_000))
    assert not clock.tick(1_000, 250)
    for score in range(150):
        clock.game(float(score))
    told = clock.turn(5, "9")
    assert (told["steps"], told["updates"], told["all_steps"]) == (1_000 - 500, 250 - 125, 1_000)
    assert told["score"] == np.mean(range(50, 150))
    assert (told["games"], told["parameters"], told["version"]) == (150, 5, "9")


def test_exploration_falls_after_the_warm_up_or_is_constant():
    plan = peer_common.Plan("minatar", 1, 10, 100, 100, 1, 0, decay=200)
    seen = [peer_common.epsilon(plan, step) for step in (0, 100, 200, 300, 900)]
    assert seen == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])
    assert peer_common.epsilon(peer_common.Plan("minatar", 1, 10, 100, 100, 1, 0), 0) == 0.1
