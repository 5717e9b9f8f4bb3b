"""Behaviour of real sockets only: families, batches, errors, closing."""

import logging
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from trioserf.errors import AddressError
from trioserf.net.sockets import SocketTransport, open_sockets
from trioserf.net.transport import BATCH, Datagram

assert sys.platform != "win32"

A, B = "127.22.0.1", "127.22.0.2"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs the whole of 127/8, which only Linux has"
)
needs_v6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


@asynccontextmanager
async def open_pair(
    a: str = A, b: str = B
) -> AsyncIterator[tuple[SocketTransport, SocketTransport]]:
    with trio.fail_after(20):
        async with open_sockets(a, 0) as first, open_sockets(b, 0) as second:
            yield first, second


async def receive(transport: SocketTransport, count: int) -> list[list[Datagram]]:
    """Return the batches of the next packets."""
    batches: list[list[Datagram]] = []
    while sum(map(len, batches)) < count:
        batches.append(await transport.receive_packets())
    return batches


async def test_packets_are_received_in_order_in_batches_of_at_most_64() -> None:
    async with open_pair() as (a, b):
        for number in range(2 * BATCH + 10):
            assert a.send_packet(b"%d" % number, b.address)
        batches = await receive(b, 2 * BATCH + 10)
        assert [len(batch) for batch in batches] == [BATCH, BATCH, 10]
        assert [data for batch in batches for data, _ in batch] == [
            b"%d" % number for number in range(2 * BATCH + 10)
        ]
        assert {source for batch in batches for _, source in batch} == {a.address}


async def test_other_tasks_run_between_batches_of_packets() -> None:
    async with open_pair() as (a, b):
        for _ in range(10 * BATCH):
            a.send_packet(b"x", b.address)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await receive(b, 10 * BATCH)
            nursery.cancel_scope.cancel()
        assert turns >= 5


async def test_port_0_binds_one_port_for_packets_and_streams() -> None:
    async with open_pair() as (a, b):
        assert a.address[1] == a._tcp.getsockname()[1] != 0
        stream = await b.dial(a.address)
        await stream.aclose()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_port_in_use_is_one_clear_error(kind: socket.SocketKind) -> None:
    async with open_sockets(A, 0) as transport:  # a port that is free for both kinds
        port = transport.address[1]
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((A, port))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(AddressError) as caught:
            async with open_sockets(A, port):
                pass
        assert str(caught.value) == (
            f"cannot listen on {A}:{port}: TCP or UDP port {port} is in use; another agent may be"
            " running there (--bind=HOST:PORT chooses another)"
        )
    async with open_sockets(A, port) as transport:  # the failed attempt left no socket open
        assert transport.address == (A, port)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            "203.0.113.9",
            "cannot listen on 203.0.113.9:7946: Cannot assign requested address; expected an"
            " address of this machine (--bind=ADDR)",
        ),
        ("2001:db8::9", "cannot listen on [2001:db8::9]:7946: "),
        ("nohost", "cannot listen on nohost:7946: "),
    ],
)
async def test_address_of_another_machine_is_one_clear_error(host: str, expected: str) -> None:
    with pytest.raises(AddressError) as caught:
        async with open_sockets(host, 7946):
            pass
    assert str(caught.value).startswith(expected)


async def test_privileged_port_is_bound_or_one_clear_error() -> None:
    try:
        async with open_sockets(A, 1) as transport:
            assert transport.address == (A, 1)
    except AddressError as error:
        assert str(error) == (  # noqa: PT017 - either
            f"cannot listen on {A}:1: Permission denied (--bind=HOST:PORT chooses another port)"
        )


async def test_outgoing_streams_use_bound_address_and_any_port() -> None:
    async with open_pair() as (a, b), await a.dial(b.address) as near:
        far, (host, port) = await b.accept()
        async with far:
            assert host == A
            assert port != a.address[1]
            assert isinstance(near, trio.SocketStream)
            assert near.socket.getsockname() == (host, port)


