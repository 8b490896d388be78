"""A replay in shards draws what one replay draws, loses nothing uncounted, and never joins what does not belong."""

import numpy as np
import pytest
import torch
from tests.distributed.mortal import COLUMNS, SHARDS, Divided, Mortal

from retorq.distributed.sharded import AHEAD
from retorq.distributed.shards import UNDERWAY
from retorq.replay.samplers import Priorities
from retorq.types import Diverged

BY_PRIORITY = Priorities(exponent=0.7, beta=0.5, eta=0.5)
SEQUENCES = {"length": 3, "ahead": 2, "period": 2, "burn_in": 2}


def nothing(columns, device):
    return {"h": torch.zeros(columns, 3), "c": torch.zeros(columns, 2, 2)}


KINDS = {
    "transitions": {},
    "sequences": {"window": SEQUENCES},
    "within": {"window": SEQUENCES | {"within": True}, "initial_state": nothing},
    "episodes": {
        "window": {"length": 3, "ahead": 2, "period": 2, "within": True},
        "initial_state": nothing,
        "start": "zero",
        "draw": "episode",
    },
    "transitions by priority": {"priorities": BY_PRIORITY},
    "sequences by priority": {"window": SEQUENCES, "priorities": BY_PRIORITY},
    "soft cap by priority": {"priorities": BY_PRIORITY, "surplus": 0.5},
}


def complete(replay):
    """The windows that one replay holds, or the finished games."""
    if replay.games is not None:
        return {(column, game) for column, games in enumerate(replay.games._held) for game in games}
    return set(weights(replay))


def filled(kind, **more):
    """Two laps of the ring, and uneven columns."""
    divided = Divided(**KINDS[kind], **more)
    for count in (7, 30, 50):
        divided.grow(count)
    divided.grow(11, columns=[0, 3])
    divided.shards.settle()
    if kind == "soft cap by priority":
        divided.trim()
    if divided.one.priorities:
        divided.prioritize()
    return divided


