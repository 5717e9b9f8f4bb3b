"""Events to those who asked: nobody is waited for, and what was missed is said."""

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.node.stage import LATENCY, stage
from trioserf.node.event_hub import MAX_AWAITING, RESPONSE_WAIT, EventHub, Responder, Subscription
from trioserf.serf.events import Dropped, Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.filters import EventFilter
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import Query, QueryFlag, QueryResponse, ResponseFlag
from trioserf.wire.swim_messages import UserMessage

ALL_AND_SUSPECT = tuple(EventFilter.parse("*,member-suspect"))
QUERIES = tuple(EventFilter.parse("query"))


def watched_hub() -> tuple[EventHub, list[int]]:
    """A hub, and the queries that nobody will answer any more."""
    hub, deserted = EventHub(), list[int]()
    hub.on_no_responder = deserted.extend
    return hub, deserted


def user(number: int) -> UserEventReceived:
    return UserEventReceived(number, f"e{number}", b"", coalesce=False)


def query(number: int, name: str = "load") -> QueryReceived:
    return QueryReceived(number, 1, number, name, b"", "a", 10.0)


async def read(subscription: Subscription) -> list[Event | Dropped]:
    """Give what is there now."""
    found: list[Event | Dropped] = []
    with trio.move_on_after(0.001):
        while True:
            found.append(await subscription.receive())
    return found


async def test_events_go_to_whoever_wants_them(autojump_clock: MockClock) -> None:
    hub = EventHub()
    suspicion = MemberEvent("member-suspect", ())
    failure = MemberEvent("member-failed", ())
    deploys = tuple(EventFilter.parse("user:deploy"))
    deploy = UserEventReceived(1, "deploy", b"", coalesce=False)
    with (
        hub.subscribe((), answers=False, buffer=9) as plain,
        hub.subscribe(ALL_AND_SUSPECT, answers=False, buffer=9) as curious,
        hub.subscribe(deploys, answers=False, buffer=9) as choosy,
    ):
        for event in (suspicion, failure, deploy, user(1)):
            hub.publish(event)
        assert await read(plain) == [failure, deploy, user(1)]
        assert await read(curious) == [suspicion, failure, deploy, user(1)]
        assert await read(choosy) == [deploy]
    hub.publish(failure)
    assert await read(plain) == []


