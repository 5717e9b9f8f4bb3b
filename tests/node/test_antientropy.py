"""Anti-entropy: one random member in each interval, and errors logged once."""

import logging
import math
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    LATENCY,
    OURS,
    NodeUnderTest,
    ScriptedPeer,
    logged,
    node_under_test,
    push_pull,
    read_response,
)
from trioserf.address import packed
from trioserf.node.state import ClusterState
from trioserf.serf.events import UserEventReceived
from trioserf.swim.config import LOCAL, WAN, Timing, push_pull_scale
from trioserf.wire import serf_codec
from trioserf.wire.event_digest import EventDigest, decode_digest, encode_digest
from trioserf.wire.serf_messages import BufferedEvents, SerfPushPull
from trioserf.wire.swim_messages import Ack, Dead, NodeState, Ping, PushPull, State, Suspect

QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6, "tcp_pings": False}
Seen = list[tuple[float, str, PushPull]]


async def serve(peer: ScriptedPeer, seen: Seen, *more: NodeState) -> None:
    """Serve push/pulls until cancelled."""
    while True:
        stream, _ = await peer.transport.accept()
        async with stream:
            theirs = await read_response(stream)
            assert isinstance(theirs, PushPull)
            seen.append((trio.current_time(), peer.name, theirs))
            await stream.send_all(push_pull(peer.node_state(), *more))


async def serving(s: NodeUnderTest, *names: str) -> tuple[list[ScriptedPeer], Seen]:
    seen: Seen = []
    peers = await s.add_members(*names)
    for peer in peers:
        s.nursery.start_soon(serve, peer, seen)
    return peers, seen


@pytest.mark.parametrize("timing", [Timing(), WAN, LOCAL])
async def test_one_member_is_chosen_each_interval_from_a_random_phase_on(
    autojump_clock: MockClock, timing: Timing
) -> None:
    interval = timing.push_pull_interval
    timing = attrs.evolve(timing, probe_interval=1e6)
    firsts = []
    for seed in range(3):
        async with node_under_test(seed, **QUIET, timing=timing) as s:
            began = trio.current_time()
            _, seen = await serving(s, "a", "b", "c")
            await trio.sleep(20.5 * interval)
            times = [at for at, _, _ in seen]
            assert 20 <= len(times) <= 21
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert gaps == pytest.approx([interval] * len(gaps), abs=0.01)
            assert {name for _, name, _ in seen} == {"a", "b", "c"}
            assert not any(theirs.join for _, _, theirs in seen)
            firsts.append(round(times[0] - began, 2))
    assert len(set(firsts)) == 3
    assert max(firsts) <= interval


async def test_only_alive_members_are_chosen(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=Timing(push_pull_interval=10.0)) as s:
        (a, b, c, _), seen = await serving(s, "a", "b", "c", "d")
        c.acks_pings = False

        async def suspect() -> None:
            incarnation = 1
            while True:  # c refutes, and is suspected again
                a.send(Suspect(incarnation, "c", "a"))
                await trio.sleep(3)
                incarnation += 1
                a.send(c.alive(incarnation))
                a.send(Suspect(incarnation, "c", "a"))

        s.nursery.start_soon(suspect)
        a.send(Dead(1, "b", "b"))
        await trio.sleep(30 * 10)
        assert s.state_of("c") is State.SUSPECT
        assert b.name not in {name for _, name, _ in seen}
        assert {name for _, name, _ in seen} == {"a", "d"}


