"""Shards in this process that can be lost, and a replay of them beside one that holds everything."""

import numpy as np
import torch
from tests.replay.model import Model, made

from retorq.acting.messages import Streams
from retorq.distributed.peers import Here, Lost
from retorq.distributed.shard import Shard
from retorq.distributed.sharded import ShardedReplay
from retorq.distributed.shards import Shards, Snapshot

COLUMNS, SHARDS = 5, 2


class Mortal:
    """A peer in this process; once ``dead`` its calls are answered no more. Notes how many were never looked at."""

    def __init__(self, made):
        self.here, self.dead, self.open, self.most = Here(made), False, 0, 0

    def ask(self, method, *arguments):
        self.open += 1
        self.most = max(self.most, self.open)
        return Doubtful(self, None if self.dead else self.here.ask(method, *arguments))

    def close(self):
        self.dead = True


class Doubtful:
    """A call whose answer comes only when it is waited for."""

    done = False

    def __init__(self, peer, call):
        self.peer, self.call = peer, call

    def take(self, limit):
        self.peer.open -= 1
        if self.peer.dead or self.call is None:
            raise Lost("was struck by lightning")
        return self.call.take(limit)


class Divided:
    """A sharded replay of ``COLUMNS`` columns, and one replay with the same rows, both fed from a model."""

    def __init__(self, *, peer=Here, capacity=200, window=None, stack=2, batch=8, seed=3, **more):
        self.window = {"length": 1, "ahead": 3, "period": 1} if window is None else window
        self.more = {"stack": stack, "window": self.window, **more}
        self.peer, self.capacity = peer, capacity
        self.model = Model(COLUMNS, seed)
        self.streams = Streams()
        self.one = made(COLUMNS, capacity, **self.more)
        self.peers, self.saved = [None] * SHARDS, None
        self.shards = Shards(self.start, SHARDS, snapshot=self.snapshot, most_restarts=2)
        self.replay = ShardedReplay(self.shards, batch_size=batch, seed=seed)

    def start(self, shard, incarnation):
        columns = len(range(shard, COLUMNS, SHARDS))
        share = self.capacity // COLUMNS * columns
        self.peers[shard] = self.peer(Shard(made(columns, share, seed=10 * shard + incarnation, **self.more)))
        return self.peers[shard]

    def save(self, step):
        pieces = {name: tensors() for name, (_, tensors) in self.replay.chunks().items()}
        self.saved = step, self.replay.state_dict(), pieces

    def snapshot(self, shard):
        if self.saved is None:
            return None
        step, state, pieces = self.saved
        mine = [
            (f"replay-{name.split('-')[2]}", lambda name=name: pieces[name])
            for name in pieces
            if name.startswith(f"replay-{shard}-")
        ]
        return Snapshot(step=step, state=state["shards"][str(shard)], pieces=mine)

    def grow(self, count, columns=range(COLUMNS)):
        """``count`` more rows of some columns."""
        columns = np.array(columns)
        rows = self.model.make(columns, count)
        self.replay.extend(columns, rows)
        for chunk in self.streams.push([(columns, rows)]):
            self.one.extend(*chunk)

    def trim(self):
        """Cut both back to the capacity."""
        self.replay.trim()
        self.one.trim()
        self.shards.settle()

    def prioritize(self, rounds=40):
        """The same new priorities for both, by window."""
        random = np.random.default_rng(0)
        for _ in range(rounds):
            batch = self.replay.sample(self.replay.batch_size)
            error = torch.from_numpy(random.gamma(0.5, size=(self.one.window.length, len(batch.keys)))).float()
            for replay in (self.replay, self.one):
                replay.update(batch.keys, error, torch.ones_like(error))
        self.shards.settle()

    def received(self):
        """Rows that the shards of today have taken in."""
        return sum(peer.here.made.received for peer in self.peers)
