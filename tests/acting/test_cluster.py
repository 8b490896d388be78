"""Ray as retorq starts it on one host: only this user, only this host; and what is left when a process is killed."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from retorq.acting import cluster, ray_settings
from retorq.acting.cluster import JoinedRay, address_of, is_head, require_cluster
from retorq.types import UserError

HERE = Path(__file__).parents[2]
WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray (extra dist) is not installed")
PREPARED = "import sys; sys.path[:0] = {paths!r}; from tests.acting import elsewhere, test_pools as pools\n"
POOL = "network = elsewhere.Weighted(); pool = pools.{pool}(network{more}); pool.publish(network, 0)\n"
PLAYING = "while not all(version >= 0 for version in pool.versions): pool.receive()\n"


def program(code, pool, more=""):
    """A process that has a pool whose actors play, made with ``more`` arguments, and then runs ``code``."""
    paths = [str(HERE), str(HERE / "tests" / "envs")]
    return subprocess.Popen(
        [sys.executable, "-c", PREPARED.format(paths=paths) + POOL.format(pool=pool, more=more) + PLAYING + code],
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


def test_actors_end_in_the_middle_of_a_step_when_their_learner_is_killed(tmp_path):
    """However long the step would take: nobody is there any more to kill them."""
    marker = tmp_path / "hangs"
    more = f", what='hang', at=33, marker={str(marker)!r}, time_limit=600.0"
    learner = program("print('playing', flush=True)\nwhile True: pool.receive()", "processes", more)
    assert learner.stdout.readline() == "playing\n"
    end = time.monotonic() + 120.0
    while not marker.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    actors = psutil.Process(learner.pid).children(recursive=True)
    assert len(actors) == 2
    learner.send_signal(signal.SIGKILL)
    try:
        assert gone(actors, 120.0)
    finally:
        for actor in actors:  # else nobody would end them, nor the stream that they share with the learner
            with contextlib.suppress(psutil.Error):
                actor.kill()
        learner.communicate()


SAFETY = """
import os, psutil, stat
folder = pool._watch.cluster.folder
print(oct(stat.S_IMODE(folder.stat().st_mode)), oct(stat.S_IMODE((folder / 'token').stat().st_mode)))
listening = [
    c.laddr for p in psutil.Process().children(recursive=True) for c in p.net_connections() if c.status == 'LISTEN'
]
print({address.ip.removeprefix('::ffff:') for address in listening}, len(listening) > 3)
print(8265 in {address.port for address in listening})
print(os.environ['RAY_AUTH_MODE'], os.environ['RAY_USAGE_STATS_ENABLED'])
pool.close()
print(folder.exists(), [name for name in os.environ if name.startswith('RAY_')])
pool = pools.on_ray(network); pool.publish(network, 1)
while not all(version == 1 for version in pool.versions): pool.receive()
pool.close()
print('again')
"""


@WITH_RAY
def test_ray_is_closed_to_everybody_else():
    """Private files, loopback addresses, a token, no dashboard, no statistics; and nothing is left."""
    out, _ = program(SAFETY, "on_ray").communicate(timeout=120)
    assert out.splitlines() == ["0o700 0o600", "{'127.0.0.1'} True", "False", "token 0", "False []", "again"]


HEADLESS = """
import os, time, psutil
from retorq.types import Stopped
def lost(process):
    return process.name() in {names} or ({actor} and 'Hosted' in ' '.join(process.cmdline()))
found = [process for process in psutil.Process().children(recursive=True) if lost(process)]
for process in found: process.kill()
begun = time.monotonic()
try:
    while time.monotonic() - begun < 50: {does}
except Stopped as error:
    print(len(found), error.exit_code, error, flush=True)
os._exit(0)
"""
RECEIVES, PUBLISHES = "pool.receive()", "time.sleep(3.0); pool.publish(network, 1)"


@WITH_RAY
@pytest.mark.parametrize(
    ("names", "actor", "does", "said"),
    [
        pytest.param(["gcs_server"], False, RECEIVES, "1 75 Ray's head is gone", marks=pytest.mark.slow),
        pytest.param(["gcs_server"], True, RECEIVES, "3 75 Ray's head is gone", marks=pytest.mark.slow),
        pytest.param(["gcs_server"], False, PUBLISHES, "1 75 Ray's head is gone", marks=pytest.mark.slow),
        (["gcs_server", "raylet"], False, RECEIVES, "2 75 Ray has ended on this host"),
        pytest.param(["raylet"], False, PUBLISHES, "1 75 Ray has ended on this host", marks=pytest.mark.slow),
    ],
)
def test_a_lost_head_is_noticed_before_ray_ends_the_process(names, actor, does, said):
    """Alone or together with its actors or the host's node, while rows are taken or weights are published."""
    out, _ = program(HEADLESS.format(names=names, actor=actor, does=does), "on_ray").communicate(timeout=150)
    assert out.splitlines() == [said]