def weights(replay, columns=COLUMNS):
    """What every window of one replay weighs, by (column, row)."""
    model_of = {}
    if replay.prioritized is not None:
        leaves = replay.prioritized._tree.leaves
        for leaf in np.flatnonzero(leaves):
            if replay.within is not None:
                column, slot = divmod(leaf, replay.storage.rows)
                newest = replay.storage.written[column] - replay.window.length - replay.window.ahead
                row = slot + (newest - slot) // replay.storage.rows * replay.storage.rows
            else:
                column, row = leaf // replay.slots, replay._start_of(np.array([leaf]))[0]
            model_of[int(column), int(row)] = leaves[leaf]
        return model_of
    if replay.games is not None:
        count = replay.games.available(replay.storage.oldest, replay.storage.written)
        for column in range(columns):
            for game in range(count[column]):
                model_of[column, replay.games._held[column][game]] = 1.0
        return model_of
    first, count = replay._range()
    for column in range(columns):
        for row in range(first[column], first[column] + count[column] * replay.window.period, replay.window.period):
            if replay.window.length > 1 or not replay.storage.last(np.array([column]), np.array([row]))[0]:
                model_of[column, int(row)] = 1.0
    return model_of


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_shards_hold_weighs_as_much_as_one_replay_with_everything(kind):
    divided = filled(kind)
    told, one = divided.shards.told, weights(divided.one)
    for shard in range(SHARDS):
        mine = [weight for (column, _), weight in one.items() if column % SHARDS == shard]
        assert told[shard].mass == pytest.approx(sum(mine), rel=1e-12)
        assert told[shard].windows == len(mine) > 3
    assert divided.replay.size == divided.one.size


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "episodes"])
def test_every_place_of_a_batch_holds_a_window_as_often_as_with_one_replay(kind):
    """Drawn in proportion to its weight among all, by 20,000 draws; the shards weigh differently."""
    divided = filled(kind)
    one = weights(divided.one)
    total = sum(one.values())
    drawn = dict.fromkeys(one, 0)
    batches = 2_500
    for _ in range(batches):
        for column, row in divided.replay.sample(8).keys:
            drawn[int(column), int(row)] += 1
    size = 8 * batches
    for key, weight in one.items():
        expected = size * weight / total
        # A shard draws whole batches, in strata: the count of a window varies no more than independent batches do.
        assert abs(drawn[key] - expected) < 5 * np.sqrt(8 * expected) + 5, key
    share = sum(drawn[key] for key in one if key[0] % SHARDS == 0) / size
    wanted = sum(weight for key, weight in one.items() if key[0] % SHARDS == 0) / total
    assert share == pytest.approx(wanted, abs=5 * np.sqrt(wanted * (1 - wanted) / batches))
    assert abs(wanted - 0.5) > 0.05  # shards drawn alike would be noticed


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "priority" in kind])
def test_importance_weights_are_those_of_one_replay(kind):
    divided = filled(kind)
    one = weights(divided.one)
    for _ in range(AHEAD):  # asked for at the progress of before
        divided.replay.sample(8, progress=0.5)
    for _ in range(20):
        batch = divided.replay.sample(8, progress=0.5)
        weight = np.array([one[int(column), int(row)] for column, row in batch.keys])
        probability = weight / sum(one.values())
        wanted = (len(one) * probability) ** -0.75
        np.testing.assert_allclose(batch.weight, wanted / wanted.max(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_one_replay_gathers(kind):
    """The same rows, stacked images and states for the same windows."""
    divided = filled(kind)
    for _ in range(6):
        batch = divided.replay.sample(8)
        column, row = batch.keys.T
        wanted = divided.one._gather(column, row)
        for name in ("action", "reward", "terminated", "truncated", "last"):
            assert torch.equal(getattr(batch.trajectory, name), getattr(wanted, name)), name
        for name in ("previous_action", "previous_reward", "elapsed", "first"):
            assert torch.equal(getattr(batch.trajectory.inputs, name), getattr(wanted.inputs, name)), name
        for name, value in wanted.inputs.observation.items():
            assert torch.equal(batch.trajectory.inputs.observation[name], value), name
        for name, value in divided.one._state(column, row).items():
            assert torch.equal(batch.state[name], value), name
    assert divided.replay.look(4).columns == 4


def test_a_soft_cap_is_exceeded_until_the_shards_are_trimmed():
    """Then each holds what begins in the newest rows of its columns, as many as fit into its share of the capacity."""
    divided = filled("soft cap by priority")
    rows, cap = divided.model.rows, divided.capacity // COLUMNS

    def held():
        return [told.windows for told in divided.shards.told]

    def begins(column):
        written = len(rows[column]) - 1  # the newest row is held back
        return sum(not row["last"] for row in rows[column][written - cap : written - divided.one.window.rows + 1])

    for _ in range(3):
        divided.grow(cap // 4)
        divided.shards.settle()
        before = held()
        divided.trim()
        assert held() == [sum(begins(column) for column in range(shard, COLUMNS, SHARDS)) for shard in range(SHARDS)]
        assert all(was > now for was, now in zip(before, held(), strict=True))


def test_nothing_is_ready_before_there_is_a_window():
    divided = Divided()
    assert not divided.replay.ready
    divided.grow(4)
    divided.shards.settle()
    assert not divided.replay.ready  # four rows make a window, and the newest is held back
    with pytest.raises(ValueError, match="while ``ready``"):
        divided.replay.sample(8)
    divided.grow(4)
    divided.shards.settle()
    assert divided.replay.ready
    with pytest.raises(ValueError, match="8 windows, not 7"):
        divided.replay.sample(7)


def test_calls_under_way_are_bounded_and_batches_are_asked_for_ahead():
    divided = Divided(peer=Mortal)
    for _ in range(50):
        divided.grow(1)
    assert max(peer.most for peer in divided.peers) == UNDERWAY
    divided.shards.settle()
    divided.replay.sample(8)
    assert sum(peer.open for peer in divided.peers) == AHEAD
    for _ in range(30):
        batch = divided.replay.sample(8)
        divided.replay.update(batch.keys, torch.ones(1, 8), torch.ones(1, 8))
    assert max(peer.most for peer in divided.peers) <= UNDERWAY + AHEAD


def spliced(batch):
    """Rows of a window that follow each other without being neighbors in their stream, and without an end between."""
    seen, last = batch.trajectory.inputs.observation["vector"], batch.trajectory.last
    neighbors = (seen[1:, :, 1] == seen[:-1, :, 1] + 1) & (seen[1:, :, 0] == seen[:-1, :, 0])
    begins = batch.trajectory.inputs.first & (batch.trajectory.inputs.elapsed == 0)
    repeated = (seen[1:] == seen[:-1]).all(-1)  # what stands for rows before a game that are gone
    return int((~neighbors & ~repeated & ~(last[:-1] & begins[1:])).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", [True, False])
def test_a_lost_shard_comes_back_with_its_snapshot_and_every_loss_is_counted(kind, saved):
    divided = filled(kind, peer=Mortal)
    if saved:
        divided.save(step=500)
    before = complete(divided.one) if saved else set()
    for _ in range(10):
        divided.grow(3)
    divided.shards.settle()
    batch = divided.replay.sample(8)
    sent, made = divided.shards[1].sent, divided.shards.told[1].made
    assert sent == divided.peers[1].here.made.received
    new = {key for key in complete(divided.one) if key[0] % SHARDS == 1} - before

    divided.peers[1].dead = True
    divided.grow(1)
    divided.shards.settle()
    # Two columns of shard 1, ten times three rows and one more since the snapshot; or all there ever were.
    lost = 2 * 31 if saved else sent + 2
    assert divided.shards.rows_gone == lost
    assert divided.shards.windows_lost == (len(new) if saved else made)
    source = "as of step 500" if saved else "empty, since no checkpoint holds it"
    assert divided.replay.faults() == [
        f"replay shard 1 was struck by lightning; it is being started anew {source}: so far {lost:,} rows and at least "
        f"{divided.shards.windows_lost:,} windows are lost, and what comes until it is up, and then each environment's "
        "rows until its next game, will be too",
        f"replay shard 1 is up again; {divided.shards.rows_lost:,} rows are lost in this run so far",
    ]
    assert divided.replay.faults() == []
    divided.replay.update(batch.keys, torch.ones(1, 8), torch.ones(1, 8))  # of whichever shard: nothing breaks
    for _ in range(40):  # where streams were cut is sampled while it is held
        divided.grow(2)
        divided.shards.settle()
        assert [spliced(divided.replay.sample(8)) for _ in range(4)] == [0] * 4
    assert divided.received() + divided.shards.rows_lost == sum(len(rows) for rows in divided.model.rows)
    assert divided.shards.rows_lost > lost  # games were on when it was lost
    from_lost = 0
    for _ in range(60):
        batch = divided.replay.sample(8)
        from_lost += int((batch.keys[:, 0] % SHARDS == 1).all())
        assert spliced(batch) == 0
    assert from_lost > 5
    told = divided.replay.metrics()
    assert (told["shards_replaced"], told["rows_lost"]) == (1.0, divided.shards.rows_lost)


def test_the_others_go_on_while_a_shard_is_given_its_snapshot():
    """Rows that come for it meanwhile are lost at once, and counted."""
    divided = filled("transitions", peer=Mortal)
    divided.save(step=7)
    divided.shards._replace(1, "was struck by lightning")
    assert ["up again" in fault for fault in divided.replay.faults()] == [False]
    gone, sent = divided.shards.rows_gone, [held.sent for held in divided.shards]
    divided.grow(3)
    assert divided.shards.rows_gone == gone + 2 * 3
    assert [held.sent for held in divided.shards] == [sent[0] + 3 * 3, sent[1]]
    for _ in range(2 * AHEAD):
        assert (divided.replay.sample(8).keys[:, 0] % SHARDS == 0).all()
    assert divided.replay.faults() == []
    divided.shards.settle()
    assert divided.replay.faults() == [f"replay shard 1 is up again; {gone + 2 * 3:,} rows are lost in this run so far"]
    divided.grow(3)
    divided.shards.settle()
    assert divided.shards.rows_gone == gone + 2 * 3
    assert divided.received() + divided.shards.rows_lost == sum(len(rows) for rows in divided.model.rows)


def test_where_no_other_shard_is_ready_the_run_waits_for_the_one():
    divided = filled("transitions", peer=Mortal)
    divided.save(step=7)
    for shard in range(SHARDS):
        divided.shards._replace(shard, "was struck by lightning")
    gone, sent = divided.shards.rows_gone, divided.shards[0].sent
    divided.grow(3)  # it waits for the first shard, and then has one
    assert divided.shards[0].sent == sent + 3 * 3
    assert divided.shards.rows_gone == gone + 2 * 3
    divided.shards.settle()
    assert divided.received() + divided.shards.rows_lost == sum(len(rows) for rows in divided.model.rows)


def test_priorities_for_windows_of_a_lost_shard_change_nothing():
    """Their row numbers may be those of other rows by now."""
    divided = filled("transitions by priority", peer=Mortal)
    batch = divided.replay.sample(8)
    shard = int(batch.keys[0, 0] % SHARDS)
    divided.peers[shard].dead = True
    divided.grow(1)
    divided.shards.settle()
    for _ in range(60):
        divided.grow(2)
    divided.shards.settle()
    before = divided.peers[shard].here.made.replay.prioritized._tree.leaves
    divided.replay.update(batch.keys, torch.full((1, 8), 9.0), torch.ones(1, 8))
    divided.shards.settle()
    np.testing.assert_array_equal(divided.peers[shard].here.made.replay.prioritized._tree.leaves, before)


def test_a_shard_that_is_lost_again_and_again_ends_the_run():
    divided = Divided(peer=Mortal)

    def die():
        divided.peers[0].dead = True
        divided.grow(1)
        divided.shards.settle()

    die()
    die()
    with pytest.raises(Diverged, match="replay shard 0 was struck by lightning, and had been started anew 2 times"):
        die()


def test_new_windows_get_the_highest_priority_seen_in_any_shard():
    divided = filled("transitions by priority")
    batch = divided.replay.sample(8)
    divided.replay.update(batch.keys, torch.full((1, 8), 50.0), torch.ones(1, 8))
    divided.shards.settle()
    divided.grow(4)
    divided.shards.settle()
    assert [told.highest for told in divided.shards.told] == [50.0, 50.0]
    assert all(peer.made.replay.prioritized._tree.leaves.max() == 50.0**0.7 for peer in divided.peers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_replay_that_is_saved_goes_on_where_it_was(kind):
    one, other = filled(kind), Divided(**KINDS[kind])
    one.save(step=1)
    _, state, pieces = one.saved
    other.replay.load_state_dict(state)
    for name, tensors in pieces.items():
        other.replay.restore(name, tensors)
    one.replay.load_state_dict(state)  # forgets the batches under way, as a resume does
    for divided in (one, other):
        divided.drawn = [divided.replay.sample(8) for _ in range(20)]
    for a, b in zip(one.drawn, other.drawn, strict=True):
        np.testing.assert_array_equal(a.keys, b.keys)
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.trajectory.inputs.observation["image"], b.trajectory.inputs.observation["image"])
    assert [held.sent for held in other.shards._held] == [held.sent for held in one.shards._held]


def test_columns_come_in_any_order_and_number():
    divided = Divided()
    for columns in ([4, 1], [0], [3, 2, 0], range(COLUMNS)):
        divided.grow(5, columns=columns)
    divided.shards.settle()
    assert sum(peer.made.received for peer in divided.peers) == 2 * 5 + 5 + 15 + 25
    assert spliced(divided.replay.sample(8)) == 0
