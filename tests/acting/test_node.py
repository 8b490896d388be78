"""A host's part in a cluster, without Ray: what Ray is told, that it ends with its owner, that a worker comes back."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest

from retorq.acting import node
from retorq.acting.node import Node, NodeSettings, lead, words
from retorq.types import Stopped, UserError

FAKE = """
import subprocess
subprocess.Popen([{raylet!r}, "600"])
print({said!r}, flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def settings(tmp_path):
    token = tmp_path / "token"
    token.touch(0o600)
    return NodeSettings(
        address="10.0.0.2", port=6379, head=("10.0.0.1", 6379), processors=3, store=1 << 28, token=token
    )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """What stands for Ray: it starts a process named raylet, says something, and goes on."""
    raylet = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep"), raylet)
    monkeypatch.setattr(node, "GRACE", 5.0)

    boot_of_ray = node.BOOT

    def build(said=node.STARTED, code=FAKE):
        boot = boot_of_ray.split("sys.argv[0]")[0] + code.format(raylet=str(raylet), said=said)
        monkeypatch.setattr(node, "BOOT", boot)

    build()
    return build


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_ray_is_told(settings, tmp_path):
    told = words(settings, tmp_path)
    assert "--address=10.0.0.1:6379" in told
    assert "--node-ip-address=10.0.0.2" in told
    assert {"--object-manager-port=6380", "--node-manager-port=6381", "--runtime-env-agent-port=6382"} < set(told)
    assert {"--num-cpus=3", f"--object-store-memory={1 << 28}", f"--temp-dir={tmp_path}/r", "--block"} < set(told)
    head = words(NodeSettings(**{**vars(settings), "head": None}), tmp_path)
    assert {"--head", "--port=6379", "--include-dashboard=false"} < set(head)
    assert not any(word.startswith("--address") for word in head)


SHOW = """
import json, os
with open({said!r}, "w") as file:
    json.dump(dict(os.environ), file)
"""


def test_its_environment_is_safe_and_open_to_other_hosts(settings, fake, tmp_path, monkeypatch):
    import json

    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "of somebody else")
    fake(str(tmp_path / "environment"), SHOW)
    made = Node(settings)
    until(lambda: not made.alive)
    made.close()
    told = {k: v for k, v in json.loads((tmp_path / "environment").read_text()).items() if k.startswith("RAY_")}
    assert told == node.OF_NODES | {"RAY_AUTH_TOKEN_PATH": str(settings.token)}
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_health_check_period_ms"] == "1000"


ENDING = """
import subprocess
raylet = subprocess.Popen([{raylet!r}, "600"])
def end(*_):
    with open({said!r}, "w") as file:
        file.write("ended" if raylet.poll() is not None else "lives")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("Ray runtime started.", flush=True)
while True:
    time.sleep(0.1)
"""
LEARN = "import socket, sys, time; held = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


@pytest.mark.parametrize(
    ("head", "learner", "raylet"),
    [(("10.0.0.1", 6379), False, "lives"), (("10.0.0.1", 6379), True, "ended"), (None, False, "ended")],
)
def test_a_node_ends_without_a_word_where_a_learner_may_be_on_it(head, learner, raylet, settings, fake, tmp_path):
    """Ray ends a learner at once, with nothing saved, when the node it is connected to says that it ends."""
    fake(str(tmp_path / "told"), ENDING)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        made = Node(NodeSettings(**{**vars(settings), "address": "127.0.0.1", "port": port - 2, "head": head}))
        until(lambda: made.alive and made.ready)
        connected = subprocess.Popen([sys.executable, "-c", LEARN, str(port)]) if learner else None
        if connected:
            until(lambda: made._has_learner())
        made.close()
        if connected:
            connected.kill()
            connected.wait()
    assert (tmp_path / "told").read_text() == raylet


def test_closing_ends_every_process_and_removes_the_files(settings, fake):
    made = Node(settings)
    until(lambda: made.alive and made.ready)
    children = psutil.Process(made._process.pid).children(recursive=True)
    assert [child.name() for child in children] == ["raylet"]
    folder = made._folder.path
    assert folder.is_dir()
    made.close()
    made.close()
    assert psutil.wait_procs(children, 10)[1] == []
    assert not folder.exists()


def test_a_node_whose_raylet_is_gone_is_not_alive(settings, fake):
    """Even if Ray's own command goes on: it takes an end in peace for one that was asked for."""
    made = Node(settings)
    until(lambda: made.alive and made.ready)
    [raylet] = psutil.Process(made._process.pid).children()
    raylet.kill()
    until(lambda: not made.alive)
    assert made.why == "Ray has ended, as it does where it is cut off from the head"
    made.close()


@pytest.mark.parametrize(
    ("said", "error", "sentence"),
    [
        ("GrpcError: Unauthenticated", UserError, "token is not that of the head; copy the head's token file"),
        ("Version mismatch: Ray 2.60 and 2.61", UserError, r"differ from the head's \(Version mismatch: Ray 2.60 and"),
    ],
)
def test_a_mistake_is_told_instead_of_repeated(settings, fake, said, error, sentence):
    fake(said, "print({said!r})")
    made = Node(settings)
    try:
        until(lambda: not made.alive)
        with pytest.raises(error, match=sentence):
            made.why  # noqa: B018
    finally:
        made.close()


OWNER = """
import sys, time
from pathlib import Path
from retorq.acting import node
node.BOOT = Path(sys.argv[1]).read_text()
made = node.Node(node.NodeSettings(
    address="10.0.0.2", port=6379, head=None, processors=1, store=1 << 28, token=Path(sys.argv[2])))
while not (made.alive and made.ready): time.sleep(0.05)
print(made._process.pid, flush=True)
time.sleep(600)
"""


