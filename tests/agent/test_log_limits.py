"""Log lines that other hosts can cause: few for each text, and counted beyond."""

import io
import logging
import random
import socket
from collections.abc import Iterable, Iterator

import pytest
import trio
from trio.testing import MockClock

from trioserf.address import Address
from trioserf.agent.agent import open_agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_converter import Addresses
from trioserf.agent.log_limits import _BURST, _BURST_OF_ALL, _MAX_SOURCES, _MAX_TEMPLATES
from trioserf.agent.log_lines import LogLine
from trioserf.agent.logs import Logs, open_logs
from trioserf.agent.script_log import LOGGED_ERROR, LOGGED_OUTPUT, log_run
from trioserf.agent.script_runner import Result
from trioserf.control.server.access import Client
from trioserf.node import NodeConfig
from trioserf.node.state import ClusterState
from trioserf.wire.packet import compress_message, make_compound
from trioserf.wire.serf_codec import encode as encode_serf
from trioserf.wire.serf_messages import Leave, Query, SerfMessage, UserEvent
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Ack, Alive, Dead, Ping, Suspect, UserMessage

HOST = "127.0.0.1"
MOST = 20
"""Bytes of log for a byte received."""

log = logging.getLogger("trioserf.memberlist")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(stream: io.StringIO) -> Iterator[Logs]:
    with open_logs("DEBUG", stream) as opened:
        opened.release()
        yield opened


def messages(stream: io.StringIO) -> list[str]:
    return [line.partition("]")[2].partition(": ")[2] for line in stream.getvalue().splitlines()]


def record(text: str, *values: object, at: float, level: int = logging.WARNING) -> None:
    """Log as if it were this time."""
    made = log.makeRecord(log.name, level, "", 0, text, values, None)
    made.created = at
    log.handle(made)


def test_lines_of_all_clients_have_one_limit(logs: Logs, stream: io.StringIO) -> None:
    for port in range(100):
        client = Client(f"10.0.0.{port}:{port}")
        record("Accepted client: %s", client, at=1000.0, level=logging.INFO)
    assert messages(stream) == [f"Accepted client: 10.0.0.{n}:{n}" for n in range(_BURST)]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING, logging.ERROR])
def test_ten_lines_of_one_text_are_logged_and_the_rest_counted(
    logs: Logs, stream: io.StringIO, level: int
) -> None:
    for number in range(100):
        record("bad %d", number, at=1000.0, level=level)
    logs.limits.report()
    first = [f"bad {number}" for number in range(_BURST)]
    assert messages(stream) == [*first, f"{100 - _BURST} more lines like: bad %d"]
    logs.limits.report()
    assert len(messages(stream)) == _BURST + 1


def test_one_line_a_second_follows(logs: Logs, stream: io.StringIO) -> None:
    for number in range(_BURST + 50):
        record("bad %d", number, at=1000.0 + max(0, number - _BURST) / 10)
    assert len(messages(stream)) == _BURST + 4


def test_texts_have_limits_of_their_own(logs: Logs, stream: io.StringIO) -> None:
    for _ in range(100):
        record("bad", at=1000.0)
    record("worse", at=1000.0)
    assert messages(stream)[-1] == "worse"


def test_sources_have_limits_of_their_own_within_that_of_all(
    logs: Logs, stream: io.StringIO
) -> None:
    for number in range(100):
        for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            record("bad from %s", Address(host, number), at=1000.0)
        if number == 4:
            record("bad from %s", Address("10.0.0.9", 1), at=1000.0)
    assert len(messages(stream)) == _BURST_OF_ALL
    assert "bad from 10.0.0.9:1" in messages(stream)


def test_every_member_has_its_lines(logs: Logs, stream: io.StringIO) -> None:
    for number in range(5000):
        record("EventMemberJoin: %s %s", f"m{number}", HOST, at=1000.0, level=logging.INFO)
    assert len(messages(stream)) == 5000
    for _ in range(100):
        record("EventMemberJoin: %s %s", "again", HOST, at=1000.0, level=logging.INFO)
    assert len(messages(stream)) == 5000 + _BURST


