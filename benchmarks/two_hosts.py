"""Two network namespaces as two hosts: the head and the learner in one, a worker in the other; cut apart, and healed.

``python benchmarks/two_hosts.py`` needs Linux, root and ``ip`` (iproute2), and takes a few minutes. It goes the whole
way with the commands that docs/scaling.md tells: ``retorq cluster head``, ``retorq cluster worker``, ``retorq train
--cluster``. When all actors play it takes the worker's network away, waits until the learner has replaced the actors
that were there, gives it back, and waits until the worker has joined anew and its actors are back. What happened and
when is written to ``benchmarks/results/two_hosts.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import made_by

OUT = Path(__file__).parent / "results" / "two_hosts.json"
HEAD, WORKER = "10.77.0.1", "10.77.0.2"
PORT = 6379
ACTORS, ON_WORKER = 3, 2  # as the processors below share them out
LIMIT = 600.0


def why_not() -> str:
    """What is missing here; empty: nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    return "" if shutil.which("ip") else "ip (iproute2) is not installed"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Hosts:
    """Two namespaces, each with one end of a cable."""

    def __init__(self) -> None:
        self.names = [f"rq{os.getpid()}{side}" for side in "hw"]
        self.ends = [f"v{os.getpid()}{side}" for side in "hw"]
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for name, end, address in zip(self.names, self.ends, (HEAD, WORKER), strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", end, "up")

    def cable(self, state: str) -> None:
        """Take the worker's network away (``down``) or give it back (``up``)."""
        ip("-n", self.names[1], "link", "set", self.ends[1], state)

    def close(self) -> None:
        """Remove both."""
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


class Program:
    """A command of retorq on one of the hosts, with the time of each line it says."""

    def __init__(self, host: str, name: str, words: list[str], say: Callable[[str, str], None]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-m", "retorq.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, args=(name, say), daemon=True)
        self._reader.start()

    def _read(self, name: str, say: Callable[[str, str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                self.lines.append(line.rstrip())
                say(name, line.rstrip())

    def count(self, text: str) -> int:
        """How many lines hold ``text``."""
        return sum(text in line for line in self.lines)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait(120)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def step_of(run: Path) -> int:
    """How far a run has come, by its last row of metrics."""
    with suppress(OSError, IndexError, ValueError):
        return int(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return 0


class Story:
    """What happened and when, in seconds since the beginning."""

    def __init__(self, programs: list[Program]) -> None:
        self.begun = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.programs = programs

    def note(self, what: str, **more: Any) -> None:
        """Write down what has just happened."""
        event = {"seconds": round(time.monotonic() - self.begun, 1), "what": what, **more}
        self.events.append(event)
        print(event, flush=True)

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until something has happened, and note it."""
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end or not all(program.running for program in self.programs):
                raise SystemExit(f"not within {LIMIT:g} s, or a program has ended: {what}")
            time.sleep(0.2)
        self.note(what)


def play(hosts: Hosts, folder: Path) -> dict[str, Any]:
    """The whole story; returns what is written down."""
    token, run, programs = folder / "token", folder / "run", []
    story = Story(programs)
    token.touch(0o600)
    token.write_text(os.urandom(32).hex())
    shared = ["--token", str(token), "--store", "200"]

    def start(host: int, name: str, *words: str) -> Program:
        program = Program(hosts.names[host], name, list(words), lambda who, line: print(f"{who}: {line}", flush=True))
        programs.append(program)
        return program

    def further(steps: int) -> Callable[[], bool]:
        before = step_of(run)
        return lambda: step_of(run) >= before + steps

    try:
        head = start(0, "head", "cluster", "head", "--address", HEAD, "--processors", "1", *shared)
        story.until("the head is there", lambda: head.count("head of a cluster") == 1)
        worker = start(1, "worker", "cluster", "worker", f"{HEAD}:{PORT}", "--processors", "2", *shared)
        story.until("the worker has joined", lambda: worker.count(f"node {WORKER}") == 1)
        learner = start(
            0, "learner", "train", "catch", "--agent", "apex_dqn", "--preset", "toy", "--steps", "50000000",
            "--pool", "ray", "--actors", str(ACTORS), "--num-envs", "6", "--run", str(run), "--log-every", "500",
            "--cluster", f"{HEAD}:{PORT}", "--cluster-token", str(token), "--threads", "1",
        )  # fmt: skip
        story.until("the run goes", lambda: step_of(run) >= 2_000)
        hosts.cable("down")
        story.note("the network of the worker is taken away", step=step_of(run))
        lost = f"was lost with host {WORKER}"
        story.until("its actors are replaced", lambda: learner.count(lost) == ON_WORKER)
        story.until("the run has gone on without it", further(3_000))
        hosts.cable("up")
        story.note("the network is given back", step=step_of(run))
        story.until("the worker has joined anew", lambda: worker.count(f"node {WORKER}") == 2)
        back = f"was moved to {WORKER}"
        story.until("its actors are back", lambda: learner.count(back) == ON_WORKER)
        story.until("the run goes on with all actors", further(3_000))
        metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        told = [line for line in learner.lines if "actor " in line and ";" in line]
        codes = {"learner": learner.interrupt(), "worker": worker.interrupt(), "head": head.interrupt()}
        story.programs = []
        story.note("everything was ended by Ctrl-C", exit_codes=codes)
    finally:
        for program in programs:
            if program.running:
                program.kill()
    return {
        "events": story.events,
        "learner_said": told,
        "worker_said": worker.lines,
        "actors_replaced": metrics["actors_replaced"],
        "left": left(hosts),
    }


def left(hosts: Hosts) -> int:
    """Processes that are left in the namespaces, half a minute after the end at most."""
    for _ in range(60):
        found = [subprocess.check_output(["ip", "netns", "pids", name], text=True).split() for name in hosts.names]
        if not any(found):
            return 0
        time.sleep(0.5)
    return sum(map(len, found))


def main() -> None:
    """Play the story and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if missing := why_not():
        raise SystemExit(missing)
    made, hosts, folder = made_by(), Hosts(), Path(tempfile.mkdtemp())
    try:
        told = play(hosts, folder)
    finally:
        hosts.close()
        shutil.rmtree(folder, ignore_errors=True)
    asked.out.write_text(json.dumps({**told, **made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
