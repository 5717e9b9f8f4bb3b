"""Events and queries too large for a packet, among nodes in virtual time."""

import itertools

import trio
from trio.testing import MockClock

from trioserf.node.config import NodeConfig
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import UserEventReceived
from trioserf.sim.cluster import SimCluster
from trioserf.testing import cluster, cluster_seed

__all__ = ["cluster", "cluster_seed"]

LARGE = SerfOptions(user_event_size_limit=9216, query_size_limit=9216)


def received(world: SimCluster) -> dict[str, list[tuple[float, str]]]:
    """Record the times at which each member receives events."""
    got: dict[str, list[tuple[float, str]]] = {member.id: [] for member in world.up}
    for member in world.up:
        log = got[member.id]

        def watch(event: object, log: list[tuple[float, str]] = log) -> None:
            if isinstance(event, UserEventReceived):
                log.append((trio.current_time(), event.name))

        world.node(member.id)._hub.watchers.append(watch)
    return got


async def formed(world: SimCluster, size: int) -> list[str]:
    world.config = NodeConfig(name="template", serf=LARGE)
    ids = await world.grow(size)
    await world.settle()
    return ids


async def goes_everywhere_at_once(
    world: SimCluster, sender: str, got: dict[str, list[tuple[float, str]]]
) -> None:
    """Send a large event; every member must receive it once within half a second."""
    began = trio.current_time()
    await world.event(sender, "big", b"x" * 9000)
    await trio.sleep(1)
    assert {len(log) for log in got.values()} == {1}
    assert max(log[0][0] for log in got.values()) - began < 0.5


async def test_large_event_reaches_all_members_at_once(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await formed(cluster, 40)
    got = received(cluster)
    await goes_everywhere_at_once(cluster, "n7", got)


async def test_large_events_do_not_delay_small_ones(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await formed(cluster, 12)
    got = received(cluster)
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
    await formed(cluster, 30)
    got = received(cluster)
    others = [member.id for member in cluster.up if member.id != "n1"]
    for one, another in itertools.permutations(others, 2):
        cluster.cut(one, another)
    await goes_everywhere_at_once(cluster, "n1", got)


async def test_large_event_of_dying_sender_reaches_all_members(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    await formed(cluster, 30)
    got = received(cluster)
    await cluster.event("n1", "big", b"x" * 9000)
    while sum(map(len, got.values())) < 3:  # noqa: ASYNC110 - looked at from outside
        await trio.sleep(0.0005)
    await cluster.crash("n1")
    await cluster.settle()
    assert all(len(log) == 1 for member, log in got.items() if member != "n1")


async def test_stopped_members_delay_no_other_and_receive_large_event_later(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    """There are more stopped members than streams at once, so every stream meets one."""
    ids = await formed(cluster, 40)
    got = received(cluster)
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
    ids = await formed(cluster, 6)
    got = received(cluster)
    for member in cluster.up:
        cluster.node(member.id)._owner.bulk.put = lambda *_, **__: False  # type: ignore[method-assign]
    await cluster.event(ids[0], "big", b"x" * 9000)
    await trio.sleep(2)
    assert sum(map(len, got.values())) == 1
    assert cluster.node(ids[0]).dropped()["streams"] == 5
    await trio.sleep(150)
    assert {len(log) for log in got.values()} == {1}


async def test_large_query_is_answered_by_all_members(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    ids = await formed(cluster, 10)
    began = trio.current_time()
    async with cluster.node("n3").query("load", b"x" * 9000) as results:
        found = [result async for result in results]
    assert sum(type(result).__name__ == "QueryAck" for result in found) == len(ids)
    assert trio.current_time() - began < 1
