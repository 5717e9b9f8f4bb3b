"""Pings, acks and nacks on behalf of others, and for whoever asks."""

import random

import pytest
import trio
from trio.testing import MockClock

from tests.node.stage import LATENCY, NodeUnderTest, ScriptedPeer, stage
from trioserf.coordinate import ORIGIN
from trioserf.swim.config import SwimOptions
from trioserf.swim.failure_detector import MAX_RELAYS
from trioserf.wire.serf_payloads import decode_coordinate
from trioserf.wire.swim_messages import Ack, Dead, IndirectPing, Message, Nack, Ping

HERE = bytes((10, 0, 1, 1))
"""Where the first of the played members is."""


def about(target: ScriptedPeer, seq_no: int = 77, *, nack: bool = True) -> IndirectPing:
    return IndirectPing(
        seq_no, bytes((10, 0, 1, 2)), target.address.port, target.name, nack, HERE, 7946, "asker"
    )


async def asker_and_target(s: NodeUnderTest) -> tuple[ScriptedPeer, ScriptedPeer]:
    """Two members that the node has never heard of: whom it helps does not matter."""
    return s.peer("asker"), s.peer("target")


# --- pings to us ---


async def test_a_ping_is_answered_with_our_coordinate(autojump_clock: MockClock) -> None:
    async with stage() as s:
        peer = s.peer("p")
        peer.send(Ping(41, "us"))
        ack = await peer.wait_for(Ack, 1)
        assert ack.seq_no == 41
        assert decode_coordinate(ack.payload) == ORIGIN
        assert s.node.coordinate() == ORIGIN


async def test_without_coordinates_the_ack_is_bare(autojump_clock: MockClock) -> None:
    async with stage(coordinates=False) as s:
        peer = s.peer("p")
        peer.send(Ping(41, "us"))
        assert await peer.wait_for(Ack, 1) == Ack(41)


