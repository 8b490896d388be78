"""Ray as retorq starts it: only this user, only this machine; and what is left when a process is killed."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from retorq.acting import cluster
from retorq.types import Stopped, UserError

HERE = Path(__file__).parents[2]
WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray (extra dist) is not installed")
PREPARED = "import sys; sys.path[:0] = {paths!r}; from tests.acting import elsewhere, test_pools as pools\n"
POOL = "network = elsewhere.Weighted(); pool = pools.{pool}(network); pool.publish(network, 0)\n"
PLAYING = "while not all(version >= 0 for version in pool.versions): pool.receive()\n"


def program(code, pool):
    """A process that has a pool whose actors play, and then runs ``code``."""
    paths = [str(HERE), str(HERE / "tests" / "envs")]
    return subprocess.Popen(
        [sys.executable, "-c", PREPARED.format(paths=paths) + POOL.format(pool=pool) + PLAYING + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def gone(processes, seconds):
    """Whether all have ended within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(p.is_running() and p.status() != "zombie" for p in processes):
        time.sleep(0.1)
    return not any(p.is_running() and p.status() != "zombie" for p in processes)


def test_actors_end_when_their_learner_is_killed():
    learner = program("print('playing', flush=True)\nwhile True: pool.receive()", "processes")
    assert learner.stdout.readline() == "playing\n"
    actors = psutil.Process(learner.pid).children(recursive=True)
    assert len(actors) == 2
    learner.send_signal(signal.SIGKILL)
    learner.communicate()
    assert gone(actors, 10.0)


SAFETY = """
import os, psutil, stat
folder = pool._cluster.folder
print(oct(stat.S_IMODE(folder.stat().st_mode)), oct(stat.S_IMODE((folder / 'token').stat().st_mode)))
listening = [
    c.laddr for p in psutil.Process().children(recursive=True) for c in p.net_connections() if c.status == 'LISTEN'
]
print({address.ip.removeprefix('::ffff:') for address in listening}, len(listening) > 3)
print(8265 in {address.port for address in listening})
print(os.environ['RAY_AUTH_MODE'], os.environ['RAY_USAGE_STATS_ENABLED'])
pool.close()
print(folder.exists(), 'RAY_AUTH_TOKEN_PATH' in os.environ)
pool = pools.on_ray(network); pool.publish(network, 1)
while not all(version == 1 for version in pool.versions): pool.receive()
pool.close()
print('again')
"""


@WITH_RAY
def test_ray_is_closed_to_everybody_else():
    """Private files, loopback addresses, a token, no dashboard, no statistics; and nothing is left."""
    out, _ = program(SAFETY, "on_ray").communicate(timeout=120)
    assert out.splitlines() == ["0o700 0o600", "{'127.0.0.1'} True", "False", "token 0", "False False", "again"]


HEADLESS = """
import os, time, psutil
from retorq.types import Stopped
head = [p for p in psutil.Process().children(recursive=True) if 'gcs_server' in p.name()]
for process in head: process.kill()
begun = time.monotonic()
try:
    while time.monotonic() - begun < 50: pool.receive()
except Stopped as error:
    print(len(head), time.monotonic() - begun < 30, error.exit_code, error, flush=True)
os._exit(0)
"""


@WITH_RAY
def test_a_lost_head_is_noticed_before_ray_ends_the_process():
    out, _ = program(HEADLESS, "on_ray").communicate(timeout=150)
    sentence = "Ray's head is gone; what was learned was saved. Start the cluster and go on with the run."
    assert out.splitlines() == [f"1 True 75 {sentence}"]


def test_the_private_folder_is_private():
    folder = cluster.private_folder()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        token = folder / "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
        assert len(str(folder)) < 40
    finally:
        (folder / "token").unlink()
        folder.rmdir()


def test_a_missing_ray_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name, value in cluster.SAFE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"pool is 'ray', but Ray is not installed; run: pip install 'retorq\[dist\]'"):
        cluster.require_ray()


def test_an_old_ray_and_one_imported_too_early_are_refused(monkeypatch):
    class Old:
        __version__ = "2.9.3"

    monkeypatch.setitem(sys.modules, "ray", Old)
    for name in cluster.SAFE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="imported before its safe settings"):
        cluster.require_ray()
    for name, value in cluster.SAFE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"Ray is 2\.9\.3, .* install 2\.60 or newer"):
        cluster.require_ray()
    assert issubclass(Stopped, UserError)
    assert os.environ["RAY_AUTH_MODE"] == "token"
