import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retorq.report.chart import INK
from retorq.report.curves import (
    FEW_SCORES,
    episode_band,
    evaluation_interval,
    group_runs,
    learning_chart,
    metric_chart,
    progress_axis,
    score_curve,
    spread,
    thin,
    time_axis,
)
from retorq.report.figures import caption
from retorq.report.runs import Run, load_run

Make = Callable[..., Path]


def run_of(rows: list[tuple[float, float]], **how: object) -> Run:
    metrics = [{"step": step, "frames": step, "seconds": step / 10, "score_mean": score} for step, score in rows]
    config = {"lr": 1.0}
    known: dict[str, object] = {"path": Path("r"), "agent": "dqn", "env": "catch", "config": config, "metrics": metrics}
    return Run(**(known | how))  # type: ignore[arg-type]


def test_seeds_are_grouped_and_settings_are_not(make_run: Make) -> None:
    runs = [load_run(make_run(f"r{seed}", seed=seed, steps=1000 * seed)) for seed in (1, 2)]
    other = load_run(make_run("other", seed=1, n_step=5))
    dqn = load_run(make_run("dqn", agent="dqn"))
    toy = load_run(make_run("toy", env="catch"))
    groups = group_runs([*runs, other, dqn, toy])
    assert [(group.name, len(group.runs), group.color, list(group.colors)) for group in groups] == [
        ("recurrent_iqn · n_step=3", 2, 0, [0, 0]),
        ("recurrent_iqn · n_step=5", 1, 1, [1]),
        ("dqn", 1, 2, [2]),
        ("recurrent_iqn", 1, 3, [3]),
    ]


def test_an_experiment_has_one_color_on_every_environment_and_no_two_share_one(make_run: Make) -> None:
    pairs = [(env, agent) for env in ("catch", "memory") for agent in ("dqn", "iqn")]
    runs = [load_run(make_run(f"{env}-{agent}", env=env, agent=agent)) for env, agent in pairs]
    assert [(group.env, group.name, group.color) for group in group_runs(runs)] == [
        ("catch", "dqn", 0),
        ("catch", "iqn", 1),
        ("memory", "dqn", 0),
        ("memory", "iqn", 1),
    ]


def test_older_runs_that_did_not_write_down_what_is_in_effect_are_repetitions_still(make_run: Make) -> None:
    older, newer = (load_run(make_run(f"r{seed}", seed=seed)) for seed in (4, 5))
    newer.config["environment"] = {"max_pool": 2}
    assert [group.runs for group in group_runs([older, newer])] == [[older, newer]]


def test_repetitions_that_are_alone_have_colors_of_their_own(make_run: Make) -> None:
    runs = [load_run(make_run(f"r{seed}", seed=seed)) for seed in (4, 5)]
    (group,) = group_runs(runs)
    assert (group.alone, list(group.colors)) == (True, [0, 1])
    assert group.run_names() == ["seed 4", "seed 5"]
    axis = progress_axis(runs)
    lines = learning_chart([group], axis, "t").lines
    assert [(line.name, line.color, line.thin) for line in lines] == [
        ("mean", INK, False),
        ("seed 4", 0, True),
        ("seed 5", 1, True),
    ]
    assert [(line.name, line.color) for line in metric_chart([group], axis, "loss", "l").lines] == [
        ("seed 4", 0),
        ("seed 5", 1),
    ]
    same = group_runs([*runs, load_run(make_run("again", seed=4))])
    assert same[0].run_names() == ["r4", "r5", "again"], "two runs of one seed are told apart by their folders"


def test_metrics_of_several_experiments_are_means(make_run: Make) -> None:
    runs = [load_run(make_run(f"{agent}{seed}", agent=agent, seed=seed)) for agent in ("dqn", "iqn") for seed in (1, 2)]
    lines = metric_chart(group_runs(runs), progress_axis(runs), "loss", "l").lines
    assert [line.name for line in lines if not line.faint] == ["dqn (mean)", "iqn (mean)"]
    assert [(line.color, line.faint) for line in lines] == [
        (0, True), (0, True), (0, False), (1, True), (1, True), (1, False),
    ]  # fmt: skip


@pytest.mark.parametrize("different", [2, 4, 5])
def test_few_different_scores_have_no_band(different: int) -> None:
    episodes = [{"step": step, "score": float(step % different)} for step in range(300)]
    run = run_of([(0, 0.0), (300, 1.0)], episodes=episodes)
    low, _ = episode_band(run, progress_axis([run]), [100.0, 299.0])
    assert bool(low) == (different > FEW_SCORES)
    groups = group_runs([run])
    words = caption(groups, learning_chart(groups, progress_axis([run]), "t"))
    assert (f"No band for a run whose games have only {different} scores." in words) == (different <= FEW_SCORES)
    assert ("10th to 90th percentile" in words) == (different > FEW_SCORES)


def test_runs_that_tell_nothing_are_not_averaged() -> None:
    blank = {"agent": "", "env": "", "config": {}}
    groups = group_runs([run_of([], path=Path("a"), **blank), run_of([], path=Path("b"), **blank)])
    assert [group.name for group in groups] == ["a", "b"]


def test_the_mean_covers_only_what_all_runs_cover() -> None:
    found = spread([([0, 10, 20], [0.0, 1.0, 2.0]), ([10, 30], [3.0, 5.0])])
    assert found is not None
    x, mean, low, high = found
    assert (x[0], x[-1]) == (10, 20)
    assert (mean[0], mean[-1]) == (2.0, 3.0)
    assert (low[-1], high[-1]) == (2.0, 4.0)
    assert spread([([0, 1], [0, 1]), ([2, 3], [0, 1])]) is None
    assert spread([([0, 1], [0, 1])]) is None


