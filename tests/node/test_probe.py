"""Probes: pings, indirect pings, stream pings, conclusions, health score."""

import itertools
import logging
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    LATENCY,
    OURS,
    NodeUnderTest,
    Received,
    RecordingNetwork,
    ScriptedPeer,
    logged,
    node_under_test,
    open_nodes,
    read_response,
)
from trioserf import __version__
from trioserf.coordinate import ORIGIN
from trioserf.net.transport import SocketAddress
from trioserf.sim.network import LinkConditions
from trioserf.swim.config import SwimOptions
from trioserf.wire.serf_payloads import encode_coordinate
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import PING, encode
from trioserf.wire.swim_messages import (
    Ack,
    Alive,
    IndirectPing,
    Nack,
    Ping,
    State,
    Suspect,
    Versions,
)

PROTOCOL_2 = Versions(1, 2, 2, 2, 5, 5)
PROTOCOL_3 = Versions(1, 3, 2, 2, 5, 5)

# Other tasks that dial are disabled.
QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6}


def health(s: NodeUnderTest) -> int:
    return s.node.memberlist.awareness.score


async def silent_and_helpers(
    s: NodeUnderTest, *names: str, versions: Sequence[Versions] = ()
) -> tuple[ScriptedPeer, list[ScriptedPeer]]:
    """Add a member that acks no ping, and others that do."""
    [silent] = await s.add_members("silent")
    silent.acks_pings = False
    helpers = [s.peer(name, versions=v) for name, v in zip(names, versions, strict=True)]
    for helper in helpers:
        helper.send(helper.alive())
    await trio.sleep(2 * LATENCY)
    return silent, helpers


async def first_ping(s: NodeUnderTest, silent: ScriptedPeer) -> Received:
    await silent.wait_for(Ping)
    return silent.received_of(Ping)[0]


async def test_members_are_probed_in_turn_once_an_interval(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        a, b, c = await s.add_members("a", "b", "c")
        await trio.sleep(12.1)
        times = sorted((r.at, peer.name) for peer in (a, b, c) for r in peer.received_of(Ping))
        assert len(times) == 12
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(times)]
        assert gaps == [pytest.approx(1.0)] * 11
        for start in range(0, 12, 3):  # every round has all members
            assert {name for _, name in times[start : start + 3]} == {"a", "b", "c"}
        assert times[0][0] <= 1.0 + LATENCY
        numbers = [ping.seq_no for peer in (a, b, c) for ping in peer.messages(Ping)]
        assert len(set(numbers)) == 12
        [ping, *_] = a.messages(Ping)
        assert (ping.node, ping.source_node) == ("a", "us")
        assert (ping.source_addr, ping.source_port) == (bytes((10, 0, 0, 1)), 7946)
        assert set(s.statuses().values()) == {"alive"}


async def test_releases_of_members_are_learned_from_their_acks(autojump_clock: MockClock) -> None:
    coordinate = encode_coordinate(ORIGIN)
    async with node_under_test(**QUIET) as s:
        ours, serf = await s.add_members("ours", "serf")
        ours.ack, serf.ack = Ack(0, coordinate, release="9.1"), Ack(0, coordinate)

        def releases() -> dict[str, str]:
            return {member.name: member.release for member in s.node.members()}

        assert releases() == {"us": __version__, "ours": "", "serf": ""}
        with s.node.subscribe() as events:
            await trio.sleep(2.1)
            assert releases() == {"us": __version__, "ours": "9.1", "serf": ""}
            ours.ack = Ack(0)  # as an ack that another member forwards
            await trio.sleep(2)
            assert releases()["ours"] == "9.1"
            ours.send(ours.alive(8))
            ours.ack = Ack(0, coordinate)  # started again, as Serf
            await trio.sleep(2)
            assert releases()["ours"] == ""
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
                await events.receive()


async def test_first_probe_has_a_random_phase(autojump_clock: MockClock) -> None:
    firsts = []
    for seed in range(6):
        async with node_under_test(seed, **QUIET) as s:
            began = trio.current_time()
            [a] = await s.add_members("a")
            await a.wait_for(Ping)
            firsts.append(a.received_of(Ping)[0].at - began)
    assert len({round(first, 3) for first in firsts}) == 6
    assert max(firsts) <= 1.01