async def test_many_streams_to_one_member_are_open_at_once() -> None:
    async with open_pair() as (a, b), trio.open_nursery() as nursery:

        async def dial() -> None:
            async with await a.dial(b.address) as stream:
                assert await stream.receive_some(1) == b"x"

        for _ in range(100):
            nursery.start_soon(dial)
        for _ in range(100):
            far, _ = await b.accept()
            async with far:
                await far.send_all(b"x")


async def test_cancelled_dial_closes_its_socket() -> None:
    async with open_sockets(A, 0) as a, AsyncExitStack() as stack:
        full = stack.enter_context(socket.create_server((B, 0), backlog=0))
        for _ in range(100):
            before = _open_files()
            with trio.move_on_after(0.05) as timeout:
                await stack.enter_async_context(await a.dial(full.getsockname()))
            if timeout.cancelled_caught:  # the backlog is full: the dial hangs
                break
        assert timeout.cancelled_caught
        assert _open_files() == before
        with pytest.raises(OSError):  # noqa: PT011 - its type depends on the kernel
            await a.dial((B, 1))
        assert _open_files() == before


async def test_socket_errors_are_counted_and_do_not_stop_the_transport() -> None:
    async with open_pair() as (a, b):
        assert not a.send_packet(bytes(70_000), b.address)
        assert a.errors["EMSGSIZE"] == 1
        assert not a.send_packet(b"x", ("::1", 7946))
        assert not a.send_packet(b"x", (B, 0))
        assert sum(a.errors.values()) == 3
        assert a.send_packet(b"still here", b.address)
        assert await receive(b, 1) == [[(b"still here", a.address)]]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(A, B), pytest.param("::1", "::1", marks=needs_v6), pytest.param("::", B, marks=needs_v6)],
)
async def test_refused_packets_are_reported_and_cost_no_other_packet(
    ours: str, theirs: str
) -> None:
    async with open_pair(ours, theirs) as (a, b):
        async with open_sockets(theirs, 0) as gone:
            absent = gone.address
        refused: list[tuple[str, int]] = []
        a.on_refused = refused.append
        host = B if ours == "::" else theirs
        for number in range(50):
            assert a.send_packet(b"lost", (host, absent[1]))
            assert a.send_packet(b"%d" % number, (host, b.address[1]))
            assert b.send_packet(b"%d" % number, (A if ours == "::" else ours, a.address[1]))
        expected = [b"%d" % number for number in range(50)]
        for transport in (a, b):
            batches = await receive(transport, 50)
            assert [data for batch in batches for data, _ in batch] == expected
        with trio.move_on_after(0.1) as waiting:
            await a.receive_packets()
        assert waiting.cancelled_caught
        assert refused == [(host, absent[1])] * 50


async def test_socket_with_pending_errors_does_not_spin() -> None:
    async with open_pair() as (a, b):
        async with open_sockets(B, 0) as gone:
            absent = gone.address
        turns = 0

        def count(_: tuple[str, int]) -> None:
            nonlocal turns
            turns += 1

        a.on_refused = count
        assert a.send_packet(b"lost", absent)
        assert a.send_packet(b"x", b.address)  # takes the error from the socket, not its queue
        before = time.thread_time()
        with trio.move_on_after(0.2):
            await a.receive_packets()
        assert turns == 1
        assert time.thread_time() - before < 0.1


async def test_close_ends_waiting_tasks_and_is_idempotent() -> None:
    async with open_pair() as (a, _):

        async def wait(method: str) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await getattr(a, method)()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "receive_packets")
            nursery.start_soon(wait, "accept")
            await trio.testing.wait_all_tasks_blocked()
            await a.aclose()
        await a.aclose()
        assert not a.send_packet(b"late", (B, 7946))
        async with open_sockets(*a.address):  # the port is free again
            pass


