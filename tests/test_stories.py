"""The benchmarks that tell of faults, as tests: all that Ape-X stands on is killed, and a host is cut off."""

import importlib.util

import pytest
from benchmarks import shards, two_hosts

RAY = importlib.util.find_spec("ray") is not None  # not to be imported before its settings are made
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not RAY, reason="Ray (extra dist) is not installed")]


def test_apex_solves_its_toy_though_both_actors_and_both_shards_are_killed():
    row = shards.killed(0)
    assert row["passed"], row
    assert (row["actors_replaced"], row["shards_replaced"]) == (2, 2)
    assert row["rows_lost"] > 0


@pytest.mark.skipif(bool(two_hosts.why_not()), reason=two_hosts.why_not() or "it can be done")
def test_a_host_that_is_cut_off_is_done_without_and_comes_back(tmp_path_factory):
    """Two network namespaces: partition, heal, go on."""
    hosts = two_hosts.Hosts()
    try:
        told = two_hosts.play(hosts, tmp_path_factory.mktemp("hosts"))
    finally:
        hosts.close()
    assert told["events"][-1]["exit_codes"] == {"learner": 75, "worker": 0, "head": 0}
    assert told["actors_replaced"] == two_hosts.ON_WORKER
    assert told["left"] == 0