async def test_unresponsive_member_is_probed_indirectly_then_suspected(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        silent, helpers = await silent_and_helpers(
            s,
            "a",
            "b",
            "c",
            "d",
            versions=[PROTOCOL_3, PROTOCOL_3] + [Versions(1, 5, 2, 2, 5, 5)] * 2,
        )
        ping = await first_ping(s, silent)
        await trio.sleep_until(ping.at - LATENCY + 0.99)
        requests = {
            helper.name: helper.received_of(IndirectPing)
            for helper in helpers
            if helper.messages(IndirectPing)
        }
        assert len(requests) == 3
        for [received] in requests.values():
            assert received.at == pytest.approx(ping.at + 0.5)
        for helper in helpers:
            for request in helper.messages(IndirectPing):
                assert (request.node, request.port) == ("silent", 7946)
                assert request.target == bytes((10, 0, 1, 1))
                assert request.nack is (helper.versions.protocol_max >= 4)
                assert request.seq_no == silent.messages(Ping)[0].seq_no
        assert s.state_of("silent") is State.ALIVE
        await trio.sleep_until(ping.at + 1.01)
        assert s.state_of("silent") is State.SUSPECT
        suspect = await silent.wait_for(Suspect, 1)
        assert suspect == Suspect(1, "silent", "us")


@pytest.mark.parametrize(
    ("help_by", "score"),
    [("ack", 0), ("nack", 0), ("silence", 3)],
)
async def test_acks_and_nacks_of_helpers_decide_status_and_health_score(
    autojump_clock: MockClock, help_by: str, score: int
) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        silent, helpers = await silent_and_helpers(
            s, "a", "b", "c", versions=[Versions(1, 5, 2, 2, 5, 5)] * 3
        )
        ping = await first_ping(s, silent)
        for helper in helpers:
            request = await helper.wait_for(IndirectPing, 1)
            if help_by == "ack":
                helper.send(Ack(request.seq_no, b"not a coordinate"))
            elif help_by == "nack":
                helper.send(Nack(request.seq_no))
        await trio.sleep_until(ping.at + 1.01)
        suspected = s.state_of("silent") is State.SUSPECT
        assert suspected is (help_by != "ack")
        assert health(s) == score
        assert s.node.coordinate("silent") is None


async def test_each_missing_nack_raises_the_health_score(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        silent, helpers = await silent_and_helpers(
            s, "a", "b", "c", versions=[Versions(1, 5, 2, 2, 5, 5)] * 3
        )
        ping = await first_ping(s, silent)
        request = await helpers[0].wait_for(IndirectPing, 1)
        helpers[0].send(Nack(request.seq_no))
        await trio.sleep_until(ping.at + 1.01)
        assert health(s) == 2


async def test_failed_probe_without_expected_nacks_raises_the_health_score_by_one(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        silent, _ = await silent_and_helpers(s, "a", versions=[PROTOCOL_3])
        ping = await first_ping(s, silent)
        await trio.sleep_until(ping.at + 1.01)
        assert health(s) == 1


async def test_health_score_scales_interval_and_timeout_and_recovers(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        s.node.memberlist.awareness.apply_delta(2)
        [a] = await s.add_members("a")
        await a.wait_for(Ping)
        # Indirect pings after 0.5 s as always; the conclusion after three intervals, then two.
        await trio.sleep(10.5)
        times = [received.at for received in a.received_of(Ping)]
        gaps = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
        assert gaps[:3] == [2.0, 1.0, 1.0]  # each success lowers the score before the next sleep
        assert health(s) == 0
        a.acks_pings = False
        s.node.memberlist.awareness.apply_delta(2)
        seen = len(a.received_of(Ping))
        await a.wait_for(Ping, 10, seen)
        began = a.received_of(Ping)[seen].at - LATENCY
        at = await s.until(lambda: s.state_of("a") is State.SUSPECT)
        assert at == pytest.approx(began + 3, abs=0.02)


async def test_health_score_is_bounded(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        awareness = s.node.memberlist.awareness
        awareness.apply_delta(100)
        assert health(s) == 7
        awareness.apply_delta(-100)
        assert health(s) == 0


async def serve_stream(peer: ScriptedPeer, *, wrong: bool = False) -> None:
    """Acknowledge one ping on a stream."""
    stream, _ = await peer.transport.accept()
    async with stream:
        ping = await read_response(stream)
        assert isinstance(ping, Ping)
        assert ping.node == peer.name
        ack = Ack(ping.seq_no + wrong)
        await stream.send_all(StreamCodec(keyring=None).encode(encode(ack)))


async def test_member_that_acks_only_on_stream_stays_alive_with_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET) as s:
        silent, _ = await silent_and_helpers(s)
        s.nursery.start_soon(serve_stream, silent)
        ping = await first_ping(s, silent)
        await trio.sleep_until(ping.at + 1.01)
        assert s.state_of("silent") is State.ALIVE
        assert health(s) == 0
        assert logged(caplog, logging.WARNING) == [
            "'silent' answers on a stream, but not to packets; check that UDP gets through"
        ]


@pytest.mark.parametrize("case", ["wrong number", "garbage", "no answer", "no listener", "old"])
async def test_member_is_suspected_without_a_stream_ack(
    autojump_clock: MockClock, case: str
) -> None:
    async with node_under_test(**QUIET) as s:
        versions = PROTOCOL_2 if case == "old" else PROTOCOL_3
        [silent] = await s.add_members("silent", versions=versions)
        silent.acks_pings = False
        streams = []

        async def serve() -> None:
            if case == "wrong number":
                await serve_stream(silent, wrong=True)
                return
            stream, _ = await silent.transport.accept()
            streams.append(stream)
            if case == "garbage":
                await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n")

        if case == "no listener":
            s.network.cut(OURS, silent.address)
        else:
            s.nursery.start_soon(serve)
        await s.until(lambda: s.state_of("silent") is State.SUSPECT, 3)
        assert health(s) == 1
        assert case != "old" or not streams


async def test_ping_to_suspect_carries_the_suspect_message(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        silent, _ = await silent_and_helpers(s, "a", "b", versions=[PROTOCOL_3] * 2)
        silent.acks_pings = False
        await s.until(lambda: s.state_of("silent") is State.SUSPECT, 10)
        since = trio.current_time()
        await s.until(lambda: bool(silent.messages(Ping, since)), 10)
        beside = silent.received_of(Ping, since)[0].same_packet
        assert beside == (silent.messages(Ping, since)[0], Suspect(1, "silent", "us"))
        silent.send(silent.alive(incarnation=2))
        await trio.sleep(2 * LATENCY)
        assert s.state_of("silent") is State.ALIVE


async def test_ping_to_suspect_is_alone_without_buddy_system(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False, swim=SwimOptions(buddy=False)) as s:
        silent, _ = await silent_and_helpers(s, "a", "b", versions=[PROTOCOL_3] * 2)
        await s.until(lambda: s.state_of("silent") is State.SUSPECT, 10)
        await trio.sleep(3)  # until its gossip has ended
        since = trio.current_time()
        await s.until(lambda: bool(silent.messages(Ping, since)), 10)
        assert not any(
            isinstance(m, Suspect) for m in silent.received_of(Ping, since)[0].same_packet
        )


async def test_timely_ack_updates_rtt_and_late_ack_does_not(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        payload = encode_coordinate(ORIGIN)
        [a] = await s.add_members("a")
        a.acks_pings = False
        ping = await a.wait_for(Ping)
        await trio.sleep(0.8)
        a.send(Ack(ping.seq_no, payload))
        await trio.sleep(2 * LATENCY)
        assert s.node.coordinate("a") is None
        ping = await a.wait_for(Ping, skip=1)
        a.send(Ack(ping.seq_no, payload))
        await trio.sleep(2 * LATENCY)
        assert s.node.coordinate("a") is not None
        assert s.state_of("a") is State.ALIVE


async def test_missed_ticks_are_skipped(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [a] = await s.add_members("a")
        await a.wait_for(Ping, skip=1)
        await trio.sleep(0.1)
        autojump_clock.jump(30)  # as if the process had been stopped
        since = trio.current_time()
        await trio.sleep(5)
        times = [received.at for received in a.received_of(Ping, since)]
        assert 5 <= len(times) <= 6
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(gaps) > 0.9
        assert set(s.statuses().values()) == {"alive"}


async def test_ack_received_during_a_stall_counts(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        [a] = await s.add_members("a")
        a.acks_pings = False
        ping = await a.wait_for(Ping)
        # Ack and deadline fall into one jump: in any order, no member is suspected.
        a.send(Ack(ping.seq_no))
        autojump_clock.jump(10)
        await trio.sleep(0.01)
        assert s.state_of("a") is State.ALIVE
        assert health(s) == 0


async def test_node_refutes_suspicion_of_itself(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [a] = await s.add_members("a")
        a.send(Suspect(1, "us", "a"))
        await trio.sleep(0.05)
        alive = [message for message in a.messages(Alive) if message.node == "us"][-1]
        assert alive.incarnation == 2
        assert health(s) == 1
        # A sender of an old Suspect message gets the refutation, whose gossip may have ended.
        await trio.sleep(10)
        since = trio.current_time()
        a.send(Suspect(1, "us", "a"))
        await trio.sleep(0.05)
        assert [m.incarnation for m in a.messages(Alive, since) if m.node == "us"] == [2]


async def test_members_probe_at_different_phases(autojump_clock: MockClock) -> None:
    network = RecordingNetwork(random.Random(1), LinkConditions())
    async with open_nodes(*(f"n{number}" for number in range(8)), network=network):
        began = trio.current_time() + 10  # when all have joined and none is suspected
        await trio.sleep_until(began + 10)
    phases: dict[SocketAddress, set[float]] = {}
    for at, source, data in network.sent:
        if data[0] == PING and at > began:
            phases.setdefault(source, set()).add(round(at % 1, 4))
    assert len(phases) == 8
    assert {len(phase) for phase in phases.values()} == {1}  # each keeps to its phase
    assert len(set().union(*phases.values())) == 8


async def test_probe_is_dropped_when_the_node_leaves(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tcp_pings=False) as s:
        [a] = await s.add_members("a")
        a.acks_pings = False
        await a.wait_for(Ping)
        assert s.node.queue_depths()["probes"] == 1
        await s.node.leave()
        await trio.sleep(LATENCY)
        assert s.node.queue_depths()["probes"] == 0


async def test_stop_of_this_process_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET) as s:
        await s.add_members("a")
        await trio.sleep(20)
        assert not logged(caplog, logging.WARNING)
        autojump_clock.jump(12.1)
        await trio.sleep(2)
        [text] = logged(caplog, logging.WARNING)
        late = re.match(r"this process did not run for at least ([\d.]+) s; the machine", text)
        assert late is not None
        assert 11 <= float(late[1]) <= 12.1
