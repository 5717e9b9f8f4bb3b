"""Acks to pings, and indirect pings for other members."""

import random

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import LATENCY, NodeUnderTest, ScriptedPeer, node_under_test
from trioserf.coordinate import ORIGIN
from trioserf.swim.config import SwimOptions
from trioserf.swim.failure_detector import MAX_INDIRECT_PINGS
from trioserf.swim.reply_limits import MAX_PINGS
from trioserf.wire.serf_payloads import decode_coordinate
from trioserf.wire.swim_messages import Ack, Dead, IndirectPing, Message, Nack, Ping

HERE = bytes((10, 0, 1, 1))
"""The address of the first scripted peer."""


def indirect_ping(target: ScriptedPeer, seq_no: int = 77, *, nack: bool = True) -> IndirectPing:
    return IndirectPing(
        seq_no,
        bytes((10, 0, 1, 2)),
        target.address.port,
        target.name,
        nack,
        HERE,
        7946,
        "requester",
    )


async def requester_and_target(s: NodeUnderTest) -> tuple[ScriptedPeer, ScriptedPeer]:
    """Two peers unknown to the node; it serves any requester."""
    return s.peer("requester"), s.peer("target")


# --- pings to us ---


async def test_ack_has_our_coordinate(autojump_clock: MockClock) -> None:
    async with node_under_test() as s:
        peer = s.peer("p")
        peer.send(Ping(41, "us"))
        ack = await peer.wait_for(Ack, 1)
        assert ack.seq_no == 41
        assert decode_coordinate(ack.payload) == ORIGIN
        assert s.node.coordinate() == ORIGIN


async def test_ack_without_coordinates_has_no_payload(autojump_clock: MockClock) -> None:
    async with node_under_test(disable_coordinates=True) as s:
        peer = s.peer("p")
        peer.send(Ping(41, "us"))
        assert await peer.wait_for(Ack, 1) == Ack(41)


