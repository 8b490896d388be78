"""One contract for all pools: every row once and in order, weights that grow newer, bounded queues, nothing left."""

import contextlib
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tests.acting import elsewhere
from tests.acting.nodes import cluster_of

from retorq.acting.explore import Fixed
from retorq.acting.head_watch import HeadWatch
from retorq.acting.pools import LocalPool
from retorq.acting.processes import SLOTS, ProcessPool
from retorq.acting.ray_pool import AHEAD, RayPool
from retorq.acting.remote import Part, Recipe
from retorq.acting.shared import SharedWeights, size, unnamed_file
from retorq.types import Diverged, UserError

COLUMNS, ACTORS, ROWS = 4, 2, 5
ENTRY = "tests.acting.elsewhere:counting"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def recipes(actors=ACTORS, **arguments):
    share = COLUMNS // actors
    return [
        Recipe(
            entry=ENTRY,
            arguments={"columns": share, "first": actor * share, **arguments},
            first=actor * share,
            columns=share,
            rows=ROWS,
        )
        for actor in range(actors)
    ]


def local(network, **arguments):
    return LocalPool(elsewhere.counting(columns=COLUMNS, first=0, seed=0, **arguments))


def processes(network, time_limit=60.0, shares=None, **arguments):
    return ProcessPool(shares or recipes(**arguments), network, bytes_per_row=1_600, seed=3, time_limit=time_limit)


def on_ray(network, time_limit=60.0, watch=None, **arguments):
    return RayPool(recipes(**arguments), network, bytes_per_row=1_600, seed=3, time_limit=time_limit, watch=watch)


POOLS = {"local": local, "process": processes, "ray": on_ray}


@pytest.fixture(scope="module")
def watch():
    """One Ray with two nodes for all tests, watched over: it takes seconds to start."""
    with cluster_of(1, 1) as (nodes, joined):
        watch = HeadWatch(joined)
        yield watch
        watch.close()
    assert not nodes.folder.path.exists()


@pytest.fixture(params=POOLS)
def make(request):
    """Makes the pool; all are closed in the end, and must leave no process and no open file behind."""
    made = []
    given = {"watch": request.getfixturevalue("watch")} if request.param == "ray" else {}
    before = shared_files()

    def build(**arguments):
        network = elsewhere.Weighted()
        arguments |= given
        made.append(POOLS[request.param](network, **arguments))
        return made[-1], network

    build.name = request.param
    yield build
    actors = [child for child in psutil.Process().children(recursive=True) if plays(child)]
    for pool in made:
        pool.close()
        pool.close()
    assert psutil.wait_procs(actors, 10)[1] == []
    assert shared_files() <= before


def plays(process):
    """Whether a process is an actor (Ray has others, which stay)."""
    with contextlib.suppress(psutil.Error):
        line = " ".join(process.cmdline())
        return "retorq.acting.worker" in line or "Hosted" in line
    return False


def shared_files():
    """How many files in shared memory this process holds open."""
    links = []
    for file in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        with contextlib.suppress(OSError):
            links.append(os.readlink(file))
    return sum("memfd:retorq" in link for link in links)


def gathered(pool, rows, columns=COLUMNS, limit=120.0, until=None):
    """Every column's rows as (game, step, first, last, action, reward) until each has ``rows``, and what was told."""
    streams = [[] for _ in range(columns)]
    end = time.monotonic() + limit
    told = []
    while min(map(len, streams)) < rows or (until is not None and not until()):
        assert time.monotonic() < end, [len(stream) for stream in streams]
        for where, chunk in pool.receive():
            for t in range(chunk.rows):
                for at, column in enumerate(where):
                    seen = chunk.inputs.observation["obs"][t, at]
                    flags = chunk.inputs.first[t, at], chunk.last[t, at], chunk.truncated[t, at]
                    streams[column].append(
                        (
                            *(int(x) for x in seen[:2]),
                            *(bool(f) for f in flags),
                            int(chunk.action[t, at]),
                            float(chunk.reward[t, at]),
                            float(chunk.extras["state.count"][t, at, 0]),
                        )
                    )
        told += pool.faults()
    return streams, told


def check(stream, cuts=0):
    """Rows follow each other: within a game step by step, after its last row the next game; ``cuts`` may break it."""
    assert stream[0][:3] == (0, 0, True)
    broken = 0
    for (game, step, _, last, _, action, reward, count), (later, now, first, *_) in pairwise(stream):
        assert count == step
        assert (action, reward) == (0, 0.0) if last else reward == 10.0 * (action + 2) + step + 1
        if not last:
            assert (later, now, first) == (game, step + 1, False)
        elif (later, now, first) != (game + 1, 0, True):
            assert (later, now, first) == (0, 0, True)
            broken += 1
    assert broken == cuts


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_every_row_arrives_once_and_in_order(make, mode):
    pool, network = make(mode=mode)
    pool.publish(network, 0)
    streams, told = gathered(pool, 200)
    assert told == []
    for stream in streams:
        check(stream)
    acted = sum(not row[3] for stream in streams for row in stream)
    assert pool.steps == acted


