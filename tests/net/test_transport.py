"""The contract of every transport: simulated in virtual time, and real on loopback."""

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trioserf.errors import AddressError
from trioserf.net.sockets import open_sockets
from trioserf.net.transport import Transport
from trioserf.sim.network import Network

Open = Callable[[str], contextlib.AbstractAsyncContextManager[Transport]]
Contract = Callable[[Open], Coroutine[Any, Any, None]]

A, B = "127.21.0.1", "127.21.0.2"


@pytest.fixture(params=["simulated", "real"])
def run_contract(request: pytest.FixtureRequest) -> Callable[[Contract], None]:
    """Run a contract on one kind of transport."""
    if request.param == "real":

        @asynccontextmanager
        async def open_real(host: str) -> AsyncIterator[Transport]:
            async with open_sockets(host, 7946) as transport:
                yield transport

        async def real(contract: Contract) -> None:
            with trio.fail_after(10):
                await contract(open_real)

        return lambda contract: trio.run(real, contract)

    async def simulated(contract: Contract) -> None:
        network = Network(random.Random(1))

        @asynccontextmanager
        async def open_simulated(host: str) -> AsyncIterator[Transport]:
            transport = network.open((host, 7946))
            try:
                yield transport
            finally:
                await transport.aclose()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(network.run)
                await contract(open_simulated)
                nursery.cancel_scope.cancel()

    # Without a mock clock: the contract waits for all tasks to be blocked.
    clock = trio.testing.MockClock(autojump_threshold=0)
    return lambda contract: trio.run(simulated, contract, clock=clock)


async def _receive(transport: Transport, count: int) -> list[tuple[bytes, tuple[str, int]]]:
    packets: list[tuple[bytes, tuple[str, int]]] = []
    while len(packets) < count:
        batch = await transport.receive_packets()
        assert 1 <= len(batch) <= 64
        packets += batch
    return packets


def test_packets_have_their_senders_address(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:
            assert a.address == (A, 7946)
            assert a.send_packet(b"one", b.address)
            assert a.send_packet(b"", b.address)
            assert b.send_packet(b"own", b.address)
            got = await _receive(b, 3)
            assert sorted(got) == [(b"", a.address), (b"one", a.address), (b"own", b.address)]

    run_contract(contract)


def test_many_packets_are_received_in_batches(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:
            for number in range(200):
                assert a.send_packet(b"%d" % number, b.address)
            got = await _receive(b, 200)
            assert {data for data, _ in got} == {b"%d" % number for number in range(200)}

    run_contract(contract)


def test_packet_to_unused_address_has_no_effect(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a:
            for _ in range(3):
                a.send_packet(b"hello?", (B, 7946))
            async with open_(B) as b:
                assert b.send_packet(b"still there", a.address)
                assert await _receive(a, 1) == [(b"still there", b.address)]

    run_contract(contract)


def test_oversized_packet_is_dropped_locally(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:
            assert not a.send_packet(bytes(65_508), b.address)
            assert a.send_packet(bytes(65_507), b.address)
            [(data, _)] = await _receive(b, 1)
            assert len(data) == 65_507

    run_contract(contract)


def test_receiver_ends_when_transport_is_closed(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await a.receive_packets()

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await a.accept()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                await a.aclose()
            assert not a.send_packet(b"late", (B, 7946))
            with pytest.raises(trio.ClosedResourceError):
                await a.receive_packets()

    run_contract(contract)


def test_address_in_use_cannot_be_bound_again(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A):
            with pytest.raises(AddressError, match="cannot listen on"):
                async with open_(A):
                    pass
        async with open_(A):
            pass

    run_contract(contract)


def test_dial_to_unused_address_is_refused(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a:
            with pytest.raises(ConnectionRefusedError):
                await a.dial((B, 7946))

    run_contract(contract)


def test_streams_carry_bytes_and_end_in_both_directions(
    run_contract: Callable[[Contract], None],
) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:
            near = await a.dial(b.address)
            far, (host, port) = await b.accept()
            assert host == A
            assert port != 7946
            async with near, far:
                large = bytes(range(256)) * 8192
                got = bytearray()

                async def send() -> None:
                    await near.send_all(large)
                    await near.send_eof()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    while data := await far.receive_some(10_000):
                        got += data
                assert got == large
                await far.send_all(b"thanks")
                assert await near.receive_some() == b"thanks"

    run_contract(contract)


def test_streams_are_half_closeable_streams(run_contract: Callable[[Contract], None]) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:

            async def make() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
                near = await a.dial(b.address)
                far, _ = await b.accept()
                return near, far

            await trio.testing.check_half_closeable_stream(make, None)

    run_contract(contract)


def test_writer_blocks_while_peer_does_not_read(
    run_contract: Callable[[Contract], None],
) -> None:
    async def contract(open_: Open) -> None:
        async with open_(A) as a, open_(B) as b:
            near = await a.dial(b.address)
            far, _ = await b.accept()
            async with near, far:
                with trio.move_on_after(0.5) as timeout:
                    await near.send_all(bytes(50_000_000))
                assert timeout.cancelled_caught

    run_contract(contract)
