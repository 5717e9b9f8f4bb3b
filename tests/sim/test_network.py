"""What the simulated network does to packets and streams, beside what every transport does."""

import random
from collections.abc import Awaitable, Callable
from itertools import pairwise

import attrs
import pytest
import trio

from trioserf.sim.endpoint import SimTransport
from trioserf.sim.network import LinkConditions, Network
from trioserf.sim.schedule import run_in_virtual_time

A, B, C = ("10.0.0.1", 7946), ("10.0.0.2", 7946), ("10.0.0.3", 7946)
_INSTANT = LinkConditions(latency=0, jitter=0)

Story = Callable[[Network, SimTransport, SimTransport], Awaitable[None]]


def _tell(story: Story, link: LinkConditions = _INSTANT, seed: int = 1) -> Network:
    network = Network(random.Random(seed), link)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run)
            with trio.fail_after(1000):
                await story(network, network.open(A), network.open(B))
            nursery.cancel_scope.cancel()

    run_in_virtual_time(main, seed=seed)
    return network


async def _listen(transport: SimTransport, seconds: float = 5) -> list[tuple[float, bytes]]:
    """Give what comes within some seconds, with the instants."""
    heard: list[tuple[float, bytes]] = []
    with trio.move_on_after(seconds):
        while True:
            packets = await transport.receive_packets()
            heard += [(trio.current_time(), data) for data, _ in packets]
    return heard


def _number_to(count: int, heard: list[list[tuple[float, bytes]]]) -> Story:
    async def story(_: Network, a: SimTransport, b: SimTransport) -> None:
        for number in range(count):
            assert a.send_packet(b"%04d" % number, B)
        heard.append(await _listen(b))

    return story


def test_latency_has_a_least_and_a_mean() -> None:
    heard: list[list[tuple[float, bytes]]] = []
    _tell(_number_to(2000, heard), LinkConditions(latency=0.1, jitter=0.05))
    times = [at for at, _ in heard[0]]
    assert min(times) >= 0.1
    assert sum(times) / len(times) == pytest.approx(0.15, rel=0.1)


def test_packets_are_lost_doubled_and_overtaken_as_often_as_said() -> None:
    heard: list[list[tuple[float, bytes]]] = []
    link = attrs.evolve(_INSTANT, loss=0.3, duplicate=0.2, reorder=0.1)
    network = _tell(_number_to(4000, heard), link)
    data = [data for _, data in heard[0]]
    assert network.counts["lost"] == pytest.approx(1200, rel=0.1)
    assert len(data) - len(set(data)) == pytest.approx(560, rel=0.15)
    assert data != sorted(data)
    assert sum(a > b for a, b in pairwise(data)) > 100
    assert network.counts["packets"] == 4000


def test_a_narrow_link_delays_packets_and_then_drops_them() -> None:
    heard: list[list[tuple[float, bytes]]] = []
    network = _tell(_number_to(100, heard), attrs.evolve(_INSTANT, bandwidth=990))
    times = [at for at, _ in heard[0]]
    assert len(times) == 24
    assert network.counts["slow"] == 76
    assert times == pytest.approx([place * 4 / 990 for place in range(1, 25)])


def test_a_full_buffer_drops_what_comes() -> None:
    async def story(network: Network, a: SimTransport, b: SimTransport) -> None:
        for _ in range(3000):
            a.send_packet(bytes(1000), B)
            await trio.sleep(0.001)
        assert network.counts["full"] == 3000 - 2 * 1024 * 1024 // 1512
        assert len(await b.receive_packets()) == 64

    _tell(story)


def test_partitions_cuts_and_one_members_loss() -> None:
    async def story(network: Network, a: SimTransport, b: SimTransport) -> None:
        async def passes(one: SimTransport, other: SimTransport) -> bool:
            one.send_packet(b"?", other.address)
            return bool(await _listen(other, 1))

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

    _tell(story)


def test_who_pauses_receives_late_and_sends_late() -> None:
    async def story(_: Network, a: SimTransport, b: SimTransport) -> None:
        b.pause()
        a.send_packet(b"to b", B)
        b.send_packet(b"from b", A)
        assert await _listen(a, 3) == []
        assert await _listen(b, 3) == []
        b.resume()
        [(at, data)] = await _listen(a, 1)
        assert at == pytest.approx(6)
        assert data == b"from b"
        assert [data for _, data in await _listen(b, 1)] == [b"to b"]

    _tell(story)


def test_what_a_slow_member_sends_is_late() -> None:
    async def story(_: Network, a: SimTransport, b: SimTransport) -> None:
        b.delay = 0.5
        a.send_packet(b"to b", B)
        b.send_packet(b"from b", A)
        [(at, data)] = await _listen(b, 0.1)
        assert at == pytest.approx(0, abs=1e-6)
        assert data == b"to b"
        [(at, data)] = await _listen(a, 1)
        assert at == pytest.approx(0.5)
        assert data == b"from b"
        started = trio.current_time()
        near = await a.dial(B)
        far, _source = await b.accept()
        await far.send_all(b"hello")
        assert await near.receive_some() == b"hello"
        assert trio.current_time() - started == pytest.approx(1.5)  # SYN, its answer, the bytes

    _tell(story)


def test_streams_wait_for_a_broken_link() -> None:
    async def story(network: Network, a: SimTransport, b: SimTransport) -> None:
        near = await a.dial(B)
        far, _ = await b.accept()
        network.partition([A])
        await near.send_all(b"late")
        with trio.move_on_after(10) as patience:
            await far.receive_some()
        assert patience.cancelled_caught
        network.heal()
        assert await far.receive_some() == b"late"
        assert 10 <= trio.current_time() <= 10.2

    _tell(story)


def test_dials_are_tried_again_and_given_up() -> None:
    async def story(network: Network, a: SimTransport, b: SimTransport) -> None:
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

    _tell(story)


def test_the_streams_of_a_killed_member_end() -> None:
    async def story(network: Network, a: SimTransport, b: SimTransport) -> None:
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
        assert network.counts["nobody"] == 1
        assert network.open(B).address == B

    _tell(story)


def test_the_same_seed_has_the_same_fate() -> None:
    link = LinkConditions(loss=0.2, duplicate=0.1, reorder=0.2)
    stories: list[list[tuple[float, bytes]]] = []
    sums = {_tell(_number_to(200, stories), link, seed).checksum for seed in (5, 5, 6)}
    assert stories[0] == stories[1] != stories[2]
    assert len(sums) == 2
