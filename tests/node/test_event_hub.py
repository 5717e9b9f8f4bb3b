"""Subscriptions: delivery by filter, slow readers, and responders of queries."""

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.node.helpers import LATENCY, node_under_test
from trioserf.event_filter import EventFilter
from trioserf.node.event_hub import MAX_AWAITING, RESPONSE_WAIT, EventHub, Responder, Subscription
from trioserf.results import Dropped
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import Query, QueryFlag, QueryResponse, ResponseFlag
from trioserf.wire.swim_messages import UserMessage

ALL_AND_SUSPECT = tuple(EventFilter.parse("*,member-suspect"))
QUERIES = tuple(EventFilter.parse("query"))


def watched_hub() -> tuple[EventHub, list[int]]:
    """Return a hub, and the list of ids that it passes to `on_no_responder`."""
    hub, unanswered = EventHub(), list[int]()
    hub.on_no_responder = unanswered.extend
    return hub, unanswered


def user(number: int) -> UserEventReceived:
    return UserEventReceived(number, f"e{number}", b"", coalesce=False)


def query(number: int, name: str = "load") -> QueryReceived:
    return QueryReceived(number, 1, number, name, b"", "a", 10.0)


async def read(subscription: Subscription) -> list[Event | Dropped]:
    """Return the events that wait now."""
    found: list[Event | Dropped] = []
    with trio.move_on_after(0.001):
        while True:
            found.append(await subscription.receive())
    return found


async def test_events_are_delivered_by_filter(autojump_clock: MockClock) -> None:
    hub = EventHub()
    suspicion = MemberEvent("member-suspect", ())
    failure = MemberEvent("member-failed", ())
    deploys = tuple(EventFilter.parse("user:deploy"))
    deploy = UserEventReceived(1, "deploy", b"", coalesce=False)
    with (
        hub.subscribe((), answers=False, buffer=9) as plain,
        hub.subscribe(ALL_AND_SUSPECT, answers=False, buffer=9) as with_suspicions,
        hub.subscribe(deploys, answers=False, buffer=9) as deploys_only,
    ):
        for event in (suspicion, failure, deploy, user(1)):
            hub.publish(event)
        assert await read(plain) == [failure, deploy, user(1)]
        assert await read(with_suspicions) == [suspicion, failure, deploy, user(1)]
        assert await read(deploys_only) == [deploy]
    hub.publish(failure)
    assert await read(plain) == []


async def test_slow_reader_receives_dropped_count_in_place(
    autojump_clock: MockClock,
) -> None:
    hub = EventHub()
    with (
        hub.subscribe((), answers=False, buffer=3) as slow,
        hub.subscribe((), answers=False, buffer=100) as quick,
    ):
        for number in range(10):
            hub.publish(user(number))
        assert await slow.receive() == user(0)
        hub.publish(user(10))
        assert await read(slow) == [user(1), user(2), Dropped(7), user(10)]
        assert len(await read(quick)) == 11
        for number in range(4):
            hub.publish(user(number))
        # The count is delivered although no event follows.
        assert await read(slow) == [user(0), user(1), user(2), Dropped(1)]
        assert await read(slow) == []


async def test_buffer_of_slow_reader_is_bounded(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=False, buffer=5) as slow:
        for number in range(10_000):
            hub.publish(user(number))
            if number % 7 == 0:
                await slow.receive()
            assert len(slow._events._items) <= 6
        delivered = [*await read(slow)]
        assert isinstance(delivered[-1], Dropped | UserEventReceived)


async def test_readers_of_one_subscription_share_its_events(autojump_clock: MockClock) -> None:
    hub = EventHub()
    seen: list[int] = []

    async def reader(subscription: Subscription) -> None:
        async for event in subscription:
            assert isinstance(event, UserEventReceived)
            seen.append(event.ltime)

    with hub.subscribe((), answers=False, buffer=100) as shared:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader, shared)
            nursery.start_soon(reader, shared)
            for number in range(50):
                hub.publish(user(number))
                await trio.lowlevel.checkpoint()
            hub.close()
    assert sorted(seen) == list(range(50))


async def test_subscription_ends_after_buffered_events(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=False, buffer=3) as subscription:
        hub.publish(user(1))
        hub.close()
        assert await subscription.receive() == user(1)
        with pytest.raises(trio.EndOfChannel):
            await subscription.receive()
    with hub.subscribe((), answers=False, buffer=3) as late:
        with pytest.raises(trio.EndOfChannel):
            await late.receive()
        assert [event async for event in late] == []