def test_a_node_ends_when_its_owner_is_killed(settings, fake, tmp_path):
    (tmp_path / "boot").write_text(node.BOOT)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "boot"), str(settings.token)],
        stdout=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(int(owner.stdout.readline()))
    raylet = process.children()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert psutil.wait_procs([process], 20)[1] == []
    for child in raylet:  # Ray's own reaper does this
        child.kill()


class Lives:
    """A node that ends by itself after so many looks; 0: it never started."""

    def __init__(self, looks, why="it fell"):
        self.looks, self.said, self.ready, self.closed = looks, why, looks > 0, 0

    @property
    def alive(self):
        self.looks -= 1
        return self.looks >= 0

    @property
    def why(self):
        if self.said == "wrong":
            raise UserError("wrong token")
        return self.said

    def close(self):
        self.closed += 1


@pytest.fixture
def world(monkeypatch):
    """A clock that only sleeping moves, and whether a head answers."""
    state = {"now": 0.0, "head": True, "end": 1_000.0, "asked": []}
    clock = SimpleNamespace(
        monotonic=lambda: state["now"], sleep=lambda seconds: state.update(now=state["now"] + seconds)
    )
    monkeypatch.setattr(node, "time", clock)

    def answers(address):
        state["asked"].append(state["now"])
        return state["head"](state["now"]) if callable(state["head"]) else state["head"]

    monkeypatch.setattr(node, "answers", answers)
    monkeypatch.setattr(node, "is_head", lambda address: state["now"] >= state.get("stranger", 0.0))
    return state


def follow(settings, world, nodes):
    """Be a worker with these nodes, one after the other, until the world's end; returns them and what was said."""
    said, started = [], []

    def start(told):
        assert told is settings
        started.append((world["now"], nodes[len(started)]))
        return started[-1][1]

    node.follow(settings, told="joined", say=said.append, stopped=lambda: world["now"] >= world["end"], start=start)
    return started, said


def test_a_worker_joins_anew_whenever_its_node_is_lost(settings, world):
    nodes = [Lives(10), Lives(400), Lives(10), Lives(10_000)]
    started, said = follow(settings, world, nodes)
    assert [made for _, made in started] == nodes
    assert all(made.closed == 1 for made in nodes)
    assert said == [
        "joined",
        "it fell; joining anew in 1 s",
        "joined",
        "it fell; joining anew in 1 s",  # it had lived for long
        "joined",
        "it fell; joining anew in 2 s",
        "joined",
    ]


def test_a_node_that_never_starts_is_tried_ever_less_often(settings, world):
    world["end"] = 200.0
    started, said = follow(settings, world, [Lives(0) for _ in range(100)])
    begun = [at for at, _ in started]
    waits = [later - at for at, later in pairwise(begun)]
    assert waits[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert "joined" not in said


def test_a_worker_waits_for_a_head_and_joins_soon_when_there_is_one(settings, world):
    world["head"] = lambda now: now >= 100.0
    started, said = follow(settings, world, [Lives(10_000)])
    assert said == ["no head answers at 10.0.0.1:6379; trying again", "joined"]
    assert 100.0 <= started[0][0] <= 130.0
    waits = [later - at for at, later in pairwise(world["asked"])]
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert max(waits) <= 30


def test_a_worker_says_that_what_answers_is_no_head_and_joins_when_it_is_one(settings, world):
    world["stranger"] = 100.0
    started, said = follow(settings, world, [Lives(10_000)])
    assert said == [
        "what answers at 10.0.0.1:6379 is no head; give the address and port that `retorq cluster head` prints, or "
        "start one there; trying again",
        "joined",
    ]
    assert 100.0 <= started[0][0] <= 130.0


def test_a_worker_says_what_to_check_where_ray_does_not_start(settings, fake):
    fake("RPC error:", "print({said!r})")
    made = Node(settings)
    until(lambda: not made.alive)
    assert made.why == (
        "Ray did not start (RPC error:); check that what answers at 10.0.0.1:6379 is a head with the same versions"
    )
    made.close()


def test_a_mistake_ends_the_worker(settings, world):
    made = Lives(0, "wrong")
    with pytest.raises(UserError, match="wrong token"):
        follow(settings, world, [made])
    assert made.closed == 1


def test_a_worker_that_is_stopped_ends_its_node_and_says_nothing(settings, world):
    world["end"] = 3.0
    made = Lives(10_000)
    _, said = follow(settings, world, [made])
    assert (said, made.closed) == (["joined"], 1)


def leading(settings, monkeypatch, made, world):
    said = []
    monkeypatch.setattr(node, "Node", lambda told: made)
    lead(settings, told="there", say=said.append, stopped=lambda: world["now"] >= world["end"])
    return said


def test_a_head_says_when_it_is_there_and_ends_when_asked(settings, monkeypatch, world):
    world["end"] = 3.0
    made = Lives(10_000)
    assert leading(settings, monkeypatch, made, world) == ["there"]
    assert made.closed == 1


def test_a_head_that_ends_by_itself_says_so(settings, monkeypatch, world):
    made = Lives(5)
    with pytest.raises(Stopped, match="Ray's head has ended by itself; start it again with the same command") as caught:
        leading(settings, monkeypatch, made, world)
    assert (caught.value.exit_code, made.closed) == (75, 1)
    with pytest.raises(UserError, match="it fell; mend that and try again"):
        leading(settings, monkeypatch, Lives(0), world)


def test_nobody_answers_where_nobody_listens():
    from retorq.acting.cluster import answers, facing

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answers(server.getsockname())
        free = server.getsockname()
    assert not answers(free)
    assert facing(("127.0.0.1", 6379)) == "127.0.0.1"
