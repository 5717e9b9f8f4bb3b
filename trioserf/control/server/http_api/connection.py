"""One connection of HTTP: its time limits, and the stream that Hypercorn reads and writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from trioserf.control.server.admission import Place

IDLE: Final = 10.0
"""Seconds for the handshake of TLS, and again for the next request to be complete."""
REQUEST: Final = 10.0
"""Seconds from a complete request to the end of its response; streams of events last longer."""
WRITE: Final = 10.0
"""Seconds in which a client must take a part of a response."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of a request."""
_CHUNK: Final = 4096
_MAX_UNANSWERED: Final = 4 * MAX_HEAD
"""Bytes that are read between two responses; requests have no body."""


class HttpConnection:
    """The time limits of a connection.

    Args:
        scope: cancelled at the end of a limit.
        place: its place among all connections.
    """

    def __init__(self, scope: trio.CancelScope, place: Place) -> None:
        self._scope = scope
        self._place = place
        self.is_streaming = False
        place.is_busy = lambda: self.is_streaming
        scope.deadline = trio.current_time() + 2 * IDLE

    def close(self) -> None:
        """End the connection at once."""
        self._scope.cancel()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Limit the time of a response, and then that until the next request."""
        self._scope.deadline = trio.current_time() + REQUEST
        try:
            yield
        finally:
            # Hypercorn ends an idle connection before.
            self._scope.deadline = trio.current_time() + 2 * IDLE
            self._place.mark_used()

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Lift the limit of the response, and keep the place for it."""
        deadline, self._scope.deadline = self._scope.deadline, float("inf")
        self.is_streaming = True
        try:
            yield
        finally:
            self.is_streaming = False
            self._scope.deadline = deadline


class LimitedStream(trio.abc.HalfCloseableStream):
    """The stream of a connection, with limits that Hypercorn does not have.

    Hypercorn shields its writes from cancellation, so that a client that reads nothing would
    keep the agent from ending; and it reads requests of any length.

    Attributes:
        socket: the socket, for Hypercorn.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._unanswered = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send within the time limit; close the socket at its end."""
        self._unanswered = 0
        with trio.move_on_after(WRITE) as limit:
            await self._stream.send_all(data)
        if limit.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the client reads too slowly")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until data can be sent."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Shut down our direction."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive, up to a number of bytes between two responses."""
        # In small parts: h11 limits only what is not yet complete.
        data = await self._stream.receive_some(min(max_bytes or _CHUNK, _CHUNK))
        self._unanswered += len(data)
        if self._unanswered > _MAX_UNANSWERED:
            raise trio.BrokenResourceError("the client sends too much")
        return data

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close the socket at once, also for a task that waits for it."""
        self.socket.close()