@pytest.mark.parametrize("address", ["nowhere", "10.0.0.1", "10.0.0.1:", ":6379", "10.0.0.1:80", "10.0.0.1:99999", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match="give HOST:PORT, as `retorq cluster head` prints it"):
        address_of(address)


def test_an_address():
    assert address_of("10.0.0.1:6379") == ("10.0.0.1", 6379)


def test_a_cluster_without_a_head_is_refused_before_ray_waits_for_one(tmp_path, monkeypatch):
    """And nothing of the program is changed."""
    monkeypatch.setattr(ray_settings, "_token", "")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x" * 40)
    before = dict(os.environ)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(
        UserError, match=rf"cluster is '127.0.0.1:{port}', where no head answers; start it with: retorq"
    ):
        JoinedRay(f"127.0.0.1:{port}", token)
    assert dict(os.environ) == before


class Asked:
    """Ray, whose head tells of nodes, or refuses a token."""

    class exceptions:
        AuthenticationError = PermissionError

    def __init__(self, nodes):
        self.nodes, self._raylet = nodes, self

    def GcsClient(self, address):
        if self.nodes is None:
            raise PermissionError
        assert os.environ["RAY_AUTH_MODE"] == "token"
        return self

    def get_all_node_info(self, timeout):
        told = SimpleNamespace
        return {i: told(node_manager_address=where, state=s) for i, (where, s) in enumerate(self.nodes)}


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ([("127.0.0.1", 0), ("10.0.0.2", 0)], None),
        ([("127.0.0.1", 1), ("10.0.0.2", 0)], "of which this host is no node; run on it, too: retorq cluster worker"),
        (None, "is not that of the cluster at .*; copy the head's token file to this host"),
    ],
)
def test_whether_a_cluster_could_be_joined_is_asked_without_joining_it(nodes, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_settings, "_token", "")
    monkeypatch.setattr(cluster, "answers", lambda address: True)
    monkeypatch.setattr(cluster, "is_head", lambda address: True)
    monkeypatch.setattr(cluster, "require_ray", lambda settings: Asked(nodes))
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x" * 40)
    before = dict(os.environ)
    with contextlib.nullcontext() if sentence is None else pytest.raises(UserError, match=sentence):
        require_cluster("127.0.0.1:6379", token)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("says", "may_be"),
    [(b"\0\0\6\4\0\0\0\0\0more", True), (b"HTTP/1.0 505 HTTP Version Not Supported", False), (b"", False)],
)
def test_what_is_no_head_is_told_from_one(says, may_be, tmp_path, monkeypatch):
    """Ray would try it for minutes."""
    monkeypatch.setattr(ray_settings, "_token", "")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x" * 40)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                line, _ = server.accept()
                with line, contextlib.suppress(ConnectionError):
                    line.sendall(says)
                    line.recv(64)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        where = server.getsockname()
        assert is_head(where) is may_be
        if not may_be:
            with pytest.raises(UserError, match="and what answers there is no head; give the address and port that"):
                require_cluster(f"127.0.0.1:{where[1]}", token)
        server.shutdown(socket.SHUT_RDWR)


class Fails:
    """Ray, whose ``init`` raises what is told."""

    def __init__(self, text):
        self.text = text

    def is_initialized(self):
        return False

    def init(self, **arguments):
        raise Exception(self.text)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("local", r"Ray did not start \(The node timed out\); try again when this host is less busy\."),
        (
            "10.0.0.1:6379",
            r"does not take this program in \(The node timed out\); .*\(retorq cluster worker 10.0.0.1:6379",
        ),
    ],
)
def test_what_ray_says_when_it_does_not_start_is_one_sentence(where, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        cluster._connect(Fails("The node timed out.\nmore"), address=where)
    assert "\n" not in str(caught.value)
