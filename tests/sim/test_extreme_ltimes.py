"""One message with an extreme Lamport time: members still accept events, queries and intents."""

from collections.abc import Callable

import pytest
import trio

from tests.sim.helpers import UNKNOWN_ADDRESS, inject
from trioserf.results import QueryDone
from trioserf.sim.cluster import SimCluster, open_cluster
from trioserf.sim.virtual_time import run_in_virtual_time
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import Join, Leave, Query, SerfPushPull, UserEvent
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import PushPull, UserMessage

LAST = 2**64 - 1
EXTREME = [2**40, 2**63, 2**64 - 2**32, LAST - 1000, LAST - 2, LAST - 1, LAST]


def event(ltime: int) -> bytes:
    return serf_codec.encode(UserEvent(ltime, "extreme"))


def query(ltime: int) -> bytes:
    return serf_codec.encode(
        Query(ltime, 7, bytes((10, 9, 9, 9)), 7946, "x", (), 0, 0, 10**9, "extreme")
    )


def leave(ltime: int) -> bytes:
    return serf_codec.encode(Leave(ltime, "n3"))


def join(ltime: int) -> bytes:
    return serf_codec.encode(Join(ltime, "n2"))


MESSAGES: dict[str, Callable[[int], bytes]] = {
    "event": event,
    "query": query,
    "leave": leave,
    "join": join,
}


async def check_delivery(cluster: SimCluster, label: str) -> None:
    """Check that events and queries of every member reach all members."""
    members = [member.id for member in cluster.up]
    for member in members:
        await cluster.event(member, f"{label} of {member}")
    # This fails if a member misses an event or receives it twice.
    await cluster.settle()
    for member in members:
        async with cluster.node(member).query("_serf_ping") as results:
            done = [result async for result in results if isinstance(result, QueryDone)]
        assert [(one.acks, one.missing) for one in done] == [(len(members), ())]


async def check_all_rounds(cluster: SimCluster) -> None:
    """Check deliveries repeatedly, and after a member restarted from a crash."""
    for number in range(3):
        await check_delivery(cluster, f"round {number}")
    await cluster.crash("n2")
    await cluster.settle()
    await cluster.restart("n2", snapshot=True)
    await cluster.settle()
    await check_delivery(cluster, "after a restart")


@pytest.mark.parametrize("ltime", EXTREME)
@pytest.mark.parametrize("kind", MESSAGES)
def test_message_with_extreme_ltime_blocks_no_later_message(kind: str, ltime: int) -> None:
    async def main() -> None:
        async with open_cluster(seed=1) as cluster:
            await cluster.grow(4)
            await cluster.settle()
            await check_delivery(cluster, "before")
            inject(cluster, UserMessage(MESSAGES[kind](ltime)))
            await trio.sleep(0.1)  # some members have received it, others have not
            await check_all_rounds(cluster)
            await cluster.start("n5", seeds=["n4"])
            await cluster.settle()
            await check_delivery(cluster, "with a new member")
            await cluster.leave("n3")
            await cluster.settle()
            for member in cluster.up:
                left = cluster.node(member.id).member("n3")
                assert left is not None
                assert left.status == "left"

    run_in_virtual_time(main, seed=1)


@pytest.mark.parametrize("ltime", EXTREME)
def test_push_pull_with_extreme_ltimes_blocks_no_later_message(ltime: int) -> None:
    async def main() -> None:
        async with open_cluster(seed=2) as cluster:
            await cluster.grow(3)
            await cluster.settle()
            await check_delivery(cluster, "before")
            state = SerfPushPull(ltime, {"n2": ltime}, ("n3",), ltime, (), ltime)
            data = StreamCodec(keyring=None).encode_push_pull(
                PushPull(False, (), serf_codec.encode(state))
            )
            sender = cluster.network.open(UNKNOWN_ADDRESS)
            async with await sender.dial(cluster.members["n1"].address) as stream:
                await stream.send_all(data)
                await stream.receive_some()
            await check_all_rounds(cluster)

    run_in_virtual_time(main, seed=1)


def test_members_without_the_extreme_ltime_are_accepted_after_partition() -> None:
    async def main() -> None:
        async with open_cluster(seed=3) as cluster:
            await cluster.grow(4)
            await cluster.settle()
            await check_delivery(cluster, "before")
            cluster.partition(["n1", "n2"], ["n3", "n4"])
            await trio.sleep(60)
            inject(cluster, UserMessage(event(2**63)))
            await trio.sleep(5)
            cluster.heal()
            # Events are accepted even before any push/pull.
            for member in ("n4", "n1", "n3", "n2"):
                await cluster.event(member, f"healed, of {member}")
                await trio.sleep(0.3)
            await cluster.settle()
            await check_delivery(cluster, "later")

    run_in_virtual_time(main, seed=1)
