"""The owner of the state: requests, the bounded inbox, effects."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.node.helpers import LATENCY, OURS
from trioserf.address import Address
from trioserf.errors import Leaving, NameConflict
from trioserf.node.config import NodeConfig
from trioserf.node.event_hub import EventHub
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import PacketBatch, StateOwner
from trioserf.node.stream_queue import MAX_PER_MEMBER
from trioserf.serf.effects import DirectMessage, NameConflictLost
from trioserf.serf.events import UserEventReceived
from trioserf.sim.network import LinkConditions, Network
from trioserf.sim.transport import SimTransport
from trioserf.wire.packet import PacketCodec, make_compound
from trioserf.wire.serf_codec import encode as encode_serf
from trioserf.wire.serf_messages import UserEvent
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Ping, UserMessage

OTHER = Address("10.0.1.1", 7946)


def make_owner(
    transport: SimTransport | None = None, **options: Any
) -> tuple[StateOwner, EventHub]:
    """Return an owner that does not run yet."""
    config = NodeConfig(name="us", bind=OURS, **options)
    hub = EventHub()
    state = ClusterState(config, OURS, rng=random.Random(1), has_responder=hub.has_responder)
    network = Network(random.Random(1), LinkConditions(latency=0, jitter=0))
    owner = StateOwner(state, transport or network.open(OURS), hub)
    state.start(trio.current_time(), None)
    return owner, hub


@asynccontextmanager
async def running_owner(**options: Any) -> AsyncIterator[StateOwner]:
    owner, _ = make_owner(**options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        yield owner
        nursery.cancel_scope.cancel()
        owner.fail_pending()


# --- items ---


async def test_ask_returns_result_or_raises_error(autojump_clock: MockClock) -> None:
    async with running_owner() as owner:
        assert await owner.ask(lambda state, _: state.config.name) == "us"
        at = trio.current_time()
        await trio.sleep(5)
        assert await owner.ask(lambda _, now: now) == at + 5

        def fail(_: ClusterState, __: float) -> None:
            raise KeyError("mine alone")

        with pytest.raises(KeyError, match="mine alone"):
            await owner.ask(fail)
        assert await owner.ask(lambda state, _: state.config.name) == "us"


def packet_of_events(first: int) -> bytes:
    """Return a packet of 255 user events, whose names are numbers."""
    events = (UserEvent(1, str(first + i), b"", False) for i in range(255))
    return make_compound([encode(UserMessage(encode_serf(event))) for event in events])


async def test_packet_of_many_messages_lets_others_be_handled_between(
    autojump_clock: MockClock,
) -> None:
    owner, hub = make_owner()
    seen: list[str] = []
    hub.watchers.append(lambda event: seen.append(getattr(event, "name", "")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        await trio.testing.wait_all_tasks_blocked()
        await owner.receive([(packet_of_events(0), OTHER)])
        assert 0 < await owner.ask(lambda *_: len(seen)) < 60
        before = len(seen)
        assert before < await owner.ask(lambda *_: len(seen)) < 120
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["", *map(str, range(255))]
        nursery.cancel_scope.cancel()


async def test_packets_whose_messages_wait_are_bounded(autojump_clock: MockClock) -> None:
    owner, _ = make_owner()
    state = owner.state
    packets = [(packet_of_events(number * 1000), OTHER) for number in range(20)]
    state.handle_packets(packets, trio.current_time())
    steps = 0
    while state.has_waiting:
        state.handle_waiting(trio.current_time())
        steps += 1
    assert steps <= 16 * 8
    received = [event for event in state.serf.events if isinstance(event, UserEventReceived)]
    seen = [int(event.name) for event in received]
    assert sorted(seen) == [1000 * number + i for number in range(20) for i in range(255)]
    for number in range(20):
        own = [one for one in seen if one // 1000 == number]
        assert own == sorted(own)


async def test_items_are_handled_in_order(autojump_clock: MockClock) -> None:
    owner, _ = make_owner()
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(owner.ask, lambda *_, number=number: seen.append(number))
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(owner.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == list(range(100))


async def test_full_inbox_blocks_senders(autojump_clock: MockClock) -> None:
    owner, _ = make_owner(inbox_depth=16)
    ping = encode(Ping(1, "us"))
    for _ in range(16):
        await owner.receive([(ping, OTHER)])
    with trio.move_on_after(100) as timeout:
        await owner.receive([(ping, OTHER)])
    assert timeout.cancelled_caught
    with trio.move_on_after(100) as timeout:
        await owner.ask(lambda *_: None)
    assert timeout.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        with trio.fail_after(1):
            await owner.receive([(ping, OTHER)])
            await owner.ask(lambda *_: None)
        nursery.cancel_scope.cancel()


async def test_flood_of_items_lets_other_tasks_run(autojump_clock: MockClock) -> None:
    async with running_owner() as owner:
        turns = 0

        async def flood() -> None:
            while True:
                await owner.receive([(b"\x63", OTHER)])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(flood)
            while turns < 100:
                await trio.lowlevel.checkpoint()
                turns += 1
            nursery.cancel_scope.cancel()
        assert owner.state.drops.by_kind["unknown-type"]


# --- the end ---


async def test_pending_requests_fail_with_leaving_at_the_end(autojump_clock: MockClock) -> None:
    owner, _ = make_owner(inbox_depth=16)
    failed: list[str] = []

    async def call() -> None:
        with pytest.raises(Leaving, match="the node has ended"):
            await owner.ask(lambda *_: None)
        failed.append("leaving")

    async with trio.open_nursery() as nursery:
        for _ in range(20):  # four of them find the inbox full
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert not failed
        owner.fail_pending()
    assert len(failed) == 20
    with pytest.raises(Leaving):
        await owner.ask(lambda *_: None)


async def test_item_received_in_the_step_of_the_end_is_handled(autojump_clock: MockClock) -> None:
    owner, _ = make_owner()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        await trio.testing.wait_all_tasks_blocked()
        # The owner has received the item already, and handles it although cancelled.
        owner._to_inbox.send_nowait(PacketBatch([(b"\x63", OTHER)], 0.0))
        nursery.cancel_scope.cancel()
        owner.fail_pending()
    assert owner.state.drops.by_kind["unknown-type"] == 1


async def test_cancelled_request_does_not_stop_the_owner(autojump_clock: MockClock) -> None:
    owner, _ = make_owner()
    with trio.move_on_after(1):
        await owner.ask(lambda *_: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        assert await owner.ask(lambda state, _: state.config.name) == "us"
        nursery.cancel_scope.cancel()


# --- effects ---


async def test_packets_are_sent_and_unsent_ones_are_counted(
    autojump_clock: MockClock,
) -> None:
    network = Network(random.Random(1), LinkConditions(latency=LATENCY, jitter=0))
    ours, theirs = network.open(OURS), network.open(OTHER)
    owner, _ = make_owner(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)
        nursery.start_soon(owner.run)
        await owner.receive([(encode(Ping(9, "us")), OTHER)])
        [(data, source)] = await theirs.receive_packets()
        assert source == OURS
        messages, _ = PacketCodec(keyring=None).decode(data)
        assert type(messages[0]).__name__ == "Ack"
        ours.kill()
        await owner.receive([(encode(Ping(9, "us")), OTHER)] * 3)
        await trio.testing.wait_all_tasks_blocked()
        assert owner.dropped == {"packets": 3}
        assert not owner.state.outbox.packets
        nursery.cancel_scope.cancel()


async def test_excess_stream_messages_are_dropped_counted_and_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_owner() as owner:

        def order(state: ClusterState, _: float) -> None:
            for _ in range(MAX_PER_MEMBER + 5):
                state.serf.direct_messages.append(DirectMessage(OTHER, "b", b"x", stream=True))

        await owner.ask(order)
        assert owner.dropped == {"streams": 5}
        assert caplog.messages == ["dropped a response for 'b': too many streams wait already"]
        assert len(owner.bulk) == MAX_PER_MEMBER


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ((1, 4), "1 of 4 answers of other members gave the name to this one"),
        (
            (2, 4),
            "2 of 4 answers of other members gave the name to this one, and this one joined less"
            " than a minute ago",
        ),
        (
            (0, 0),
            "no other member was there to decide, and this one joined less than a minute ago",
        ),
    ],
)
async def test_lost_name_conflict_ends_the_owner(votes: tuple[int, int], reason: str) -> None:
    owner, _ = make_owner()
    other = Address("10.9.9.9", 7946)

    def lose(state: ClusterState, _: float) -> None:
        state.serf.shutdown_orders.append(NameConflictLost(*votes, other))

    with pytest.RaisesGroup(NameConflict) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            await owner.ask(lose)
    [error] = caught.value.exceptions
    assert str(error) == (
        "the name 'us' is in use by the member at 10.9.9.9:7946, and this one is at"
        f" {owner.state.address}; {reason}; choose another name with --node=NAME"
    )


async def test_declines_are_dropped_and_counted_when_inbox_is_full(
    autojump_clock: MockClock,
) -> None:
    owner, hub = make_owner(inbox_depth=16)
    for _ in range(16):
        await owner.receive([])
    hub.on_no_responder([1])
    assert owner.dropped == {"declines": 1}
    owner.fail_pending()
    hub.on_no_responder([2])  # ignored after the end
    assert owner.dropped == {"declines": 1}
