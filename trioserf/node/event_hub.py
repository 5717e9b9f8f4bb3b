"""Events to those who asked for them.

Nobody waits for a subscriber. Each has a bounded buffer; what does not fit is counted, and the
count stands in the stream where the events would have been.

Queries have answerers: subscriptions that say that they may answer. If a query has none here, or
all of its answerers have declined or gone, its asker is told that no answer will follow.

Some readers cannot say whether they will answer: in Serf's RPC who streams all events may watch or
answer, and never declines. Whoever names queries in its filters, or has answered one before, is
waited for until the deadline. Of one who just streams everything it is presumed, if it has not
answered within a second, that it only watches; an answer that comes later still goes out, and a
Serf that asks takes it.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
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
RESPONSE_WAIT: Final = 1.0
"""Seconds for which an answer is waited for of somebody who perhaps only watches."""
_BYTES: Final = 8 * 1024 * 1024
"""Bytes of payloads that wait for one reader, however many events it has room for."""


@attrs.define(slots=True, eq=False)
class Responder:
    """Somebody who may answer queries, perhaps those of several subscriptions.

    Attributes:
        is_known: whether it is known to answer or decline: it said so, or has done so before.
    """

    has_responded: bool = False


class Subscription:
    """Events as they happen, for one reader; made by `Node.subscribe`.

    Args:
        filters: an event that one of them wants is delivered; none for all of Serf's kinds.
        answerer: who answers the queries of it; None if nobody does.
        buffer: events kept for a reader that is slow, at least 1.
    """

    def __init__(
        self, filters: tuple[EventFilter, ...], *, answerer: Responder | None, buffer: int
    ) -> None:
        self.answerer = answerer
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

    def change(self, *filters: EventFilter) -> None:
        """Want other events from now on; those that wait are still delivered."""
        self._filters = filters

    @property
    def waits_until_deadline(self) -> bool:
        """Whether its reader may take until the deadline to answer a query."""
        named = any(one.kind == "query" for one in self._filters)
        return self.answerer is not None and (self.answerer.has_responded or named)

    def put_nowait(self, event: Event) -> bool:
        """Deliver an event; if there is no room, count it as dropped and give False."""
        size = _size(event)
        if len(self._items) >= self._buffer or self._bytes + size > _BYTES:
            if not self._dropped:
                _log.warning("Dropping events: a reader has left %d unread", len(self._items))
            self._dropped += 1
            return False
        self._announce_dropped()
        self._items.append(event)
        self._bytes += size
        self._readers.unpark()
        return True

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


class EventHub:
    """All subscriptions of a node.

    Attributes:
        on_deserted: called with the numbers of queries whose last answerer has gone.
        watchers: called with every event at once, in the step that made it.
    """

    def __init__(self) -> None:
        self.on_no_responder: Callable[[list[int]], None] = _ignore
        self.watchers: list[Callable[[Event], None]] = []
        self._subscriptions: dict[Subscription, None] = {}
        self._awaiting: dict[int, list[Subscription]] = {}
        self._assumed_silent_at: deque[tuple[float, int, Subscription]] = deque()
        self._closed = False

    @contextmanager
    def subscribe(
        self, filters: tuple[EventFilter, ...], *, answers: bool | Responder, buffer: int
    ) -> Iterator[Subscription]:
        """Add a subscription for as long as the block lasts."""
        answerer = Responder(has_responded=True) if answers is True else answers or None
        subscription = Subscription(filters, answerer=answerer, buffer=buffer)
        self._subscriptions[subscription] = None
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]
            if answerer is not None:
                self._leave_undecided(subscription)

    def has_responder(self, query: QueryReceived) -> bool:
        """Tell whether a subscription here may answer the query."""
        return any(one.answerer is not None and one.wants(query) for one in self._subscriptions)

    def publish(self, event: Event) -> None:
        """Deliver an event to all who want it."""
        for watcher in self.watchers:
            watcher(event)
        answerers, missed = [], False
        for subscription in self._subscriptions:
            if subscription.wants(event):
                delivered = subscription.put_nowait(event)
                if subscription.answerer is None:
                    continue
                if delivered:
                    answerers.append(subscription)
                else:
                    missed = True
        if not isinstance(event, QueryReceived):
            return
        if answerers:
            self._await(event, answerers)
        elif missed:
            self.on_no_responder([event.id])

    def _await(self, query: QueryReceived, answerers: list[Subscription]) -> None:
        self._awaiting[query.id] = answerers
        if len(self._awaiting) > _UNDECIDED:
            del self._awaiting[next(iter(self._awaiting))]
        impatient = [one for one in answerers if not one.waits_until_deadline]
        if impatient:
            at = trio.current_time() + RESPONSE_WAIT
            self._assumed_silent_at += [(at, query.id, one) for one in impatient]
            while len(self._assumed_silent_at) > _UNDECIDED:
                self._presume_next()

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do, or None."""
        return self._assumed_silent_at[0][0] if self._assumed_silent_at else None

    def expire(self, now: float) -> None:
        """Presume of readers that have not answered that they will not."""
        while self._assumed_silent_at and self._assumed_silent_at[0][0] <= now:
            self._presume_next()

    def _presume_next(self) -> None:
        _, number, subscription = self._assumed_silent_at.popleft()
        if subscription.waits_until_deadline or subscription not in self._awaiting.get(number, ()):
            return
        if self.mark_declined(number, subscription):
            self.on_no_responder([number])

    def mark_answered(self, number: int, by: Responder | None = None) -> None:
        """Note that a query needs no more deciding, as somebody has answered it."""
        self._awaiting.pop(number, None)
        if by is not None:
            by.has_responded = True

    def mark_declined(self, number: int, by: Subscription | Responder | None = None) -> bool:
        """Note that one answerer declines; gives whether all have.

        If it is not told who (`by`), or somebody who was not asked, it is one that has not
        declined yet.
        """
        if isinstance(by, Responder):
            by.has_responded = True
        answerers = self._awaiting.get(number)
        if answerers is None:
            return True
        if isinstance(by, Subscription):
            answerers[:] = [one for one in answerers if one is not by]
        else:
            if all(one.answerer is not by for one in answerers):
                by = answerers[-1].answerer
            answerers[:] = [one for one in answerers if one.answerer is not by]
        if answerers:
            return False
        del self._awaiting[number]
        return True

    def close(self) -> None:
        """End all subscriptions, now and to come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _leave_undecided(self, subscription: Subscription) -> None:
        numbers = [number for number, who in self._awaiting.items() if subscription in who]
        deserted = [number for number in numbers if self.mark_declined(number, subscription)]
        if deserted:
            self.on_no_responder(deserted)


def _ignore(numbers: list[int]) -> None:
    """Nobody is there to be told."""
