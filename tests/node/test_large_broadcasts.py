"""Events and queries too large for a packet, among nodes in virtual time."""

import itertools

import pytest
import trio
from trio.testing import MockClock

from trioserf.node.config import NodeConfig
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import UserEventReceived
from trioserf.sim.cluster import SimCluster
from trioserf.testing import cluster, cluster_seed

__all__ = ["cluster", "cluster_seed"]

pytestmark = pytest.mark.sim

LARGE = SerfOptions(user_event_size_limit=9216, query_size_limit=9216)


def record_events(cluster: SimCluster) -> dict[str, list[tuple[float, str]]]:
    """Record the times at which each member receives events."""
    events: dict[str, list[tuple[float, str]]] = {member.id: [] for member in cluster.up}
    for member in cluster.up:
        log = events[member.id]

        def watch(event: object, log: list[tuple[float, str]] = log) -> None:
            if isinstance(event, UserEventReceived):
                log.append((trio.current_time(), event.name))

        cluster.node(member.id)._hub.watchers.append(watch)
    return events


async def form_cluster(cluster: SimCluster, size: int) -> list[str]:
    cluster.config = NodeConfig(name="template", serf=LARGE)
    ids = await cluster.grow(size)
    await cluster.settle()
    return ids


async def check_reaches_all_at_once(
    cluster: SimCluster, sender: str, got: dict[str, list[tuple[float, str]]]
) -> None:
    """Send a large event; every member must receive it once within half a second."""
    began = trio.current_time()
    await cluster.event(sender, "big", b"x" * 9000)
    await trio.sleep(1)
    assert {len(log) for log in got.values()} == {1}
    assert max(log[0][0] for log in got.values()) - began < 0.5


async def test_large_event_reaches_all_members_at_once(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await form_cluster(cluster, 40)
    got = record_events(cluster)
    await check_reaches_all_at_once(cluster, "n7", got)


async def test_large_events_do_not_delay_small_ones(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await form_cluster(cluster, 12)
    got = record_events(cluster)
    began = trio.current_time()
    for number in range(50):
        await cluster.event("n1", f"big-{number}", b"%d" % number * 4000)
    await cluster.event("n1", "small")
    await trio.sleep(2)
    small = [at for log in got.values() for at, name in log if name == "small"]
    assert len(small) == 12
    assert max(small) - began < 1
    await trio.sleep(10)
    assert {len(log) for log in got.values()} == {51}
    assert all(len(node.node._owner.bulk) == 0 for node in cluster.up if node.node)


async def test_sender_of_large_event_reaches_every_member_itself(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    """As in Serf, the sender of a large event sends it to every member."""
    await form_cluster(cluster, 30)
    got = record_events(cluster)
    others = [member.id for member in cluster.up if member.id != "n1"]
    for sender, receiver in itertools.permutations(others, 2):
        cluster.cut(sender, receiver)
    await check_reaches_all_at_once(cluster, "n1", got)


async def test_large_event_of_dying_sender_reaches_all_members(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await form_cluster(cluster, 30)
    got = record_events(cluster)
    await cluster.event("n1", "big", b"x" * 9000)
    while sum(map(len, got.values())) < 3:  # noqa: ASYNC110 - the cluster has no event for it
        await trio.sleep(0.0005)
    await cluster.crash("n1")
    await cluster.settle()
    assert all(len(log) == 1 for member, log in got.items() if member != "n1")


async def test_stopped_members_delay_no_other_and_receive_large_event_later(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    """There are more stopped members than streams at once, so every stream meets one."""
    ids = await form_cluster(cluster, 40)
    got = record_events(cluster)
    stopped = ids[20:]
    for member in stopped:
        cluster.pause(member)
    began = trio.current_time()
    for number in range(3):
        await cluster.event("n1", f"big-{number}", b"%d" % number * 9000)
    await trio.sleep(3)
    for member in ids[:20]:
        assert len(got[member]) == 3
        assert got[member][-1][0] - began < 1.5
    for member in stopped:
        cluster.resume(member)
    await cluster.settle()
    assert {len(log) for log in got.values()} == {3}


async def test_push_pull_delivers_large_events_that_streams_could_not(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    ids = await form_cluster(cluster, 6)
    got = record_events(cluster)
    for member in cluster.up:
        cluster.node(member.id)._owner.bulk.put = lambda *_, **__: False  # type: ignore[method-assign]
    # The bound of `delivery` is that of a calm network.
    cluster.slow(ids[0], 1e-6)
    await cluster.event(ids[0], "big", b"x" * 9000)
    await trio.sleep(0.4)  # members that notice it by a digest wait half a second
    assert sum(map(len, got.values())) == 1
    assert cluster.node(ids[0]).dropped()["streams"] == 5
    await trio.sleep(30)
    assert {len(log) for log in got.values()} == {1}


async def test_large_query_is_answered_by_all_members(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    ids = await form_cluster(cluster, 10)
    began = trio.current_time()
    async with cluster.node("n3").query("load", b"x" * 9000) as results:
        found = [result async for result in results]
    assert sum(type(result).__name__ == "QueryAck" for result in found) == len(ids)
    assert trio.current_time() - began < 1
