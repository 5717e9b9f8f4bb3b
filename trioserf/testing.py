"""A pytest fixture: a cluster of real nodes in virtual time, whose network the test controls.

    pytest_plugins = ["trioserf.testing"]  # in conftest.py

    async def test_crash_is_detected_by_survivors(cluster, autojump_clock):
        await cluster.grow(5)
        await cluster.settle()
        await cluster.crash("n3")
        await cluster.settle()
        assert cluster.node("n1").member("n3").status == "failed"

It needs pytest-trio. Each test must also request the fixture `autojump_clock`, because pytest-trio
looks for the clock among the arguments of the test. See `trioserf/sim/README.md`.
"""

from collections.abc import AsyncIterator

import pytest
import trio
from pytest_trio import trio_fixture  # type: ignore[import-untyped]
from trio.testing import MockClock

from trioserf.sim.cluster import SimCluster as Cluster
from trioserf.sim.cluster import open_cluster
from trioserf.sim.network import LinkConditions
from trioserf.sim.virtual_time import repeatable

__all__ = ["Cluster", "LinkConditions", "cluster", "cluster_seed"]


@pytest.fixture
def cluster_seed() -> int:
    """The seed of all randomness of `cluster`; parametrize or override it."""
    return 0


@trio_fixture  # type: ignore[untyped-decorator]
async def cluster(cluster_seed: int) -> AsyncIterator[Cluster]:
    """A cluster in virtual time, without members at first.

    The test fails if an invariant does not hold: an event is delivered twice, a healthy member is
    declared failed, a queue exceeds its bound.

    Raises:
        pytest.UsageError: the test does not request `autojump_clock`.
    """
    if not isinstance(trio.lowlevel.current_clock(), MockClock):
        raise pytest.UsageError("a test that uses `cluster` must request `autojump_clock` too")
    with repeatable(cluster_seed):
        async with open_cluster(seed=cluster_seed, scenario="test") as running:
            yield running