async def test_query_is_declined_with_the_last_responder(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with (
        hub.subscribe((), answers=True, buffer=9) as a,
        hub.subscribe(QUERIES, answers=True, buffer=9) as b,
        hub.subscribe((), answers=False, buffer=9),
    ):
        assert hub.has_responder(query(1))
        hub.publish(query(1))
        assert not hub.mark_declined(1, a)
        assert not hub.mark_declined(1, a)  # repeated: no change
        assert hub.mark_declined(1, b)
        hub.publish(query(2))
        assert not hub.mark_declined(2)
        assert hub.mark_declined(2)
        assert hub.mark_declined(3)  # no responder got this query


async def test_ended_subscription_declines_its_queries(autojump_clock: MockClock) -> None:
    hub, unanswered = watched_hub()
    with hub.subscribe((), answers=True, buffer=9):
        with hub.subscribe((), answers=True, buffer=9):
            hub.publish(query(1))
            hub.publish(query(2))
            hub.mark_answered(2)
        assert unanswered == []
        with hub.subscribe((), answers=False, buffer=9):
            pass
    assert unanswered == [1]
    assert not hub.has_responder(query(3))


async def test_awaiting_queries_are_bounded(autojump_clock: MockClock) -> None:
    hub, unanswered = watched_hub()
    with hub.subscribe((), answers=True, buffer=MAX_AWAITING + 10):
        for number in range(MAX_AWAITING + 10):
            hub.publish(query(number))
    assert unanswered == list(range(10, MAX_AWAITING + 10))


async def test_query_dropped_by_all_responders_is_declined_at_once(
    autojump_clock: MockClock,
) -> None:
    hub, unanswered = watched_hub()
    with (
        hub.subscribe((), answers=True, buffer=1),
        hub.subscribe(QUERIES, answers=True, buffer=2),
    ):
        hub.publish(user(1))
        for number in range(1, 4):
            hub.publish(query(number))
        assert unanswered == [3]
    assert unanswered == [3, 1, 2]


# --- readers that may only watch ---


async def test_unfiltered_reader_is_assumed_silent_after_a_second(
    autojump_clock: MockClock,
) -> None:
    hub, unanswered = watched_hub()
    with hub.subscribe((), answers=Responder(), buffer=9):
        assert hub.has_responder(query(1))
        hub.publish(query(1))
        assert hub.next_deadline == trio.current_time() + RESPONSE_WAIT
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.publish(query(2))
        hub.expire(trio.current_time())
        assert unanswered == []
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.expire(trio.current_time())
        assert unanswered == [1]
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.expire(trio.current_time())
        assert unanswered == [1, 2]
        assert hub.next_deadline is None


@pytest.mark.parametrize("act", ["answers", "declines"])
async def test_reader_that_responded_once_is_awaited_until_the_deadline(
    autojump_clock: MockClock, act: str
) -> None:
    hub, unanswered = watched_hub()
    client = Responder()
    with hub.subscribe((), answers=client, buffer=9):
        hub.publish(query(1))
        hub.publish(query(2))
        if act == "answers":
            hub.mark_answered(1, client)
        else:
            assert hub.mark_declined(1, client)
        await trio.sleep(100)
        hub.publish(query(3))
        assert len(hub._assumed_silent_at) == 2  # from before its first response
        hub.expire(trio.current_time())
        assert len(hub._assumed_silent_at) == 0
        assert unanswered == []
    assert sorted(unanswered) == [2, 3]


@pytest.mark.parametrize("filters", ["query", "query:load", "user,query"])
async def test_reader_with_query_filter_is_awaited_until_the_deadline(
    autojump_clock: MockClock, filters: str
) -> None:
    hub = EventHub()
    named = tuple(EventFilter.parse(filters))
    with hub.subscribe(named, answers=Responder(), buffer=9):
        hub.publish(query(1))
        assert hub.next_deadline is None


async def test_query_stays_open_for_a_responder_known_to_respond(
    autojump_clock: MockClock,
) -> None:
    hub, unanswered = watched_hub()
    handlers = Responder(has_responded=True)
    with (
        hub.subscribe(QUERIES, answers=handlers, buffer=9),
        hub.subscribe((), answers=Responder(), buffer=9),
    ):
        hub.publish(query(1))
        await trio.sleep(RESPONSE_WAIT)
        hub.expire(trio.current_time())
        assert unanswered == []
        assert hub.mark_declined(1, handlers)


async def test_assumed_silent_deadlines_are_bounded(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=Responder(), buffer=3 * MAX_AWAITING):
        for number in range(2 * MAX_AWAITING):
            hub.publish(query(number))
        assert len(hub._assumed_silent_at) == len(hub._awaiting) == MAX_AWAITING


async def test_subscriptions_of_one_client_decline_together(autojump_clock: MockClock) -> None:
    hub = EventHub()
    client, handlers = Responder(), Responder(has_responded=True)
    with (
        hub.subscribe((), answers=client, buffer=9),
        hub.subscribe(QUERIES, answers=handlers, buffer=9),
        hub.subscribe(QUERIES, answers=client, buffer=9),
    ):
        hub.publish(query(1))
        assert not hub.mark_declined(1, client)
        assert hub.mark_declined(1, handlers)
        hub.publish(query(2))
        assert not hub.mark_declined(2, handlers)
        assert hub.mark_declined(
            2, Responder()
        )  # from another connection: counts as the next responder
        hub.publish(query(3))


async def test_changed_filters_keep_buffered_events(
    autojump_clock: MockClock,
) -> None:
    hub, unanswered = watched_hub()
    with hub.subscribe(QUERIES, answers=True, buffer=9) as events:
        hub.publish(query(1))
        events.change(EventFilter("user"))
        hub.publish(query(2))
        hub.publish(user(1))
        assert not hub.has_responder(query(2))
        assert await read(events) == [query(1), user(1)]
        assert unanswered == []
        assert hub.mark_declined(1, events)


def query_message(number: int) -> UserMessage:
    addr = bytes((10, 0, 1, 1))
    return UserMessage(
        serf_codec.encode(
            Query(
                number, number, addr, 7946, "a", (), QueryFlag.ACK, 0, 10_000_000_000, "load", b""
            )
        )
    )


async def test_requester_is_notified_when_last_responder_ends(autojump_clock: MockClock) -> None:
    numbers = itertools.count(1)
    async with node_under_test() as s:
        [a] = await s.add_members("a")

        def flags() -> list[int]:
            replies = [serf_codec.decode(m.payload) for m in a.messages(UserMessage)]
            return [m.flags for m in replies if isinstance(m, QueryResponse)]

        with s.node.subscribe(answers=True) as responder:
            a.send(query_message(next(numbers)))
            await trio.sleep(3 * LATENCY)
            assert isinstance((await responder.receive()), QueryReceived)
            assert flags() == [ResponseFlag.ACK]
        await trio.sleep(3 * LATENCY)
        none = ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW
        assert flags() == [ResponseFlag.ACK, none]
        a.send(query_message(next(numbers)))
        await trio.sleep(3 * LATENCY)
        assert flags()[2:] == [none]


async def test_requester_is_notified_of_silent_reader_within_a_second(
    autojump_clock: MockClock,
) -> None:
    none = ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW
    async with node_under_test() as s:
        [a] = await s.add_members("a")

        def responses() -> list[QueryResponse]:
            replies = [serf_codec.decode(m.payload) for m in a.messages(UserMessage)]
            return [m for m in replies if isinstance(m, QueryResponse)]

        client = Responder()
        with s.node.subscribe(answers=client) as events:
            a.send(query_message(1))
            await trio.sleep(RESPONSE_WAIT - LATENCY)
            assert [m.flags for m in responses()] == [ResponseFlag.ACK]
            await trio.sleep(4 * LATENCY)
            assert [m.flags for m in responses()] == [ResponseFlag.ACK, none]
            query = await events.receive()
            assert isinstance(query, QueryReceived)
            await s.node.respond(query.id, b"late", client)  # accepted by a requesting Go agent
            await trio.sleep(3 * LATENCY)
            assert responses()[-1].payload == b"late"
            a.send(query_message(2))
            await trio.sleep(5 * RESPONSE_WAIT)
            assert [m.flags for m in responses()[3:]] == [ResponseFlag.ACK]
        await trio.sleep(3 * LATENCY)
        assert [m.flags for m in responses()[3:]] == [ResponseFlag.ACK, none]


async def test_watchers_are_called_in_the_step_of_the_event(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test() as s:
        await s.add_members("a")
        seen: list[tuple[str, int]] = []
        with s.node.watch(lambda event: seen.append((event.kind, len(s.node.members())))):
            await s.add_members("b")
            await s.add_members("c")
        await s.add_members("d")
        assert seen == [("member-join", 3), ("member-join", 4)]


async def test_events_are_received_together(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=False, buffer=2) as events:
        for number in range(4):
            hub.publish(user(number))
        assert await events.receive_some(2) == [user(0), user(1)]
        assert await events.receive_some(9) == [Dropped(2)]
        hub.close()
        with pytest.raises(trio.EndOfChannel):
            await events.receive_some(9)
