"""Subscriptions: events for the readers of a node.

The node never waits for a reader. Each subscription has a bounded buffer; events without room are
dropped, and a `Dropped` record with their number stands in their place.

A query waits for its responders: the subscriptions that may answer it. If a node has none, or all
of them have declined or ended, the requester is notified that no response will follow.

Some readers cannot say whether they will respond: a client of Serf's RPC that streams all events
may watch or respond, and never declines. The hub waits until the deadline for a reader that names
queries in its filters or has responded before. Any other reader is assumed silent if it has not
responded within a second; a later response is still sent, and a requesting Go agent accepts it.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from trioserf.dropping_queue import DroppingQueue
from trioserf.event_filter import EventFilter, event_filters
from trioserf.results import Dropped
from trioserf.serf.events import Event, QueryReceived, UserEventReceived

_log = logging.getLogger("trioserf.agent")

MAX_AWAITING: Final = 4096
"""Queries whose responders are remembered; older queries run until their deadline."""
RESPONSE_WAIT: Final = 1.0
"""Seconds until a reader that may only watch is assumed silent about a query."""
_MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of payloads that wait for one reader, however many events its buffer has room for."""


@attrs.define(eq=False, repr=False)
class Responder:
    """A client that may respond to queries, perhaps to those of several subscriptions.

    Attributes:
        has_responded: whether it has responded or declined before, or is known to do so.
    """

    has_responded: bool = False


class Subscription:
    """Events for one reader, as they happen; made by `Node.subscribe`.

    Args:
        filters: deliver events that match one of them; if empty, all of Serf's kinds.
        responder: the client that may respond to the queries; None if none does.
        buffer: events that wait for a slow reader, at least 1.
    """

    def __init__(
        self, filters: tuple[EventFilter, ...], *, responder: Responder | None, buffer: int
    ) -> None:
        self.responder = responder
        self._set_filters(filters)
        self._events: DroppingQueue[Event | Dropped] = DroppingQueue(
            buffer, Dropped, max_bytes=_MAX_BYTES, size_of=_size_of
        )
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def wants(self, event: Event) -> bool:
        """Return whether the event matches the filters."""
        if event.kind in self._kinds:
            return True
        return any(event_filter.matches(event) for event_filter in self._named)

    def _set_filters(self, filters: tuple[EventFilter, ...]) -> None:
        self._filters = filters
        chosen = filters or (EventFilter(),)
        self._kinds = {kind for one in chosen if not one.name for kind in one.kinds}
        self._named = [one for one in chosen if one.name]

    def change(self, *filters: EventFilter | str) -> None:
        """Replace the filters; events that wait already are still delivered.

        Raises:
            InvalidFilter, TypeError: see `Node.subscribe`; the filters stay.
        """
        self._set_filters(event_filters(filters))

    @property
    def waits_until_deadline(self) -> bool:
        """Whether its reader may respond until the deadline of a query."""
        names_queries = any(event_filter.kind == "query" for event_filter in self._filters)
        return self.responder is not None and (self.responder.has_responded or names_queries)

    def put_nowait(self, event: Event) -> bool:
        """Deliver an event; return False if there is no room and it was dropped."""
        unread, is_first_drop = len(self._events), not self._events.dropped
        if self._events.put(event):
            self._readers.unpark()
            return True
        if is_first_drop:
            _log.warning("Dropping events: a reader has left %d unread", unread)
        return False

    async def receive(self) -> Event | Dropped:
        """Wait for the next event.

        Raises:
            trio.EndOfChannel: the node has ended and all events were read.
        """
        return (await self.receive_some(1))[0]

    async def receive_some(self, most: int) -> list[Event | Dropped]:
        """Wait for the next events; return as many as there are, but at most `most`.

        Raises:
            trio.EndOfChannel: as for `receive`.
        """
        if self._events or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._events:
            if self._closed:
                raise trio.EndOfChannel
            await self._readers.park()
        return [self._events.pop() for _ in range(min(most, len(self._events)))]

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event | Dropped:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """End the subscription after the events that wait."""
        self._closed = True
        self._readers.unpark_all()


