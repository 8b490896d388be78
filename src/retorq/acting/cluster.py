"""Ray for a learner: started for this host alone, or joined where ``retorq cluster`` runs on several.

Whoever reaches Ray's ports can run code. So on one host every port is bound to the loopback address, a token is
asked for, the dashboard and usage statistics are off, and all files lie in a folder that only this user can enter.
Between several hosts the ports are open to the network and the token alone keeps others out (docs/scaling.md).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from retorq.acting.placement import Host
from retorq.acting.private import PrivateFolder
from retorq.acting.ray_settings import (
    ELSEWHERE,
    LEARNER,
    SAFE,
    SETTINGS,
    TOKEN_PATH,
    Environment,
    in_use,
    own_token,
    read_token,
    require_ray,
)
from retorq.types import UserError

ALIVE = 0
"""State of a node that is, among those Ray knows."""
SILENCE = 10.0
"""Seconds a head may take to answer."""
SETTINGS_FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""Of HTTP/2, empty; both sides begin with one (RFC 9113, section 3.4)."""
CHECK = "give the address and port that `retorq cluster head` prints"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME
STORE = 100 << 20
"""Least bytes of Ray's object store, through which messages and weights go."""


class RayCluster(Protocol):
    """Ray as a pool sees it."""

    ray: ModuleType

    @property
    def head(self) -> tuple[str, int]:
        """Host and port of Ray's head."""

    def close(self) -> None:
        """Leave; safe to call twice."""


