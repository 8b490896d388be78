"""``retorq cluster``: what is refused, and what is asked of a node; without Ray."""

import importlib
import signal
import subprocess
import sys
from importlib import metadata

import psutil
import pytest
from tests.small import command

from retorq.acting import cluster as joining
from retorq.acting import node, ray_settings
from retorq.acting.node import NodeSettings
from retorq.running.train import RunOptions
from retorq.types import UserError

cluster = importlib.import_module("retorq.commands.cluster")  # the package holds a function of that name
OWN = "10.9.8.7"


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("t" * 64)
    return path


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host with one address and 600 MiB of shared memory, with Ray installed."""
    entries = [psutil._ntuples.snicaddr(2, address, None, None, None) for address in ("127.0.0.1", OWN)]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": entries})
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 600 << 20}))
    monkeypatch.setattr(cluster.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(ray_settings, "version", lambda name: "2.60.0")
    taken = set()
    monkeypatch.setattr(joining, "answers", lambda address: address in taken)
    return taken


@pytest.fixture
def asked(monkeypatch):
    """What the node was asked to be."""
    told = []
    monkeypatch.setattr(node, "lead", lambda settings, **rest: told.append((settings, rest["told"])))
    monkeypatch.setattr(node, "follow", lambda settings, **rest: told.append((settings, rest["told"])))
    return told


def test_a_head_says_what_to_type_on_the_other_hosts(asked, token):
    code, _, err = command("cluster", "head", "--address", OWN, "--store", "500", "--processors", "3", "--token", token)
    assert (code, err) == (0, "")
    [(settings, told)] = asked
    assert settings == NodeSettings(
        address=OWN, port=6379, head=None, processors=3, store=500 << 20, token=token.absolute()
    )
    assert told.splitlines() == [
        f"head of a cluster at {OWN}:6379, 3 processors; Ctrl-C ends it",
        f"on every other host:  retorq cluster worker {OWN}:6379 --token {token}",
        f"on one of them all:   retorq train ENV --pool ray --actors N --cluster {OWN}:6379 --cluster-token {token}",
    ]


def test_what_the_head_says_is_accepted_by_the_commands(asked, token, monkeypatch):
    command("cluster", "head", "--address", OWN, "--store", "500", "--token", token)
    worker, train = (line.split("retorq ")[1].split() for line in asked[0][1].splitlines()[1:])
    code, _, err = command(*worker, "--address", OWN, "--store", "200", "--processors", "0")
    assert (code, err) == (0, "")
    assert asked[1][0] == NodeSettings(
        address=OWN, port=6379, head=(OWN, 6379), processors=0, store=200 << 20, token=token.absolute()
    )
    flags = dict(zip(train[2::2], train[3::2], strict=True))
    assert flags == {"--pool": "ray", "--actors": "N", "--cluster": f"{OWN}:6379", "--cluster-token": str(token)}
    run = RunOptions(steps=1, pool="ray", actors=2, cluster=flags["--cluster"], cluster_token=flags["--cluster-token"])
    assert run.identity == RunOptions(steps=1, pool="ray", actors=2).identity  # a run may go on in another cluster


HEAD = ["head", "--address", OWN, "--store", "500"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "WHAT is missing; give head or worker"),
        (["hed"], "WHAT is 'hed'; give one of head, worker."),
        (["head"], f"address is missing; give this host's in the cluster's network: {OWN}."),
        (["head", "--address", "10.0.0.1"], f"address is '10.0.0.1', which is none of this host; give {OWN}."),
        (["head", "--address", "0.0.0.0"], "address is '0.0.0.0', which is none of this host"),
        (["head", "--address", "127.0.0.1"], "address is 127.0.0.1, which no other host reaches"),
        (["head", "--address", "localhost"], "address is localhost, which no other host reaches"),
        ([*HEAD, "--port", "80"], "port is 80; give a number from 1024 to 65532."),
        ([*HEAD, "--processors", "-1"], "processors is -1; give at least 0."),
        ([*HEAD[:-1], "50"], "store is 50; give at least 100 (MiB)."),
        ([*HEAD[:-1], "700"], "store is 700 MiB, but /dev/shm has only 600 MiB free; give less"),
        ([*HEAD, "--token", "/nowhere/token"], "token file '/nowhere/token' does not exist; make it once with"),
        (
            ["worker", f"{OWN}:6379", "--address", OWN, "--store", "500", "--token", "/nowhere/token"],
            "token file '/nowhere/token' does not exist; copy the head's token file to this host",
        ),
        (["worker"], "HEAD:PORT is missing"),
        (["worker", "10.0.0.1"], "cluster is '10.0.0.1'; give HOST:PORT"),
        (["worker", "10.0.0.1:6379", "--address", "10.0.0.9"], "address is '10.0.0.9', which is none of this host"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = command("cluster", *words)
    assert code == 2
    assert sentence in err
    assert err.startswith("retorq: ")
    assert err.count("\n") == 1
    assert asked == []


@pytest.mark.parametrize(
    ("words", "port", "refused"),
    [
        (HEAD, 6379, True),
        (HEAD, 6382, True),
        (HEAD, 6383, False),
        ([*HEAD, "--port", "7000"], 6379, False),
        (["worker", f"{OWN}:6379", "--address", OWN, "--store", "500"], 6379, False),  # that is the head's
        (["worker", f"{OWN}:6379", "--address", OWN, "--store", "500"], 6381, True),
    ],
)
def test_a_port_in_use_is_told_before_anything_starts(words, port, refused, asked, token, host):
    host.add((OWN, port))
    code, _, err = command("cluster", *words, "--token", token)
    assert (code, len(asked)) == ((2, 0) if refused else (0, 1))
    other = "head" if words[0] == "head" else "head or worker"
    sentence = f"port {port} of {OWN} is in use, perhaps by another {other}; end that one or give --port.\n"
    assert err == (f"retorq: {sentence}" if refused else "")


def test_a_missing_or_old_ray_is_told(asked, token, monkeypatch):
    monkeypatch.setattr(ray_settings, "version", lambda name: "2.9.0")
    assert "install 2.60 or newer" in command("cluster", *HEAD, "--token", token)[2]

    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(ray_settings, "version", missing)
    assert "Ray is not installed; run: pip install 'retorq[dist]'" in command("cluster", *HEAD, "--token", token)[2]
    assert asked == []


def test_neither_torch_nor_ray_is_loaded():
    """A worker's launcher needs neither: only Ray's own processes load Ray, only actors load torch."""
    code = (
        "import sys, retorq.acting.node, retorq.acting.cluster\nfrom retorq import commands\n"
        "try: commands.cluster(['worker', '10.0.0.1'])\nexcept Exception as error: print(error)\n"
        "print(sorted({'torch', 'ray', 'gymnasium', 'tyro'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "cluster is '10.0.0.1'; give HOST:PORT, as `retorq cluster head` prints it.",
        "['tyro']",
    ]


def test_ctrl_c_asks_the_node_to_end(monkeypatch, token):
    """And the command ends with 0: that is how it is meant to end."""

    def lead(settings, *, told, say, stopped):
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()

    monkeypatch.setattr(node, "lead", lead)
    assert command("cluster", *HEAD, "--token", token)[0] == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"cluster": "10.0.0.1:6379"}, "cluster is '10.0.0.1:6379', which would do nothing; give --pool ray or leave"),
        (
            {"pool": "process", "actors": 2, "cluster": "10.0.0.1:6379"},
            "cluster is '10.0.0.1:6379', which would do nothing; give --pool ray or leave cluster away",
        ),
        (
            {"pool": "ray", "actors": 2, "cluster_token": "/x"},
            "cluster_token is '/x', which would do nothing; give --cluster HOST:PORT or leave cluster_token away",
        ),
        ({"pool": "ray", "actors": 2, "cluster": "10.0.0.1"}, "cluster is '10.0.0.1'; give HOST:PORT"),
    ],
)
def test_options_of_a_run_that_would_do_nothing_are_refused(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        RunOptions(steps=100, **wrong)
