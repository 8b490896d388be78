"""Bundles around parameter servers: taking turns they are deterministic, and no gradient goes uncounted."""

from itertools import pairwise

import pytest
import torch
from tests.running.bundled import made, task, trained, weights
from torch.nn.utils import parameters_to_vector

from retorq.distributed.gradients import Sending, Servers
from retorq.running.bundles import require_bundles
from retorq.running.train import RunOptions
from retorq.types import Diverged, UserError


def test_bundles_share_environments_replay_and_warm_up():
    trainer = made(bundles=2, warmup=41)
    for number, bundle in enumerate(trainer._bundles):
        there = bundle.peer.made.trainer
        assert (there.agent.columns, there.agent.capacity, there.agent.warmup) == (2, 400, 21)
        assert there.replay.storage.columns == 2
        assert there.pool.actor.env.columns == 2
        assert there.agent.explore.first == 2 * number
    trainer.step()
    assert trainer.steps == 4
    trainer.close()


def test_bundles_are_waited_for_until_each_has_answered():
    trainer = made()
    assert trainer.waiting == "bundles: 0 of 2 up"
    trained(trainer, 8)
    assert trainer.waiting == ""


def test_sharded_servers_make_the_same_weights_as_one_step_for_step():
    one, other = made(servers=1), made(servers=3)
    for _ in range(30):
        one.step()
        other.step()
        assert torch.equal(weights(one), weights(other))
    assert one.updates == other.updates > 20
    assert not torch.equal(weights(one), weights(made(servers=1)))
    assert not torch.equal(weights(one), weights(trained(made(servers=1, seed=1), one.steps)))


def test_bundles_that_take_turns_are_deterministic_and_never_late():
    one, other = trained(made(), 200), trained(made(), 200)
    assert torch.equal(weights(one), weights(other))
    counts = one.counts()
    assert counts == other.counts()
    assert counts["dropped"] == counts["staleness"] == 0
    assert counts["updates"] == counts["sent"] * len(one.servers) > 100
    # The replay ratio holds: rows trained, dropped or not, per step beyond the warm-up.
    assert (counts["sent"] + counts["outlying"]) * 4 == pytest.approx(2.0 * (one.steps - 40), abs=24)


class Slow(Servers):
    """A learner on a slow line: each gradient is sent when so many later ones have been computed."""

    late = 3

    def __init__(self, peers):
        super().__init__(peers)
        self.waiting = []

    def send(self, gradient, rate):
        self.waiting.append((gradient, list(self.versions), rate))
        if len(self.waiting) > self.late:
            gradient, self.versions, rate = self.waiting.pop(0)
            super().send(gradient, rate)


def logged(server):
    """Every gradient that comes to a server: how late it is, and whether it was taken."""
    apply, log = server.apply, []

    def logging(gradient, version, rate):
        late = server.updates - version
        log.append((late, apply(gradient, version, rate)))
        return log[-1][1]

    server.apply = logging
    return log


@pytest.mark.parametrize("bound", [5, 20])
def test_gradients_of_a_slow_learner_are_dropped_and_all_are_counted(bound):
    """Of two learners that take turns one is three of its batches late, which is more than three updates."""
    trainer = made(max_staleness=bound, servers=2, outlier_warmup=10_000)
    slow = trainer._bundles[1].peer.made.learner
    slow.servers = Slow(trainer.servers)
    logs = [logged(server.made) for server in trainer.servers]
    trained(trainer, 400)
    counts, waiting = trainer.counts(), len(slow.servers.waiting)
    sent = [bundle.sent for bundle in trainer._bundles]
    assert waiting == 3
    assert sum(late > 3 for late, _ in logs[0]) > 30
    for server, log in zip(trainer.servers, logs, strict=True):
        told = server.made.told()
        assert len(log) == told["updates"] + told["dropped"] == sum(sent) - waiting
        assert [taken for _, taken in log] == [late <= bound for late, _ in log]
        assert told["updates"] == sum(taken for _, taken in log)
        assert (told["staleness"], told["oldest"]) == (sum(late for late, _ in log), max(late for late, _ in log))
    assert (counts["dropped"] > 30) is (bound == 5)
    assert (counts["dropped"] == 0) is (bound == 20)
    assert trainer.updates == counts["updates"] / 2
    told = trainer.told()
    assert told["gradients_stale"] == counts["dropped"] / 2
    assert told["staleness_highest"] == counts["oldest"]
    assert told["staleness"] == pytest.approx(counts["staleness"] / (counts["updates"] + counts["dropped"]))


