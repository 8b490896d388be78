import numpy as np
import pytest
from scipy import stats

from retorq.running import scores
from retorq.types import UserError

# Column, games, median, mean with a Video Pinball random score of 0.0 and of 16256.9 (percent), games at human level.
TABLE = [
    ("impala_deep", 57, 191.8, 957.6, 1592.8, 40),
    ("qr_dqn", 57, 210.7, 915.2, 1702.3, 41),
    ("iqn", 57, 237.8, 1110.7, 1889.1, 40),
    ("rainbow", 54, 227.1, 765.8, 1389.2, 40),
    ("recurrent_iqn", 55, 365.3, 1753.4, 2785.4, 43),
    ("dqn", 57, 79.1, 227.7, 432.6, 24),
    ("dqn_nature", 49, 79.3, 178.6, 211.9, 22),
    ("c51", 57, 177.7, 701.1, 1767.3, 40),
    ("dueling_ddqn", 57, 151.4, 372.9, 465.1, 37),
    ("prior_dueling_ddqn", 57, 172.1, 591.9, 1119.9, 39),
    ("noisynet_dqn", 57, 122.9, 379.0, 727.8, 34),
    ("ape_x_dqn", 57, 434.1, 1694.9, 2321.3, 49),
    ("r2d2", 57, 1922.7, 4024.9, 5148.1, 52),
]


@pytest.mark.parametrize(("column", "games", "median", "mean", "other_mean", "human"), TABLE)
def test_published_columns_give_the_known_averages(
    column: str, games: int, median: float, mean: float, other_mean: float, human: int
) -> None:
    table = scores.published_column(column)
    ours, other = scores.summarize(table), scores.summarize(table, video_pinball_random=16256.9)
    assert (ours.games, ours.at_least_human) == (games, human)
    assert 100 * ours.median == pytest.approx(median, abs=0.06)
    assert 100 * other.median == pytest.approx(median, abs=0.06)
    assert 100 * ours.mean == pytest.approx(mean, abs=0.06)
    assert 100 * other.mean == pytest.approx(other_mean, abs=0.06)


def test_every_published_column_has_its_source() -> None:
    columns = {name for game in scores.games() for name in scores.published(game)}
    assert columns == set(scores.PUBLISHED) == {row[0] for row in TABLE}


def test_on_the_games_all_five_papers_share() -> None:
    names = ("recurrent_iqn", "iqn", "rainbow", "qr_dqn", "impala_deep")
    columns = {name: scores.published_column(name) for name in names}
    shared = set.intersection(*(set(column) for column in columns.values()))
    medians = [100 * scores.summarize({game: columns[name][game] for game in shared}).median for name in names]
    assert len(shared) == 52
    assert medians == pytest.approx([341.6, 237.5, 227.1, 209.4, 185.7], abs=0.06)


@pytest.mark.parametrize("env", ["ALE/Pong-v5", "PongNoFrameskip-v4", "PongDeterministic-v0", "Pong-v4", "Pong"])
def test_ids_of_the_same_game(env: str) -> None:
    assert scores.game_id(env) == "Pong"
    assert scores.human_normalised(env, 14.6) == pytest.approx(1.0)
    assert scores.human_normalised(env, -20.7) == pytest.approx(0.0)
    assert scores.published(env)["iqn"] == 21


@pytest.mark.parametrize("env", ["MinAtar/Breakout-v1", "CartPole-v1", "catch", "mine:Pong", "ALE/Adventure-v5", ""])
def test_other_environments_have_no_human_score(env: str) -> None:
    assert scores.human_normalised(env, 1.0) is None
    assert scores.reference(env) is None
    assert scores.published(env) == {}


def test_video_pinball_uses_zero() -> None:
    assert scores.reference("ALE/VideoPinball-v5") == (0.0, 17667.9)
    assert scores.human_normalised("ALE/VideoPinball-v5", 17667.9 / 2) == pytest.approx(0.5)


def test_bootstrap_agrees_with_scipy() -> None:
    sample = np.random.default_rng(3).exponential(size=40)
    low, high = scores.bootstrap_interval(list(sample))
    theirs = stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)
    narrow = scores.bootstrap_interval(list(sample), level=0.5)
    assert low < narrow[0] < sample.mean() < narrow[1] < high


def test_bootstrap_repeats_with_its_seed_only() -> None:
    sample = [1.0, 5.0, 2.5, 8.0, -3.0]
    assert scores.bootstrap_interval(sample, seed=1) == scores.bootstrap_interval(sample, seed=1)
    assert scores.bootstrap_interval(sample, seed=1) != scores.bootstrap_interval(sample, seed=2)
    assert scores.bootstrap_interval([7.0]) == (7.0, 7.0)


def test_bootstrap_of_many_scores_works_in_parts() -> None:
    low, high = scores.bootstrap_interval(np.arange(30_000) % 2, resamples=200)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 173.2, 0.5 + 1.96 * 0.5 / 173.2), abs=0.002)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 101])
def test_iqm_agrees_with_scipy(count: int) -> None:
    sample = np.random.default_rng(count).normal(size=count)
    assert scores.iqm(list(sample)) == pytest.approx(stats.trim_mean(sample, 0.25))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"scores\[1\] is nan"):
        scores.bootstrap_interval([1.0, float("nan")])
    with pytest.raises(UserError, match="scores is empty"):
        scores.iqm([])
    with pytest.raises(UserError, match="level 95"):
        scores.bootstrap_interval([1.0], level=95)
    with pytest.raises(UserError, match="'sarsa' has no published scores"):
        scores.published_column("sarsa")
    with pytest.raises(UserError, match="'Tetris' has no human reference"):
        scores.summarize({"Tetris": 1.0})
