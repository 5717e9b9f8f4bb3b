"""Faults of the simulated network; tests/net checks the rules that all transports share."""

import random
from collections.abc import Awaitable, Callable
from itertools import pairwise

import attrs
import pytest
import trio

from trioserf.sim.network import LinkConditions, Network
from trioserf.sim.transport import SimTransport
from trioserf.sim.virtual_time import run_in_virtual_time

A, B, C = ("10.0.0.1", 7946), ("10.0.0.2", 7946), ("10.0.0.3", 7946)
_INSTANT = LinkConditions(latency=0, jitter=0)

Scenario = Callable[[Network, SimTransport, SimTransport], Awaitable[None]]


def _run(scenario: Scenario, link: LinkConditions = _INSTANT, seed: int = 1) -> Network:
    network = Network(random.Random(seed), link)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run)
            with trio.fail_after(1000):
                await scenario(network, network.open(A), network.open(B))
            nursery.cancel_scope.cancel()

    run_in_virtual_time(main, seed=seed)
    return network


async def _receive(transport: SimTransport, seconds: float = 5) -> list[tuple[float, bytes]]:
    """Return the packets that arrive within some seconds, with the instants."""
    received: list[tuple[float, bytes]] = []
    with trio.move_on_after(seconds):
        while True:
            packets = await transport.receive_packets()
            received += [(trio.current_time(), data) for data, _ in packets]
    return received


def _send_numbers(count: int, received: list[list[tuple[float, bytes]]]) -> Scenario:
    async def scenario(_: Network, a: SimTransport, b: SimTransport) -> None:
        for number in range(count):
            assert a.send_packet(b"%04d" % number, B)
        received.append(await _receive(b))

    return scenario


def test_latency_has_its_minimum_and_mean() -> None:
    received: list[list[tuple[float, bytes]]] = []
    _run(_send_numbers(2000, received), LinkConditions(latency=0.1, jitter=0.05))
    times = [at for at, _ in received[0]]
    assert min(times) >= 0.1
    assert sum(times) / len(times) == pytest.approx(0.15, rel=0.1)


def test_packets_are_lost_duplicated_and_reordered_at_configured_rates() -> None:
    received: list[list[tuple[float, bytes]]] = []
    link = attrs.evolve(_INSTANT, loss=0.3, duplicate=0.2, reorder=0.1)
    network = _run(_send_numbers(4000, received), link)
    data = [data for _, data in received[0]]
    assert network.counts["lost"] == pytest.approx(1200, rel=0.1)
    assert len(data) - len(set(data)) == pytest.approx(560, rel=0.15)
    assert data != sorted(data)
    assert sum(a > b for a, b in pairwise(data)) > 100
    assert network.counts["packets"] == 4000


def test_slow_link_delays_packets_then_drops_them() -> None:
    received: list[list[tuple[float, bytes]]] = []
    network = _run(_send_numbers(100, received), attrs.evolve(_INSTANT, bandwidth=990))
    times = [at for at, _ in received[0]]
    assert len(times) == 24
    assert network.counts["slow"] == 76
    assert times == pytest.approx([place * 4 / 990 for place in range(1, 25)])


def test_full_receive_buffer_drops_packets() -> None:
    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        for _ in range(3000):
            a.send_packet(bytes(1000), B)
            await trio.sleep(0.001)
        assert network.counts["full"] == 3000 - 2 * 1024 * 1024 // 1512
        assert len(await b.receive_packets()) == 64

    _run(scenario)


def test_partition_cut_and_loss_of_one_member_block_packets() -> None:
    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        async def passes(one: SimTransport, other: SimTransport) -> bool:
            one.send_packet(b"?", other.address)
            return bool(await _receive(other, 1))

        network.partition([A])
        assert not await passes(a, b)
        assert not await passes(b, a)
        network.partition([A, B])
        assert await passes(a, b)
        network.heal()
        network.cut(A, B)
        assert not await passes(a, b)
        assert await passes(b, a)
        network.mend(A, B)
        assert await passes(a, b)
        network.lose(B, received=1)
        assert not await passes(a, b)
        assert await passes(b, a)
        network.lose(B, sent=1)
        assert await passes(a, b)
        assert not await passes(b, a)
        network.heal()
        assert await passes(b, a)

    _run(scenario)