async def test_a_ping_for_another_name_is_not_answered(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage() as s:
        peer = s.peer("p")
        peer.send(Ping(41, "them"))
        peer.send(Ping(42, ""))  # who does not know our name may ask all the same
        await trio.sleep(1)
        assert [ack.seq_no for ack in peer.got(Ack)] == [42]
        assert "ping for 'them', but this is 'us'; from 10.0.1.1:7946" in caplog.text


async def test_the_answer_goes_where_the_ping_says(autojump_clock: MockClock) -> None:
    async with stage() as s:
        first, second = s.peer("first"), s.peer("second")
        second.send(Ping(1, "us", HERE, 7946, "first"))
        await first.wait_for(Ack, 1)
        second.send(Ping(2, "us", b"", 7946))
        await second.wait_for(Ack, 1)
        second.send(Ping(3, "us", HERE, 0))
        await second.wait_for(Ack, 1, skip=1)
        assert [ack.seq_no for ack in first.got(Ack)] == [1]
        assert [ack.seq_no for ack in second.got(Ack)] == [2, 3]


@pytest.mark.parametrize("buddy", [True, False])
@pytest.mark.parametrize("witness", ["p", "other"], ids=["left", "failed"])
async def test_who_is_gone_for_us_hears_so_when_it_pings(
    autojump_clock: MockClock, witness: str, buddy: bool
) -> None:
    async with stage(swim=SwimOptions(buddy=buddy)) as s:
        peer = s.peer("p")
        await s.add_members("q")
        peer.send(peer.alive())
        peer.send(Ping(1, "us", HERE, 7946, "p"))
        await peer.wait_for(Ack, 1)
        assert peer.got(Dead) == []
        peer.send(Dead(1, "p", witness))
        await trio.sleep(25)  # until nobody gossips about it any more
        heard = len(peer.got(Dead))
        peer.send(Ping(2, "us", HERE, 7946, "p"))
        await trio.sleep(1)
        told = [Dead(1, "p", "p" if witness == "p" else "us")]
        assert peer.got(Dead)[heard:] == (told if buddy else [])


# --- pings for others ---


async def test_an_ack_is_handed_on_under_the_askers_number(autojump_clock: MockClock) -> None:
    async with stage() as s:
        asker, target = await asker_and_target(s)
        asker.send(about(target))
        ping = await target.wait_for(Ping, 1)
        assert ping.node == "target"
        assert ping.source_node == "us"
        ack = await asker.wait_for(Ack, 1)
        assert ack.seq_no == 77
        await trio.sleep(5)
        assert asker.got(Nack) == []
        assert len(asker.got(Ack)) == 1


@pytest.mark.parametrize("nack", [True, False])
async def test_a_nack_comes_at_the_probe_timeout_if_it_was_wanted(
    autojump_clock: MockClock, nack: bool
) -> None:
    async with stage() as s:
        asker, target = await asker_and_target(s)
        target.answers = False
        began = trio.current_time()
        asker.send(about(target, nack=nack))
        await trio.sleep(5)
        assert asker.got(Nack) == [Nack(77)] * nack
        assert asker.got(Ack) == []
        if nack:
            assert asker.of(Nack)[0].at - began == pytest.approx(0.5 + 2 * LATENCY, abs=1e-4)


@pytest.mark.parametrize(("after", "relayed"), [(0.7, True), (1.4, True), (1.6, False)])
async def test_a_late_ack_is_handed_on_while_somebody_may_wait(
    autojump_clock: MockClock, after: float, relayed: bool
) -> None:
    async with stage() as s:
        asker, target = await asker_and_target(s)
        target.answers = False
        asker.send(about(target))
        ping = await target.wait_for(Ping, 1)
        await trio.sleep(after)
        target.send(Ack(ping.seq_no))
        target.send(Ack(ping.seq_no))
        await trio.sleep(0.1)
        assert asker.got(Nack) == [Nack(77)]
        assert asker.got(Ack) == [Ack(77)] * relayed


async def test_the_numbers_of_askers_do_not_get_mixed_up(autojump_clock: MockClock) -> None:
    async with stage() as s:
        asker, target = await asker_and_target(s)
        other = s.peer("other")
        asker.send(about(target, 5))
        other.send(IndirectPing(5, bytes((10, 0, 1, 2)), 7946, "target", False, b"", 0, "other"))
        await trio.sleep(0.1)
        numbers = [ping.seq_no for ping in target.got(Ping)]
        assert len(set(numbers)) == 2
        # Without a source address the answer goes to where the request came from.
        assert asker.got(Ack) == other.got(Ack) == [Ack(5)]


async def test_foreign_acks_and_nacks_mean_nothing(autojump_clock: MockClock) -> None:
    async with stage() as s:
        [a] = await s.add_members("a")
        rng = random.Random(1)
        for _ in range(200):
            number = rng.getrandbits(32)
            a.send(Ack(number, b"\xff"), Nack(number))
        await trio.sleep(5)
        assert s.statuses() == {"us": "alive", "a": "alive"}
        assert s.node.memberlist.awareness.score == 0


async def test_what_is_asked_of_nobody_is_not_tried(autojump_clock: MockClock) -> None:
    async with stage() as s:
        asker, _ = await asker_and_target(s)
        strange: list[Message] = [
            IndirectPing(1, bytes((10, 0, 1, 2)), 0, "target", True),
            IndirectPing(2, b"", 7946, "target", True),
        ]
        asker.send(*strange)
        await trio.sleep(2)
        assert s.peers["target"].got(Ping) == []
        assert s.statuses() == {"us": "alive"}


async def test_only_so_many_pings_are_made_for_others(autojump_clock: MockClock) -> None:
    async with stage() as s:
        asker, target = await asker_and_target(s)
        target.answers = False
        detector = s.node._state.detector
        for start in range(0, MAX_RELAYS + 500, 20):
            asker.send(*(about(target, start + one, nack=False) for one in range(20)))
        await trio.sleep(0.1)
        assert len(detector._relays) == MAX_RELAYS
        assert len(target.got(Ping)) == MAX_RELAYS
        await trio.sleep(2)
        assert len(detector._relays) == 0
        assert detector._nack_deadlines == []
        target.answers = True
        asker.send(about(target))
        await asker.wait_for(Ack, 1)
