"""User events: a name and a payload for everyone (spec: user events)."""

import logging
from collections.abc import Iterator

from trioserf.errors import TooLarge
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import Effects
from trioserf.serf.events import UserEventReceived
from trioserf.serf.lamport import LamportWindow, Rejection
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import BufferedEvents, UserEvent

_log = logging.getLogger("trioserf.serf")

_OVERHEAD = 200
"""Bytes that Python needs for an event that is remembered, besides name and payload."""

_Seen = dict[tuple[str, bytes], None]
"""The events of one Lamport time, in the order of their arrival."""


class UserEvents:
    """Sending user events, and telling new ones from those already seen.

    Args:
        codec: how they are spelled.
        options: limits and the length of the memory.
        effects: where events are announced.

    Attributes:
        window: the events' Lamport clock and what was seen lately.
        newest: the latest Lamport time delivered, 0 at first; what a snapshot records.
    """

    def __init__(self, *, codec: Codec, options: SerfOptions, effects: Effects) -> None:
        self.window: LamportWindow[_Seen] = LamportWindow(
            options.event_buffer, dict, budget=options.event_buffer_bytes
        )
        self.newest = 0
        self._codec = codec
        self._options = options
        self._effects = effects

    def send(self, name: str, payload: bytes, *, coalesce: bool) -> tuple[int, bytes]:
        """Make an event, and deliver it here.

        Returns:
            Its Lamport time, and its bytes for everyone else.

        Raises:
            TooLarge: over the limit, before or after encoding.
        """
        limit = self._options.user_event_size_limit
        size = len(name.encode("utf-8", "surrogateescape")) + len(payload)
        _check(size, limit, "user event exceeds configured limit of {} bytes before encoding")
        message = UserEvent(self.window.clock.time, name, payload, coalesce)
        data = self._codec.encode(message)
        _check(
            len(data),
            limit,
            "encoded user event exceeds configured limit of {} bytes after encoding",
        )
        self.window.clock.increment()
        self.receive(message)
        return message.ltime, data

    def receive(self, message: UserEvent, *, is_live: bool = True) -> bool:
        """Take in an event that somebody sent or passed on.

        Args:
            message: the event.
            is_live: whether it came by itself, not from another member's memory.

        Returns:
            Whether it was news, to be passed on.
        """
        slot = self.window.at(message.ltime, is_live=is_live)
        if isinstance(slot, Rejection):
            if slot is not Rejection.BEFORE_START:
                _log.warning(
                    "received old event %s from time %d (current: %d)",
                    message.name,
                    message.ltime,
                    self.window.clock.time,
                )
            return False
        event = (message.name, message.payload)
        if event in slot.entry:
            return False
        size = _OVERHEAD + len(message.name) + len(message.payload)
        if not self.window.charge(slot, size):
            _log.warning("too many events of time %d, dropping %s", message.ltime, message.name)
            return False
        slot.entry[event] = None
        self.newest = max(self.newest, message.ltime)
        tally = self._effects.counters
        tally.counter("serf.events").add()
        tally.increment_label(f"serf.events.{message.name}")
        self._effects.events.append(
            UserEventReceived(message.ltime, message.name, message.payload, message.coalesce)
        )
        return True

    def buffered(self) -> tuple[BufferedEvents, ...]:
        """Give what is remembered, the oldest first, for those who join."""
        return tuple(
            BufferedEvents(slot.ltime, tuple(slot.entry)) for slot in self.window if slot.entry
        )

    def events_from(self, times: tuple[BufferedEvents | None, ...]) -> Iterator[UserEvent]:
        """Give what another member remembers, in the order of Lamport times, to be received.

        Whether an event may be coalesced is not remembered, so it may not.
        """
        for time in sorted(filter(None, times), key=lambda time: time.ltime):
            for name, payload in time.events:
                yield UserEvent(time.ltime, name, payload)


def _check(size: int, limit: int, text: str) -> None:
    if size > limit:
        raise TooLarge(text.format(limit))
