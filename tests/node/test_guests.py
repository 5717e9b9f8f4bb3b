"""Open streams: who makes room for whom, and what all of them may hold."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from tests.node.stage import LATENCY, OURS, push_pull, stage
from trioserf.address import Address
from trioserf.node.stream_limits import LARGE, StreamLimiter
from trioserf.swim.config import SwimOptions
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import NodeState, PushPull, State

PEER = Address("10.0.1.1", 7946)


def nothing() -> None:
    pass


async def test_the_one_that_holds_the_most_makes_room() -> None:
    guests = StreamLimiter(10, 100, nothing)
    small, large, other = (guests.add(PEER, incoming=True) for _ in range(3))
    guests.set_held(small, 10)
    guests.set_held(large, 60)
    guests.set_held(other, 50)
    assert large.scope.cancel_called
    assert large.fault is not None
    assert large.fault.kind == "limit"
    assert not small.scope.cancel_called
    assert guests.held == 60
    with pytest.raises(WireError, match="more than 100 bytes"):
        guests.set_held(other, 95)
    for guest in (small, large, other):
        guests.remove(guest)
    assert guests.held == 0


async def test_the_silent_make_room_but_not_at_once(autojump_clock: MockClock) -> None:
    guests = StreamLimiter(2, 100, nothing)
    first, second = (guests.add(PEER, incoming=True) for _ in range(2))
    ours = guests.add(PEER, incoming=False)
    assert not guests.evict_idle(trio.current_time())
    await trio.sleep(1.5)
    guests.touch(first, trio.current_time())
    assert guests.evict_idle(trio.current_time())
    assert second.scope.cancel_called
    assert not first.scope.cancel_called
    assert not ours.scope.cancel_called
    guests.add(PEER, incoming=True)
    assert not guests.evict_idle(trio.current_time())
    guests.touch(second, trio.current_time())  # too late: it is not counted again
    guests.remove(second)
    assert len(guests) == 2


async def test_calm_is_told_once_all_large_ones_have_gone() -> None:
    calms = []
    guests = StreamLimiter(10, 100 * LARGE, lambda: calms.append(True))
    small, large, larger = (guests.add(PEER, incoming=True) for _ in range(3))
    guests.set_held(large, LARGE)
    guests.set_held(larger, 2 * LARGE)
    guests.remove(large)
    assert calms == []
    guests.remove(larger)
    guests.remove(small)
    assert calms == [True]


async def test_half_open_streams_keep_nobody_out(autojump_clock: MockClock) -> None:
    async with stage(seed_interval=1e6, max_streams=4) as s:
        peer = s.peer("p")
        for _ in range(20):  # each says nothing, or begins and stops
            await peer.transport.dial(OURS)
            stream = await peer.transport.dial(OURS)
            await stream.send_all(push_pull()[:3])
        await trio.sleep(1.5)
        for _ in range(8):
            assert isinstance(await peer.exchange(push_pull()), PushPull)
        assert s.node.dropped()["streams in"] >= 20


async def test_large_exchanges_make_room_for_small_ones(autojump_clock: MockClock) -> None:
    async with stage(seed_interval=1e6, stream_memory=1024 * 1024) as s:
        peer = s.peer("p")
        codec = StreamCodec(keyring=None, compress=False)
        large = codec.encode_push_pull(PushPull(False, (), bytes(700_000)))
        streams = [await peer.transport.dial(OURS) for _ in range(3)]
        for stream in streams:  # all of them begin, and none comes to its end
            with suppress(trio.BrokenResourceError):
                await stream.send_all(large[:600_000])
            await trio.sleep(10 * LATENCY)
        assert isinstance(await peer.exchange(push_pull(peer.node_state())), PushPull)
        assert s.node.dropped()["limit"] >= 1
        assert s.statuses() == {"us": "alive", "p": "alive"}


@pytest.mark.parametrize("owns_process", [False, True])
async def test_garbage_is_collected_only_where_nobody_else_has_any(
    autojump_clock: MockClock, owns_process: bool
) -> None:
    collections = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collections.append(trio.current_time())

    async with stage(seed_interval=1e6, owns_process=owns_process) as s:
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
    """Collect no garbage unless somebody asks for it, and tell of that."""
    gc.disable()
    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)
        gc.enable()


async def test_rows_that_cannot_be_are_counted_and_passed_over(autojump_clock: MockClock) -> None:
    async with stage(seed_interval=1e6) as s:
        peer = s.peer("p")
        odd = NodeState("x" * 2000, bytes(4), 1, b"", 1, State.ALIVE)
        await peer.exchange(push_pull(odd, peer.node_state()))
        assert s.statuses() == {"us": "alive", "p": "alive"}
        assert s.node.dropped() == {"limit": 1}


async def test_a_large_table_is_taken_in_by_pieces(autojump_clock: MockClock) -> None:
    async with stage(seed_interval=1e6) as s:
        peer = s.peer("p")
        rows = tuple(
            NodeState(f"n{i}", bytes((10, 9, i >> 8, i & 255)), 7946, b"", 1, State.ALIVE)
            for i in range(2000)
        )
        assert isinstance(await peer.exchange(push_pull(*rows)), PushPull)
        await s.until(lambda: len(s.statuses()) == 2001, 1)


async def test_more_members_than_are_allowed_are_not_let_in(autojump_clock: MockClock) -> None:
    async with stage(seed_interval=1e6, swim=SwimOptions(max_members=50)) as s:
        peer = s.peer("p")
        for batch in range(4):
            rows = tuple(
                NodeState(f"b{batch}-{i}", bytes((10, 9, batch, i)), 7946, b"", 1, State.ALIVE)
                for i in range(100)
            )
            await peer.exchange(push_pull(*rows))
            # They are said to have left: others may come, and the oldest are forgotten for them.
            gone = tuple(
                NodeState(row.name, row.addr, row.port, b"", 1, State.LEFT) for row in rows
            )
            await peer.exchange(push_pull(*gone))
            await trio.sleep(200)
        assert 2 < len(s.statuses()) <= 50
        assert len(s.node.memberlist.records) <= 50
        assert s.statuses()["us"] == "alive"
