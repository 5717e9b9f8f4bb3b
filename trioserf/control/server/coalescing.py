"""Member events gathered before they are delivered, for a stream that asks for it."""

from collections import deque

import trio

from trioserf.control.server.ports import Subscription
from trioserf.serf.coalesce import EventCoalescer
from trioserf.serf.events import Dropped, Event


class Coalesced:
    """The events of a subscription, those of a burst together (spec: coalescing)."""

    def __init__(self, source: Subscription[Event]) -> None:
        self._source = source
        self._coalescer = EventCoalescer()
        self._ready: deque[Event] = deque()
        self._closed = False

    async def receive(self) -> Event | Dropped:
        """Wait for the next event.

        Raises:
            trio.EndOfChannel: the source is closed, and all that was gathered is delivered.
        """
        while not self._ready:
            if self._closed:
                raise trio.EndOfChannel
            deadline = self._coalescer.deadline
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                passed = await self._take_in()
                if passed is not None:
                    return passed
            self._ready += self._coalescer.flush(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()

    async def _take_in(self) -> Event | Dropped | None:
        """Wait for one event of the source; give it if it is not one to gather."""
        try:
            event = await self._source.receive()
        except trio.EndOfChannel:
            self._closed = True
            self._ready += self._coalescer.drain()
            return None
        if isinstance(event, Dropped) or not self._coalescer.feed(event, trio.current_time()):
            return event
        return None
