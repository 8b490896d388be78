"""What pools elsewhere have in common, without processes: restarts that are forgiven, seeds, games that are cut."""

from types import SimpleNamespace

import numpy as np
import pytest

from retorq.acting import supervised
from retorq.acting.messages import description, pack, write
from retorq.acting.remote import Player, Recipe
from retorq.acting.supervised import FORGIVEN, Supervised
from retorq.acting.tally import Tally
from retorq.types import Diverged, Inputs, Trajectory

COLUMNS, ROWS = 4, 5


class Still:
    """Weights that never change."""

    edition = version = clock = 0

    def read(self, network):
        return 0


class Here(Supervised):
    """Actors in this process, which play when their turn comes."""

    def __init__(self, actors=2, seed=3):
        share = COLUMNS // actors
        recipes = [
            Recipe(
                entry="tests.acting.elsewhere:counting",
                arguments={"columns": share, "first": actor * share},
                first=actor * share,
                columns=share,
                rows=ROWS,
            )
            for actor in range(actors)
        ]
        super().__init__(recipes, seed=seed, time_limit=60.0, most_restarts=3)
        self.players = [None] * actors
        self.seeds = []
        self.turn = 0

    def publish(self, network, version):
        pass

    def _start(self, actor):
        incarnation, seed = self._incarnate(actor)
        self.seeds.append(seed)
        self.players[actor] = Player(self.recipes[actor], actor=actor, incarnation=incarnation, seed=seed)
        self.players[actor].weights = Still()

    def _kill(self, actor):
        self.players[actor] = None

    def _before(self):
        pass

    def _next(self, patience):
        self.turn += 1
        actor = self.turn % len(self.players)
        message = self.players[actor].message()
        told, placed, size = pack(message.chunks)
        memory = np.empty(size, np.uint8)
        write(memory, placed)
        return self._accept(actor, description(message, told), memory)


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(supervised, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))


def played(pool, messages):
    for _ in range(messages):
        pool.receive()


def test_an_actor_that_has_played_long_enough_has_all_its_restarts_again(clock):
    pool = Here()
    for _ in range(12):
        played(pool, 4)
        clock[0] += FORGIVEN
        played(pool, 4)
        pool._replace(1, "fell")
    assert pool.restarts == [0, 1]
    assert pool.replaced == 12


def test_restarts_within_the_time_count(clock):
    pool = Here()
    for _ in range(4):
        played(pool, 4)
        clock[0] += FORGIVEN - 1
        played(pool, 4)
        if pool.restarts[1] < 3:
            pool._replace(1, "fell")
    with pytest.raises(Diverged, match="actor 1 fell, and had been started anew 3 times before"):
        pool._replace(1, "fell")


def test_an_actor_that_was_silent_is_not_forgiven(clock):
    """However long that took: it did not play."""
    pool = Here()
    played(pool, 4)
    for _ in range(3):
        clock[0] += 2 * FORGIVEN
        pool._replace(1, "sent nothing for 3600 s")
    with pytest.raises(Diverged, match="sent nothing"):
        pool._replace(1, "sent nothing for 3600 s")


def test_games_are_said_to_be_cut_only_where_any_were_open():
    pool = Here()
    pool._start(1)
    pool._replace(1, "fell")
    assert pool.faults() == ["actor 1 fell; it was started anew"]
    played(pool, 4)
    pool._replace(1, "fell")
    assert pool.faults() == ["actor 1 fell; its games were cut and it was started anew"]


def test_actors_are_waited_for_until_each_has_sent_something():
    pool = Here()
    assert pool.waiting == "actors: 0 of 2 up"
    played(pool, 1)
    assert pool.waiting == "actors: 1 of 2 up"
    played(pool, 1)
    assert pool.waiting == ""


