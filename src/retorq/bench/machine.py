"""The machine under measurement: what it is, how fast it multiplies matrices, and how to time fairly."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from retorq.bench.table import Cell, Row, rounded
from retorq.nn.products import mm
from retorq.running.plan import cores
from retorq.running.process import prepare
from retorq.running.train import RunOptions


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How to measure: at full or tiny size (``quick``), on which device, with how many CPU threads (0: all cores)."""

    quick: bool = False
    device: str = "cpu"
    threads: int = 0


def begin(setup: Setup) -> None:
    """Set threads and number formats as training does.

    Raises:
        UserError: The device does not exist, or ``threads`` is negative.
    """
    prepare(RunOptions(steps=1, device=setup.device, threads=setup.threads))


def facts(setup: Setup) -> dict[str, Cell]:
    """What a number depends on besides the program, the time of day left out."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(setup.device) if setup.device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "quick": int(setup.quick),
    }


def processor() -> str:
    """The processor's name where Linux tells it, with family and model, which cloud machines hide from the name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    return f"{known['model name']} (family {known.get('cpu family', '?')} model {known.get('model', '?')})"


@cache
def commit(file: Path = Path(__file__)) -> str:
    """The commit of the checkout that ``file`` is a part of, with ``+`` where its ``src`` is not as committed.

    Empty outside a checkout. Once asked it stays the same: by the end of a long run there may be another.
    """
    if not _git(file.parent, "ls-files", file.name):
        return ""
    top = Path(_git(file.parent, "rev-parse", "--show-toplevel"))
    changed = _git(top, "status", "--porcelain", "--", "src")
    return _git(top, "rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    """What git says, or nothing where it does not know the folder."""
    try:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def wait(device: str | torch.device) -> None:
    """Wait until the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    acts: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1, device: str = "cpu"
) -> dict[str, list[float]]:
    """Time every act ``repeats`` times in turns, each round beginning with another one; seconds by name.

    In turns, so that a slow minute of the machine falls on all alike. The first ``warmup`` rounds do not count.
    """
    names = list(acts)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            wait(device)
            start = time.perf_counter()
            acts[name]()
            wait(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float], name: str) -> Row:
    """Median and quartiles of measurements, as columns ``name``, ``name_q1``, ``name_q3``."""
    low, high = np.quantile(values, [0.25, 0.75])
    return {
        name: rounded(statistics.median(values)),
        f"{name}_q1": rounded(float(low)),
        f"{name}_q3": rounded(float(high)),
    }


def multiplication(size: int, dtype: torch.dtype, device: str) -> tuple[Callable[[], object], int]:
    """A product of two square matrices of that size as the networks compute it, and its floating-point operations."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    return lambda: mm(a, b), 2 * size**3
