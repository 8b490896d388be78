"""Every measurement runs at tiny size and gives a whole table; what the command refuses."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmarks import against_sb3

from retorq.bench import WHAT, run, table
from retorq.bench.acting import Alone
from retorq.bench.end_to_end import QUICK, trainer, turn
from retorq.bench.machine import interleaved, multiplication, spread
from retorq.bench.replay import Sizes, filled
from retorq.types import EnvSpec, Step, UserError


@pytest.mark.parametrize("what", sorted(WHAT))
def test_each_measurement_gives_a_table(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([what, "--quick", "--json", "--threads", "1", "--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["threads"] == 1
    rows = told["results"][what]
    with (tmp_path / f"{what}.csv").open() as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == len(rows) > 0
    for row, line in zip(rows, written, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()}.items() <= line.items()
        numbers = [value for value in row.values() if isinstance(value, int | float)]
        assert numbers
        assert all(np.isfinite(value) and value > 0 for value in numbers)
    assert {line["cpu"] for line in written} == {told["machine"]["cpu"]}


def test_words_are_refused() -> None:
    with pytest.raises(UserError, match="'lerner', which cannot be measured; perhaps you meant 'learner'"):
        run(["lerner"])
    with pytest.raises(UserError, match="device"):
        run(["learner", "--quick", "--device", "tpu"])


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/there', where nothing can be written \(Not a directory\); name another"):
        run(["learner", "--quick", "--out", str(tmp_path / "file" / "there")])
    assert "measuring" not in capsys.readouterr().err


def test_turns_begin_with_another_act_each_round_and_warm_up_does_not_count() -> None:
    order: list[str] = []
    acts = {name: (lambda name=name: order.append(name)) for name in "abc"}  # type: ignore[misc]
    seconds = interleaved(acts, repeats=2, warmup=1)
    assert "".join(order) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_spread_is_median_and_quartiles() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 100.0], "x") == {"x": 3.0, "x_q1": 2.0, "x_q3": 4.0}


def test_a_product_counts_two_operations_per_element_pair() -> None:
    import torch

    act, operations = multiplication(8, torch.float32, "cpu")
    assert operations == 2 * 8 * 8 * 8
    assert tuple(act().shape) == (8, 8)  # type: ignore[attr-defined]


class TwoEnd:
    """Column 0 ends a game at every second step and is reset by the next; column 1 never ends."""

    columns = 2
    spec = EnvSpec(id="two ends", observation={}, actions=3)

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: int | None = None) -> dict[str, np.ndarray]:
        return {}

    def step(self, action: np.ndarray) -> Step:
        self.count += 1
        ended = np.array([self.count % 2 == 0, False])
        return Step(observation={}, reward=np.zeros(2), terminated=ended, truncated=ended & False, ended=ended)


def test_a_reset_is_no_step() -> None:
    alone = Alone(TwoEnd())  # type: ignore[arg-type]
    alone.run(5)  # games of column 0 end at steps 2 and 4: steps 3 and 5 only reset it
    assert alone.steps == 5 + 3


def test_a_turn_of_training_holds_whole_cycles() -> None:
    training = trainer(QUICK.cases[0], QUICK, "cpu")
    try:
        turn(training, 1)
        marks = [(training.steps, training.learner.updates)]
        for _ in range(3):
            steps, updates = turn(training, QUICK.turn)
            marks.append((marks[-1][0] + steps, marks[-1][1] + updates))
            assert steps >= QUICK.turn
        assert marks[-1] == (training.steps, training.learner.updates)
        per_update = training.agent.rows_per_update / training.agent.samples_per_step
        for (a, u), (b, v) in pairwise(marks):
            assert abs((b - a) - (v - u) * per_update) <= training.agent.columns
    finally:
        training.pool.close()


def test_the_replay_that_is_timed_is_full() -> None:
    replay = filled(1_600, Sizes(pixels=12))
    assert replay.size == 1_600
    assert replay.sample(3).trajectory.rows == 22


def test_text_shows_what_is_missing() -> None:
    shown = table.text("t", [{"a": 1, "b": None}, {"a": 12_345, "c": 0.5}], {"cpu": "x"}).splitlines()
    assert shown[0] == "t: cpu x"
    assert [line.split() for line in shown[1:]] == [["a", "b", "c"], ["1", "-", "-"], ["12,345", "-", "0.5"]]


def side(steps: int = 100, updates: int = 25, seconds: float = 1.0, parameters: int = 7) -> dict[str, object]:
    measured = {"steps": steps, "updates": updates, "seconds": seconds, "parameters": parameters}
    return measured | {"threads": 2, "torch": "2", "version": "1"}


def test_the_comparison_takes_medians_and_refuses_unlike_work() -> None:
    ours = [side(seconds=s) for s in (1.0, 2.0, 0.5)]
    row = against_sb3.summary(1, {"retorq": ours, "retorq_bf16": [side(seconds=0.5)], "sb3": [side(seconds=4.0)]})
    assert (row["retorq_over_sb3"], row["retorq_bf16_over_sb3"], row["sb3_steps_per_second"]) == (4.0, 8.0, 25.0)
    for unlike, reason in ((side(parameters=8), "parameters differ"), (side(updates=12), "replay ratio is 3.84")):
        with pytest.raises(ValueError, match=reason):
            against_sb3.summary(1, {"retorq": ours, "retorq_bf16": ours, "sb3": [unlike]})
