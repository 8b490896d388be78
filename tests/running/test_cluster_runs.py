"""Whole runs on a cluster of several nodes: what is lost is gone on with, by the same command, from the run folder."""

import importlib.util
import json
import signal
import time
from itertools import pairwise

import psutil
import pytest
from tests.acting.nodes import Nodes
from tests.small import program

pytestmark = [pytest.mark.slow]
LIMIT = 240.0


@pytest.fixture
def cluster_of():
    if importlib.util.find_spec("ray") is None:  # not to be imported before its settings are made
        pytest.skip("Ray (extra dist) is not installed")
    made = []

    def build(*processors):
        made.append(Nodes(*processors))
        return made[-1]

    yield build
    for nodes in made:
        nodes.close()


def learner(run, nodes, steps):
    """The same command each time, but for the cluster."""
    words = [
        "train", "catch", "--agent", "apex_dqn", "--preset", "toy", "--steps", steps, "--run", run, "--threads", 1,
        "--num-envs", 4, "--pool", "ray", "--actors", 2, "--actor-rows", 7, "--log-every", 200,
        "--checkpoint-seconds", 3,
        "--cluster", nodes.cluster.address, "--cluster-token", nodes.token,
    ]  # fmt: skip
    return program(*words)


def saved(run):
    """The newest checkpoint's step; 0: there is none."""
    folder = run / "checkpoints"
    return max(
        [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else [], default=0
    )


def until(condition, program=None):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        assert program is None or program.poll() is None, program.stdout.read()
        time.sleep(0.1)


def actors():
    """Actors of Ray among the processes that this one has started."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "Hosted" in process.name() or "Hosted" in " ".join(line_of(process))]


def line_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_killed_learner_a_lost_head_and_a_new_cluster(tmp_path, cluster_of):
    """The same command goes on after each; no step is counted twice, and no actor is left behind."""
    run, nodes = tmp_path / "run", cluster_of(1, 1)
    killed = learner(run, nodes, 12_000)
    until(lambda: saved(run) > 0, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    first = saved(run)
    until(lambda: not actors())

    stopped = learner(run, nodes, 12_000)
    until(lambda: saved(run) > first, stopped)
    nodes.lose(nodes.cluster.head_node)
    out, _ = stopped.communicate(timeout=LIMIT)
    assert (stopped.returncode, f"going on at step {first:,}" in out, "Traceback" in out) == (75, True, False), out
    assert out.splitlines()[-1].endswith("what was learned was saved. Start the cluster and go on with the run.")
    second = saved(run)
    assert second > first

    again = cluster_of(2)
    done = learner(run, again, 12_000)
    out, _ = done.communicate(timeout=LIMIT)
    assert (done.returncode, f"going on at step {second:,}" in out) == (0, True), out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(one["step"] < other["step"] for one, other in pairwise(rows))
    assert rows[-1]["step"] >= 12_000
    games = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert {game["column"] for game in games} == {0, 1, 2, 3}
    assert sum(game["cut"] for game in games) >= 4  # those that were open when the learner and the head were lost
