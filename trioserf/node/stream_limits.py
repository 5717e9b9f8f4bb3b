"""Open streams, and what all of them together may cost.

Anybody can open streams and say nothing, or send twenty megabytes on each. Who came first must not
keep out who comes later: when there are too many streams, the one that has been silent the longest
makes room; when they hold too much, the one that holds the most does. An honest exchange is short,
and small beside those.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from trioserf.address import Address
from trioserf.wire.errors import WireError

LARGE: Final = 1024 * 1024
"""Bytes of a stream after which freed memory is worth giving back."""
MIN_IDLE: Final = 1.0
"""Seconds for which a stream is spared though it says nothing."""


@attrs.define(slots=True, eq=False)
class OpenStream:
    """One open stream.

    Attributes:
        peer: its other end.
        incoming: whether the other end has opened it.
        heard: when something last came on it.
        held: bytes of memory it takes.
        was_large: whether it ever took much.
        scope: what is cancelled when it must go.
        fault: why it had to go.
    """

    peer: Address
    incoming: bool
    last_active: float
    held: int = 0
    was_large: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    fault: WireError | None = None

    def cancel(self, fault: WireError) -> None:
        """Have it end."""
        self.fault = self.fault or fault
        self.scope.cancel()


class StreamLimiter:
    """All open streams of a node.

    Args:
        most: streams of others at once.
        memory: bytes that all streams may hold together.
        on_quiet: called when large streams have gone and none is left.

    Attributes:
        held: bytes they hold.
    """

    def __init__(self, most: int, memory: int, on_quiet: Callable[[], None]) -> None:
        self.held = 0
        self._on_quiet = on_quiet
        self._is_noisy = False
        self._most = most
        self._memory = memory
        self._all: dict[OpenStream, None] = {}
        self._incoming: dict[OpenStream, None] = {}  # the one silent for longest comes first

    def __len__(self) -> int:
        return len(self._incoming)

    def add(self, peer: Address, *, incoming: bool) -> OpenStream:
        """Count one in; `leave` must follow."""
        guest = OpenStream(peer, incoming, trio.current_time())
        self._all[guest] = None
        if incoming:
            self._incoming[guest] = None
        return guest

    def remove(self, guest: OpenStream) -> None:
        """Count one out."""
        self.held -= guest.held
        guest.held = 0
        del self._all[guest]
        self._incoming.pop(guest, None)
        self._is_noisy = self._is_noisy or guest.was_large
        if self._is_noisy and self.held < LARGE:
            self._is_noisy = False
            self._on_quiet()

    @contextmanager
    def track(self, peer: Address, *, incoming: bool) -> Iterator[OpenStream]:
        """Count one in for as long as the block lasts."""
        guest = self.add(peer, incoming=incoming)
        try:
            yield guest
        finally:
            self.remove(guest)

    def touch(self, guest: OpenStream, now: float) -> None:
        """Note that something came."""
        guest.last_active = now
        if self._incoming.pop(guest, guest) is None:
            self._incoming[guest] = None

    def evict_idle(self, now: float) -> bool:
        """See whether another stream may come in, if need be in place of a silent one."""
        if len(self._incoming) < self._most:
            return True
        silent = next(iter(self._incoming))
        if now - silent.last_active < MIN_IDLE:
            return False
        del self._incoming[silent]
        silent.cancel(WireError("truncated", "stream: silent, and others are waiting"))
        return True

    def set_held(self, guest: OpenStream, size: int) -> None:
        """Note what a stream holds now.

        Raises:
            WireError: `limit`; all hold too much, and none more than this one.
        """
        self.held += size - guest.held
        guest.held = size
        guest.was_large = guest.was_large or size >= LARGE
        while self.held > self._memory:
            largest = max(self._all, key=_size)
            text = f"streams hold more than {self._memory} bytes together"
            if largest is guest:
                # Not by a variable's name: that would keep all its buffers in a cycle.
                raise WireError("limit", text)
            self.held -= largest.held
            largest.held = 0
            largest.cancel(WireError("limit", text))


def _size(guest: OpenStream) -> int:
    return guest.held
