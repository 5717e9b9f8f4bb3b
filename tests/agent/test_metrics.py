"""Metrics: names and formats equal those of the real program."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from tests.agent.helpers import sample
from trioserf.agent.metrics import Metrics, Report
from trioserf.agent.statsd import MetricsSender, lines, packets, split_address
from trioserf.counters import Counters
from trioserf.errors import ConfigError
from trioserf.serf.events import MemberEvent, QueryReceived

START = datetime(2026, 11, 25, 1, 56, 33, tzinfo=UTC)


class FakeNode:
    def __init__(self) -> None:
        self.counters = Counters()
        self.flaps = 0
        self.drops: dict[str, int] = {}

    def stats(self) -> dict[str, Any]:
        return {"flaps": self.flaps, "health_score": 3}

    def states(self) -> dict[str, int]:
        return {"alive": 2, "suspect": 0, "dead": 1, "left": 0}

    def dropped(self) -> dict[str, int]:
        return self.drops


class WallClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class RecordingSink:
    def __init__(self) -> None:
        self.reports: list[Report] = []

    def record(self, report: Report) -> None:
        self.reports.append(report)

    def totals(self) -> dict[str, float]:
        return {name: count.total for name, count in self.reports[-1].counters.items()}


async def test_report_has_serfs_names() -> None:
    node, sink = FakeNode(), RecordingSink()
    metrics = Metrics(node, [sink], host="my host")
    node.counters.counter("memberlist.udp.sent").add(42)
    node.counters.increment_label("serf.events.dep loy")
    node.counters.values("memberlist.gossip").append(0.5)
    metrics.record(MemberEvent("member-join", ()))
    metrics.record(MemberEvent("member-suspect", ()))
    metrics.record(QueryReceived(1, 1, 1, "load", b"", "x", 0))
    node.flaps = 2
    node.drops["packets"] = 7
    node.counters.gauges["memberlist.size.remote"] = 512
    metrics.collect()
    assert sink.totals() == {
        "serf-agent.memberlist.udp.sent": 42,
        "serf-agent.serf.events.dep_loy": 1,
        "serf-agent.serf.member.join": 0,
        "serf-agent.serf.member.flap": 2,
        "serf-agent.trioserf.dropped.packets": 7,
    }
    assert sink.reports[0].samples == {"serf-agent.memberlist.gossip": [0.5]}
    assert set(sink.reports[0].gauges) == {
        "runtime.num_goroutines",
        "runtime.sys_bytes",
        "runtime.total_gc_runs",
        "memberlist.health.score",
        "memberlist.node.instances.alive",
        "memberlist.node.instances.suspect",
        "memberlist.node.instances.dead",
        "memberlist.node.instances.left",
        "memberlist.size.remote",
    }
    assert sink.reports[0].gauges["memberlist.node.instances.dead"] == 1
    assert sink.reports[0].gauges["memberlist.size.remote"] == 512
    assert sink.reports[0].gauges["runtime.sys_bytes"] > 1_000_000
    assert "serf-agent.my_host.memberlist.health.score:3.000000|g\n" in lines(sink.reports[0])
    node.drops["packets"] = 8
    metrics.collect()
    assert sink.totals() == {"serf-agent.trioserf.dropped.packets": 1}


async def test_controls_in_names_of_events_are_escaped() -> None:
    node, sink = FakeNode(), RecordingSink()
    metrics = Metrics(node, [sink], wall=WallClock())
    node.counters.increment_label("serf.events.a\n\x1b[2J")
    metrics.collect()
    assert r"serf-agent.serf.events.a\n\x1b[2J" in sink.totals()
    assert all(
        line.isprintable()
        for report in sink.reports
        for line in "".join(lines(report)).splitlines()
    )


async def test_dump_equals_serfs_format() -> None:
    node, wall = FakeNode(), WallClock()
    metrics = Metrics(node, wall=wall)
    for size in (42, 44):
        node.counters.counter("memberlist.udp.sent").add(size)
    node.counters.counter("serf.queries").add()
    node.counters.values("serf.queue.Event").append(0)
    metrics.collect()
    assert metrics.text() == ""  # the current interval is not included
    wall.now += timedelta(seconds=10)
    dumped = metrics.text().splitlines()
    at = r"\[2026-11-25 01:56:30 \+0000 UTC\]"
    updated = r"LastUpdated: 2026-11-25 01:56:33\.000000 \+0000 UTC"
    name = "'serf-agent."
    for line in (
        rf"{at}\[G\] {name}memberlist\.health\.score': 3\.000",
        rf"{at}\[C\] {name}memberlist\.udp\.sent': Count: 2 Min: 42\.000 Mean: 43\.000"
        rf" Max: 44\.000 Stddev: 1\.414 Sum: 86\.000 {updated}",
        rf"{at}\[C\] {name}serf\.queries': Count: 1 Sum: 1\.000 {updated}",
        rf"{at}\[S\] {name}serf\.queue\.Event': Count: 1 Sum: 0\.000 {updated}",
    ):
        assert any(re.fullmatch(line, other) for other in dumped), (line, dumped)


async def test_last_minute_is_kept() -> None:
    node, wall = FakeNode(), WallClock()
    metrics = Metrics(node, wall=wall)
    for _ in range(20):
        node.counters.counter("serf.queries").add()
        metrics.collect()
        wall.now += timedelta(seconds=10)
    intervals = [line.split("]")[0] for line in metrics.text().splitlines() if "queries" in line]
    assert len(intervals) == len(set(intervals)) == 5


async def test_metrics_are_collected_every_second(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sink = RecordingSink()
    nursery.start_soon(Metrics(FakeNode(), [sink]).run)
    await trio.sleep(10.5)
    assert len(sink.reports) == 10


async def test_without_sinks_an_idle_agent_collects_once_in_an_interval(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    node = FakeNode()
    metrics = Metrics(node, wall=lambda: START + timedelta(seconds=trio.current_time()))
    collected: list[float] = []
    collect = node.counters.collect

    def watched() -> Any:
        collected.append(trio.current_time())
        return collect()

    node.counters.collect = watched  # type: ignore[method-assign]
    start = trio.current_time()
    nursery.start_soon(metrics.run)
    await trio.sleep(20)
    first = 6.5  # START is three seconds after the begin of an interval
    assert [at - start for at in collected] == pytest.approx([first, first + 10])
    for _ in range(200):
        node.counters.values("serf.msgs.received").append(1)
    await trio.sleep(10)
    assert [at - start for at in collected[2:]] == pytest.approx([first + 20, first + 21])
    await trio.sleep(10)
    assert [at - start for at in collected[4:]] == pytest.approx([first + 30])


# --- sending ---

REPORT = Report(
    {"b": 1.5}, "a.", {"c d:e|f\n": sample(1, 2)}, {"x": [0.25, 3.0]}
)  # fmt: skip


def test_lines_have_statsd_format() -> None:
    assert list(lines(REPORT)) == [
        "a.b:1.500000|g\n",
        "c_d_e_f_:3.000000|c\n",
        "x:0.250000|ms\n",
        "x:3.000000|ms\n",
    ]


def test_packets_are_short_and_hold_whole_lines() -> None:
    report = Report({f"gauge.{number}": number for number in range(500)}, "", {}, {})
    pieces = list(packets(report))
    assert b"".join(pieces) == "".join(lines(report)).encode()
    assert max(map(len, pieces)) <= 1400
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) < 10
    assert list(packets(Report({}, "", {}, {}))) == []


@pytest.mark.parametrize("text", ["", "host", "host:", ":8125", "host:x", "host:0", "host:70000"])
def test_incomplete_server_address_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"statsd_addr: .*: expected host:port"):
        split_address(text, "statsd_addr")
    assert split_address("[::1]:8125", "statsd_addr") == ("::1", 8125)


@pytest.fixture
def real_sockets(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Return virtual time that waits until the kernel has delivered sent data."""
    autojump_clock.autojump_threshold = 0.05
    return autojump_clock


