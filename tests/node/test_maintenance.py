"""Maintenance: reconnect, reap, check queues."""

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    OURS,
    NodeUnderTest,
    ScriptedPeer,
    node_under_test,
    push_pull,
    read_response,
)
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import MemberEvent
from trioserf.swim.config import Timing
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import Leave
from trioserf.wire.swim_messages import Dead, PushPull, State, Suspect, UserMessage

QUIET: dict[str, Any] = {"seed_interval": 1e6, "tcp_pings": False}
DAY = 24 * 3600.0
CALM = Timing(probe_interval=300.0, probe_timeout=1.0, push_pull_interval=1e6)
"""Rare probes, so that days pass quickly."""


async def make_failed(s: NodeUnderTest, peer: ScriptedPeer) -> None:
    """Make another member declare this one dead."""
    peer.acks_pings = False
    peer.send(Dead(1, peer.name, "another"))
    await s.until(lambda: s.statuses()[peer.name] == "failed", 1)


async def make_left(s: NodeUnderTest, peer: ScriptedPeer) -> None:
    """Make a member leave gracefully."""
    peer.acks_pings = False
    intent = serf_codec.encode(Leave(9, peer.name))
    peer.send(UserMessage(intent))
    await s.until(lambda: s.statuses()[peer.name] == "leaving", 1)
    peer.send(Dead(1, peer.name, peer.name))
    await s.until(lambda: s.statuses()[peer.name] == "left", 1)


def record_dials(s: NodeUnderTest, peer: ScriptedPeer) -> list[float]:
    """Record when a member is dialled."""
    called: list[float] = []

    async def accept() -> None:
        while True:
            stream, _ = await peer.transport.accept()
            called.append(trio.current_time())
            await stream.aclose()

    s.nursery.start_soon(accept)
    return called


@pytest.mark.parametrize("how", ["failed", "left"])
async def test_failed_and_left_members_are_reaped_after_a_day(
    autojump_clock: MockClock, how: str
) -> None:
    rare: dict[str, Any] = {
        "reconnect_interval": 1e7,
        "reap_interval": 60.0,
        "queue_check_interval": 1e7,
    }
    async with node_under_test(**QUIET, **rare, timing=CALM) as s:
        failed, _ = await s.add_members("failed", "other")
        began = trio.current_time()
        await (make_failed if how == "failed" else make_left)(s, failed)
        with s.node.subscribe() as events:
            await trio.sleep(DAY - 60)
            assert s.statuses()["failed"] == how
            await trio.sleep(60 + 60 + 1)
            assert "failed" not in s.statuses()
            with trio.fail_after(1):
                async for event in events:
                    if event.kind == "member-reap":
                        break
            assert isinstance(event, MemberEvent)
            assert [member.name for member in event.members] == ["failed"]
        assert trio.current_time() - began == pytest.approx(DAY + 61, abs=1)


async def test_reconnect_and_tombstone_timeouts_are_separate(autojump_clock: MockClock) -> None:
    options = SerfOptions(reconnect_timeout=100, tombstone_timeout=500)
    async with node_under_test(**QUIET, reconnect_interval=1e6, serf=options, timing=CALM) as s:
        failed, left, _ = await s.add_members("failed", "left", "other")
        await make_failed(s, failed)
        await make_left(s, left)
        began = trio.current_time()
        at = await s.until(lambda: "failed" not in s.statuses(), 120)
        assert 100 <= at - began <= 115.5
        at = await s.until(lambda: "left" not in s.statuses(), 520)
        assert 500 <= at - began <= 515.5
        assert s.statuses() == {"us": "alive", "other": "alive"}


async def test_dead_member_is_accepted_again_after_its_record_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, reconnect_interval=1e6) as s:
        failed, _ = await s.add_members("failed", "other")
        await make_failed(s, failed)
        assert "failed" in s.node.memberlist.records
        await s.until(lambda: "failed" not in s.node.memberlist.records, 40)
        assert s.statuses()["failed"] == "failed"
        failed.send(failed.alive())  # even in its old incarnation
        await s.until(lambda: s.statuses()["failed"] == "alive", 1)


