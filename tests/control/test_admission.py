"""Which connection makes room for a new one, and which is refused."""

import logging
import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.control.helpers import FakeAgent, handshakes
from trioserf.control.address import split_address
from trioserf.control.server.admission import (
    KEY_TRIES,
    LOOPBACK,
    UNIX,
    KeyTries,
    LimitedLog,
    Limits,
    Place,
    PlaceTable,
    source_of,
)
from trioserf.control.server.listener import open_control

assert sys.platform != "win32"

LIMITS = Limits(
    connections=20,
    kept_for_unix=2,
    loopback=10,
    source=4,
    unauthenticated=5,
    source_unauthenticated=2,
)


class Table:
    """PlaceTable, and the names of connections that had to make room."""

    def __init__(self, *, needs_key: bool = False) -> None:
        self.places = PlaceTable(LIMITS, needs_key=needs_key)
        self.closed: list[str] = []

    def admit(self, source: str, name: str = "", *, busy: bool = False) -> Place | None:
        place = self.places.admit(source, lambda: self.closed.append(name))
        if place is not None and busy:
            place.is_busy = lambda: True
            place.mark_used()
        return place


def test_source_over_its_limit_closes_its_own_connections() -> None:
    table = Table()
    for number in range(4):
        table.admit("10.0.0.1", f"a{number}")
        table.admit("10.0.0.2", f"b{number}")
    for _ in range(2):
        assert table.admit("10.0.0.1")
    assert table.closed == ["a0", "a1"]


def test_source_with_busy_connections_is_refused_and_no_other() -> None:
    table = Table()
    for _ in range(4):
        assert table.admit("10.0.0.1", busy=True)
    assert table.admit("10.0.0.1") is None
    for _ in range(10):
        assert table.admit(LOOPBACK, busy=True)
    assert table.admit(LOOPBACK) is None
    assert table.admit("10.0.0.2")
    assert table.closed == []


def test_silent_connection_makes_room_before_an_idle_one() -> None:
    table = Table()
    places = [table.admit("10.0.0.1", str(number)) for number in range(4)]
    for number in (1, 0, 3, 1):
        place = places[number]
        assert place is not None
        place.mark_used()
    busy = places[0]
    assert busy is not None
    busy.is_busy = lambda: True
    for _ in range(3):
        table.admit("10.0.0.1", busy=True)
    assert table.closed == ["2", "3", "1"]
    assert table.admit("10.0.0.1") is None


def test_places_are_kept_for_unix_sockets() -> None:
    table = Table()
    for source in range(18):
        assert table.admit(f"10.0.0.{source}", busy=True)
    assert table.admit(LOOPBACK) is None
    for _ in range(2):
        assert table.admit(UNIX, busy=True)
    assert table.admit(UNIX) is None
    assert table.closed == []
    assert len(table.places) == 20


def test_unix_socket_makes_no_room_for_tcp() -> None:
    table = Table()
    table.admit(UNIX, "unix")
    for source in range(18):
        assert table.admit(f"10.0.0.{source}", busy=True)
    assert table.admit(LOOPBACK) is None
    assert table.admit(UNIX)
    assert table.admit(UNIX)
    assert table.closed == ["unix"]


def test_unauthenticated_connections_of_a_source_close_its_own_first() -> None:
    table = Table(needs_key=True)
    table.admit("10.0.0.1", "a")
    for number in range(9):
        table.admit("10.0.0.2", f"b{number}")
    assert table.closed == [f"b{number}" for number in range(7)]
    assert table.places.unauthenticated == 3
    for number in range(3):
        table.admit(LOOPBACK, f"c{number}")
    assert table.closed[7:] == ["a"]
    assert table.places.unauthenticated == 5
    for _ in range(9):
        table.admit(UNIX)
    assert table.places.unauthenticated == 5


def test_authenticated_connections_make_no_room_for_unauthenticated_ones() -> None:
    table = Table(needs_key=True)
    for _ in range(3):
        place = table.admit("10.0.0.1", "known")
        assert place is not None
        place.mark_authenticated()
        place.mark_used()
    for source in range(20):
        table.admit(f"10.0.1.{source}", str(source))
    assert table.closed == [str(source) for source in range(15)]
    assert table.places.unauthenticated == 5


def test_released_places_leave_nothing_behind() -> None:
    table = Table(needs_key=True)
    for source in (LOOPBACK, UNIX, "10.0.0.1"):
        for authenticated in (False, True):
            place = table.admit(source)
            assert place is not None
            if authenticated:
                place.mark_authenticated()
                place.mark_used()
            place.release()
            place.release()
            place.mark_used()
            place.mark_authenticated()
    state = (table.places._sizes, table.places._unused, table.places._used)
    assert not any(state)


async def accepted(client: trio.SocketStream, listener: trio.SocketListener) -> str:
    async with client, await listener.accept() as stream:
        return source_of(stream)


async def test_sources_of_sockets() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1"):
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        async with listener:
            port = listener.socket.getsockname()[1]
            assert await accepted(await trio.open_tcp_stream(host, port), listener) == LOOPBACK
    with socket.socket(socket.AF_UNIX) as sock:
        assert source_of(trio.SocketStream(trio.socket.from_stdlib_socket(sock))) == UNIX


class FakeSocket:
    """The address of a socket."""

    family = socket.AF_INET6

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def getpeername(self) -> tuple[str, int]:
        return self._peer, 1

    def getsockname(self) -> tuple[str, int]:
        return "10.0.0.9", 2


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:0:7::1", "2001:db8:0:7::/64"),
        ("10.0.0.9", LOOPBACK),
    ],
)
def test_source_is_an_address_or_a_network(peer: str, source: str) -> None:
    stream = trio.SocketStream.__new__(trio.SocketStream)
    stream.socket = FakeSocket(peer)  # type: ignore[assignment]
    assert source_of(stream) == source


async def test_wrong_keys_of_few_sources_are_remembered(autojump_clock: object) -> None:
    tries = KeyTries()
    for number in range(5000):
        for _ in range(KEY_TRIES):
            tries.reject(str(number), "wrong key")
        assert not tries.are_left(str(number))
    assert tries.are_left("0")
    assert len(tries._sources) == 1024
    await trio.sleep(1)
    assert tries.are_left("4999")


async def test_log_lines_about_clients_are_limited(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    log = LimitedLog(logging.getLogger("trioserf.agent.ipc"))
    for number in range(1000):
        log.warning("refused %d", number)
    assert caplog.messages == [f"refused {number}" for number in range(5)]
    await trio.sleep(10)
    log.warning("refused %s", "again")
    assert caplog.messages[5:] == ["refused again (995 more lines omitted)"]


async def test_seven_hundred_idle_clients_lock_no_client_out(tmp_path: Path) -> None:
    addresses = ["127.0.0.1:0", f"unix:{tmp_path}/s"]
    async with open_control(FakeAgent(), addresses) as server:
        tcp = split_address(server.addresses[0])
        idle = [await trio.open_tcp_stream(*tcp) for _ in range(700)]
        async with await trio.open_tcp_stream(*tcp) as stream:
            assert await handshakes(stream)
        async with await trio.open_unix_socket(server.addresses[1][5:]) as unix:
            assert await handshakes(unix)
        assert server.refused == 0
        for stream in idle:
            await stream.aclose()
