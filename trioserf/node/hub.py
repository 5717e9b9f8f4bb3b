"""Events to those who asked for them.

Nobody waits for a subscriber. Each has a bounded buffer; what does not fit is counted, and the
count stands in the stream where the events would have been.

Queries have answerers: subscriptions that say that they may answer. If a query has none here, or
all of its answerers have declined or gone, its asker is told that no answer will follow.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from trioserf.serf.events import (
    SUSPICION_EVENT_KINDS,
    Dropped,
    Event,
    QueryReceived,
    UserEventReceived,
)
from trioserf.serf.filters import EventFilter

_log = logging.getLogger("trioserf.agent")

_UNDECIDED: Final = 4096
"""Queries whose answerers are remembered; older ones run into their deadlines."""
_BYTES: Final = 8 * 1024 * 1024
"""Bytes of payloads that wait for one reader, however many events it has room for."""


class Subscription:
    """Events as they happen, for one reader; made by `Node.subscribe`.

    Args:
        filters: an event that one of them wants is delivered; none for all of Serf's kinds.
        answers: whether the reader may answer queries.
        buffer: events kept for a reader that is slow, at least 1.
    """

    def __init__(self, filters: tuple[EventFilter, ...], *, answers: bool, buffer: int) -> None:
        self.answers = answers
        self._filters = filters
        self._buffer = buffer
        self._items: deque[Event | Dropped] = deque()
        self._bytes = 0
        self._dropped = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def wants(self, event: Event) -> bool:
        """Tell whether the reader asked for such an event."""
        if not self._filters:
            return event.kind not in SUSPICION_EVENT_KINDS
        return any(one.matches(event) for one in self._filters)

    def offer(self, event: Event) -> None:
        """Deliver an event, or count it as dropped."""
        size = _size(event)
        if len(self._items) >= self._buffer or self._bytes + size > _BYTES:
            if not self._dropped:
                _log.warning("Dropping events: a reader has left %d unread", len(self._items))
            self._dropped += 1
            return
        self._announce_dropped()
        self._items.append(event)
        self._bytes += size
        self._readers.unpark()

    async def receive(self) -> Event | Dropped:
        """Wait for the next event.

        Raises:
            trio.EndOfChannel: the node has ended, and everything was read.
        """
        if self._items or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._items:
            self._announce_dropped()
            if self._items:
                break
            if self._closed:
                raise trio.EndOfChannel
            await self._readers.park()
        event = self._items.popleft()
        self._bytes -= _size(event)
        return event

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event | Dropped:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """End the stream after what is buffered."""
        self._closed = True
        self._readers.unpark_all()

    def _announce_dropped(self) -> None:
        if self._dropped:
            self._items.append(Dropped(self._dropped))
            self._dropped = 0


def _size(event: Event | Dropped) -> int:
    return len(event.payload) if isinstance(event, UserEventReceived | QueryReceived) else 0


class Hub:
    """All subscriptions of a node.

    Attributes:
        on_deserted: called with the numbers of queries whose last answerer has gone.
        watchers: called with every event at once, in the step that made it.
    """

    def __init__(self) -> None:
        self.on_deserted: Callable[[list[int]], None] = _ignore
        self.watchers: list[Callable[[Event], None]] = []
        self._subscriptions: dict[Subscription, None] = {}
        self._undecided: dict[int, list[Subscription]] = {}
        self._closed = False

    @contextmanager
    def subscribe(
        self, filters: tuple[EventFilter, ...], *, answers: bool, buffer: int
    ) -> Iterator[Subscription]:
        """Add a subscription for as long as the block lasts."""
        subscription = Subscription(filters, answers=answers, buffer=buffer)
        self._subscriptions[subscription] = None
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]
            if answers:
                self._leave_undecided(subscription)

    def has_answerer(self, query: QueryReceived) -> bool:
        """Tell whether a subscription here may answer the query."""
        return any(one.answers and one.wants(query) for one in self._subscriptions)

    def publish(self, event: Event) -> None:
        """Deliver an event to all who want it."""
        for watcher in self.watchers:
            watcher(event)
        answerers = []
        for subscription in self._subscriptions:
            if subscription.wants(event):
                subscription.offer(event)
                if subscription.answers:
                    answerers.append(subscription)
        if answerers and isinstance(event, QueryReceived):
            self._undecided[event.id] = answerers
            if len(self._undecided) > _UNDECIDED:
                del self._undecided[next(iter(self._undecided))]

    def answered(self, number: int) -> None:
        """Note that a query needs no more deciding."""
        self._undecided.pop(number, None)

    def declined(self, number: int, by: Subscription | None = None) -> bool:
        """Note that one answerer declines; gives whether all have.

        Without saying who (`by`), it is one that has not declined yet.
        """
        answerers = self._undecided.get(number)
        if answerers is None:
            return True
        if by is None:
            answerers.pop()
        elif by in answerers:
            answerers.remove(by)
        if answerers:
            return False
        del self._undecided[number]
        return True

    def close(self) -> None:
        """End all subscriptions, now and to come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _leave_undecided(self, subscription: Subscription) -> None:
        numbers = [number for number, who in self._undecided.items() if subscription in who]
        deserted = [number for number in numbers if self.declined(number, subscription)]
        if deserted:
            self.on_deserted(deserted)


def _ignore(numbers: list[int]) -> None:
    """Nobody is there to be told."""
