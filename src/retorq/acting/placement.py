"""On which host an actor plays: each goes where there is most room per processor, and moves where there is more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Host:
    """A node of a cluster: Ray's id of it, where it listens, its processors and the bytes of its object store."""

    id: str
    address: str
    port: int
    processors: float
    store: int = 0


def _load(host: Host, actors: int) -> float:
    """Actors per processor; a host that counts none has room only where no other is left."""
    if host.processors:
        return actors / host.processors
    return float(actors) * 1e9


def place(hosts: Sequence[Host], where: Sequence[str | None]) -> Host:
    """The host that is least loaded with one actor more; ``where`` names each actor's host, None if it has none."""
    return min(hosts, key=lambda host: (_load(host, where.count(host.id) + 1), host.id))


def move(hosts: Sequence[Host], where: Sequence[str | None]) -> tuple[int, Host] | None:
    """An actor and a host on which it is better off than on its own, or None if all are shared out evenly.

    Every move lowers the highest load among the two hosts, so moving comes to an end.
    """
    if len(hosts) < 2:
        return None
    counts = {host.id: where.count(host.id) for host in hosts}
    fullest = max(hosts, key=lambda host: (_load(host, counts[host.id]), host.id))
    best = place(hosts, where)
    if not counts[fullest.id] or _load(best, counts[best.id] + 1) >= _load(fullest, counts[fullest.id]):
        return None
    return max(actor for actor, host in enumerate(where) if host == fullest.id), best
