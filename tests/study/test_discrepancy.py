"""Delta-Q of a finished run, against the definition, sequence by sequence."""

import numpy as np
import pytest
import torch
from tests.study.small import SMALL

from retorq import api
from retorq.envs.options import EnvOptions
from retorq.study import discrepancy
from retorq.types import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the small study's first task with stored states."""
    path = tmp_path_factory.mktemp("runs") / "run"
    api.train(
        "memory",
        "r2d2",
        steps=300,
        run=path,
        preset="toy",
        options=EnvOptions(kwargs={"length": 9}),
        threads=1,
        tensorboard=False,
        say=lambda line: None,
        **(SMALL | {"start_state": "stored", "learning_rate": 0.05}),
    )
    return path


def by(rows, start, burn_in):
    return next(row for row in rows if (row["start"], row["burn_in"]) == (start, burn_in))


def test_a_stored_state_without_burn_in_begins_where_it_was_stored(run):
    rows = discrepancy.measure(run, (0, 2, 40))
    assert [(row["start"], row["burn_in"]) for row in rows] == [(s, b) for b in (0, 2, 40) for s in ("zero", "stored")]
    assert by(rows, "stored", 0)["initial"] == 0.0
    assert by(rows, "zero", 0)["initial"] > 0.01
    assert by(rows, "stored", 0)["final"] > 0.0  # the weights have changed since
    for start in ("zero", "stored"):  # games have 11 rows
        assert (by(rows, start, 40)["initial"], by(rows, start, 40)["initial_sequences"]) == (None, 0)
        assert by(rows, start, 2)["initial_sequences"] >= by(rows, start, 2)["final_sequences"] > 0
    assert rows == discrepancy.measure(run, (0, 2, 40))


def test_every_sequence_lies_in_one_game_and_is_measured_as_defined(run, monkeypatch):
    """A slow twin in the notation of R2D2: states rolled row by row, one sequence at a time."""
    seen = []

    def keep(network, trajectory, start_state, measured):
        found = original(network, trajectory, start_state, measured)
        seen.append((network, trajectory, start_state, *measured[0], found[0]))
        return found

    original = discrepancy.delta_q
    monkeypatch.setattr(discrepancy, "delta_q", keep)
    rows = discrepancy.measure(run, (2,))
    assert [int(offset[0]) for *_, offset, _ in seen] == [2, 2, 6, 6]  # initial, final: zero and stored each
    assert by(rows, "zero", 2)["initial"] == pytest.approx(float(seen[0][-1].mean()))
    assert by(rows, "stored", 2)["final"] == pytest.approx(float(seen[3][-1].mean()))
    for network, trajectory, start_state, stored, offset, found in seen:
        at = int(offset[0])
        assert not trajectory.last[: at + 1].any()
        for b in range(min(5, len(found))):
            last = trajectory.last[:, b].tolist()
            end = last.index(True) if True in last else len(last) - 1  # rows of the same game
            state = {name: value[b : b + 1] for name, value in start_state.items()}
            values = []
            with torch.no_grad():
                for t in range(end + 1):
                    row = trajectory.inputs.map(lambda a, t=t, b=b: a[t : t + 1, b : b + 1])
                    features, state = network.unroll(row, state)
                    values.append(network.head(features).mean()[0, 0])
                row = trajectory.inputs.map(lambda a, b=b, at=at: a[at : at + 1, b : b + 1])
                features, _ = network.unroll(row, {name: value[b : b + 1] for name, value in stored.items()})
                theirs = network.head(features).mean()[0, 0]
            expected = (values[at] - theirs).norm() / torch.stack(values).max().abs()
            assert float(found[b]) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


def test_starts_are_on_the_grid_and_rows_are_held(run):
    class Storage:
        oldest = np.array([0, 7])
        written = np.array([20, 27])

    column, start = discrepancy._candidates(Storage(), 6, 4, 1, np.random.default_rng(0))
    pairs = sorted(zip(column.tolist(), start.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 4), (0, 8), (0, 12), (1, 8), (1, 12), (1, 16), (1, 20)]


def test_a_run_without_memory_has_none_to_measure(tmp_path, small, capsys):
    api.train("chain", "dqn", steps=60, run=tmp_path / "run", preset="toy", threads=1, tensorboard=False, warmup=20)
    with pytest.raises(UserError, match="is of dqn without a memory"):
        discrepancy.measure(tmp_path / "run", (0,))
    with pytest.raises(UserError, match="does not exist"):
        discrepancy.measure(tmp_path / "nowhere", (0,))
