"""Updates per second of Recurrent IQN's learner, beside a plain implementation and the machine's matrix rate."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from retorq.agent import Agent
from retorq.algorithms.recurrent_iqn import Config, atari, make
from retorq.bench import counts
from retorq.bench.machine import Setup, interleaved, multiplication, spread
from retorq.bench.made_up import atari_spec, batch
from retorq.bench.plain import PlainLearner
from retorq.bench.table import Row, rounded
from retorq.learner import Precision

Way = Literal["retorq", "plain"]
Case = tuple[Way, Precision, int]  # way, precision, samples


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed: the published batch of 32 windows of 20 rows, with 32 and with 8 samples."""

    config: Config
    samples: tuple[int, ...] = (32, 8)
    product: int = 4096
    repeats: int = 11


FULL = Sizes(config=atari())
QUICK = Sizes(
    config=replace(atari(), batch_size=2, sequence_length=3, memory_size=16, hidden_size=16, state_period=3),
    samples=(4,),
    product=64,
    repeats=3,
)


def agent(config: Config, samples: int, precision: Precision) -> Agent:
    """The agent whose learner is timed, on made-up Atari shapes; the same weights every time."""
    torch.manual_seed(0)
    return make(replace(config, samples=samples, precision=precision), atari_spec())


def measure(setup: Setup, sizes: Sizes | None = None) -> list[Row]:
    """One row per way to update, number of samples and precision; medians of interleaved repeats.

    ``gflop_per_update`` counts what that way needs (``counts.update``). ``share_of_gemm`` is the rate reached over
    that of a square matrix product in the same precision, timed in the same rounds. ``speedup_over_plain`` compares
    with the plain implementation at the same number of samples.
    """
    sizes = sizes or (QUICK if setup.quick else FULL)
    acts: dict[str, Callable[[], object]] = {}
    operations: dict[str, int] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        acts[f"gemm {precision}"], operations[f"gemm {precision}"] = multiplication(sizes.product, dtype, setup.device)
    cases: list[Case] = []
    for samples in sizes.samples:
        cases += [("retorq", "fp32", samples), ("retorq", "bf16", samples), ("plain", "fp32", samples)]
    for way, precision, samples in cases:
        name = _name(way, precision, samples)
        acts[name], operations[name] = _prepared(sizes.config, way, precision, samples, setup.device)
    seconds = interleaved(acts, repeats=sizes.repeats, warmup=2, device=setup.device)
    return [_row(case, sizes, seconds, operations) for case in cases]


def _name(way: Way, precision: Precision, samples: int) -> str:
    return f"{way} {precision} {samples}"


def _prepared(
    config: Config, way: Way, precision: Precision, samples: int, device: str
) -> tuple[Callable[[], object], int]:
    """A function that does one update on a fixed batch, and its operations."""
    made = agent(config, samples, precision)
    operations = counts.update(
        counts.work(made.network),
        batch=config.batch_size,
        length=config.sequence_length,
        ahead=config.n_step,
        samples=samples,
        passes=2 if way == "retorq" else 3,
    )
    seen = batch(made.spec, made.network, made.window.rows, config.batch_size, device=device)
    if way == "retorq":
        learner = made.learner(device=device)
        return lambda: learner.update(seen), operations
    plain = PlainLearner(
        made.network.to(device), samples=samples, length=config.sequence_length, n=config.n_step, gamma=config.gamma
    )
    return lambda: plain.update(seen), operations


def _row(case: Case, sizes: Sizes, seconds: dict[str, list[float]], operations: dict[str, int]) -> Row:
    way, precision, samples = case
    name, product = _name(way, precision, samples), f"gemm {precision}"
    took = statistics.median(seconds[name])
    rate, peak = operations[name] / took, operations[product] / statistics.median(seconds[product])
    plain = statistics.median(seconds[_name("plain", "fp32", samples)])
    return {
        "learner": way,
        "precision": precision,
        "samples": samples,
        "batch": f"{sizes.config.batch_size}x{sizes.config.sequence_length}",
        **spread(seconds[name], "seconds"),
        "updates_per_second": rounded(1 / took),
        "gflop_per_update": rounded(operations[name] / 1e9),
        "gflop_per_second": rounded(rate / 1e9),
        "gemm_gflop_per_second": rounded(peak / 1e9),
        "share_of_gemm": rounded(rate / peak, 3),
        "speedup_over_plain": rounded(plain / took, 3),
        "repeats": sizes.repeats,
    }