def test_outlying_losses_are_dropped_and_counted(monkeypatch):
    trainer = made(outlier_warmup=10, outlier_deviations=2.0)
    gradient = Sending.update
    worst = []

    def update(self, batch, progress=0.0):
        before = self.outlying
        told = gradient(self, batch, progress)
        if self.outlying > before:
            worst.append(float(told[2]["loss"]))
        return told

    monkeypatch.setattr(Sending, "update", update)
    trained(trainer, 600)
    counts = trainer.counts()
    assert counts["outlying"] == len(worst) > 0
    computed = sum(bundle.peer.made.trainer.updates for bundle in trainer._bundles)
    assert counts["sent"] + counts["outlying"] == computed
    assert trainer.told()["gradients_outlying"] == len(worst)


def test_a_gradient_that_is_not_finite_is_not_sent():
    trainer = trained(made(), 60)
    there = trainer._bundles[0].peer.made
    sent, computed = there.learner.sent, there.trainer.updates
    there.trainer.replay.storage.arrays["reward"].fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite in 5 updates in a row"):
        trained(trainer, 400)
    finite = there.trainer.updates - computed - int(there.learner.skipped_in_a_row)
    assert there.learner.sent - sent <= finite
    assert weights(trainer).isfinite().all()


def test_metrics_are_means_over_all_updates_of_all_bundles(monkeypatch):
    trainer = trained(made(replay_ratio=3.0), 60)  # one or two updates a turn
    trainer.means()
    seen = []
    gradient = Sending.update

    def update(self, batch, progress=0.0):
        told = gradient(self, batch, progress)
        seen.append(float(told[2]["loss"]))
        return told

    monkeypatch.setattr(Sending, "update", update)
    trained(trainer, 120)
    means = trainer.means()
    assert means["loss"] == pytest.approx(sum(seen) / len(seen))
    assert means["skipped"] == 0
    assert trainer.means() == {}


def test_every_bundle_acts_with_the_newest_weights():
    """Those of the servers when its step begins, whoever made the last update."""
    trainer, seen = trained(made(), 100), []
    for bundle in trainer._bundles:
        there = bundle.peer.made

        def stepping(there=there, step=there.trainer.step):
            acting = parameters_to_vector(there.trainer.pool.actor.network.parameters())
            seen.append(torch.equal(acting, weights(trainer)))
            step()

        there.trainer.step = stepping
    trained(trainer, 160)
    assert len(seen) > 20
    assert all(seen)


@pytest.mark.parametrize("anneal", [True, False])
def test_gradients_come_with_the_learning_rate_of_their_time(anneal):
    """Which falls to 0 over the run where that is asked for."""
    trainer, rates = made(total=400, anneal_learning_rate=anneal, learning_rate=0.01), []
    server = trainer.servers[0].made
    apply = server.apply

    def noting(gradient, version, rate):
        rates.append(rate)
        return apply(gradient, version, rate)

    server.apply = noting
    trained(trainer, 400)
    assert all(later <= rate for rate, later in pairwise(rates))
    assert 0.008 < rates[0] <= 0.01
    assert (rates[-1] < 0.0005) is anneal
    assert (set(rates) == {0.01}) is not anneal


def test_games_are_told_with_the_columns_of_the_run():
    trainer = trained(made(), 200)
    episodes = trainer.drain()
    assert {episode.column for episode in episodes} == {0, 1, 2, 3}
    assert trainer.drain() == []
    assert all(0 < episode.step <= 204 for episode in episodes)


@pytest.mark.parametrize(
    ("settings", "run", "sentence"),
    [
        ({}, {"pool": "process", "actors": 2}, "pool is process, .* give --pool ray or --pool local"),
        ({}, {"pool": "ray", "actors": 3}, "actors is 3, but bundles is 2, .* give --actors 2"),
        ({}, {"pool": "ray", "actors": 2, "replay_shards": 1}, "replay_shards is 1, .* leave it away"),
        ({"center_images": True}, {}, "center_images is true, .* set it to false"),
    ],
)
def test_runs_that_cannot_be_are_refused(settings, run, sentence):
    with pytest.raises(UserError, match=sentence):
        require_bundles(task(**settings), RunOptions(steps=100, **run))
    require_bundles(task(), RunOptions(steps=100, pool="ray", actors=2))


def test_environments_that_cannot_be_shared_are_refused():
    with pytest.raises(UserError, match="num_envs is 5, which 2 bundles cannot share equally"):
        task(num_envs=5)
