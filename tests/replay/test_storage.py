"""Storage: what a row costs, and that pieces of it survive a checkpoint."""

import numpy as np
import pytest
import torch
from tests.replay.model import SPEC, STATE, Model

from retorq.algorithms import recurrent_iqn
from retorq.replay.storage import PIECE, Layout, Storage
from retorq.types import EnvSpec, Leaf

ATARI = EnvSpec(
    id="ALE/Pong-v5",
    observation={"obs": Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")},
    actions=6,
    max_steps=27_000,
    frames_per_step=4,
)


def filled(columns=3, rows=10, period=2, counts=((0, 1, 2), 7), seed=0):
    storage, model = Storage(Layout(spec=SPEC, state=STATE, period=period), columns, rows), Model(columns, seed)
    who, count = np.array(counts[0]), counts[1]
    append(storage, model, who, count)
    return storage, model


def append(storage, model, who, count):
    rows = model.make(who, count)
    storage.append(who, rows, {name: rows.extras[f"state.{name}"] for name in STATE})


@pytest.mark.parametrize("counts", [((0, 1, 2), 7), ((0, 1, 2), 25), ((0, 2), 13)])
def test_ends_noted_beside_a_gpu_are_those_of_the_flags(counts):
    storage, model = Storage(Layout(spec=SPEC, state=STATE, period=2), 3, 10), Model(3, 0)
    storage._ends = np.zeros((storage.rows, 3), bool)  # as where the arrays are on a GPU
    append(storage, model, np.array(counts[0]), counts[1])
    other = Storage(storage.layout, 3, 10)
    other.written[:] = storage.written
    restored = Storage(storage.layout, 3, 10)
    restored._ends = np.zeros((storage.rows, 3), bool)
    for name, (_, tensors) in storage.chunks(rows=4).items():
        other.restore(name, tensors())
        restored.restore(name, tensors())
    held = [(c, row) for c in range(3) for row in range(storage.oldest[c], storage.written[c])]
    column, row = np.array(held).T
    flags = other.last(column, row)
    assert flags.any()
    np.testing.assert_array_equal(storage.last(column, row), flags)
    np.testing.assert_array_equal(restored.last(column, row), flags)


def test_pieces_are_views_until_they_are_written():
    """A checkpoint asks for all pieces before it writes the first: copies would take the whole replay once more."""
    storage, _ = filled()
    for _, tensors in storage.chunks(rows=4).values():
        for name, value in tensors().items():
            whole = storage.states[name[6:]] if name.startswith("state.") else storage.arrays[name]
            assert value.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_an_atari_step_costs_at_most_7300_bytes():
    agent = recurrent_iqn.make(recurrent_iqn.atari(), ATARI)
    assert 84 * 84 < agent.layout.bytes_per_row() <= 7300
    # frame 7056, actions 1 + 1, rewards 4 + 4, elapsed 4, flags 1, and two states of 512 halves every 10 rows
    assert agent.layout.bytes_per_row() == 7056 + 15 + 2 * 512 * 2 / 10


def test_the_arrays_take_what_the_layout_says():
    storage, _ = filled(rows=9, period=2)
    assert storage.rows == 10  # the grid of states closes over the ring
    assert storage.nbytes == 3 * 10 * storage.layout.bytes_per_row()


def test_many_actions_need_a_wider_type():
    for actions, dtype in ((256, torch.uint8), (257, torch.int32)):
        spec = EnvSpec(id="x", observation=ATARI.observation, actions=actions)
        assert Layout(spec=spec, state={}).fields()["action"] == ((), dtype)


@pytest.mark.parametrize("steps", [[((0, 1, 2), 7)], [((0, 1, 2), 25)], [((0, 1, 2), 4), ((2,), 9), ((1, 2), 3)]])
def test_pieces_come_back(steps):
    storage, model = filled(counts=steps[0])
    for who, count in steps[1:]:
        append(storage, model, np.array(who), count)
    other = Storage(storage.layout, 3, 10)
    other.written[:] = storage.written
    pieces = storage.chunks(rows=4)
    assert len(pieces) == -(-min(10, storage.written.max()) // 4)
    for name, (_, tensors) in pieces.items():
        other.restore(name, tensors())
    for name, array in (storage.arrays | storage.states).items():
        assert torch.equal((other.arrays | other.states)[name], array), name


def test_a_piece_holds_only_what_was_written():
    """Otherwise two equal runs could leave different files, and memory of this process would lie on the disk."""
    storage, _ = filled(counts=((0, 1, 2), 5))
    (piece,) = (tensors() for _, tensors in storage.chunks().values())
    assert piece["action"].shape == (5, 3)
    assert piece["state.h"].shape == (3, 3, 3)  # rows 0, 2, 4
    fresh = Storage(storage.layout, 3, 10)
    assert not any(array.any() for array in (fresh.arrays | fresh.states).values())


@pytest.mark.parametrize("columns", [1, 32, 180, 5_000])
@pytest.mark.parametrize("period", [1, 10, 40])
def test_a_piece_of_a_checkpoint_is_small_however_many_columns_there_are(columns, period):
    """180 columns are half of Ape-X's 360: a thousand rows of each would be 1.3 GB."""
    layout = Layout(spec=ATARI, state={"h": (512,)} if period > 1 else {}, period=period)
    rows, row = layout.piece_rows(columns), columns * layout.bytes_per_row()
    assert rows % period == 0
    assert rows == period or (rows <= 1_000 and rows * row <= PIECE)
    assert rows + period > 1_000 or (rows + period) * row > PIECE


def test_a_checkpoint_is_made_of_such_pieces(monkeypatch):
    monkeypatch.setattr("retorq.replay.storage.PIECE", 700)
    storage, _ = filled(rows=40, counts=((0, 1, 2), 37))
    pieces = [tensors() for _, tensors in storage.chunks().values()]
    sizes = [sum(value.nbytes for value in piece.values()) for piece in pieces]
    assert len(pieces) > 3
    assert max(sizes) <= 700 < max(sizes) + 2 * 3 * storage.layout.bytes_per_row()


def test_fingerprints_change_with_the_rows():
    storage, model = filled(rows=12, counts=((0, 1, 2), 9))
    before = {name: mark for name, (mark, _) in storage.chunks(rows=4).items()}
    contents = {name: {k: v.clone() for k, v in tensors().items()} for name, (_, tensors) in storage.chunks(4).items()}
    for who, count in (((1,), 1), ((0, 1, 2), 2), ((0, 2), 3), ((0, 1, 2), 12)):
        append(storage, model, np.array(who), count)
        now = storage.chunks(rows=4)
        for name in before:
            same = all(torch.equal(now[name][1]()[k], v) for k, v in contents[name].items() if len(v)) and all(
                now[name][1]()[k].shape == v.shape for k, v in contents[name].items()
            )
            assert (now[name][0] == before[name]) == same, (name, who)
        before = {name: mark for name, (mark, _) in now.items()}
        contents = {name: {k: v.clone() for k, v in tensors().items()} for name, (_, tensors) in now.items()}
    other, _ = filled(rows=12, counts=((0, 1, 2), 9))
    assert (
        other.chunks(4)["replay-00000000"][0]
        != filled(rows=12, counts=((0, 1, 2), 9))[0].chunks(4)["replay-00000000"][0]
    )


def test_rows_go_to_the_columns_they_name():
    storage, model = filled(counts=((2, 0, 1), 3))
    rows = storage.gather(np.array([0, 1, 2]), np.zeros(3, np.int64), 3)
    for column in range(3):
        for t in range(3):
            assert rows.inputs.observation["vector"][t, column].tolist() == [column, t]
            assert rows.reward[t, column] == model.rows[column][t]["reward"]


def test_states_are_required_where_they_are_kept():
    storage, model = filled()
    with pytest.raises(ValueError, match="without them"):
        storage.append(np.arange(3), model.make(np.arange(3), 2))