def test_every_actor_and_every_incarnation_has_a_seed_of_its_own():
    pool = Here(actors=4)
    played(pool, 8)
    for actor in range(4):
        pool._replace(actor, "fell")
    assert len(set(pool.seeds)) == 8
    again = Here(actors=4)
    played(again, 8)
    assert again.seeds == pool.seeds[:4]
    other = Here(actors=4, seed=4)
    played(other, 1)
    assert set(other.seeds).isdisjoint(pool.seeds)
    later = Here(actors=4)  # a resume: the same incarnations, later in the run
    later.steps = 100
    played(later, 1)
    assert set(later.seeds).isdisjoint(pool.seeds)


def test_games_of_a_lost_actor_are_told_as_cut():
    """With the score and the length of the rows that are learned from, and those of the others are not told."""
    pool = Here()
    streams = {column: [] for column in range(COLUMNS)}

    def take(chunks):
        for columns, rows in chunks:
            for at, column in enumerate(columns):
                for t in range(rows.rows):
                    streams[int(column)].append((float(rows.reward[t, at]), bool(rows.last[t, at])))

    take(pool.receive())
    while [elapsed > 0 for _, elapsed in pool.streams.open([2, 3])] != [True, True] or len(streams[2]) < 20:
        take(pool.receive())
    whole = pool.drain()
    assert not any(episode.cut for episode in whole)
    pool._replace(1, "fell")
    take(pool.receive())
    cut = pool.drain()
    assert [episode.column for episode in cut if episode.cut] == [2, 3]
    for episode in cut[:2]:
        stream = streams[episode.column]
        ends = [at for at, (_, last) in enumerate(stream) if last]
        assert ends[-1] == len(stream) - 1  # the row that was held back ends the game
        game = stream[ends[-2] + 1 : -1] if len(ends) > 1 else stream[:-1]
        assert episode.length == len(game) > 0
        assert episode.score == sum(reward for reward, _ in game) > 0
        assert episode.step <= pool.steps


def test_a_game_that_was_over_is_told_once():
    """Its last row is held back when its actor is lost: it was played to its end, and its actor said so."""
    pool = Here(actors=4)
    pool.receive()
    while not any(bool(rows.last[0, 0]) for rows in pool.streams._held.values()):
        pool.receive()
    [over] = [column for column, rows in pool.streams._held.items() if bool(rows.last[0, 0])]
    pool.drain()
    pool._replace(over, "fell")
    assert pool.drain() == []


def test_a_resume_tells_the_games_that_it_cuts():
    """With the rows of before and after the checkpoint."""
    pool = Here()
    played(pool, 7)
    pool.drain()
    tensors, numbers = pool.state_dict()
    open_games = pool.streams.open(range(COLUMNS))
    other = Here()
    other.load_state_dict(tensors, numbers)
    other.cut()
    told = other.drain()
    pool._cut(range(COLUMNS))
    assert told == pool.drain()
    assert [(episode.column, episode.length) for episode in told] == open_games != []
    assert all(episode.cut for episode in told)
    del numbers["scores"]  # as in checkpoints of before
    Here().load_state_dict(tensors, numbers)


def rows_of(reward, last):
    reward, last = np.array(reward, np.float32), np.array(last, bool)
    none = np.zeros_like(reward)
    inputs = Inputs(observation={}, previous_action=none, previous_reward=none, elapsed=none, first=none)
    return Trajectory(
        inputs=inputs, action=none, reward=reward, terminated=last & False, truncated=last & False, last=last
    )


def test_the_tally_adds_up_the_rewards_since_the_last_end_of_a_game():
    tally, generator = Tally(5), np.random.default_rng(0)
    slow = [0.0] * 5
    for _ in range(200):
        columns = generator.permutation(5)[: generator.integers(1, 6)]
        shape = (int(generator.integers(1, 7)), len(columns))
        reward, last = generator.integers(-3, 4, shape), generator.random(shape) < 0.2
        reward = np.where(last, 0, reward)
        tally.add([(columns, rows_of(reward, last))])
        for at, column in enumerate(columns):
            for t in range(shape[0]):
                slow[column] = 0.0 if last[t, at] else slow[column] + reward[t, at]
        assert tally.scores.tolist() == slow
