"""Time to draw a batch from the replay, by how much it holds; and of prioritized sampling with its update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import psutil
import torch

from retorq.bench.machine import Setup, interleaved, spread
from retorq.bench.made_up import atari_spec, trajectory
from retorq.bench.table import Row
from retorq.replay.replay import Replay
from retorq.replay.samplers import Prioritized
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import Trajectory

COLUMNS = 32
HIDDEN = 512  # units of the LSTM whose states are stored
PIECE = 20  # rows made up at once; few, so that they do not show in a measurement of memory


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Steps held, pixels per side, windows per batch, and the prioritized sampler's size and batch."""

    held: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    pixels: int = 84
    batch: int = 32
    length: int = 20
    ahead: int = 2
    items: int = 1_000_000
    prioritized_batch: int = 256
    repeats: int = 301


FULL = Sizes()
QUICK = Sizes(held=(1_600, 3_200), pixels=12, items=10_000, repeats=5)


def layout(pixels: int = 84) -> Layout:
    """What the ``atari`` preset stores: one gray frame per row, an LSTM state on every tenth."""
    return Layout(spec=atari_spec(size=pixels), state={"h": (HIDDEN,), "c": (HIDDEN,)}, period=10)


def filled(capacity: int, sizes: Sizes, device: str = "cpu") -> Replay:
    """A replay of that many steps in 32 columns, full to the last row."""
    rows = layout(sizes.pixels)
    window = Window(length=sizes.length, ahead=sizes.ahead, period=rows.period)
    replay = Replay(layout=rows, window=window, columns=COLUMNS, capacity=capacity, device=device)
    fill(replay, rows)
    return replay


def fill(replay: Replay, rows: Layout) -> None:
    """Append made-up rows until the ring is full; the same ones come again and again."""
    piece = trajectory(rows.spec, PIECE, COLUMNS)
    state = np.zeros((PIECE, COLUMNS, HIDDEN), np.float32)
    piece = Trajectory(**{**vars(piece), "extras": {f"state.{name}": torch.from_numpy(state) for name in rows.state}})
    columns, left = np.arange(COLUMNS), replay.storage.rows
    while left > 0:
        replay.extend(columns, piece if left >= PIECE else piece.map(lambda a, rows=left: a[:rows]))  # type: ignore[misc]
        left -= PIECE


def measure(setup: Setup, sizes: Sizes | None = None) -> list[Row]:
    """One row per replay size, then the prioritized sampler; medians in milliseconds of interleaved draws.

    A size that does not fit into the memory that is free is left out.
    """
    sizes = sizes or (QUICK if setup.quick else FULL)
    row_bytes = prod((sizes.pixels, sizes.pixels)) + 250
    replays = {}
    for held in sizes.held:
        if held * row_bytes * 1.1 < _free(setup.device):
            replays[held] = filled(held, sizes, setup.device)
    draws: dict[str, Callable[[], object]] = {
        str(held): partial(replay.sample, sizes.batch) for held, replay in replays.items()
    }
    seconds = interleaved(draws, repeats=sizes.repeats, warmup=5, device=setup.device)
    table = [
        _row("sample", replay.size, f"{sizes.batch}x{sizes.length}", seconds[str(held)])
        for held, replay in replays.items()
    ]
    times = interleaved({"both": _prioritized(sizes)}, repeats=sizes.repeats * 5, warmup=20)["both"]
    return [*table, _row("prioritized sample + update", sizes.items, str(sizes.prioritized_batch), times)]


def _row(what: str, held: int, batch: str, seconds: list[float]) -> Row:
    milliseconds = spread([1e3 * s for s in seconds], "milliseconds")
    return {"measure": what, "held": held, "batch": batch, **milliseconds, "repeats": len(seconds)}


def _free(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _prioritized(sizes: Sizes) -> Callable[[], object]:
    """A draw with its weights, and the write of new priorities: the index alone, without any frames."""
    generator = np.random.default_rng(0)
    sampler = Prioritized(sizes.items)
    sampler.add(np.arange(sizes.items))
    sampler.update(np.arange(sizes.items), generator.exponential(size=sizes.items))
    priorities = generator.exponential(size=sizes.prioritized_batch)

    def both() -> None:
        drawn, probabilities = sampler.sample(sizes.prioritized_batch, generator)
        sampler.weights(probabilities, 0.5)
        sampler.update(drawn, priorities)

    return both