async def test_a_slow_reader_is_told_how_much_it_missed_and_where(
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
        # Nothing follows what was dropped, and still it is said.
        assert await read(slow) == [user(0), user(1), user(2), Dropped(1)]
        assert await read(slow) == []


async def test_a_buffer_does_not_grow_whatever_is_dropped(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=False, buffer=5) as slow:
        for number in range(10_000):
            hub.publish(user(number))
            if number % 7 == 0:
                await slow.receive()
            assert len(slow._events._items) <= 6
        delivered = [*await read(slow)]
        assert isinstance(delivered[-1], Dropped | UserEventReceived)


async def test_several_readers_of_one_subscription_share_it(autojump_clock: MockClock) -> None:
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


async def test_the_end_comes_after_what_is_buffered(autojump_clock: MockClock) -> None:
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


async def test_the_last_to_decline_decides(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with (
        hub.subscribe((), answers=True, buffer=9) as a,
        hub.subscribe(QUERIES, answers=True, buffer=9) as b,
        hub.subscribe((), answers=False, buffer=9),
    ):
        assert hub.has_responder(query(1))
        hub.publish(query(1))
        assert not hub.mark_declined(1, a)
        assert not hub.mark_declined(1, a)  # once more says nothing new
        assert hub.mark_declined(1, b)
        hub.publish(query(2))
        assert not hub.mark_declined(2)
        assert hub.mark_declined(2)
        assert hub.mark_declined(3)  # nobody here was ever asked


async def test_who_goes_away_declines_what_it_was_asked(autojump_clock: MockClock) -> None:
    hub, deserted = watched_hub()
    with hub.subscribe((), answers=True, buffer=9):
        with hub.subscribe((), answers=True, buffer=9):
            hub.publish(query(1))
            hub.publish(query(2))
            hub.mark_answered(2)
        assert deserted == []
        with hub.subscribe((), answers=False, buffer=9):
            pass
    assert deserted == [1]
    assert not hub.has_responder(query(3))


async def test_only_so_many_undecided_queries_are_remembered(autojump_clock: MockClock) -> None:
    hub, deserted = watched_hub()
    with hub.subscribe((), answers=True, buffer=MAX_AWAITING + 10):
        for number in range(MAX_AWAITING + 10):
            hub.publish(query(number))
    assert deserted == list(range(10, MAX_AWAITING + 10))


async def test_a_query_that_no_answerer_had_room_for_is_declined_at_once(
    autojump_clock: MockClock,
) -> None:
    hub, deserted = watched_hub()
    with (
        hub.subscribe((), answers=True, buffer=1),
        hub.subscribe(QUERIES, answers=True, buffer=2),
    ):
        hub.publish(user(1))
        for number in range(1, 4):
            hub.publish(query(number))
        assert deserted == [3]
    assert deserted == [3, 1, 2]


# --- who perhaps only watches ---


async def test_a_reader_of_everything_is_waited_for_a_second(autojump_clock: MockClock) -> None:
    hub, deserted = watched_hub()
    with hub.subscribe((), answers=Responder(), buffer=9):
        assert hub.has_responder(query(1))
        hub.publish(query(1))
        assert hub.next_deadline == trio.current_time() + RESPONSE_WAIT
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.publish(query(2))
        hub.expire(trio.current_time())
        assert deserted == []
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.expire(trio.current_time())
        assert deserted == [1]
        await trio.sleep(RESPONSE_WAIT / 2)
        hub.expire(trio.current_time())
        assert deserted == [1, 2]
        assert hub.next_deadline is None


@pytest.mark.parametrize("act", ["answers", "declines"])
async def test_one_that_has_decided_once_is_waited_for_from_then_on(
    autojump_clock: MockClock, act: str
) -> None:
    hub, deserted = watched_hub()
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
        assert len(hub._assumed_silent_at) == 2  # from before it was known
        hub.expire(trio.current_time())
        assert len(hub._assumed_silent_at) == 0
        assert deserted == []
    assert sorted(deserted) == [2, 3]


@pytest.mark.parametrize("filters", ["query", "query:load", "user,query"])
async def test_who_names_queries_is_waited_for(autojump_clock: MockClock, filters: str) -> None:
    hub = EventHub()
    named = tuple(EventFilter.parse(filters))
    with hub.subscribe(named, answers=Responder(), buffer=9):
        hub.publish(query(1))
        assert hub.next_deadline is None


async def test_a_patient_answerer_keeps_the_query_open_for_the_others(
    autojump_clock: MockClock,
) -> None:
    hub, deserted = watched_hub()
    handlers = Responder(has_responded=True)
    with (
        hub.subscribe(QUERIES, answers=handlers, buffer=9),
        hub.subscribe((), answers=Responder(), buffer=9),
    ):
        hub.publish(query(1))
        await trio.sleep(RESPONSE_WAIT)
        hub.expire(trio.current_time())
        assert deserted == []
        assert hub.mark_declined(1, handlers)


async def test_a_flood_of_queries_is_remembered_within_bounds(autojump_clock: MockClock) -> None:
    hub = EventHub()
    with hub.subscribe((), answers=Responder(), buffer=3 * MAX_AWAITING):
        for number in range(2 * MAX_AWAITING):
            hub.publish(query(number))
        assert len(hub._assumed_silent_at) == len(hub._awaiting) == MAX_AWAITING


async def test_two_streams_of_one_client_decline_as_one(autojump_clock: MockClock) -> None:
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
        assert hub.mark_declined(2, Responder())  # by another connection: one of those left
        hub.publish(query(3))


async def test_a_subscription_can_want_something_else_and_keeps_what_waits(
    autojump_clock: MockClock,
) -> None:
    hub, deserted = watched_hub()
    with hub.subscribe(QUERIES, answers=True, buffer=9) as events:
        hub.publish(query(1))
        events.change(EventFilter("user"))
        hub.publish(query(2))
        hub.publish(user(1))
        assert not hub.has_responder(query(2))
        assert await read(events) == [query(1), user(1)]
        assert deserted == []
        assert hub.mark_declined(1, events)


def ask(number: int) -> UserMessage:
    addr = bytes((10, 0, 1, 1))
    return UserMessage(
        serf_codec.encode(
            Query(
                number, number, addr, 7946, "a", (), QueryFlag.ACK, 0, 10_000_000_000, "load", b""
            )
        )
    )


async def test_an_asker_hears_when_the_last_answerer_has_gone(autojump_clock: MockClock) -> None:
    numbers = itertools.count(1)
    async with stage() as s:
        [a] = await s.add_members("a")

        def flags() -> list[int]:
            replies = [serf_codec.decode(m.payload) for m in a.got(UserMessage)]
            return [m.flags for m in replies if isinstance(m, QueryResponse)]

        with s.node.subscribe(answers=True) as answerer:
            a.send(ask(next(numbers)))
            await trio.sleep(3 * LATENCY)
            assert isinstance((await answerer.receive()), QueryReceived)
            assert flags() == [ResponseFlag.ACK]
        await trio.sleep(3 * LATENCY)
        none = ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW
        assert flags() == [ResponseFlag.ACK, none]
        a.send(ask(next(numbers)))
        await trio.sleep(3 * LATENCY)
        assert flags()[2:] == [none]


async def test_an_asker_hears_of_a_mere_watcher_within_a_second(
    autojump_clock: MockClock,
) -> None:
    none = ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW
    async with stage() as s:
        [a] = await s.add_members("a")

        def responses() -> list[QueryResponse]:
            replies = [serf_codec.decode(m.payload) for m in a.got(UserMessage)]
            return [m for m in replies if isinstance(m, QueryResponse)]

        client = Responder()
        with s.node.subscribe(answers=client) as events:
            a.send(ask(1))
            await trio.sleep(RESPONSE_WAIT - LATENCY)
            assert [m.flags for m in responses()] == [ResponseFlag.ACK]
            await trio.sleep(4 * LATENCY)
            assert [m.flags for m in responses()] == [ResponseFlag.ACK, none]
            query = await events.receive()
            assert isinstance(query, QueryReceived)
            await s.node.respond(query.id, b"late", client)  # a Serf waits for it
            await trio.sleep(3 * LATENCY)
            assert responses()[-1].payload == b"late"
            a.send(ask(2))
            await trio.sleep(5 * RESPONSE_WAIT)
            assert [m.flags for m in responses()[3:]] == [ResponseFlag.ACK]
        await trio.sleep(3 * LATENCY)
        assert [m.flags for m in responses()[3:]] == [ResponseFlag.ACK, none]


async def test_watchers_see_every_event_in_the_step_that_made_it(
    autojump_clock: MockClock,
) -> None:
    async with stage() as s:
        await s.add_members("a")
        seen: list[tuple[str, int]] = []
        with s.node.watch(lambda event: seen.append((event.kind, len(s.node.members())))):
            await s.add_members("b")
            await s.add_members("c")
        await s.add_members("d")
        assert seen == [("member-join", 3), ("member-join", 4)]
