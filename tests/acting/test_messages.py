"""Messages: their bytes, their order, and streams that are cut where an actor was lost."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retorq.acting.messages import (
    Inbox,
    Message,
    Streams,
    description,
    episodes_from_json,
    joined,
    pack,
    unpack,
    write,
)
from retorq.types import Episode, Inputs, Trajectory


def rows(start, count, columns, last=(), state=True):
    """Rows whose observation is (column, number); ``last`` names the numbers that end a game."""
    number = np.broadcast_to(np.arange(start, start + count)[:, None], (count, len(columns)))
    where = np.broadcast_to(np.array(columns), number.shape)
    ends = np.isin(number, last)
    return Trajectory(
        inputs=Inputs(
            observation={"obs": np.stack([where, number], -1).astype(np.uint8)},
            previous_action=number - 1,
            previous_reward=number.astype(np.float32),
            elapsed=number.astype(np.int32),
            first=number == 0,
        ),
        action=number + 1,
        reward=number + np.float32(0.5),
        terminated=number % 3 == 0,
        truncated=np.zeros_like(ends),
        last=ends,
        extras={"state.h": torch.from_numpy(number.astype(np.float16))[..., None], "value": number * 2.0}
        if state
        else {},
    )


def equal(one, other):
    """Whether two lists of chunks hold the same arrays of the same types."""
    (told, mine, size), (same, theirs, needed) = pack(one), pack(other)
    assert (told, size) == (same, needed)
    return all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(mine, theirs, strict=True))


def test_rows_survive_their_journey_as_bytes():
    chunks = [(np.array([3, 5]), rows(0, 4, [3, 5])), (np.array([5]), rows(4, 1, [5], last=[4], state=False))]
    told, placed, size = pack(chunks)
    memory = np.zeros(size + 128, np.uint8)
    write(memory, placed, 128)
    again = unpack(json.loads(json.dumps(told)), memory, 128)
    assert equal(again, chunks)
    assert all(offset % 64 == 0 for offset, _ in placed)
    assert isinstance(again[0][1].extras["state.h"], torch.Tensor)
    memory[:] = 0
    assert again[0][1].action.max() == 0  # views, no copies


def test_a_description_that_leaves_the_memory_is_refused():
    told, placed, size = pack([(np.array([0]), rows(0, 3, [0]))])
    memory = np.zeros(size - 64, np.uint8)
    with pytest.raises((ValueError, TypeError)):
        unpack(told, memory)
    assert placed


def test_neighbors_of_the_same_columns_are_joined():
    parts = [(np.array([0, 1]), rows(t, 1, [0, 1])) for t in range(3)]
    final = (np.array([1]), rows(3, 1, [1], last=[3]))
    whole = joined([*parts, final, parts[0]])
    assert [chunk.rows for _, chunk in whole] == [3, 1, 1]
    assert equal(whole[:1], [(np.array([0, 1]), rows(0, 3, [0, 1]))])


def test_games_survive_as_json_and_strange_ones_are_refused():
    games = [Episode(score=1.5, length=3, column=2, step=7), Episode(score=0.0, length=1, column=0, step=9, cut=True)]
    message = Message(actor=1, incarnation=2, number=3, chunks=[], episodes=games, version=4)
    whole = json.loads(json.dumps(description(message, [])))
    assert {name: whole[name] for name in ("incarnation", "number", "version")} == {
        "incarnation": 2,
        "number": 3,
        "version": 4,
    }
    told = whole["episodes"]
    assert episodes_from_json(told) == games
    with pytest.raises(ValueError, match="color"):
        episodes_from_json([{**told[0], "color": "red"}])


@given(st.integers(0, 2**32 - 1))
def test_messages_are_handed_on_once_and_in_order(seed):
    """Any order, any repeats, late ones of earlier incarnations: what comes out is 0, 1, 2, ... of the present one."""
    chance = np.random.default_rng(seed)
    inbox, sent, out = Inbox(3), [], {0: [], 1: [], 2: []}
    lives = {actor: inbox.begin(actor) for actor in range(3)}
    numbers = dict.fromkeys(range(3), 0)
    for _ in range(60):
        actor = int(chance.integers(3))
        if chance.random() < 0.05:
            lives[actor], numbers[actor] = inbox.begin(actor), 0
            out[actor] = []
        sent.append(Message(actor=actor, incarnation=lives[actor], number=numbers[actor], chunks=[]))
        numbers[actor] += 1
        for at in chance.integers(len(sent), size=int(chance.integers(3))):
            for message in inbox.accept(sent[at]):
                out[message.actor].append(message)
    for at in chance.permutation(len(sent)):
        for message in inbox.accept(sent[at]):
            out[message.actor].append(message)
    for actor, messages in out.items():
        assert [m.number for m in messages] == list(range(numbers[actor]))
        assert {m.incarnation for m in messages} <= {lives[actor]}
    before = (inbox.repeated, inbox.fenced)
    assert all(inbox.accept(message) == [] for message in sent)
    assert sum(before) + len(sent) == inbox.repeated + inbox.fenced


@given(st.integers(0, 2**32 - 1))
def test_streams_give_back_every_row_but_the_newest(seed):
    """Whatever pieces the rows come in; a cut ends the stream with the row held back."""
    chance = np.random.default_rng(seed)
    streams, number, out = Streams(), dict.fromkeys(range(4), 0), {c: [] for c in range(4)}

    def take(chunks):
        for columns, part in chunks:
            for at, column in enumerate(columns):
                for t in range(part.rows):
                    assert part.inputs.observation["obs"][t, at, 0] == column
                    out[int(column)].append((int(part.inputs.elapsed[t, at]), bool(part.last[t, at])))

    for _ in range(12):
        columns = np.sort(chance.choice(4, size=int(chance.integers(1, 5)), replace=False))
        start = number[int(columns[0])]
        same = np.array([c for c in columns if number[int(c)] == start])
        count = int(chance.integers(1, 4))
        take(streams.push([(same, rows(start, count, same))]))
        for column in same:
            number[int(column)] += count
            assert len(out[int(column)]) == number[int(column)] - 1
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    streams = Streams()
    streams.load_state_dict(state)
    take(streams.cut(range(4)))
    for column, seen in out.items():
        assert [n for n, _ in seen] == list(range(number[column]))
        assert all(not last for _, last in seen[:-1])
        assert all(a + 1 == b for (a, _), (b, _) in pairwise(seen))
        assert not seen or seen[-1][1]
    assert streams.cut(range(4)) == []


def test_a_cut_makes_a_truncation_and_leaves_a_game_that_was_over():
    streams = Streams()
    assert streams.push([(np.array([0, 1]), rows(3, 1, [0, 1], last=[]))]) == []
    streams.push([(np.array([1]), rows(4, 1, [1], last=[4]))])
    [(columns, ended)] = streams.cut([1, 0])
    at = {int(column): i for i, column in enumerate(columns)}
    assert ended.last.all()
    assert ended.truncated[0].tolist() == [column == 0 for column in columns]
    assert (ended.action[0, at[0]], ended.reward[0, at[0]], ended.terminated[0, at[0]]) == (0, 0, False)
    assert (ended.action[0, at[1]], ended.reward[0, at[1]]) == (5, 4.5)


@pytest.mark.parametrize(("columns", "actions"), [(2, 1), (2, 2), (2, 3), (1, 3)])
def test_a_cut_clears_all_of_a_continuous_action(columns, actions):
    streams, where = Streams(), np.arange(columns)
    chunk = rows(3, 1, where, last=[])
    doing = np.arange(1, columns * actions + 1, dtype=np.float32).reshape(1, columns, actions)
    over = np.arange(columns) == 1
    streams.push([(where, replace(chunk, action=doing, last=over[None]))])
    [(_, ended)] = streams.cut(where)
    assert ended.action.dtype == np.float32
    np.testing.assert_array_equal(ended.action, np.where(over[None, :, None], doing, 0))


def test_what_streams_hold_back_is_a_copy():
    streams = Streams()
    chunk = rows(0, 2, [0])
    streams.push([(np.array([0]), chunk)])
    chunk.action[:] = 99
    [(_, held)] = streams.cut([0])
    assert held.inputs.elapsed.tolist() == [[1]]
    assert held.inputs.previous_action.tolist() == [[0]]
