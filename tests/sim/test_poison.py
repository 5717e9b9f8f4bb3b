"""One poisoned message in a cluster: nobody becomes deaf, to events, to queries or to intents."""

from collections.abc import Callable

import pytest
import trio

from trioserf.serf.query_collector import QueryDone
from trioserf.sim.cluster import SimCluster, open_world
from trioserf.sim.schedule import run_in_virtual_time
from trioserf.wire import serf_codec
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_messages import Join, Leave, Query, SerfPushPull, UserEvent
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import PushPull, UserMessage

LAST = 2**64 - 1
POISON = [2**40, 2**63, 2**64 - 2**32, LAST - 1000, LAST - 2, LAST - 1, LAST]


def event(ltime: int) -> bytes:
    return serf_codec.encode(UserEvent(ltime, "poison"))


def query(ltime: int) -> bytes:
    return serf_codec.encode(
        Query(ltime, 7, bytes((10, 9, 9, 9)), 7946, "x", (), 0, 0, 10**9, "poison")
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


def send(world: SimCluster, message: bytes, to: str = "n1") -> None:
    """Have a stranger send one message to one member."""
    stranger = world.network.open(("10.9.9.9", 7946))
    for packet in PacketCodec(keyring=None).pack([encode(UserMessage(message))], crc=False):
        stranger.send_packet(packet, world.members[to].address)


async def all_hear_all(world: SimCluster, round_: str) -> None:
    """See that whatever anybody says is heard by everybody else."""
    everyone = [member.id for member in world.up]
    for member in everyone:
        await world.event(member, f"{round_} of {member}")
    # The judge lets nobody miss an event, nor have one twice.
    await world.settle()
    for member in everyone:
        async with world.node(member).query("_serf_ping") as results:
            done = [result async for result in results if isinstance(result, QueryDone)]
        assert [(one.acks, one.missing) for one in done] == [(len(everyone), ())]


async def nobody_is_deaf(world: SimCluster) -> None:
    """See that all hear all, again and again, and one that comes back from a crash as well."""
    for round_ in range(3):
        await all_hear_all(world, f"round {round_}")
    await world.crash("n2")
    await world.settle()
    await world.restart("n2", snapshot=True)
    await world.settle()
    await all_hear_all(world, "after a restart")


@pytest.mark.parametrize("ltime", POISON)
@pytest.mark.parametrize("kind", MESSAGES)
def test_one_poisoned_message_makes_nobody_deaf(kind: str, ltime: int) -> None:
    async def main() -> None:
        async with open_world(seed=1) as world:
            await world.grow(4)
            await world.settle()
            await all_hear_all(world, "before")
            send(world, MESSAGES[kind](ltime))
            await trio.sleep(0.1)  # while some have heard of it and some have not
            await nobody_is_deaf(world)
            await world.start("n5", seeds=["n4"])
            await world.settle()
            await all_hear_all(world, "with a newcomer")
            await world.leave("n3")
            await world.settle()
            for member in world.up:
                left = world.node(member.id).member("n3")
                assert left is not None
                assert left.status_text == "left"

    run_in_virtual_time(main, seed=1)


@pytest.mark.parametrize("ltime", POISON)
def test_a_poisoned_push_pull_makes_nobody_deaf(ltime: int) -> None:
    async def main() -> None:
        async with open_world(seed=2) as world:
            await world.grow(3)
            await world.settle()
            await all_hear_all(world, "before")
            state = SerfPushPull(ltime, {"n2": ltime}, ("n3",), ltime, (), ltime)
            data = StreamCodec(keyring=None).encode_push_pull(
                PushPull(False, (), serf_codec.encode(state))
            )
            stranger = world.network.open(("10.9.9.9", 7946))
            async with await stranger.dial(world.members["n1"].address) as stream:
                await stream.send_all(data)
                await stream.receive_some()
            await nobody_is_deaf(world)

    run_in_virtual_time(main, seed=1)


def test_who_was_cut_off_from_the_poison_is_heard_when_it_comes_back() -> None:
    async def main() -> None:
        async with open_world(seed=3) as world:
            await world.grow(4)
            await world.settle()
            await all_hear_all(world, "before")
            world.partition(["n1", "n2"], ["n3", "n4"])
            await trio.sleep(60)
            send(world, event(2**63))
            await trio.sleep(5)
            world.heal()
            # Before anybody exchanges states, whoever speaks first is heard.
            for member in ("n4", "n1", "n3", "n2"):
                await world.event(member, f"healed, of {member}")
                await trio.sleep(0.3)
            await world.settle()
            await all_hear_all(world, "later")

    run_in_virtual_time(main, seed=1)
