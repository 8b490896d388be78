"""Environments in worker processes: one process each, observations in shared memory, a time limit per step.

A worker is a fresh interpreter (never a fork of a program that uses threads or a GPU) in a process group of its own,
so that a hung environment can be killed with everything it started, and Ctrl-C reaches the main program only.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from retorq.envs.columns import Answer, Command, Fault, Reset
from retorq.envs.options import EnvOptions
from retorq.envs.worker import MESSAGE, places, shared_arrays
from retorq.types import Diverged, EnvSpec, Leaf, UserError

START_LIMIT = 180.0
"""Seconds that an environment may take to be built (imports and asset loading included)."""
RESET_LIMIT = 60.0
"""Seconds that a reset may take, where the step's own limit is not longer."""

_BOOT = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a['path']; "
    "from retorq.envs.worker import main; main(a['pipe'], a['memory'], a['parent'], a['arguments'])"
)


class Processes:
    """A backend with one worker process per column."""

    def __init__(self, env: str, *, columns: int, options: EnvOptions) -> None:
        self._env, self._columns, self._options = env, columns, options
        self._memory_file = _unnamed_file()
        self._memory: mmap.mmap | None = None
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * columns
        self._pipes: list[Connection | None] = [None] * columns
        try:
            for column in range(columns):
                self._start(column)
            specs = [self._greet(column) for column in range(columns)]
            if any(spec != specs[0] for spec in specs):
                raise UserError(f"{env} made environments with different spaces; all columns must be of one kind.")
            how = {"workers": "each", "step_time_limit": options.step_time_limit}
            self.spec = replace(specs[0], settings={**specs[0].settings, **how})
            self._share()
        except BaseException:
            self.close()
            raise

    def _start(self, column: int) -> None:
        ours, theirs = Pipe()
        arguments = {
            "env": self._env,
            "column": column,
            "columns": self._columns,
            "options": json.dumps(asdict(self._options)),
        }
        told = {
            "path": sys.path,
            "pipe": theirs.fileno(),
            "memory": self._memory_file,
            "parent": os.getpid(),
            "arguments": arguments,
        }
        self._workers[column] = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(told)],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._memory_file),
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._pipes[column] = ours
        theirs.close()

    def _greet(self, column: int) -> EnvSpec:
        """Wait until a new worker has built its environment; ``UserError`` with its message if it could not."""
        answer = self._receive(column, time.monotonic() + START_LIMIT)
        if isinstance(answer, Fault):
            raise UserError(f"{self._env} could not be started: its process {answer.reason}.")
        _raise_if_permanent(answer)
        if "fault" in answer:
            raise UserError(f"{self._env} could not be started: it {answer['text']}.")
        told = answer["spec"]
        leaves = {name: Leaf(**{**leaf, "shape": tuple(leaf["shape"])}) for name, leaf in told["observation"].items()}
        return EnvSpec(**{**told, "observation": leaves, "action_names": tuple(told["action_names"])})

    def _share(self) -> None:
        """Lay out the shared memory once the leaves are known, and tell the workers."""
        leaves = dict(self.spec.observation)
        size = places(leaves, self._columns)[1]
        os.ftruncate(self._memory_file, size)
        self._memory = mmap.mmap(self._memory_file, size)
        self.arrays = shared_arrays(self._memory, leaves, self._columns)
        for column in range(self._columns):
            self._send(column, b"m", size)

    def _send(self, column: int, letter: bytes, value: int, more: bytes = b"") -> None:
        pipe = self._pipes[column]
        try:
            if pipe is not None:
                pipe.send_bytes(MESSAGE.pack(letter, value) + more)
        except OSError:
            pass  # the worker is dead; receiving says how

    def _receive(self, column: int, deadline: float) -> dict[str, Any] | Fault:
        pipe = self._pipes[column]
        assert pipe is not None
        if not wait([pipe], max(0.0, deadline - time.monotonic())):
            return Fault("gave no answer within the time limit")
        try:
            answer: dict[str, Any] = json.loads(pipe.recv_bytes())
            return answer
        except (EOFError, OSError):
            return Fault(self._cause_of_death(column))

    def _cause_of_death(self, column: int) -> str:
        worker = self._workers[column]
        assert worker is not None
        try:
            code = worker.wait(5.0)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code >= 0:
            return f"ended its process with exit code {code}"
        return f"was killed by {signal.Signals(-code).name} (out of memory or a crash in native code)"

    def exchange(self, commands: Mapping[int, Command]) -> dict[int, Answer | Fault]:
        """Have all named columns work at the same time; each has its whole time limit."""
        start = time.monotonic()
        for column, command in commands.items():
            if isinstance(command, Reset):
                self._send(column, b"r", -1 if command.seed is None else command.seed)
            elif isinstance(command.action, np.ndarray):
                self._send(column, b"a", command.action.size, command.action.tobytes())
            else:
                self._send(column, b"s", command.action)
        return {column: self._answer(column, command, start) for column, command in commands.items()}

    def _answer(self, column: int, command: Command, start: float) -> Answer | Fault:
        limit = self._options.step_time_limit
        if isinstance(command, Reset):
            limit = max(limit, RESET_LIMIT)
        told = self._receive(column, start + limit)
        if isinstance(told, Fault):
            return Fault(told.reason.replace("the time limit", f"{limit:g} s (env.step_time_limit)"))
        _raise_if_permanent(told)
        if "fault" in told:
            return Fault(told["text"])
        return Answer(told.get("r", 0.0), told.get("t", False), told.get("c", False))

    def restart(self, column: int) -> Fault | None:
        """Kill the column's process with all that it started, and begin a new one."""
        self._kill(column)
        self._start(column)
        try:
            self._greet(column)
        except UserError as error:
            return Fault(f"could not be started again: {error}")
        assert self._memory is not None
        self._send(column, b"m", len(self._memory))
        return None

    def _kill(self, column: int) -> None:
        worker, pipe = self._workers[column], self._pipes[column]
        if pipe is not None:
            pipe.close()
        if worker is not None:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self._workers[column] = self._pipes[column] = None

    def render(self) -> np.ndarray:
        """Refused: pictures are drawn by an environment in this process."""
        raise UserError("environments in worker processes draw no pictures; build one column with render=True.")

    def close(self) -> None:
        """Ask every worker to close its environment, and kill those that have not ended after two seconds."""
        for column, worker in enumerate(self._workers):
            if worker is not None:
                self._send(column, b"q", 0)
        deadline = time.monotonic() + 2.0
        for column, worker in enumerate(self._workers):
            if worker is not None:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(max(0.0, deadline - time.monotonic()))
                self._kill(column)
        if self._memory_file >= 0:
            os.close(self._memory_file)
            self._memory_file = -1


def _raise_if_permanent(answer: Mapping[str, Any]) -> None:
    """Raise in this process what a worker's guard found: it would happen again after a restart."""
    if answer.get("fault") == "user":
        raise UserError(answer["text"])
    if answer.get("fault") == "diverged":
        raise Diverged(answer["text"])


def _unnamed_file() -> int:
    """A file in memory that vanishes with the last process that holds it, whatever kills them."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("retorq")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
