"""User events: a name and a payload for all members (see serf/README.md, § User events)."""

import logging
from collections.abc import Iterator
from hashlib import blake2b

from trioserf.errors import TooLarge
from trioserf.printable import short_name
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import Effects
from trioserf.serf.events import UserEventReceived
from trioserf.serf.lamport import LamportWindow, Rejection
from trioserf.wire.event_digest import HASH_SIZE
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import BufferedEvents, UserEvent

_log = logging.getLogger("trioserf.serf")

_EVENT_SIZE = 200
"""Bytes of memory for an event, besides its name and payload."""

_Seen = dict[tuple[str, bytes], int | None]
"""The events of one Lamport time, in the order of arrival, with their hashes once needed."""


class UserEvents:
    """Sends user events, and delivers each received event once.

    Args:
        options: limits, and the length of the window.
        effects: receives events.

    Attributes:
        window: the Lamport clock of events, and the events seen recently.
        latest_time: the latest Lamport time delivered, 0 at first, for snapshots.
        accepted: the number of events received.
    """

    def __init__(self, *, options: SerfOptions, effects: Effects) -> None:
        self.window: LamportWindow[_Seen] = LamportWindow(
            options.event_buffer, dict, budget=options.event_buffer_bytes
        )
        self.latest_time = 0
        self.accepted = 0
        self._options = options
        self._effects = effects
        self._counted = effects.counters.counter("serf.events")

    def send(self, name: str, payload: bytes, *, coalesce: bool) -> tuple[int, bytes]:
        """Create an event and deliver it here.

        Returns:
            Its Lamport time and its bytes, which the caller must broadcast.

        Raises:
            TooLarge: it exceeds the limit, before or after encoding.
        """
        limit = self._options.user_event_size_limit
        size = len(name.encode("utf-8", "surrogateescape")) + len(payload)
        _check(size, limit, "user event exceeds configured limit of {} bytes before encoding")
        message = UserEvent(self.window.clock.time, name, payload, coalesce)
        data = encode(message)
        _check(
            len(data),
            limit,
            "encoded user event exceeds configured limit of {} bytes after encoding",
        )
        self.window.clock.increment()
        self.receive(message)
        return message.ltime, data

    def receive(self, message: UserEvent, *, is_live: bool = True) -> bool:
        """Handle an event.

        Args:
            message: the event.
            is_live: False for the replayed event of a push/pull.

        Returns:
            Whether it was new, so that it must be rebroadcast.
        """
        slot = self.window.at(message.ltime, is_live=is_live)
        if isinstance(slot, Rejection):
            if slot is not Rejection.BEFORE_START:
                _log.warning(
                    "received old event %s from time %d (current: %d)",
                    short_name(message.name),
                    message.ltime,
                    self.window.clock.time,
                )
            return False
        event = (message.name, message.payload)
        if event in slot.entry:
            return False
        size = _EVENT_SIZE + len(message.name) + len(message.payload)
        if not self.window.charge(slot, size):
            _log.warning(
                "too many events of time %d, dropping %s", message.ltime, short_name(message.name)
            )
            return False
        slot.entry[event] = None
        self.accepted += 1
        self.latest_time = max(self.latest_time, message.ltime)
        self._counted.add()
        self._effects.counters.increment_label(f"serf.events.{message.name}")
        self._effects.events.append(
            UserEventReceived(message.ltime, message.name, message.payload, message.coalesce)
        )
        return True

    @property
    def oldest_known(self) -> int:
        """The first Lamport time of which we should have all events."""
        window = self.window
        return max(window.min_time, window.clock.time - self._options.event_buffer)

    def hash(self, first: int, last: int) -> int:
        """Return a hash of our events after the time `first`, up to `last`: 32 bits.

        It does not depend on the order of arrival.
        """
        total = 0
        for ltime in range(first + 1, last + 1):
            slot = self.window.get(ltime)
            if slot is not None:
                for event, known in slot.entry.items():
                    if known is None:
                        known = slot.entry[event] = _hash(ltime, *event)
                    total += known
        return total % (1 << 8 * HASH_SIZE)

    def buffered(self) -> tuple[BufferedEvents, ...]:
        """Return the events of the window, the oldest first, for push/pulls."""
        return tuple(
            BufferedEvents(slot.ltime, tuple(slot.entry)) for slot in self.window if slot.entry
        )

    def events_from(self, times: tuple[BufferedEvents | None, ...]) -> Iterator[UserEvent]:
        """Iterate over the events of a push/pull in the order of their Lamport times.

        Push/pulls do not contain the coalesce flag, so none may be coalesced.
        """
        for time in sorted(filter(None, times), key=lambda time: time.ltime):
            for name, payload in time.events:
                yield UserEvent(time.ltime, name, payload)


def _hash(ltime: int, name: str, payload: bytes) -> int:
    """Return the hash of an event, without the coalesce flag, which push/pulls do not carry."""
    encoded = name.encode("utf-8", "surrogateescape")
    head = ltime.to_bytes(8, "big") + len(encoded).to_bytes(4, "big")
    hashed = blake2b(head + encoded + payload, digest_size=HASH_SIZE)
    return int.from_bytes(hashed.digest(), "big")


def _check(size: int, limit: int, text: str) -> None:
    if size > limit:
        raise TooLarge(text.format(limit))