def test_paused_member_sends_and_receives_late() -> None:
    async def scenario(_: Network, a: SimTransport, b: SimTransport) -> None:
        b.pause()
        a.send_packet(b"to b", B)
        b.send_packet(b"from b", A)
        assert await _receive(a, 3) == []
        assert await _receive(b, 3) == []
        b.resume()
        [(at, data)] = await _receive(a, 1)
        assert at == pytest.approx(6)
        assert data == b"from b"
        assert [data for _, data in await _receive(b, 1)] == [b"to b"]

    _run(scenario)


def test_packets_and_streams_of_slow_member_are_late() -> None:
    async def scenario(_: Network, a: SimTransport, b: SimTransport) -> None:
        b.delay = 0.5
        a.send_packet(b"to b", B)
        b.send_packet(b"from b", A)
        [(at, data)] = await _receive(b, 0.1)
        assert at == pytest.approx(0, abs=1e-6)
        assert data == b"to b"
        [(at, data)] = await _receive(a, 1)
        assert at == pytest.approx(0.5)
        assert data == b"from b"
        started = trio.current_time()
        near = await a.dial(B)
        far, _source = await b.accept()
        await far.send_all(b"hello")
        assert await near.receive_some() == b"hello"
        assert trio.current_time() - started == pytest.approx(1.5)  # SYN, SYN-ACK, the bytes

    _run(scenario)


def test_stream_waits_until_link_is_restored() -> None:
    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        near = await a.dial(B)
        far, _ = await b.accept()
        network.partition([A])
        await near.send_all(b"late")
        with trio.move_on_after(10) as waiting:
            await far.receive_some()
        assert waiting.cancelled_caught
        network.heal()
        assert await far.receive_some() == b"late"
        assert 10 <= trio.current_time() <= 10.2

    _run(scenario)


def test_dial_is_retried_then_times_out() -> None:
    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        network.partition([A])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, B)
            await trio.sleep(2)
            network.heal()
            await b.accept()
            assert trio.current_time() == 3
        network.partition([A])
        with pytest.raises(TimeoutError):
            await a.dial(B)

    _run(scenario)


def test_streams_of_killed_member_end() -> None:
    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        near = await a.dial(B)
        await b.accept()
        b.kill()
        assert await near.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"hello?")
        with pytest.raises(ConnectionRefusedError):
            await a.dial(B)
        a.send_packet(b"hello?", B)
        await trio.sleep(1)
        assert network.counts["unbound"] == 1
        assert network.open(B).address == B

    _run(scenario)


def test_same_seed_gives_the_same_deliveries() -> None:
    link = LinkConditions(loss=0.2, duplicate=0.1, reorder=0.2)
    runs: list[list[tuple[float, bytes]]] = []
    sums = {_run(_send_numbers(200, runs), link, seed).checksum for seed in (5, 5, 6)}
    assert runs[0] == runs[1] != runs[2]
    assert len(sums) == 2


def test_packet_to_an_unbound_address_is_refused() -> None:
    refused: list[tuple[float, tuple[str, int]]] = []

    async def scenario(network: Network, a: SimTransport, _: SimTransport) -> None:
        a.on_refused = lambda to: refused.append((trio.current_time(), to))
        began = trio.current_time()
        assert a.send_packet(b"x", C)
        await trio.sleep(1)
        [(at, to)] = refused
        assert at - began == pytest.approx(0.2)
        assert to == C
        network.partition([A])
        assert a.send_packet(b"x", C)
        await trio.sleep(1)
        assert len(refused) == 1  # a partition is silent

    _run(scenario, LinkConditions(latency=0.1, jitter=0))


def test_rejecting_cut_refuses_packets_and_connections() -> None:
    refused: list[tuple[str, int]] = []

    async def scenario(network: Network, a: SimTransport, b: SimTransport) -> None:
        a.on_refused = refused.append
        network.cut(A, B, reject=True)
        assert a.send_packet(b"x", B)
        with pytest.raises(ConnectionRefusedError):
            await a.dial(B)
        assert b.send_packet(b"y", A)
        assert [data for _, data in await _receive(a, 1)] == [b"y"]
        assert refused == [B]
        network.mend(A, B)
        assert a.send_packet(b"z", B)
        assert [data for _, data in await _receive(b, 1)] == [b"z"]

    _run(scenario)
