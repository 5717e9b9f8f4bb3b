"""An agent in memory: it keeps what it is told, answers from what it keeps, and has no network.

`tests/control/test_fake_agent.py` and the suite's use of it through both framings verify it
against the protocols of `trioserf.control.server.ports`.
"""

import binascii
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import attrs
import trio

from trioserf.address import Address
from trioserf.coordinate import Coordinate
from trioserf.errors import (
    InvalidQuery,
    JoinFailed,
    Leaving,
    NoSuchMember,
    NoSuchQuery,
    TooLarge,
)
from trioserf.node.event_hub import Responder
from trioserf.serf.events import Dropped, Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.filters import EventFilter, compiled
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.member import Member
from trioserf.serf.query_collector import QueryAck, QueryAnswer, QueryDone
from trioserf.wire.serf_messages import Status

T = TypeVar("T")
LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
EPOCH = datetime(2026, 11, 23, 20, 0, 0, 123456, tzinfo=UTC)


def wall() -> datetime:
    """The time of day in a world that began at EPOCH, by Trio's clock."""
    return EPOCH + timedelta(seconds=trio.current_time() - _started())


_START: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("fake wall clock start")


def _started() -> float:
    try:
        return _START.get()
    except LookupError:
        _START.set(trio.current_time())
        return _START.get()


class FakeSubscription(Generic[T]):
    """Keeps up to `buffer` items; those beyond are counted and told before the next one."""

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._items: deque[T] = deque()
        self._dropped = 0
        self._closed = False
        self._news = trio.Event()

    def publish(self, item: T) -> None:
        if len(self._items) >= self._buffer:
            self._dropped += 1
        else:
            self._items.append(item)
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def receive(self) -> T | Dropped:
        while not self._items and not self._dropped:
            if self._closed:
                raise trio.EndOfChannel
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        if self._items:
            return self._items.popleft()
        dropped, self._dropped = Dropped(self._dropped), 0
        return dropped


@attrs.frozen
class FakeLine:
    level: str
    source: str
    message: str
    time: datetime

    @property
    def text(self) -> str:
        return f"{self.time:%Y/%m/%d %H:%M:%S} [{self.level}] {self.source}: {self.message}"


class FakeLogs:
    def __init__(self) -> None:
        self.ring: deque[FakeLine] = deque(maxlen=512)
        self.watchers: list[tuple[str, FakeSubscription[FakeLine]]] = []

    def say(self, level: str, source: str, message: str) -> None:
        line = FakeLine(level, source, message, wall())
        self.ring.append(line)
        for least, watcher in self.watchers:
            if LEVELS.index(level) >= LEVELS.index(least):
                watcher.publish(line)

    @contextmanager
    def subscribe(self, level: str, *, buffer: int = 1024) -> Iterator[FakeSubscription[FakeLine]]:
        watcher: FakeSubscription[FakeLine] = FakeSubscription(max(buffer, len(self.ring)))
        for line in self.ring:
            if LEVELS.index(line.level) >= LEVELS.index(level):
                watcher.publish(line)
        entry = (level, watcher)
        self.watchers.append(entry)
        try:
            yield watcher
        finally:
            self.watchers.remove(entry)


@attrs.frozen
class FakeKeyResult:
    messages: Mapping[str, str]
    keys: Mapping[str, int]
    primary_keys: Mapping[str, int]
    nodes: int
    responses: int
    errors: int
    failure: str | None = None