def test_finished_games_are_told_with_the_columns_of_the_run(make):
    from sample_envs import LENGTHS

    pool, network = make()
    pool.publish(network, 0)
    streams, _ = gathered(pool, 100)
    episodes = pool.drain()
    assert pool.drain() == []
    for column, stream in enumerate(streams):
        lengths = [e.length for e in episodes if e.column == column]
        wanted = [LENGTHS[(game + column) % len(LENGTHS)] for game in range(len(lengths))]
        assert lengths == wanted
        assert len(lengths) >= sum(row[3] for row in stream)
        scores = [e.score for e in episodes if e.column == column]
        first = [row[6] for row in stream if row[0] == 0]
        assert scores[0] == sum(first)
    assert all(0 <= e.step <= pool.steps for e in episodes)


def test_new_weights_reach_every_actor_and_old_rows_are_bounded(make):
    """Nobody acts on with old weights: at most the messages that already lie in the bounded queues are older."""
    pool, network = make()
    pool.publish(network, 0)
    gathered(pool, 20)
    if make.name != "local":
        time.sleep(0.5)  # actors fill their queues and wait
    network.weight.data.fill_(7.0)
    pool.publish(network, 7)
    if make.name == "local":
        assert pool.actor.network.weight[0] == 7
        return
    seen, end = [0] * ACTORS, time.monotonic() + 120.0
    while pool.versions != [7] * ACTORS:
        assert time.monotonic() < end
        before = list(pool.versions)
        chunks = pool.receive()
        columns = {int(c) // (COLUMNS // ACTORS) for where, _ in chunks for c in where}
        for actor in columns:
            seen[actor] += pool.versions[actor] == 0
        assert all(new >= old for new, old in zip(pool.versions, before, strict=True))
    assert max(seen) <= {"process": SLOTS + 1, "ray": AHEAD}[make.name]


def test_the_state_of_a_pool_closes_the_streams_after_a_resume(make):
    pool, network = make()
    pool.publish(network, 0)
    streams, _ = gathered(pool, 30)
    tensors, numbers = pool.state_dict()
    other, network = make()
    other.publish(network, 0)
    assert other.load_state_dict(tensors, numbers) is False
    assert other.steps >= pool.steps
    other.publish(network, 9)  # what a resume puts back comes after the first weights, and before anybody acts
    for where, rows in other.cut():
        assert rows.last.all()
        for at, column in enumerate(where):
            seen = rows.inputs.observation["obs"][0, at]
            row = (int(seen[0]), int(seen[1]), bool(rows.inputs.first[0, at]), True, True, 0, 0.0, float(seen[1]))
            streams[column].append(row)
    again, _ = gathered(other, 1)
    assert make.name == "local" or set(other.versions) <= {9, -1}
    later, _ = gathered(other, 30)
    again = [one + more for one, more in zip(again, later, strict=True)]
    for stream, later in zip(streams, again, strict=True):
        check(stream + later, cuts=0 if stream[-1][0] == -1 else 1)


def test_rows_stay_as_they_are_until_the_next_ones_are_asked_for(make):
    """However much their actor has written meanwhile."""
    pool, network = make()
    pool.publish(network, 0)
    for _ in range(3):
        while not (chunks := pool.receive()):
            pass
        before = [rows.inputs.observation["obs"].tobytes() + rows.reward.tobytes() for _, rows in chunks]
        if make.name != "local":
            time.sleep(0.5)
        after = [rows.inputs.observation["obs"].tobytes() + rows.reward.tobytes() for _, rows in chunks]
        assert before == after


def test_a_checkpoint_holds_the_ends_of_games_that_were_not_handed_out_yet():
    """An actor is lost, and the run stops before its games' last rows are asked for."""
    pool, network = processes(elsewhere.Weighted()), elsewhere.Weighted()
    try:
        pool.publish(network, 0)
        gathered(pool, 10)
        pool._replace(1, "was taken away")
        tensors, numbers = pool.state_dict()
        other = processes(elsewhere.Weighted())
        other.load_state_dict(tensors, numbers)
        ended = sorted(int(column) for columns, rows in other.cut() for column in columns if rows.last.all())
        other.close()
        assert ended == list(range(COLUMNS))
        assert numbers["replaced"] == other.replaced == 1
    finally:
        pool.close()


def test_weights_are_never_read_half_written():
    """While they are written all the time, and slowly."""
    written = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(50_000), requires_grad=False) for _ in range(20))
    file = unnamed_file(size(written))
    shared, reader = SharedWeights(written, file), SharedWeights(written, file)
    copy = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(50_000), requires_grad=False) for _ in range(20))
    stop = threading.Event()

    def write():
        for number in range(1, 10_000):
            for parameter in written:
                parameter.data.fill_(number)
            shared.write(written, number)
            if stop.wait(0.002):
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        for _ in range(100):
            version = reader.read(copy)
            assert {float(parameter[0]) for parameter in copy} == {float(version)}
            assert {float(parameter[-1]) for parameter in copy} == {float(version)}
            seen.add(version)
    finally:
        stop.set()
        thread.join()
        reader.close()
        shared.close()
        os.close(file)
    assert len(seen) > 10