def _size_of(event: Event | Dropped) -> int:
    return len(event.payload) if isinstance(event, UserEventReceived | QueryReceived) else 0


class EventHub:
    """All subscriptions of a node.

    Attributes:
        on_no_responder: called with the ids of queries that no responder will answer any more.
        watchers: called with every event, in the step that emits it.
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
        """Add a subscription while the block lasts (see `Node.subscribe`)."""
        responder = Responder(has_responded=True) if answers is True else answers or None
        subscription = Subscription(filters, responder=responder, buffer=buffer)
        self._subscriptions[subscription] = None
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]
            if responder is not None:
                self._decline_all(subscription)

    def has_responder(self, query: QueryReceived) -> bool:
        """Return whether a subscription may respond to the query."""
        return any(s.responder is not None and s.wants(query) for s in self._subscriptions)

    def publish(self, event: Event) -> None:
        """Deliver an event to all subscriptions whose filters match."""
        for watcher in self.watchers:
            watcher(event)
        responders, was_dropped = [], False
        for subscription in self._subscriptions:
            if subscription.wants(event):
                delivered = subscription.put_nowait(event)
                if subscription.responder is None:
                    continue
                if delivered:
                    responders.append(subscription)
                else:
                    was_dropped = True
        if not isinstance(event, QueryReceived):
            return
        if responders:
            self._await(event, responders)
        elif was_dropped:
            self.on_no_responder([event.id])

    def _await(self, query: QueryReceived, responders: list[Subscription]) -> None:
        self._awaiting[query.id] = responders
        if len(self._awaiting) > MAX_AWAITING:
            del self._awaiting[next(iter(self._awaiting))]
        at = trio.current_time() + RESPONSE_WAIT
        self._assumed_silent_at += [
            (at, query.id, subscription)
            for subscription in responders
            if not subscription.waits_until_deadline
        ]
        while len(self._assumed_silent_at) > MAX_AWAITING:
            self._assume_next_silent()

    @property
    def next_deadline(self) -> float | None:
        """The time at which `expire` has work to do, or None."""
        return self._assumed_silent_at[0][0] if self._assumed_silent_at else None

    def expire(self, now: float) -> None:
        """Assume that readers which have not responded in time will not."""
        while self._assumed_silent_at and self._assumed_silent_at[0][0] <= now:
            self._assume_next_silent()

    def _assume_next_silent(self) -> None:
        _, query_id, subscription = self._assumed_silent_at.popleft()
        if subscription.waits_until_deadline:
            return
        if subscription not in self._awaiting.get(query_id, ()):
            return
        if self.mark_declined(query_id, subscription):
            self.on_no_responder([query_id])

    def mark_answered(self, query_id: int, by: Responder | None = None) -> None:
        """Record that a query was answered, so that it waits for no other responder."""
        self._awaiting.pop(query_id, None)
        if by is not None:
            by.has_responded = True

    def mark_declined(self, query_id: int, by: Subscription | Responder | None = None) -> bool:
        """Record that one responder declines; return whether all have.

        Without `by`, or if `by` did not get the query, count it as the next responder that has
        not declined.
        """
        if isinstance(by, Responder):
            by.has_responded = True
        responders = self._awaiting.get(query_id)
        if responders is None:
            return True
        if isinstance(by, Subscription):
            responders[:] = [s for s in responders if s is not by]
        else:
            if all(s.responder is not by for s in responders):
                by = responders[-1].responder
            responders[:] = [s for s in responders if s.responder is not by]
        if responders:
            return False
        del self._awaiting[query_id]
        return True

    def close(self) -> None:
        """End all subscriptions, present and future."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _decline_all(self, subscription: Subscription) -> None:
        """Decline the queries that still wait for a subscription."""
        waiting = [number for number, all_of in self._awaiting.items() if subscription in all_of]
        unanswered = [number for number in waiting if self.mark_declined(number, subscription)]
        if unanswered:
            self.on_no_responder(unanswered)


def _ignore(query_ids: list[int]) -> None:
    """Do nothing before the owner sets `on_no_responder`."""