async def test_failed_member_is_dialled_at_every_reconnect_interval(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=CALM) as s:
        [failed] = await s.add_members("failed")
        called = record_dials(s, failed)
        await make_failed(s, failed)
        await trio.sleep(30 * 20 + 1)
        # One failed, one alive: every interval has a reconnect.
        assert len(called) >= 20


async def test_reconnects_are_rarer_with_more_alive_members(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=CALM) as s:
        failed, *_ = await s.add_members("failed", *(f"m{number}" for number in range(9)))
        called = record_dials(s, failed)
        await make_failed(s, failed)
        await trio.sleep(30 * 500 + 1)
        assert len(called) == pytest.approx(500 / 10, rel=0.5)


async def test_reconnect_revives_a_failed_member(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [failed] = await s.add_members("failed")
        await make_failed(s, failed)
        received: list[PushPull] = []

        async def serve() -> None:
            stream, _ = await failed.transport.accept()
            async with stream:
                theirs = await read_response(stream)
                assert isinstance(theirs, PushPull)
                received.append(theirs)
                await stream.send_all(push_pull(failed.node_state(incarnation=2)))

        s.nursery.start_soon(serve)
        await s.until(lambda: s.statuses()["failed"] == "alive", 61)
        assert received[0].join
        assert s.node.stats()["flaps"] == 1


async def test_failed_reconnect_is_not_an_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET) as s:
        failed = s.peer("failed", run=False)
        failed.send(failed.alive())
        await s.until(lambda: "failed" in s.statuses(), 1)
        await make_failed(s, failed)
        failed.transport.kill()
        caplog.set_level(logging.DEBUG)
        await trio.sleep(61)
        attempts = [text for text in caplog.messages if "attempting reconnect" in text]
        assert len(attempts) == 2
        levels = {
            r.levelno for r in caplog.records if r.getMessage().startswith("no reconnect to")
        }
        assert levels == {logging.DEBUG}


async def test_long_queues_log_a_warning_and_are_pruned(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = SerfOptions(max_queue_depth=200)
    timing = Timing(gossip_interval=1e6, push_pull_interval=1e6, probe_interval=1e6)
    async with node_under_test(
        **QUIET, reconnect_interval=1e6, serf=options, timing=timing, gossip_pause=1e6
    ) as s:
        await s.add_members("a")
        for number in range(150):
            await s.node.user_event(f"e{number}")
        await trio.sleep(31)
        assert s.node.stats()["event_queue"] == pytest.approx(150, abs=40)
        assert "queue depth" in caplog.text.lower()
        for number in range(500):
            await s.node.user_event(f"f{number}")
        await trio.sleep(31)
        queued = s.node.stats()["event_queue"]
        assert isinstance(queued, int)
        assert queued <= 200
        assert s.network.passes(OURS, s.peers["a"].address)


# --- metrics ---


async def test_members_are_counted_by_state(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=CALM) as s:
        _, failed, gone, suspect = await s.add_members("a", "b", "c", "d")
        await make_failed(s, failed)
        await make_left(s, gone)
        suspect.send(Suspect(1, "d", "another"))
        await s.until(lambda: s.state_of("d") is State.SUSPECT, 1)
        assert s.node.states() == {"alive": 2, "suspect": 1, "dead": 1, "left": 1}


async def test_broadcasts_in_the_queue_are_sampled(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=CALM, queue_check_interval=7.0) as s:
        await trio.sleep(15)
        # The message that we are alive has no receiver.
        assert list(s.node.counters.values("memberlist.queue.broadcasts")) == [1, 1]


@pytest.mark.parametrize("join", [False, True])
async def test_size_of_the_latest_push_pull_is_a_gauge(
    autojump_clock: MockClock, join: bool
) -> None:
    async with node_under_test(**QUIET, timing=CALM) as s:
        peer = s.peer("p")
        data = push_pull(peer.node_state())
        if join:
            s.nursery.start_soon(peer.answer_streams, data, data)
            await s.node.join([str(peer.address)])
        else:
            await peer.exchange(data)
        assert s.node.counters.gauges == {"memberlist.size.remote": len(data)}
