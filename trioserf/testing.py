"""A cluster for tests: real nodes in virtual time, on a network that breaks on command.

    pytest_plugins = ["trioserf.testing"]  # in conftest.py

    async def test_survivors_hear_of_a_crash(cluster, autojump_clock):
        await cluster.grow(5)
        await cluster.settle()
        await cluster.crash("n3")
        await cluster.settle()
        assert cluster.node("n1").member("n3").status_text == "failed"

It needs pytest-trio, whose fixture `autojump_clock` each test has to name too: pytest-trio looks
for the clock among the arguments of the test. The README of `trioserf.sim` says more.
"""

from collections.abc import AsyncIterator

import pytest
import trio
from pytest_trio import trio_fixture  # type: ignore[import-untyped]
from trio.testing import MockClock

from trioserf.sim.cluster import SimCluster as Cluster
from trioserf.sim.cluster import open_world
from trioserf.sim.network import LinkConditions
from trioserf.sim.schedule import repeatable

__all__ = ["Cluster", "LinkConditions", "cluster", "cluster_seed"]


@pytest.fixture
def cluster_seed() -> int:
    """What all randomness of `cluster` comes from; parametrize it, or define another."""
    return 0


@trio_fixture  # type: ignore[untyped-decorator]
async def cluster(cluster_seed: int) -> AsyncIterator[Cluster]:
    """An empty cluster in virtual time, whose members are watched by the simulator's judge.

    The test fails if an invariant does not hold: an event delivered twice, a healthy member
    declared failed, a queue without bounds.

    Raises:
        pytest.UsageError: the test does not name `autojump_clock`.
    """
    if not isinstance(trio.lowlevel.current_clock(), MockClock):
        raise pytest.UsageError("a test that uses `cluster` must name `autojump_clock` too")
    with repeatable(cluster_seed):
        async with open_world(seed=cluster_seed, scenario="test") as world:
            yield world