async def test_ping_for_another_name_is_ignored(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test() as s:
        peer = s.peer("p")
        peer.send(Ping(41, "them"))
        peer.send(Ping(42, ""))  # a ping without a name is for any node
        await trio.sleep(1)
        assert [ack.seq_no for ack in peer.messages(Ack)] == [42]
        assert "ping for 'them', but this is 'us'; from 10.0.1.1:7946" in caplog.text


async def test_ack_goes_to_the_source_in_the_ping(autojump_clock: MockClock) -> None:
    async with node_under_test() as s:
        first, second = s.peer("first"), s.peer("second")
        second.send(Ping(1, "us", HERE, 7946, "first"))
        await first.wait_for(Ack, 1)
        second.send(Ping(2, "us", b"", 7946))
        await second.wait_for(Ack, 1)
        second.send(Ping(3, "us", HERE, 0))
        await second.wait_for(Ack, 1, skip=1)
        assert [ack.seq_no for ack in first.messages(Ack)] == [1]
        assert [ack.seq_no for ack in second.messages(Ack)] == [2, 3]


@pytest.mark.parametrize("buddy", [True, False])
@pytest.mark.parametrize("witness", ["p", "other"], ids=["left", "failed"])
async def test_dead_member_that_pings_receives_its_dead_message(
    autojump_clock: MockClock, witness: str, buddy: bool
) -> None:
    async with node_under_test(swim=SwimOptions(buddy=buddy)) as s:
        peer = s.peer("p")
        await s.add_members("q")
        peer.send(peer.alive())
        peer.send(Ping(1, "us", HERE, 7946, "p"))
        await peer.wait_for(Ack, 1)
        assert peer.messages(Dead) == []
        peer.send(Dead(1, "p", witness))
        await trio.sleep(25)  # until gossip about it has ended
        before = len(peer.messages(Dead))
        peer.send(Ping(2, "us", HERE, 7946, "p"))
        await trio.sleep(1)
        expected = [Dead(1, "p", "p" if witness == "p" else "us")]
        assert peer.messages(Dead)[before:] == (expected if buddy else [])


# --- indirect pings ---


async def test_ack_is_relayed_with_the_requesters_sequence_number(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test() as s:
        requester, target = await requester_and_target(s)
        requester.send(indirect_ping(target))
        ping = await target.wait_for(Ping, 1)
        assert ping.node == "target"
        assert ping.source_node == "us"
        ack = await requester.wait_for(Ack, 1)
        assert ack.seq_no == 77
        await trio.sleep(5)
        assert requester.messages(Nack) == []
        assert len(requester.messages(Ack)) == 1


@pytest.mark.parametrize("nack", [True, False])
async def test_nack_is_sent_at_probe_timeout_if_requested(
    autojump_clock: MockClock, nack: bool
) -> None:
    async with node_under_test() as s:
        requester, target = await requester_and_target(s)
        target.acks_pings = False
        began = trio.current_time()
        requester.send(indirect_ping(target, nack=nack))
        await trio.sleep(5)
        assert requester.messages(Nack) == [Nack(77)] * nack
        assert requester.messages(Ack) == []
        if nack:
            assert requester.received_of(Nack)[0].at - began == pytest.approx(
                0.5 + 2 * LATENCY, abs=1e-4
            )


@pytest.mark.parametrize(("after", "relayed"), [(0.7, True), (1.4, True), (1.6, False)])
async def test_late_ack_is_relayed_while_the_requester_may_wait(
    autojump_clock: MockClock, after: float, relayed: bool
) -> None:
    async with node_under_test() as s:
        requester, target = await requester_and_target(s)
        target.acks_pings = False
        requester.send(indirect_ping(target))
        ping = await target.wait_for(Ping, 1)
        await trio.sleep(after)
        target.send(Ack(ping.seq_no))
        target.send(Ack(ping.seq_no))
        await trio.sleep(0.1)
        assert requester.messages(Nack) == [Nack(77)]
        assert requester.messages(Ack) == [Ack(77)] * relayed


async def test_equal_sequence_numbers_of_requesters_are_kept_apart(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test() as s:
        requester, target = await requester_and_target(s)
        other = s.peer("other")
        requester.send(indirect_ping(target, 5))
        other.send(IndirectPing(5, bytes((10, 0, 1, 2)), 7946, "target", False, b"", 0, "other"))
        await trio.sleep(0.1)
        numbers = [ping.seq_no for ping in target.messages(Ping)]
        assert len(set(numbers)) == 2
        # Without a source address the ack goes to the packet's sender.
        assert requester.messages(Ack) == other.messages(Ack) == [Ack(5)]


async def test_unexpected_acks_and_nacks_are_ignored(autojump_clock: MockClock) -> None:
    async with node_under_test() as s:
        [a] = await s.add_members("a")
        rng = random.Random(1)
        for _ in range(200):
            number = rng.getrandbits(32)
            a.send(Ack(number, b"\xff"), Nack(number))
        await trio.sleep(5)
        assert s.statuses() == {"us": "alive", "a": "alive"}
        assert s.node.memberlist.awareness.score == 0


async def test_indirect_ping_with_invalid_target_is_not_sent(autojump_clock: MockClock) -> None:
    async with node_under_test() as s:
        requester, _ = await requester_and_target(s)
        strange: list[Message] = [
            IndirectPing(1, bytes((10, 0, 1, 2)), 0, "target", True),
            IndirectPing(2, b"", 7946, "target", True),
        ]
        requester.send(*strange)
        await trio.sleep(2)
        assert s.peers["target"].messages(Ping) == []
        assert s.statuses() == {"us": "alive"}


async def test_pending_indirect_pings_are_bounded(autojump_clock: MockClock) -> None:
    async with node_under_test() as s:
        requester, target = await s.add_members("requester", "target")
        target.acks_pings = False
        target.received.clear()
        detector = s.node._state.detector
        for start in range(0, MAX_INDIRECT_PINGS + 500, MAX_PINGS):
            numbers = range(start, start + MAX_PINGS)
            requester.send(*(indirect_ping(target, number, nack=False) for number in numbers))
        await trio.sleep(0.1)
        assert len(detector._indirect_pings) == MAX_INDIRECT_PINGS
        assert len(target.messages(Ping)) == MAX_INDIRECT_PINGS
        await trio.sleep(2)
        assert len(detector._indirect_pings) == 0
        assert detector._nack_deadlines == []
        target.acks_pings = True
        requester.send(indirect_ping(target))
        await requester.wait_for(Ack, 1)