async def test_node_without_members_makes_no_exchange(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        await trio.sleep(1000)
        assert s.network.counts["packets"] == 0


def test_push_pull_interval_grows_with_cluster_size() -> None:
    assert push_pull_scale(30, 1) == push_pull_scale(30, 32) == 30
    for n in (33, 64, 65, 128, 1000):
        assert push_pull_scale(30, n) == 30 * (math.ceil(math.log2(n) - 5) + 1)
    assert push_pull_scale(30, 33) == 60
    assert push_pull_scale(30, 65) == 90


async def test_node_of_large_cluster_makes_fewer_exchanges(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=Timing(probe_interval=1e6)) as s:
        peers, seen = await serving(s, *(f"m{number}" for number in range(40)))
        assert len(peers) == 40
        await trio.sleep(60 * 10)
        times = [at for at, _, _ in seen]
        # The first interval began before there were members.
        assert [b - a for a, b in pairwise(times)][1:] == pytest.approx(
            [60] * (len(times) - 2), abs=0.01
        )


async def test_exchange_delivers_what_gossip_missed(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [a] = await s.add_members("a")
        unknown = s.peer("unknown")
        s.nursery.start_soon(serve, a, [], unknown.node_state())
        at = await s.until(lambda: "unknown" in s.statuses(), 31)
        assert at <= 31


async def test_error_is_logged_once_for_each_peer_and_cause(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET, timing=Timing(push_pull_interval=10.0)) as s:
        a, b = await s.add_members("a", "b")
        for peer in (a, b):
            s.network.cut(OURS, peer.address)
            s.network.cut(peer.address, OURS)
        # Only streams are cut: the members stay alive.
        for peer in (a, b):
            s.nursery.start_soon(keep_alive, s, peer)
        await trio.sleep(200)
        assert sorted(logged(caplog, logging.ERROR)) == [
            f"push/pull with '{peer.name}' ({peer.address}) failed: no response within 10 s"
            for peer in (a, b)
        ]
        caplog.clear()
        s.network.heal()  # the peer listens again, but its responses are malformed
        for peer in (a, b):
            s.nursery.start_soon(send_no_response, peer)
        await trio.sleep(200)
        assert sorted(logged(caplog, logging.ERROR)) == [
            f"push/pull with '{peer.name}' ({peer.address}) failed: stream: closed before its"
            " first byte"
            for peer in (a, b)
        ]


async def send_no_response(peer: ScriptedPeer) -> None:
    """Read half of every exchange and send nothing."""
    while True:
        stream, _ = await peer.transport.accept()
        async with stream:
            await read_response(stream)


async def keep_alive(s: NodeUnderTest, peer: ScriptedPeer) -> None:
    """Keep a member alive in the node's table although its probes fail."""

    def mark_alive(state: ClusterState, now: float) -> None:
        incarnation = state.membership.records[peer.name].incarnation + 1
        state.membership.alive(peer.alive(incarnation), now)

    while True:
        await s.node._owner.ask(mark_alive)
        await trio.sleep(2)


async def test_error_is_logged_again_after_a_success(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET) as s:
        peer = s.peer("a")
        peer.send(peer.alive())
        is_silent = True

        async def serve_unless_silent() -> None:
            while True:
                stream, _ = await peer.transport.accept()
                async with stream:
                    await read_response(stream)
                    if not is_silent:
                        await stream.send_all(push_pull(peer.node_state()))

        s.nursery.start_soon(serve_unless_silent)
        await trio.sleep(200)
        assert len(logged(caplog, logging.ERROR)) == 1
        is_silent = False
        await trio.sleep(60)
        is_silent = True
        await trio.sleep(200)
        first, second = logged(caplog, logging.ERROR)
        assert first == second
        assert first.endswith("failed: stream: closed before its first byte")


async def test_long_exchange_takes_the_place_of_its_tick(autojump_clock: MockClock) -> None:
    timing = Timing(push_pull_interval=4.0)
    async with node_under_test(**QUIET, timing=timing) as s:
        peer = s.peer("silent", run=True)
        peer.send(peer.alive())
        called: list[float] = []

        async def accept() -> None:
            while True:
                await peer.transport.accept()
                called.append(trio.current_time())

        s.nursery.start_soon(accept)
        await trio.sleep(100)
        gaps = [later - earlier for earlier, later in pairwise(called)]
        # Each takes ten seconds; then one more begins at once.
        assert gaps == pytest.approx([10] * len(gaps), abs=2 * LATENCY)


# --- missed user events ---


def event_state(*ltimes: int) -> bytes:
    """Return the user state of a member that has received an event at each of these times."""
    events = tuple(BufferedEvents(ltime, (("missed", b"%d" % ltime),)) for ltime in ltimes)
    return serf_codec.encode(SerfPushPull(1, {}, (), max(ltimes) + 1, events, 1))


AHEAD = encode_digest(EventDigest(4, 0, 3, 1))


async def test_missed_event_is_fetched_from_a_member_whose_digest_is_ahead(
    autojump_clock: MockClock,
) -> None:
    timing = Timing(probe_interval=1e6, push_pull_interval=1e6)
    async with node_under_test(**QUIET, timing=timing) as s:
        (peer,) = await s.add_members("a")
        theirs = push_pull(peer.node_state(), user_state=event_state(3))
        s.nursery.start_soon(peer.answer_streams, theirs)
        with s.node.subscribe() as events:
            await trio.sleep(1)
            began = trio.current_time()
            peer.send(Ping(1, "us", source_node="a", digest=AHEAD))
            event = await events.receive()
            assert isinstance(event, UserEventReceived)
            assert event.ltime == 3
            assert 0.5 <= trio.current_time() - began < 0.8
        ack = await peer.wait_for(Ack)
        assert ack.digest == b""  # it had no event yet
        peer.send(Ping(2, "us", source_node="a"))
        ack = await peer.wait_for(Ack, skip=1)
        assert decode_digest(ack.digest).clock == 4


async def test_digest_in_an_ack_counts_too(autojump_clock: MockClock) -> None:
    timing = Timing(push_pull_interval=1e6)
    async with node_under_test(**QUIET, timing=timing) as s:
        (peer,), seen = await serving(s, "a")
        peer.acks_pings = False
        ping = await peer.wait_for(Ping)
        peer.send(Ack(ping.seq_no, b"", AHEAD))
        await s.until(lambda: bool(seen), 1)


@pytest.mark.parametrize("ping", [
    Ping(1, "us", digest=AHEAD),
    Ping(1, "us", source_node="b", digest=AHEAD),
    Ping(1, "us", packed(OURS.host), 7000, "a", AHEAD),
    Ping(1, "other", source_node="a", digest=AHEAD),
])  # fmt: skip
async def test_digest_of_another_sender_than_a_member_is_ignored(
    autojump_clock: MockClock, ping: Ping
) -> None:
    timing = Timing(probe_interval=1e6, push_pull_interval=1e6)
    async with node_under_test(**QUIET, timing=timing) as s:
        (peer,), seen = await serving(s, "a")
        peer.send(ping)
        await trio.sleep(5)
        assert seen == []


async def test_malformed_digest_is_counted_and_the_ping_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        (peer,) = await s.add_members("a")
        for number, digest in enumerate((b"\0", b"x" * 300)):
            peer.send(Ping(number, "us", source_node="a", digest=digest))
        await trio.sleep(10 * LATENCY)
        assert len(peer.messages(Ack)) == 2
        assert s.node.dropped() == {"truncated": 1, "limit": 1}