def test_thinning_keeps_the_mean_and_the_end() -> None:
    x, y = np.arange(1, 1001), np.sin(np.arange(1000) / 50)
    few_x, few_y = thin(list(x), list(y), 100)
    assert (len(few_x), few_x[-1]) == (100, 1000)
    assert np.mean(few_y) == pytest.approx(np.mean(y))
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_frames_are_shown_where_they_are_not_steps(make_run: Make) -> None:
    atari, toy = load_run(make_run("a")), load_run(make_run("b", env="catch", frames=1))
    assert progress_axis([atari]).key == "frames"
    assert progress_axis([toy]).key == progress_axis([atari, toy]).key == "step"


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(90, "seconds"), (1000, "minutes"), (9000, "hours"), (2e5, "days")],
)
def test_wall_time_has_a_fitting_unit(seconds: float, label: str) -> None:
    run = run_of([(10 * seconds, 1.0)])
    axis = time_axis([run])
    assert axis.label == f"wall time ({label})"
    assert score_curve(run, axis)[0] == [pytest.approx(seconds / axis.unit)]


def test_scores_come_from_the_episodes_where_metrics_are_missing() -> None:
    episodes = [{"step": step, "score": float(step % 2)} for step in range(150)]
    run = run_of([], episodes=episodes)
    x, y = score_curve(run, progress_axis([run]))
    slow = [np.mean([row["score"] for row in episodes[max(0, end - 100) : end]]) for end in range(1, 151)]
    assert x == list(range(150))
    assert y == pytest.approx(slow)
    assert score_curve(run, time_axis([run])) == ([], [])


def test_the_episode_band_is_the_last_hundred_episodes() -> None:
    episodes = [{"step": step, "score": float(step)} for step in range(300)]
    run = run_of([(0, 0.0), (300, 1.0)], episodes=episodes)
    low, high = episode_band(run, progress_axis([run]), [299.0])
    assert (low[0], high[0]) == (
        pytest.approx(np.quantile(np.arange(200, 300), 0.1)),
        pytest.approx(np.quantile(np.arange(200, 300), 0.9)),
    )
    low_time, _ = episode_band(run, time_axis([run]), [29.95])
    assert low_time == low


def test_a_mean_that_was_never_logged_leaves_no_hole() -> None:
    run = run_of([(1, 1.0), (3, 3.0)])
    run = run_of([], metrics=[*run.metrics, {"step": 5, "score_mean": None}, {"step": 7, "score_mean": 7.0}])
    assert score_curve(run, progress_axis([run])) == ([1, 3, 7], [1, 3, 7])


def test_chart_of_several_runs(make_run: Make) -> None:
    runs = [load_run(make_run(f"r{seed}", seed=seed)) for seed in (1, 2, 3)]
    chart = learning_chart(group_runs(runs), progress_axis(runs), "t")
    assert [line.thin for line in chart.lines] == [False, True, True, True]
    assert not any(line.faint for line in chart.lines)
    assert len(chart.marks) == 6
    assert [(rule.name, rule.y) for rule in chart.rules] == [("random", -20.7), ("human", 14.6)]
    mean, singles = chart.lines[0], chart.lines[1:]
    at = mean.x[120]
    values = [float(np.interp(at, line.x, line.y)) for line in singles]
    assert mean.y[120] == pytest.approx(np.mean(values))
    assert (mean.low[120], mean.high[120]) == (pytest.approx(min(values)), pytest.approx(max(values)))
    assert [mark.x for mark in chart.marks[:2]] == [2_000_000, 4_000_000]


def test_an_interval_is_made_where_none_is_stored(make_run: Make) -> None:
    row = dict(load_run(make_run()).evaluations[-1])
    stored = evaluation_interval(row)
    assert stored == (pytest.approx(row["mean"]), *row["ci95"])
    assert evaluation_interval(row | {"ci95": None}) == stored


def test_a_quick_look_hides_no_evaluation_of_many_games(make_run: Make) -> None:
    """Every record is kept; the one of the most games stands for its step, beside that of another protocol."""
    folder = make_run(evaluations=2)
    record = load_run(folder).evaluations[-1]
    for name, changes in {"1games": {}, "x": {"protocol": "dqn_zoo"}}.items():
        quick = dict(record) | changes | {"scores": [-21.0], "mean": -21.0, "ci95": None, "episodes": 1}
        (folder / "eval" / f"{record['step']}_{name}.json").write_text(json.dumps(quick))
    run = load_run(folder)
    assert [len(row["scores"]) for row in run.evaluations] == [len(record["scores"]), 1, 1, len(record["scores"])]
    assert run.evaluations[-1] == record
    (group,) = group_runs([run])
    marks = learning_chart([group], progress_axis([run]), "").marks
    assert sorted(mark.y for mark in marks[1:]) == [-21.0, record["mean"]]


def test_wide_positive_metrics_are_logarithmic(tmp_path: Path) -> None:
    for name, values in {"wide": [1e-3, 1.0], "zero": [0.0, 1.0], "narrow": [0.5, 1.0]}.items():
        folder = tmp_path / name
        folder.mkdir()
        text = "".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in enumerate(values))
        (folder / "metrics.jsonl").write_text(text)
        run = load_run(folder)
        assert metric_chart(group_runs([run]), progress_axis([run]), "loss", "loss").log_y == (name == "wide")
