"""Whoever comes to a cluster with another token is refused: soon, in one sentence, with the exit code of a mistake."""

import importlib.util
import os
import signal
import socket

import psutil
import pytest
from tests.small import program

LIMIT = 180.0  # of waiting for what never comes


def own_address():
    """An address of this host that is none of the loopback's; empty: there is none."""
    entries = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    found = [e.address for e in entries if e.family == socket.AF_INET and not e.address.startswith("127.")]
    return found[0] if found else ""


@pytest.fixture
def head(tmp_path):
    """Where a head is, and another token than its own."""
    address = own_address()
    if importlib.util.find_spec("ray") is None or not address:
        pytest.skip("Ray (extra dist) is not installed, or this host has no network")
    mine, other = tmp_path / "token", tmp_path / "other"
    for path in (mine, other):
        path.touch(0o600)
        path.write_text(path.name[0] * 64)
    for attempt in range(3):  # Ray gives up by itself on a machine that is busy
        port = 20_000 + os.getpid() % 9_000 + 4 * attempt
        words = ["cluster", "head", "--address", address, "--port", port, "--store", 100, "--processors", 1]
        running = program(*words, "--token", mine)
        said = running.stdout.readline()
        if said.startswith(f"head of a cluster at {address}:{port}"):
            break
        said += running.communicate(timeout=LIMIT)[0]
    else:
        pytest.fail(said)
    yield f"{address}:{port}", other
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=LIMIT)


def test_another_token_is_refused_in_one_sentence(head, tmp_path):
    where, other = head
    worker = program("cluster", "worker", where, "--port", 31_000, "--store", 100, "--token", other)
    run = ["train", "catch", "--agent", "apex_dqn", "--preset", "toy", "--steps", 100, "--run", tmp_path / "run"]
    run += ["--pool", "ray", "--actors", 1, "--num-envs", 2, "--cluster", where, "--cluster-token", other]
    learner = program(*run)
    told, _ = worker.communicate(timeout=LIMIT)
    assert (worker.returncode, told) == (
        2,
        "retorq: token is not that of the head; copy the head's token file to this host.\n",
    )
    told, _ = learner.communicate(timeout=LIMIT)
    assert learner.returncode == 2
    sentence = f"token file '{other}' is not that of the cluster at '{where}'; copy the head's token file to this host."
    assert told.splitlines()[-1] == f"retorq: {sentence}"
    assert not any(word in told for word in ("Traceback", "gcs_client", "Unauthenticated", "measuring"))
    assert not (tmp_path / "run").exists()
