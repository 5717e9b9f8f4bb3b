"""Limits on open streams: their number, and the memory that all of them hold.

Any host can open streams and stay silent, or send twenty megabytes on each. Early streams must not
exclude later ones: when there are too many, the longest-silent stream is closed; when they hold
too much memory, the largest stream is. A normal exchange is shorter and smaller than those.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from trioserf.address import Address
from trioserf.wire.errors import WireError

LARGE: Final = 1024 * 1024
"""Bytes of one stream above which freed memory is returned to the system."""
MIN_IDLE: Final = 1.0
"""Seconds of silence before a stream can be closed in favour of another."""


@attrs.define(eq=False, repr=False)
class OpenStream:
    """An open stream.

    Attributes:
        peer: the other end.
        last_active: when bytes were last received.
        held: bytes of memory that it holds.
        was_large: whether it ever held `LARGE` bytes.
        was_sealed: whether its message was encrypted.
        scope: cancelled to close the stream.
        error: why it was closed.
    """

    peer: Address
    last_active: float
    held: int = 0
    was_large: bool = False
    was_sealed: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    error: WireError | None = None

    def cancel(self, error: WireError) -> None:
        """Close the stream for this reason; the first reason counts."""
        self.error = self.error or error
        self.scope.cancel()


class StreamLimiter:
    """All open streams of a node.

    Args:
        max_streams: incoming streams at once.
        max_bytes: bytes that all streams may hold together.
        on_quiet: called when large streams have ended and less than `LARGE` bytes are held.

    Attributes:
        held: bytes that all streams hold.
    """

    def __init__(self, max_streams: int, max_bytes: int, on_quiet: Callable[[], None]) -> None:
        self.held = 0
        self._on_quiet = on_quiet
        self._had_large = False
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self._all: dict[OpenStream, None] = {}
        self._incoming: dict[OpenStream, None] = {}  # the longest-silent first

    def __len__(self) -> int:
        return len(self._incoming)

    def add(self, peer: Address, *, incoming: bool) -> OpenStream:
        """Count a new stream; `remove` must follow."""
        stream = OpenStream(peer, trio.current_time())
        self._all[stream] = None
        if incoming:
            self._incoming[stream] = None
        return stream

    def remove(self, stream: OpenStream) -> None:
        """Stop counting a stream."""
        self.held -= stream.held
        stream.held = 0
        del self._all[stream]
        self._incoming.pop(stream, None)
        self._had_large = self._had_large or stream.was_large
        if self._had_large and self.held < LARGE:
            self._had_large = False
            self._on_quiet()

    @contextmanager
    def track(self, peer: Address, *, incoming: bool) -> Iterator[OpenStream]:
        """Count a stream while the block lasts."""
        stream = self.add(peer, incoming=incoming)
        try:
            yield stream
        finally:
            self.remove(stream)

    def touch(self, stream: OpenStream, now: float) -> None:
        """Record that bytes were received."""
        stream.last_active = now
        if self._incoming.pop(stream, stream) is None:
            self._incoming[stream] = None

    def evict_idle(self, now: float) -> bool:
        """Return whether another stream may be accepted, after closing a silent one if needed."""
        if len(self._incoming) < self._max_streams:
            return True
        silent = next(iter(self._incoming))
        if now - silent.last_active < MIN_IDLE:
            return False
        del self._incoming[silent]
        silent.cancel(WireError("truncated", "stream: silent, and others are waiting"))
        return True

    def set_held(self, stream: OpenStream, size: int) -> None:
        """Record the bytes that a stream holds now; close the largest streams over the limit.

        Raises:
            WireError: `limit`; this stream itself is the largest.
        """
        self.held += size - stream.held
        stream.held = size
        stream.was_large = stream.was_large or size >= LARGE
        while self.held > self._max_bytes:
            largest = max(self._all, key=_held_by)
            text = f"streams hold more than {self._max_bytes} bytes together"
            if largest is stream:
                # Raise no error from a variable: that would keep all its buffers in a cycle.
                raise WireError("limit", text)
            self.held -= largest.held
            largest.held = 0
            largest.cancel(WireError("limit", text))


def _held_by(stream: OpenStream) -> int:
    return stream.held