def test_lines_that_the_operator_causes_are_not_limited(logs: Logs, stream: io.StringIO) -> None:
    for number in range(100):
        logging.getLogger("trioserf.agent").debug("Received event: %d", number)
    assert len(messages(stream)) == 100


@pytest.fixture
def at_once() -> Iterator[None]:
    """Log all lines of the agent as if it were the same time."""

    def set_time(record: logging.LogRecord) -> bool:
        record.created = 1000.0
        return True

    agent = logging.getLogger("trioserf.agent")
    agent.addFilter(set_time)
    yield
    agent.removeFilter(set_time)


@pytest.mark.usefixtures("at_once")
def test_runs_of_a_handler_have_a_limit_for_each_script(logs: Logs, stream: io.StringIO) -> None:
    failed = Result(1, b"why\n", failure="exit status 1")
    for _ in range(100):
        assert log_run("often", "user", failed, 60.0)
    assert log_run("once", "user", failed, 60.0)
    error = "Error invoking script '%s': exit status 1: why"
    assert messages(stream).count("Event 'user' script output: why\\n") == _BURST + 1
    assert messages(stream).count(error % "often") == _BURST
    assert messages(stream).count(error % "once") == 1
    logs.limits.report()
    assert f"{100 - _BURST} more lines like: Error invoking script '%s': %s" in messages(stream)


def test_output_of_a_script_is_cut(logs: Logs, stream: io.StringIO) -> None:
    assert log_run("x", "user", Result(2, b"y" * 8192, failure="exit status 2"), 60.0)
    assert not log_run("x", "user", Result(0, b"z" * LOGGED_OUTPUT), 60.0)
    assert messages(stream) == [
        f"Event 'user' script output: …{'y' * LOGGED_OUTPUT}",
        f"Error invoking script 'x': exit status 2: {'y' * LOGGED_ERROR}",
        f"Event 'user' script output: {'z' * LOGGED_OUTPUT}",
    ]


def test_subscriptions_get_the_same_lines(logs: Logs, stream: io.StringIO) -> None:
    with logs.subscribe("DEBUG") as lines:
        for _ in range(100):
            record("bad", at=1000.0)
        logs.limits.report()
        shown = [line.text for line in lines._lines._items if isinstance(line, LogLine)]
    assert shown == stream.getvalue().splitlines()


def test_end_of_the_log_reports_lines_left_out(stream: io.StringIO) -> None:
    with open_logs("DEBUG", stream):
        for _ in range(100):
            record("bad", at=1000.0)
    assert messages(stream)[-1] == f"{100 - _BURST} more lines like: bad"


def test_tables_are_bounded(logs: Logs) -> None:
    for number in range(2 * _MAX_SOURCES):
        record(f"text {number} %s", f"name {number}", at=1000.0, level=logging.INFO)
    assert len(logs.limits._templates) <= _MAX_TEMPLATES + 1
    assert len(logs.limits._sources) <= _MAX_SOURCES


async def test_lines_left_out_are_reported_every_ten_seconds(
    autojump_clock: MockClock, logs: Logs, stream: io.StringIO
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.limits.run)
        for _ in range(3):
            for _ in range(100):
                record("bad", at=1000.0)
            await trio.sleep(10.5)
        nursery.cancel_scope.cancel()
    assert [text for text in messages(stream) if "more" in text] == [
        f"{count} more lines like: bad" for count in (100 - _BURST, 100, 100)
    ]