async def test_close_does_not_wait_for_open_streams() -> None:
    async with open_pair() as (a, b):
        stream = await a.dial(b.address)
        await a.aclose()
        far, _ = await b.accept()
        await stream.send_all(b"x")
        assert await far.receive_some() == b"x"
        await trio.aclose_forcefully(stream)
        await trio.aclose_forcefully(far)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path would open one more


@contextmanager
def no_more_files() -> Iterator[None]:
    """Forbid this process to open files while the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as highest:
        limit = highest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_streams_wait_and_packets_continue_when_files_run_out(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with open_pair() as (a, b):
        client = socket.socket()
        client.setblocking(False)
        accepted: list[object] = []

        async def accept() -> None:
            stream, _ = await b.accept()
            accepted.append(stream)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            with caplog.at_level(logging.WARNING), no_more_files():
                client.connect_ex(b.address)
                nursery.start_soon(accept)
                await trio.sleep(1)
                assert not accepted
                assert b.errors["EMFILE"] > 3
                assert a.send_packet(b"x", b.address)
                assert await receive(b, 1) == [[(b"x", a.address)]]
                with pytest.raises(OSError, match="Too many open files"):
                    await a.dial(b.address)
                with pytest.raises(AddressError, match="Too many open files"):
                    async with open_sockets(A, 0):
                        pass
        client.close()
        assert len(accepted) == 1
        assert caplog.messages == ["cannot accept streams: Too many open files"]


def test_receive_buffer_is_enlarged() -> None:
    async def main() -> None:
        async with open_sockets(A, 0) as transport:
            got = transport._udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                assert got >= plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    trio.run(main)


# --- IPv6 ---


@needs_v6
async def test_transports_on_ipv6_loopback_exchange_packets_and_streams() -> None:
    async with open_pair("::1", "::1") as (a, b):
        assert a.address[0] == b.address[0] == "::1"
        assert a.send_packet(b"six", b.address)
        assert await receive(b, 1) == [[(b"six", a.address)]]
        async with await a.dial(b.address) as near:
            far, (host, _) = await b.accept()
            async with far:
                assert host == "::1"
                await near.send_all(b"x")
                assert await far.receive_some() == b"x"
        with pytest.raises(OSError):  # noqa: PT011 - no IPv4 from an IPv6 address
            await a.dial((A, 1))
        assert not a.send_packet(b"four", (A, 7946))


@needs_v6
async def test_socket_bound_to_ipv6_address_receives_no_ipv4_packets() -> None:
    async with open_sockets("::1", 0) as six:
        port = six.address[1]
        async with open_sockets("127.0.0.1", port) as four:
            assert four.address == ("127.0.0.1", port)


@needs_v6
async def test_socket_bound_to_all_ipv6_receives_both_families_with_unmapped_addresses() -> None:
    with trio.fail_after(20):
        async with (
            open_sockets("::", 0) as dual,
            open_sockets(A, 0) as four,
            open_sockets("::1", 0) as six,
        ):
            port = dual.address[1]
            for other, at in ((four, A), (six, "::1")):
                assert other.send_packet(b"in", (at, port))
                assert await receive(dual, 1) == [[(b"in", other.address)]]
                assert dual.send_packet(b"out", other.address)
                [[(data, (host, from_port))]] = await receive(other, 1)
                assert (data, from_port) == (b"out", port)
                assert host in {"127.0.0.1", A, "::1"}
                async with await other.dial((at, port)) as stream:
                    far, (source, _) = await dual.accept()
                    assert source == at
                    await far.aclose()
                    assert await stream.receive_some() == b""
                async with await dual.dial(other.address):
                    far, _ = await other.accept()
                    await far.aclose()


async def test_socket_bound_to_all_ipv4_receives_ipv4() -> None:
    with trio.fail_after(20):
        async with open_sockets("0.0.0.0", 0) as everywhere, open_sockets(A, 0) as a:
            assert a.send_packet(b"x", (B, everywhere.address[1]))
            assert await receive(everywhere, 1) == [[(b"x", a.address)]]
            async with await everywhere.dial(a.address):
                far, _ = await a.accept()
                await far.aclose()
