"""Queues of stream messages: turns, retries and bounds."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioserf.address import Address
from trioserf.node.stream_queue import (
    MAX_BYTES,
    MAX_PER_MEMBER,
    MAX_RETRYING,
    RETRY_DELAYS,
    StreamSendQueue,
)
from trioserf.serf.effects import DirectMessage


def direct(node: str, data: bytes) -> DirectMessage:
    return DirectMessage(Address(f"10.0.0.{ord(node)}", 7946), node, data, stream=True)


def filled(*messages: tuple[str, bytes]) -> StreamSendQueue:
    queue = StreamSendQueue()
    for node, data in messages:
        assert queue.put(direct(node, data))
    return queue


async def test_each_member_has_one_stream_and_members_take_turns() -> None:
    queue = filled(("a", b"1"), ("a", b"2"), ("b", b"1"), ("b", b"2"))
    first, second = await queue.next(), await queue.next()
    assert [first, second] == [direct("a", b"1"), direct("b", b"1")]
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time()
        await queue.next()
    assert scope.cancelled_caught
    queue.sent(second)
    assert await queue.next() == direct("b", b"2")
    queue.sent(first)
    assert await queue.next() == direct("a", b"2")


async def test_responses_precede_events_but_not_messages_in_transit() -> None:
    queue = filled(("a", b"1"), ("a", b"2"), ("b", b"1"))
    queue.put(direct("c", b"response"), first=True)
    assert await queue.next() == direct("c", b"response")
    assert await queue.next() == direct("a", b"1")
    queue.put(direct("a", b"response"), first=True)
    queue.sent(direct("a", b"1"))
    assert await queue.next() == direct("b", b"1")
    assert await queue.next() == direct("a", b"response")


async def test_failure_delays_only_its_members_queue(autojump_clock: MockClock) -> None:
    queue = filled(("a", b"1"), ("a", b"2"))
    turn = await queue.next()
    assert queue.is_first_attempt(turn)
    for delay in RETRY_DELAYS:
        began = trio.current_time()
        assert queue.failed(turn) == 0
        queue.put(direct("b", b"1"))
        other = await queue.next()
        assert (other.node, trio.current_time()) == ("b", began)
        assert queue.is_first_attempt(other)
        queue.sent(other)
        assert await queue.next() == turn == direct("a", b"1")
        assert trio.current_time() - began == delay
        assert not queue.is_first_attempt(turn)
    assert queue.failed(turn) == 2
    assert (len(queue), queue.bytes_waiting, queue._retrying) == (0, 0, 0)


async def test_success_resets_failures() -> None:
    queue = filled(("a", b"1"), ("a", b"2"))
    queue.failed(await queue.next())
    queue._to_retry.append(queue._delayed.pop()[2])
    queue.sent(await queue.next())
    turn = await queue.next()
    assert turn == direct("a", b"2")
    assert queue.is_first_attempt(turn)
    assert queue._retrying == 0


async def test_only_few_queues_retry_at_once(autojump_clock: MockClock) -> None:
    queue = filled(*((node, b"1") for node in "abcdefgh"))
    for _ in range(8):
        queue.failed(await queue.next())
    tried = [await queue.next() for _ in range(MAX_RETRYING)]
    with trio.move_on_after(60) as scope:
        await queue.next()
    assert scope.cancelled_caught
    queue.put(direct("z", b"1"))
    assert (await queue.next()).node == "z"
    queue.failed(tried.pop())
    queue.sent(tried.pop())
    assert queue.drop_all(tried.pop()) == 1
    assert len({(await queue.next()).node for _ in range(3)}) == 3


async def test_waiting_sender_wakes_for_a_shorter_delay(autojump_clock: MockClock) -> None:
    queue = filled(("a", b"1"), ("b", b"1"))
    first, second = await queue.next(), await queue.next()
    queue.failed(second)
    second = await queue.next()
    queue.failed(second)  # the second delay is longer
    began = trio.current_time()
    got: list[DirectMessage] = []

    async def read() -> None:
        got.append(await queue.next())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        queue.failed(first)
    assert got == [first]
    assert trio.current_time() - began == RETRY_DELAYS[0]


def test_waiting_messages_are_bounded() -> None:
    queue = StreamSendQueue()
    for number in range(MAX_PER_MEMBER):
        assert queue.put(direct("a", b"%d" % number))
    assert not queue.put(direct("a", b"one too many"))
    assert queue.put(direct("b", b"for another"))
    assert len(queue) == MAX_PER_MEMBER + 1
    large = b"x" * (MAX_BYTES - queue.bytes_waiting)
    assert queue.put(direct("c", large))
    assert queue.put(direct("d", large))  # the same bytes: no more memory
    assert not queue.put(direct("e", b"y"))
    assert queue.bytes_waiting == MAX_BYTES


async def test_queue_of_dead_member_is_dropped() -> None:
    queue = filled(("a", b"1"), ("a", b"2"), ("b", b"1"))
    assert queue.drop_all(await queue.next()) == 2
    queue.sent(await queue.next())
    assert (len(queue), queue.bytes_waiting) == (0, 0)
    queue.put(direct("a", b"3"))
    assert await queue.next() == direct("a", b"3")