def test_drops_are_counted_exactly_while_lines_are_left_out(
    logs: Logs, stream: io.StringIO
) -> None:
    config = NodeConfig(name="us")
    subject = ClusterState(
        config, Address("10.0.0.1", 1), rng=random.Random(1), has_responder=lambda _: False
    )
    subject.start(0.0, None)
    for number in range(500):
        subject.handle_packets([(b"\xff", Address(f"10.0.1.{number % 250}", 7946))], 1.0)
    assert sum(subject.drops.by_kind.values()) == 500
    assert set(subject.drops.by_peer.values()) == {2}
    logs.limits.report()
    *lines, last = messages(stream)
    assert len(lines) <= _BURST_OF_ALL + 5  # and few lines of the start
    left_out, _, _ = last.partition(" more lines like: dropped a message")
    shown = sum(text.startswith("dropped a message") for text in lines)
    assert shown + int(left_out) == 250  # one line for each address


# --- whole agents ---

LONG = "n" * 1000
MANY = range(255)


def packed(parts: Iterable[bytes]) -> bytes:
    """Compress messages into one datagram, as many as fit."""
    fitting: list[bytes] = []
    size = 2
    for part in parts:
        size += len(part) + 2
        if size > 65_000:
            break
        fitting.append(part)
    return compress_message(make_compound(fitting))


def user(message: SerfMessage) -> bytes:
    return encode(UserMessage(encode_serf(message)))


def alive(name: str, incarnation: int = 1, *, port: int = 7946) -> bytes:
    return encode(Alive(incarnation, name, bytes((127, 9, 9, 7)), port, b""))


def event(name: str) -> bytes:
    return user(UserEvent(1, name, b"", False))


def key_query(number: int) -> bytes:
    host = bytes((127, 9, 9, 7))
    timeout = 10**10
    return user(
        Query(number + 1, number, host, 7946, "x", (), 0, 0, timeout, "_serf_list-keys", b"")
    )


DATAGRAMS = {
    "new members": (alive(f"member {i}") for i in MANY),
    "long new members": (alive(f"{i} {LONG[:70]}") for i in MANY),
    "new members with wide names": (alive(f"{i} {'🙂' * 35}") for i in MANY),
    "new members with escapes": (alive(f"{i} " + "\x1b[2J\n" * 12) for i in MANY),
    "name conflicts": (alive(LONG[:500], port=i + 1) for i in MANY),
    "claims of our name": (alive("us", port=i + 1) for i in MANY),
    "suspicions of us": (encode(Suspect(i, "us", LONG)) for i in MANY),
    "deaths of us": (encode(Dead(i, "us", f"s{i}")) for i in MANY),
    "joins and deaths": (
        encode(Dead(i // 2, "m", "s")) if i % 2 else alive("m", i // 2) for i in MANY
    ),
    "pings for others": (encode(Ping(i, LONG[:240])) for i in MANY),
    "leaves": (user(Leave(i, f"member {i}")) for i in MANY),
    "user events": (event(str(i)) for i in MANY),
    "user events with long names": (event(f"{i} {LONG[:70]}") for i in MANY),
    "user events with wide names": (event(f"{i} {'🙂' * 35}") for i in MANY),
    "key queries": (key_query(i) for i in MANY),
}


@pytest.mark.parametrize("kind", DATAGRAMS)
async def test_log_of_a_datagram_is_bounded(kind: str, stream: io.StringIO) -> None:
    datagram = packed(DATAGRAMS[kind])
    with open_logs("DEBUG", stream) as logs:
        logs.release()
        config = AgentConfig(
            node=NodeConfig(name="us"), bind=f"{HOST}:0", rpc_addr=Addresses((f"{HOST}:0",))
        )
        async with open_agent(config, logs) as agent:
            before = len(stream.getvalue().encode())
            with trio.fail_after(30), trio.socket.socket(type=socket.SOCK_DGRAM) as ours:
                await ours.bind((HOST, 0))
                await ours.sendto(datagram, agent.node.bound)
                await ours.sendto(encode(Ping(1, "us")), agent.node.bound)
                while not (await ours.recv(2000)).startswith(encode(Ack(1))[:1]):
                    pass
            await trio.testing.wait_all_tasks_blocked(0.01)
    logged = len(stream.getvalue().encode()) - before
    assert 0 < logged <= MOST * len(datagram)
