"""``retorq cluster``: this host's part in a cluster of several, in the foreground."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from retorq.acting.ray_settings import DEFAULT_TOKEN
from retorq.arguments import read
from retorq.commands import program
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.acting.node import NodeSettings
    from retorq.running.signals import StopSignal

PORT = 6379
LEAST_STORE = 100

USAGE = """\
usage: retorq cluster head --address ADDRESS [options]
       retorq cluster worker HEAD:PORT [options]

Several hosts for one run (docs/scaling.md). One host is the head; every other one is a worker, which joins anew
whenever it was cut off. Both stay in the foreground until Ctrl-C.

options
  -h, --help  show this; 'retorq cluster head --help' and 'retorq cluster worker --help' tell what each takes
"""


@dataclass(frozen=True)
class _Head:
    """Start a cluster of several hosts, of which this one is the head."""

    address: str = ""
    """This host's address in the network of the cluster; must be given."""
    port: int = PORT
    """First of four ports that Ray listens on."""
    token: Path = DEFAULT_TOKEN
    """File with the cluster's token, the same on all hosts, which only its owner can read."""
    processors: int | None = None
    """How many count when actors are shared out; None: all; 0: no actor plays here while another host is there."""
    store: int = 1024
    """MiB of shared memory for messages and weights."""


@dataclass(frozen=True)
class _Worker:
    """Join a cluster; join it anew whenever this host was cut off."""

    head: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="HEAD:PORT")]
    """Where the head is, as it printed it."""
    address: str | None = None
    """This host's address in the network of the cluster; None: the one that faces the head."""
    port: int = PORT
    """First of four ports that Ray listens on (the first is the head's alone)."""
    token: Path = DEFAULT_TOKEN
    """File with the cluster's token, the same on all hosts, which only its owner can read."""
    processors: int | None = None
    """How many count when actors are shared out; None: all; 0: no actor plays here while another host is there."""
    store: int = 1024
    """MiB of shared memory for messages and weights."""


def cluster(words: list[str]) -> int:
    """Be the head or a worker of a cluster."""
    if not words or words[0] in ("-h", "--help"):
        if not words:
            raise UserError(f"WHAT is missing; give head or worker ({program.command('cluster')} --help).")
        print(USAGE)
        return 0
    what, *rest = words
    if what == "head":
        return _head(read(_Head, rest, program.command("cluster head")))
    if what == "worker":
        return _worker(read(_Worker, rest, program.command("cluster worker")))
    raise UserError(f"WHAT is {what!r}; give one of head, worker.")


def _head(asked: _Head) -> int:
    from retorq.acting.node import lead

    settings = _settings(asked, asked.address, None)
    where = f"{settings.address}:{settings.port}"
    token = "" if asked.token == DEFAULT_TOKEN else f" --token {asked.token}"
    told = "\n".join(
        (
            f"head of a cluster at {where}, {settings.processors} processors; Ctrl-C ends it",
            f"on every other host:  {program.command('cluster')} worker {where}{token}",
            f"on one of them all:   {program.command('train')} ENV --pool ray --actors N --cluster {where}"
            + token.replace("--token", "--cluster-token"),
        )
    )
    with _stop() as stop:
        lead(settings, told=told, say=_say, stopped=lambda: bool(stop))
    return 0


def _worker(asked: _Worker) -> int:
    from retorq.acting.cluster import address_of, facing
    from retorq.acting.node import follow

    head = address_of(asked.head)
    settings = _settings(asked, facing(head) if asked.address is None else asked.address, head)
    told = f"node {settings.address} of the cluster at {asked.head}, {settings.processors} processors; Ctrl-C ends it"
    with _stop() as stop:
        follow(settings, told=told, say=_say, stopped=lambda: bool(stop))
    return 0


def _settings(asked: _Head | _Worker, address: str, head: tuple[str, int] | None) -> NodeSettings:
    """The node that is asked for, if this host can be it."""
    from retorq.acting.node import PORTS, NodeSettings
    from retorq.acting.ray_settings import read_token, require_installed

    _check_address(address)
    if not 1024 <= asked.port <= 65_536 - PORTS:
        raise UserError(f"port is {asked.port}; give a number from 1024 to {65_536 - PORTS}.")
    processors = (os.cpu_count() or 1) if asked.processors is None else asked.processors
    if processors < 0:
        raise UserError(f"processors is {processors}; give at least 0.")
    _check_store(asked.store)
    read_token(asked.token, copied=head is not None)
    require_installed()  # only the processes of the node load it
    _check_ports(address, asked.port, head)
    return NodeSettings(
        address=address,
        port=asked.port,
        head=head,
        processors=processors,
        store=asked.store << 20,
        token=asked.token.expanduser().absolute(),
    )


def _check_address(address: str) -> None:
    import psutil

    own = sorted(
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    )
    if not address:
        raise UserError(f"address is missing; give this host's in the cluster's network: {' or '.join(own) or 'none'}.")
    if address.startswith("127.") or address == "localhost":
        raise UserError(
            f"address is {address}, which no other host reaches; on one host alone no cluster is needed: train with "
            "--pool ray and without --cluster."
        )
    if address not in own:
        raise UserError(f"address is {address!r}, which is none of this host; give {' or '.join(own) or 'another'}.")


def _check_ports(address: str, first: int, head: tuple[str, int] | None) -> None:
    from retorq.acting.cluster import answers
    from retorq.acting.node import PORTS

    for port in range(first if head is None else first + 1, first + PORTS):
        if answers((address, port)):
            whose = "head" if head is None else "head or worker"
            raise UserError(
                f"port {port} of {address} is in use, perhaps by another {whose}; end that one or give --port."
            )


def _check_store(store: int) -> None:
    if store < LEAST_STORE:
        raise UserError(f"store is {store}; give at least {LEAST_STORE} (MiB).")
    if os.path.isdir("/dev/shm"):
        free = shutil.disk_usage("/dev/shm").free >> 20
        if store > free:
            raise UserError(
                f"store is {store} MiB, but /dev/shm has only {free} MiB free; give less, or this host more shared "
                "memory (containers: --shm-size)."
            )


def _say(line: str) -> None:
    print(line, flush=True)


def _stop() -> StopSignal:
    from retorq.running.signals import StopSignal, plain_notice

    return StopSignal(lambda _: plain_notice("ending"))