def test_weights_of_a_writer_that_broke_off_are_not_read(monkeypatch):
    """Not before it has written all of them."""
    monkeypatch.setattr("retorq.acting.shared.PATIENCE", 0.2)

    def weights(*sizes):
        return torch.nn.ParameterList(torch.nn.Parameter(torch.ones(size), requires_grad=False) for size in sizes)

    file = unnamed_file(size(weights(3, 3)))
    shared, reader, copy = SharedWeights(weights(3, 3), file), SharedWeights(weights(3, 3), file), weights(3, 3)
    shared.write(weights(3, 3), 1)
    assert reader.read(copy) == 1
    with pytest.raises(RuntimeError):
        shared.write(weights(3, 4), 2)
    with pytest.raises(TimeoutError, match="stayed half-written"):
        reader.read(copy)
    shared.write(weights(3, 3), 3)
    assert reader.read(copy) == 3
    reader.close()
    shared.close()
    os.close(file)


@pytest.fixture(params=["process", "ray"])
def failing(request):
    """Makes a pool whose actors may fail."""
    made = []
    given = {"watch": request.getfixturevalue("watch")} if request.param == "ray" else {}

    def build(**arguments):
        network = elsewhere.Weighted()
        made.append(POOLS[request.param](network, **given, **arguments))
        made[-1].publish(network, 0)
        return made[-1]

    build.name = request.param
    yield build
    for pool in made:
        pool.close()


DEATH = {
    "process": "was killed by SIGKILL (out of memory or a crash in native code)",
    "ray": "died (The actor died unexpectedly before finishing this task)",
}


@pytest.mark.parametrize("what", ["die", "raise", pytest.param("hang", marks=pytest.mark.slow)])
def test_an_actor_that_fails_is_started_anew_and_its_games_are_cut(failing, tmp_path, what):
    limit = 4.0 if what == "hang" else 60.0
    pool = failing(what=what, at=33, marker=str(tmp_path / "done"), time_limit=limit)
    streams, told = gathered(pool, 150, until=lambda: any(pool.restarts))
    assert sorted(pool.restarts) == [0, 1]
    failed = pool.restarts.index(1)
    reasons = {
        "die": DEATH[failing.name],
        "raise": "raised RuntimeError: the bridge fell down",
        "hang": "sent nothing for 4 s",
    }
    assert told == [f"actor {failed} {reasons[what]}; its games were cut and it was started anew"]
    share = COLUMNS // ACTORS
    for column, stream in enumerate(streams):
        begun = sum(row[:3] == (0, 0, True) for row in stream)
        check(stream, cuts=begun - 1)
        assert begun == 1 + (column // share == failed)


def test_an_actor_that_never_comes_up_ends_the_run(failing):
    pool = failing(mode="No such mode")
    pool.most_restarts = 1
    with pytest.raises(Diverged, match=r"actor \d raised ValueError: .*had been started anew 1 times before"):
        gathered(pool, 10, limit=120.0)


def test_a_mistake_of_the_user_is_told_at_once():
    network = elsewhere.Weighted()
    recipe = Recipe(entry="tests.acting.elsewhere:unfit", arguments={"columns": 1}, columns=1)
    pool = ProcessPool([recipe], network, bytes_per_row=100)
    pool.publish(network, 0)
    try:
        with pytest.raises(UserError, match="game is 'chess'; give another"):
            gathered(pool, 1, columns=1)
    finally:
        pool.close()


def test_a_part_of_an_exploration_goes_by_the_clock_of_the_run():
    class Whole:
        sentence = "told"

        def epsilon(self, step, total):
            return np.arange(6) + step / total

    part = Part(whole=Whole(), first=2, columns=3, clock=lambda: 50)
    assert part.epsilon(7, 100).tolist() == [2.5, 3.5, 4.5]
    assert part.sentence == "told"
    assert Fixed(columns=1, value=0.0).epsilon(0, 1).tolist() == [0.0]
