"""Streams of the simulated network: in order and without loss, with the delays of the network.

Bytes sent over a broken link are sent again until the link works, as TCP does. When a process
dies, its end of each stream is closed: the other end reads end-of-file or fails to write.
"""

import operator
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

import trio
from trio.abc import HalfCloseableStream

from trioserf.net.transport import SocketAddress

_WINDOW: Final = 256 * 1024
"""Bytes in flight or unread at which a writer has to wait."""
_SEGMENT: Final = 64 * 1024
_RESEND: Final = 0.2
"""Seconds until TCP sends lost bytes again."""


class StreamNetwork(Protocol):
    """What streams need from a `Network`."""

    @property
    def counts(self) -> Counter[str]:
        """See `Network.counts`."""

    def flows(self, source: SocketAddress, target: SocketAddress) -> bool:
        """See `Network.flows`."""

    def call_at(self, at: float, to: SocketAddress, callback: Callable[[], None]) -> None:
        """See `Network.call_at`."""

    def stream_delay(
        self, source: SocketAddress, target: SocketAddress, size: int, resend: float
    ) -> float:
        """See `Network.stream_delay`."""


class _Pipe:
    """One direction of a stream."""

    __slots__ = (
        "_in_flight",
        "_last_at",
        "_network",
        "_source",
        "_target",
        "broken",
        "changed",
        "ended",
        "held",
        "unread",
    )

    def __init__(
        self, network: StreamNetwork, source: SocketAddress, target: SocketAddress
    ) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._in_flight: deque[tuple[float, bytes]] = deque()
        self._last_at = 0.0
        self.broken = False
        self.unread: deque[bytes] = deque()
        self.held = 0
        self.ended = False
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        return self.held >= _WINDOW

    def write(self, data: bytes) -> None:
        """Send bytes; empty bytes are the end of the stream."""
        self.held += len(data)
        network = self._network
        network.counts["streamed"] += len(data)
        delay = network.stream_delay(self._source, self._target, len(data), _RESEND)
        at = max(self._last_at, trio.current_time() + delay)
        self._last_at = at
        self._in_flight.append((at, data))
        network.call_at(at, self._target, self.deliver)

    def deliver(self) -> None:
        """Move arrived bytes to the reader."""
        now = trio.current_time()
        if self._in_flight and not self._network.flows(self._source, self._target):
            self._network.call_at(now + _RESEND, self._target, self.deliver)
            return
        while self._in_flight and self._in_flight[0][0] <= now:
            _, data = self._in_flight.popleft()
            if data:
                self.unread.append(data)
            else:
                self.ended = True
        self.changed.unpark_all()

    def read(self, max_bytes: int | None) -> bytes:
        """Return bytes that have arrived, at most `max_bytes`."""
        data = self.unread.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self.unread.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self.held -= len(data)
        self.changed.unpark_all()
        return data

    def stop_reading(self) -> None:
        """Make the writer fail, after the delay of a packet to it."""
        if not self.broken:
            at = trio.current_time() + self._network.stream_delay(
                self._target, self._source, 0, _RESEND
            )
            self._network.call_at(at, self._source, self._break)

    def _break(self) -> None:
        self.broken = True
        self.changed.unpark_all()


class SimStream(HalfCloseableStream):
    """One end of a stream; made by `pair`."""

    def __init__(self, out: _Pipe, into: _Pipe) -> None:
        self._out = out
        self._in = into
        self._closed = False
        self._sent_eof = False
        self._is_sending = False
        self._is_receiving = False

    @property
    def is_closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; wait while the window is full."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._require_open()
            rest = bytes(data)
            while rest:
                await self._wait_not_full()
                self._out.write(rest[:_SEGMENT])
                rest = rest[_SEGMENT:]
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the window is not full."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError
            while self._out.is_full and not self._out.broken:
                await self._out.changed.park()
                if self._closed:
                    raise trio.ClosedResourceError
        finally:
            self._is_sending = False

    async def send_eof(self) -> None:
        """Close the sending direction."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError
            if not self._sent_eof:
                self._sent_eof = True
                self._out.write(b"")
        finally:
            self._is_sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; empty bytes are the end of the stream."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes: expected 1 or more, not {max_bytes}")
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._is_receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError
                if self._in.unread:
                    return self._in.read(max_bytes)
                if self._in.ended:
                    return b""
                await self._in.changed.park()
        finally:
            self._is_receiving = False

    async def aclose(self) -> None:
        """Close both directions."""
        self.kill()
        await trio.lowlevel.checkpoint()

    def kill(self) -> None:
        """Close at once, as the kernel does for a process that ends."""
        if self._closed:
            return
        self._closed = True
        if not self._sent_eof:
            self._sent_eof = True
            self._out.write(b"")
        self._in.stop_reading()
        self._in.changed.unpark_all()
        self._out.changed.unpark_all()

    def _claim_sending(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is using this stream for sending")
        self._is_sending = True

    async def _wait_not_full(self) -> None:
        while True:
            self._require_open()
            if not self._out.is_full:
                return
            await self._out.changed.park()

    def _require_open(self) -> None:
        if self._closed or self._sent_eof:
            raise trio.ClosedResourceError
        if self._out.broken:
            raise trio.BrokenResourceError("the other side has closed the stream")


def pair(
    network: StreamNetwork, a: SocketAddress, b: SocketAddress
) -> tuple[SimStream, SimStream]:
    """Return the two ends of a stream between two addresses."""
    forward, back = _Pipe(network, a, b), _Pipe(network, b, a)
    return SimStream(forward, back), SimStream(back, forward)