class FakeNode:
    """A node whose cluster is whatever the test says.

    `answers` maps a member's name to what it answers to any query; None: an ack only.
    `wait` is what joins and other waits take, in seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.members_version = 0
        self.wait = 0.0
        self.reachable: set[str] = set()
        self.answers: dict[str, bytes | None] = {name: None}
        self.coordinates: dict[str, Coordinate] = {name: Coordinate()}
        self.keys_held: list[str] | None = None
        self.asked: list[dict[str, object]] = []
        self.pending: dict[int, Callable[[bytes | None], None]] = {}
        self.left = False
        self._members: dict[str, Member] = {}
        self._subscribers: list[tuple[tuple[EventFilter, ...], FakeSubscription[Event], bool]] = []
        self._ltime = 0
        self._ids = 0
        self.put(Member(name, Address("127.0.0.1", 7946), {}, Status.ALIVE))

    def put(self, member: Member) -> None:
        self._members[member.name] = member
        self.members_version += 1

    def publish(self, event: Event) -> None:
        for filters, subscriber, _ in self._subscribers:
            if any(one.matches(event) for one in filters):
                subscriber.publish(event)

    def close(self) -> None:
        for _, subscriber, _ in self._subscribers:
            subscriber.close()

    @property
    def subscriptions(self) -> int:
        return len(self._subscribers)

    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def member(self, name: str) -> Member | None:
        return self._members.get(name)

    async def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        await trio.sleep(self.wait)
        reached = [one for one in addresses if one in self.reachable]
        if not reached:
            raise JoinFailed([(one, "connection refused") for one in addresses])
        return len(reached)

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        await trio.sleep(self.wait)
        if name not in self._members:
            raise NoSuchMember(f"no member '{name}'")
        if prune:
            del self._members[name]
        else:
            self._members[name] = attrs.evolve(self._members[name], status=Status.LEFT)
        self.members_version += 1

    async def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        if self.left:
            raise Leaving("the node has left")
        if name == "crash":
            raise ZeroDivisionError("a bug")
        if len(name) + len(payload) > 512:
            raise TooLarge("user event exceeds configured limit of 512 bytes before encoding")
        self._ltime += 1
        self.publish(UserEventReceived(self._ltime, name, payload, coalesce))
        return self._ltime

    @asynccontextmanager
    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> AsyncIterator[AsyncIterator[QueryAck | QueryAnswer | QueryDone]]:
        if name.startswith("_serf_") and name != "_serf_ping":
            raise InvalidQuery("Queries cannot contain the '_serf_' prefix")
        for expression in (tags or {}).values():
            compiled(expression)
        if len(payload) > 1000:
            raise TooLarge("query exceeds limit of 1024 bytes")
        asked: dict[str, object] = {"name": name, "payload": payload, "nodes": list(nodes)}
        asked |= {"tags": dict(tags or {}), "timeout": timeout, "ack": ack}
        asked |= {"relay_factor": relay_factor, "first": first}
        self.asked.append(asked)
        self._ltime += 1
        self._ids += 1
        number, limit = self._ids, 15.0 if timeout is None else timeout
        send, receive = trio.open_memory_channel[bytes | None](1)
        self.pending[number] = send.send_nowait
        deadline = trio.current_time() + limit
        question = self._question(number, name, payload, deadline)
        awaited = any(
            answers and any(one.matches(question) for one in filters)
            for filters, _, answers in self._subscribers
        )
        self.publish(question)
        records = self._records(nodes, ack, limit, first, receive if awaited else None)
        try:
            yield records
        finally:
            self.pending.pop(number, None)
            await records.aclose()

    def _question(self, number: int, name: str, payload: bytes, deadline: float) -> QueryReceived:
        return QueryReceived(number, self._ltime, number, name, payload, self.name, deadline)

    async def _records(
        self,
        nodes: Sequence[str],
        ack: bool,
        limit: float,
        first: int | None,
        own: trio.MemoryReceiveChannel[bytes | None] | None,
    ) -> AsyncGenerator[QueryAck | QueryAnswer | QueryDone, None]:
        expected = [one for one in self.answers if not nodes or one in nodes]
        responses = 0
        for one in expected:
            if ack:
                yield QueryAck(one)
            await trio.sleep(self.wait)
            answer = self.answers[one]
            if answer is not None and (first is None or responses < first):
                responses += 1
                yield QueryAnswer(one, answer)
        if own is not None:
            said = None
            with trio.move_on_after(limit):
                said = await own.receive()
            if said is not None:
                responses += 1
                yield QueryAnswer(self.name, said)
        acks = len(expected) if ack else 0
        yield QueryDone(acks, responses, len(expected), ())

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        answer = self.pending.pop(id, None)
        if answer is None:
            raise NoSuchQuery(f"no query {id} waits for an answer")
        if len(payload) > 65536:
            raise TooLarge("answer exceeds limit of 65536 bytes")
        answer(payload)

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        answer = self.pending.pop(id, None)
        if answer is None:
            raise NoSuchQuery(f"no query {id} waits for an answer")
        answer(None)

    @contextmanager
    def subscribe(
        self, *filters: EventFilter, answers: bool | Responder = False, buffer: int = 1024
    ) -> Iterator[FakeSubscription[Event]]:
        subscriber: FakeSubscription[Event] = FakeSubscription(buffer)
        entry = (filters, subscriber, answers is not False)
        self._subscribers.append(entry)
        try:
            yield subscriber
        finally:
            self._subscribers.remove(entry)

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        return self.coordinates.get(self.name if name is None else name)

    async def keys(self, action: KeyAction, key: bytes | None = None) -> FakeKeyResult:
        await trio.sleep(self.wait)
        names = list(self._members)
        count = len(names)
        if self.keys_held is None:
            said = "Keyring is empty (encryption not enabled)"
            failure = f"{count}/{count} nodes reported failure"
            messages = dict.fromkeys(names, said)
            return FakeKeyResult(messages, {}, {}, count, count, count, failure)
        spelled = binascii.b2a_base64(key or b"", newline=False).decode()
        if action == "install" and spelled not in self.keys_held:
            self.keys_held.append(spelled)
        elif action == "use":
            self.keys_held.sort(key=lambda one: one != spelled)
        elif action == "remove":
            self.keys_held.remove(spelled)
        held = dict.fromkeys(self.keys_held, count) if action == "list" else {}
        first = {self.keys_held[0]: count} if action == "list" else {}
        return FakeKeyResult({}, held, first, count, count, 0)


class FakeAgent:
    """The process around a fake node."""

    def __init__(self, name: str = "node-a") -> None:
        self.node = FakeNode(name)
        self.logs = FakeLogs()
        self.shutdown = trio.Event()
        self.leave_takes = 0.0

    def info(self) -> Mapping[str, Mapping[str, object]]:
        members = self.node.members()
        own = self.node.member(self.node.name)
        assert own is not None
        return {
            "agent": {"name": self.node.name},
            "event_handlers": {"query:load": "echo 0.42"},
            "runtime": {"arch": "amd64", "cpu_count": 2, "os": "linux"},
            "serf": {"encrypted": self.node.keys_held is not None, "members": len(members)},
            "tags": dict(own.tags),
        }

    async def set_tags(
        self,
        set: Mapping[str, str],  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        own = self.node.member(self.node.name)
        assert own is not None
        tags = {k: v for k, v in own.tags.items() if k not in tuple(delete)} | dict(set)
        if sum(map(len, (*tags, *tags.values()))) > 512:
            raise TooLarge("Encoded length of tags exceeds limit of 512 bytes")
        changed = attrs.evolve(own, tags=tags)
        self.node.put(changed)
        self.node.publish(MemberEvent("member-update", (changed,)))
        return tags

    async def leave(self) -> None:
        await trio.sleep(self.leave_takes)
        if self.node.left:
            raise Leaving("the node has left already")
        self.node.left = True
