"""A cluster of Ray with several nodes on this host, as Ray's own tests make it."""

import contextlib
import importlib.util
import time
from unittest.mock import patch

import pytest

from retorq.acting.cluster import JoinedRay, hosts
from retorq.acting.private import PrivateFolder
from retorq.acting.ray_settings import LEARNER, SAFE, TOKEN_PATH, Environment, own_token, require_ray

STORE = 120 << 20


class Nodes:
    """One head, and nodes that come and go. The first node is the one the learner is connected to."""

    def __init__(self, *processors):
        self.folder = PrivateFolder()
        self.token = self.folder.write("token", own_token())
        settings = SAFE | LEARNER
        self.environment = Environment(settings | {TOKEN_PATH: str(self.token)})
        require_ray(settings)
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(shutdown_at_exit=False)
        try:
            for count in processors:
                self.add(count)
        except BaseException:
            self.close()
            raise

    def add(self, processors):
        """A node more; returns it."""
        with patch("ray._private.utils.write_ray_address"):  # into a folder that everybody shares
            return self.cluster.add_node(
                num_cpus=processors,
                object_store_memory=STORE,
                include_dashboard=False,
                temp_dir=str(self.folder.path / "r"),
            )

    def lose(self, node):
        """End a node as a host ends whose power fails."""
        self.cluster.remove_node(node, allow_graceful=False)

    def remove(self, node, joined):
        """End a node in order, and wait until nobody counts on it."""
        self.cluster.remove_node(node, allow_graceful=True)
        while node.node_id in {host.id for host in hosts(joined.ray)}:
            time.sleep(0.1)

    def join(self):
        """The cluster as a learner sees it, once every node takes what is meant for it."""
        joined = JoinedRay(self.cluster.address, self.token)
        settle(joined)
        return joined

    def close(self):
        self.cluster.shutdown()
        self.environment.restore()
        self.folder.close()


def settle(joined):
    """Wait until actors can be placed on every node: for a moment, others do not know of a new one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = joined.ray.remote(num_cpus=0, memory=1)(_node_id)
    for host in hosts(joined.ray):
        there = where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(host.id, soft=True))
        while joined.ray.get(there.remote(), timeout=60) != host.id:
            time.sleep(0.2)


def _node_id():
    import ray

    return ray.get_runtime_context().get_node_id()


@contextlib.contextmanager
def cluster_of(*processors):
    """Such a cluster, joined; gone at the end."""
    if importlib.util.find_spec("ray") is None:  # not to be imported before its settings are made
        pytest.skip("Ray (extra dist) is not installed")
    nodes = Nodes(*processors)
    try:
        joined = nodes.join()
        try:
            yield nodes, joined
        finally:
            joined.close()
    finally:
        nodes.close()
