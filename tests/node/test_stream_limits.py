"""Limits on open streams: their number and their memory."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import LATENCY, OURS, node_under_test, push_pull
from trioserf.address import Address
from trioserf.node.stream_limits import LARGE, StreamLimiter
from trioserf.swim.config import SwimOptions
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import NodeState, PushPull, State

PEER = Address("10.0.1.1", 7946)


def do_nothing() -> None:
    pass


async def test_largest_stream_is_closed_over_the_memory_limit() -> None:
    limiter = StreamLimiter(10, 100, do_nothing)
    small, large, other = (limiter.add(PEER, incoming=True) for _ in range(3))
    limiter.set_held(small, 10)
    limiter.set_held(large, 60)
    limiter.set_held(other, 50)
    assert large.scope.cancel_called
    assert large.error is not None
    assert large.error.kind == "limit"
    assert not small.scope.cancel_called
    assert limiter.held == 60
    with pytest.raises(WireError, match="more than 100 bytes"):
        limiter.set_held(other, 95)
    for stream in (small, large, other):
        limiter.remove(stream)
    assert limiter.held == 0


async def test_silent_stream_is_evicted_after_min_idle(autojump_clock: MockClock) -> None:
    limiter = StreamLimiter(2, 100, do_nothing)
    first, second = (limiter.add(PEER, incoming=True) for _ in range(2))
    ours = limiter.add(PEER, incoming=False)
    assert not limiter.evict_idle(trio.current_time())
    await trio.sleep(1.5)
    limiter.touch(first, trio.current_time())
    assert limiter.evict_idle(trio.current_time())
    assert second.scope.cancel_called
    assert not first.scope.cancel_called
    assert not ours.scope.cancel_called
    limiter.add(PEER, incoming=True)
    assert not limiter.evict_idle(trio.current_time())
    limiter.touch(second, trio.current_time())  # after its eviction: not counted again
    limiter.remove(second)
    assert len(limiter) == 2


async def test_on_quiet_is_called_when_all_large_streams_have_ended() -> None:
    calls = []
    limiter = StreamLimiter(10, 100 * LARGE, lambda: calls.append(True))
    small, large, larger = (limiter.add(PEER, incoming=True) for _ in range(3))
    limiter.set_held(large, LARGE)
    limiter.set_held(larger, 2 * LARGE)
    limiter.remove(large)
    assert calls == []
    limiter.remove(larger)
    limiter.remove(small)
    assert calls == [True]


async def test_half_open_streams_do_not_block_others(autojump_clock: MockClock) -> None:
    async with node_under_test(seed_interval=1e6, max_streams=4) as s:
        peer = s.peer("p")
        for _ in range(20):  # silent, or stopped after the first bytes
            await peer.transport.dial(OURS)
            stream = await peer.transport.dial(OURS)
            await stream.send_all(push_pull()[:3])
        await trio.sleep(1.5)
        for _ in range(8):
            assert isinstance(await peer.exchange(push_pull()), PushPull)
        assert s.node.dropped()["streams in"] >= 20


async def test_large_streams_are_closed_for_small_ones(autojump_clock: MockClock) -> None:
    async with node_under_test(seed_interval=1e6, stream_memory=1024 * 1024) as s:
        peer = s.peer("p")
        codec = StreamCodec(keyring=None, compress=False)
        large = codec.encode_push_pull(PushPull(False, (), bytes(700_000)))
        streams = [await peer.transport.dial(OURS) for _ in range(3)]
        for stream in streams:  # none is complete
            with suppress(trio.BrokenResourceError):
                await stream.send_all(large[:600_000])
            await trio.sleep(10 * LATENCY)
        assert isinstance(await peer.exchange(push_pull(peer.node_state())), PushPull)
        assert s.node.dropped()["limit"] >= 1
        assert s.statuses() == {"us": "alive", "p": "alive"}


@pytest.mark.parametrize("owns_process", [False, True])
async def test_garbage_is_collected_only_if_node_owns_process(
    autojump_clock: MockClock, owns_process: bool
) -> None:
    collections = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collections.append(trio.current_time())

    async with node_under_test(seed_interval=1e6, owns_process=owns_process) as s:
        peer = s.peer("p")
        codec = StreamCodec(keyring=None, compress=False)
        with automatic_collection_off(note):
            large = codec.encode_push_pull(PushPull(False, (), bytes(LARGE)))
            with suppress(trio.BrokenResourceError):
                await peer.exchange(large)
            await trio.sleep(5)
    assert len(collections) == owns_process


@contextmanager
def automatic_collection_off(note: Callable[[str, dict[str, int]], None]) -> Iterator[None]:
    """Turn automatic collection off, and call `note` at every explicit one."""
    gc.disable()
    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)
        gc.enable()


async def test_malformed_rows_are_counted_and_skipped(autojump_clock: MockClock) -> None:
    async with node_under_test(seed_interval=1e6) as s:
        peer = s.peer("p")
        odd = NodeState("x" * 2000, bytes(4), 1, b"", 1, State.ALIVE)
        await peer.exchange(push_pull(odd, peer.node_state()))
        assert s.statuses() == {"us": "alive", "p": "alive"}
        assert s.node.dropped() == {"limit": 1}


async def test_large_table_is_merged_in_steps(autojump_clock: MockClock) -> None:
    async with node_under_test(seed_interval=1e6) as s:
        peer = s.peer("p")
        rows = tuple(
            NodeState(f"n{i}", bytes((10, 9, i >> 8, i & 255)), 7946, b"", 1, State.ALIVE)
            for i in range(2000)
        )
        assert isinstance(await peer.exchange(push_pull(*rows)), PushPull)
        await s.until(lambda: len(s.statuses()) == 2001, 1)


async def test_members_beyond_max_members_are_rejected(autojump_clock: MockClock) -> None:
    async with node_under_test(seed_interval=1e6, swim=SwimOptions(max_members=50)) as s:
        peer = s.peer("p")
        for batch in range(4):
            rows = tuple(
                NodeState(f"b{batch}-{i}", bytes((10, 9, batch, i)), 7946, b"", 1, State.ALIVE)
                for i in range(100)
            )
            await peer.exchange(push_pull(*rows))
            # Members that left make room: the oldest are forgotten.
            left = tuple(
                NodeState(row.name, row.addr, row.port, b"", 1, State.LEFT) for row in rows
            )
            await peer.exchange(push_pull(*left))
            await trio.sleep(200)
        assert 2 < len(s.statuses()) <= 50
        assert len(s.node.memberlist.records) <= 50
        assert s.statuses()["us"] == "alive"