def hosts(ray: ModuleType) -> list[Host]:
    """The nodes that are alive now; asks the head."""
    return [
        Host(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            port=int(node["NodeManagerPort"]),
            processors=float(node["Resources"].get("CPU", 0.0)),
            store=int(node["Resources"].get("object_store_memory", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def address_of(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises:
        UserError: It is no such address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1024 <= int(port) < 65_536:
        raise UserError(f"cluster is {text!r}; give HOST:PORT, as `retorq cluster head` prints it.")
    return host, int(port)


def answers(address: tuple[str, int], seconds: float = 2.0) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address, timeout=seconds).close()
    except OSError:
        return False
    return True


def is_head(address: tuple[str, int], seconds: float = SILENCE) -> bool:
    """Whether what listens there may be Ray's head: it speaks HTTP/2, as gRPC does. Ray tries any other for minutes."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True  # it says nothing in clear
    try:
        with socket.create_connection(address, timeout=seconds) as line:
            line.settimeout(seconds)
            line.sendall(GREETING)
            said = line.recv(len(SETTINGS_FRAME), socket.MSG_WAITALL)
    except OSError:
        return False
    return said[3:4] == SETTINGS_FRAME[3:4]


def facing(address: tuple[str, int]) -> str:
    """This host's own address on the way to another one; nothing is sent.

    Raises:
        UserError: There is no way there, or no such host.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own: str = probe.getsockname()[0]
            return own
    except OSError as error:
        raise UserError(f"cluster is {address[0]!r}, which this host cannot reach ({error}); check it.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class LocalRay:
    """Ray on this host, from construction to ``close``.

    Args:
        processors: How many Ray may count on; actors ask for none, so this bounds nothing.
        store: Bytes of the object store.

    Raises:
        UserError: Ray is missing, already runs in this program, or did not start.
    """

    def __init__(self, *, processors: int | None = None, store: int = STORE) -> None:
        self._folder = PrivateFolder()
        token = self._folder.write("token", own_token())
        self._environment = Environment(
            SAFE | LEARNER | {TOKEN_PATH: str(token)} | dict.fromkeys(ELSEWHERE)  # type: ignore[arg-type]
        )
        try:
            self.ray = require_ray(SAFE | LEARNER)
            self.context = _connect(
                self.ray,
                address="local",
                num_cpus=processors or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=max(STORE, store),
                _temp_dir=str(self.folder / "r"),
            )
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> Path:
        """Where all its files are."""
        return self._folder.path

    @property
    def head(self) -> tuple[str, int]:
        """Host and port of Ray's head."""
        return address_of(self.context.address_info["gcs_address"])

    def close(self) -> None:
        """End Ray and remove its files; safe to call twice."""
        _disconnect(self)
        self._environment.restore()
        self._folder.close()


class JoinedRay:
    """A cluster of several hosts as seen by a learner on one of them, from construction to ``close``.

    Args:
        address: ``HOST:PORT`` of the head.
        token: File that holds the cluster's token.

    Raises:
        UserError: No head answers, the token is not its own, or this host is no node of the cluster.
    """

    def __init__(self, address: str, token: Path) -> None:
        self.head = address_of(address)
        own, settings, self._environment = _prepared(address, token)
        try:
            self.ray = require_ray(settings)
            _require_node(_nodes(self.ray, address, token), own, address)
            _connect(self.ray, address=address, _node_ip_address=own)
            _require_node({host.address for host in hosts(self.ray)}, own, address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, which ends this learner's actors; safe to call twice."""
        _disconnect(self)
        self._environment.restore()


def require_cluster(address: str, token: Path) -> None:
    """Refuse a cluster that this program could not join; it is asked, and not joined, which takes a second or two.

    Raises:
        UserError: as of :class:`JoinedRay`.
    """
    own, settings, environment = _prepared(address, token)
    try:
        _require_node(_nodes(require_ray(settings), address, token), own, address)
    finally:
        environment.restore()


def _prepared(address: str, token: Path) -> tuple[str, dict[str, str], Environment]:
    """This host's own address, Ray's settings, and the environment with them, once somebody answers."""
    head = address_of(address)
    text = read_token(token, copied=True)
    if not answers(head):
        raise UserError(
            f"cluster is {address!r}, where no head answers; start it with: retorq cluster head --address {head[0]}."
        )
    if not is_head(head):
        raise UserError(f"cluster is {address!r}, and what answers there is no head; {CHECK}.")
    in_use(text)
    own = facing(head)
    settings = (SAFE if _is_loopback(own) else SETTINGS) | LEARNER
    variables = settings | {TOKEN_PATH: str(token.expanduser())} | dict.fromkeys(ELSEWHERE)
    return own, settings, Environment(variables)  # type: ignore[arg-type]


def _require_node(nodes: Collection[str] | None, own: str, address: str) -> None:
    if nodes is not None and own not in nodes:
        raise UserError(
            f"cluster is {address!r}, of which this host is no node; run on it, too: retorq cluster worker {address}."
        )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _nodes(ray: ModuleType, address: str, token: Path) -> set[str] | None:
    """The addresses of a cluster's nodes that are alive; None where it does not say.

    Raises:
        UserError: The token is not the cluster's. Ray itself would try it for a minute, and say so in many lines.
    """
    try:
        with _mute():
            found = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=SILENCE)
        return {node.node_manager_address for node in found.values() if node.state == ALIVE}
    except ray.exceptions.AuthenticationError:
        raise UserError(
            f"token file {str(token)!r} is not that of the cluster at {address!r}; copy the head's token file to this "
            "host."
        ) from None
    except Exception:
        return None  # whatever else is wrong, Ray says when it is joined


@contextmanager
def _mute() -> Iterator[None]:
    """Nothing goes to stderr, not from native code either."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _connect(ray: ModuleType, **arguments: Any) -> Any:
    """Start or join Ray, with its errors as sentences."""
    if ray.is_initialized():
        raise UserError("Ray is already running in this program; retorq starts its own: call ray.shutdown() first.")
    try:
        with _mute():  # its native part says how loud it is
            context = ray.init(**arguments, log_to_driver=False, logging_level="error")
        _silence(ray)
        return context
    except Exception as error:  # Ray raises Exception itself
        where = arguments["address"]
        if where != "local":
            raise UserError(
                f"cluster {where!r} does not take this program in ({_first_line(error)}); this host must be one of its "
                f"nodes (retorq cluster worker {where}), with the head's token file and the same versions."
            ) from error
        raise UserError(f"Ray did not start ({_first_line(error)}); try again when this host is less busy.") from error


def _silence(ray: ModuleType) -> None:
    """Keep the pages that Ray prints about every node that is lost from the screen: pools say it in one line."""
    ray._private.worker.print_worker_logs = lambda *_: None  # it has no setting


def _disconnect(cluster: Any) -> None:
    if getattr(cluster, "ray", None) is not None:
        cluster.ray.shutdown()