async def keep_recording(sender: MetricsSender, report: Report) -> None:
    """Record a report every second, as an agent does."""
    while True:
        sender.record(report)
        await trio.sleep(1)


async def test_statsd_packets_arrive(
    real_sockets: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        sender = MetricsSender("statsd", server.getsockname())
        nursery.start_soon(sender.run)
        nursery.start_soon(keep_recording, sender, REPORT)
        with trio.fail_after(20):
            assert await server.recv(9000) == "".join(lines(REPORT)).encode()


async def test_statsite_stream_is_reopened(
    real_sockets: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        sender = MetricsSender("statsite", listener.socket.getsockname())
        nursery.start_soon(sender.run)
        nursery.start_soon(keep_recording, sender, REPORT)
        with trio.fail_after(60):
            for _ in range(3):
                async with await listener.accept() as stream:
                    data = b""
                    while data.count(b"\n") < 12:
                        more = await stream.receive_some()
                        assert more, "the stream was closed"
                        data += bytes(more)
                    assert data.startswith("".join(lines(REPORT)).encode())


async def test_repeated_send_error_is_logged_once(
    real_sockets: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.socket.socket() as server:
        await server.bind(("127.0.0.1", 0))  # and no program listens
        sender = MetricsSender("statsite", server.getsockname())
        nursery.start_soon(sender.run)
        nursery.start_soon(keep_recording, sender, REPORT)
        await trio.sleep(13)  # three attempts, five seconds apart
        logged = [record.getMessage() for record in caplog.records]
        assert len(logged) == 1
        assert logged[0].startswith("Error writing to statsite! Err: ")
        server.listen()
        with trio.fail_after(10):
            stream, _ = await server.accept()
            with stream:
                assert await stream.recv(1) == b"a"


async def test_waiting_reports_are_bounded(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sender = MetricsSender("statsite", ("127.0.0.1", 1))
    sender._is_up = True
    for _ in range(100):
        sender.record(REPORT)
    assert sender._receive.statistics().current_buffer_used == 16
