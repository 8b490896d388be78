"""Memory: bytes per stored step, of the process besides, and of a learner's update; as the system counts them.

Each is measured in a process of its own, ``python -m retorq.bench.memory PROBE``, so that nothing else has been there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from retorq.bench.table import Row, rounded
from retorq.types import UserError

# torch comes in only inside the probes: what it takes is part of what they measure.
STATUS = Path("/proc/self/status")
STEPS = {False: 200_000, True: 3_200}  # by `quick`


def resident(field: str = "VmRSS") -> int:
    """Bytes of main memory this process has now (``VmRSS``) or had at most (``VmHWM``)."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{STATUS} has no line {field}")


def measure(setup: object) -> list[Row]:
    """One row per probe: ``bytes`` measured, ``expected`` by the program's own count, and their ratio.

    Raises:
        UserError: This system has no ``/proc``.
    """
    if not STATUS.exists():
        raise UserError(f"memory is measured from {STATUS}, which this system does not have; use Linux.")
    quick = bool(getattr(setup, "quick", False))
    rows = []
    for name in PROBES:
        command = [sys.executable, "-m", "retorq.bench.memory", name, *(["--quick"] if quick else [])]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise UserError(f"memory: the measuring process {name!r} failed: {ran.stderr.strip().splitlines()[-1:]}")
        rows.append(json.loads(ran.stdout.splitlines()[-1]))
    return rows


def _row(what: str, value: float, expected: float, unit: str) -> Row:
    return {
        "measure": what,
        "bytes": rounded(value, 5),
        "expected": rounded(expected, 5),
        "ratio": rounded(value / expected, 3),
        "unit": unit,
    }


def probe_replay(quick: bool) -> Row:
    """What a stored step takes once 200,000 of them are held."""
    from retorq.bench.replay import COLUMNS, HIDDEN, Sizes, fill, filled, layout
    from retorq.replay.replay import Replay
    from retorq.replay.windows import Window

    filled(1_600, Sizes())  # all that is loaded or reserved once happens here
    rows = layout()
    window = Window(length=20, ahead=2, period=rows.period)
    before = resident()
    replay = Replay(layout=rows, window=window, columns=COLUMNS, capacity=STEPS[quick])
    fill(replay, rows)
    stored = resident() - before
    unit = f"per step, of {replay.size:,} steps of 84x84 with a state of {2 * HIDDEN} numbers every {rows.period}"
    return _row("replay", stored / replay.size, rows.bytes_per_row(), unit)


def probe_process(quick: bool) -> Row:
    """Python, torch and 32 emulators that have played a little: what the plan of a run calls process memory."""
    import numpy as np

    from retorq import api  # noqa: F401  (all of what training imports)
    from retorq.envs.make import make
    from retorq.running.plan import PROCESS_BYTES

    env = make("catch" if quick else "ALE/Pong-v5", columns=32)
    env.reset(0)
    for _ in range(200):
        env.step(np.zeros(32, np.int64))
    return _row(
        "process", resident(), PROCESS_BYTES, "whole process: Python, torch, 32 environments; expected: at most"
    )


def probe_learner(quick: bool) -> Row:
    """What a learner takes at the height of an update, besides the process."""
    import torch

    from retorq.bench.learner import FULL, QUICK, agent
    from retorq.bench.made_up import batch
    from retorq.running.plan import learner_bytes

    torch.set_flush_denormal(True)
    config = (QUICK if quick else FULL).config
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    before = resident()
    made = agent(config, config.samples, "fp32")
    learner = made.learner()
    seen = batch(made.spec, made.network, made.window.rows, config.batch_size)
    for _ in range(3):
        learner.update(seen)
    taken = resident("VmHWM") - before
    expected = learner_bytes(made)
    return _row("learner", taken, expected, "weights, moments, batch and activations, fp32")


PROBES: dict[str, Callable[[bool], Row]] = {
    "replay": probe_replay,
    "process": probe_process,
    "learner": probe_learner,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]("--quick" in sys.argv[2:])))
