"""One control connection, whatever it speaks: its deadlines, its writing side, its requests.

Writes never interleave: a message goes out whole, or the connection ends. A client that does not
read holds back its own requests and streams and nobody else; when a write makes no progress for
`Limits.write` seconds the connection is cut. Requests of one connection overlap, up to a limit.
"""

import hmac
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any

import attrs
import trio

from trioserf.control.server.ports import Agent, WallClock, utc_now
from trioserf.counters import AggregateSample
from trioserf.errors import TrioserfError
from trioserf.node.event_hub import Responder

_log = logging.getLogger("trioserf.agent.ipc")

CHUNK = 65536
"""Bytes per read, and per write: each write has its own deadline."""
MAX_MESSAGE = 1024 * 1024
"""Longest line, longest msgpack message, in bytes."""
MAX_UNAUTHENTICATED_MESSAGE = 16 * 1024
"""The same before the right key, where one is asked for: room for a key and little else."""
MAX_IN_FLIGHT = 256
"""Requests of one connection that may wait at a time; the next is not read before one ends."""
MAX_STREAMS = 128
"""Open streams of one connection."""

END: Any = object()
"""What a stream gives after its last item."""


@attrs.frozen(slots=True)
class Limits:
    """What a stranger may cost us; times in seconds.

    `first`: from the connect to a complete first request; `auth`: to a right key, where one is
    asked for; `message`: from the first byte of a request to its last; `write`: one write without
    progress; `linger`: reading on after an error that ends the connection, so that the error
    arrives. `strangers` of the `connections` may be there without a key, where one is asked for.
    """

    connections: int = 512
    unauthenticated: int = 64
    first: float = 60.0
    auth: float = 20.0
    message: float = 60.0
    write: float = 30.0
    linger: float = 2.0


@attrs.define
class ServerContext:
    """What all connections of a server share.

    `spawn` starts a task that outlives the connection. `cache` keeps encoded replies, by name.
    `accepted` counts connections, `requested` commands.
    """

    agent: Agent
    auth: str = ""
    wall: WallClock = utc_now
    limits: Limits = attrs.field(factory=Limits)
    spawn: Callable[[Callable[[], Awaitable[None]]], None] | None = None
    cache: dict[str, tuple[int, bytes]] = attrs.field(factory=dict)
    accepted: AggregateSample = attrs.field(factory=AggregateSample)
    requested: AggregateSample = attrs.field(factory=AggregateSample)

    def key_matches(self, key: str) -> bool:
        """Compare a key with ours in constant time."""
        return hmac.compare_digest(_key_bytes(key), _key_bytes(self.auth))


def _key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


class StreamHandle:
    """A running stream: it can be stopped, but only between two records."""

    def __init__(self, finite: bool = False) -> None:
        self.finite = finite
        self._stopped = False
        self._waiting: trio.CancelScope | None = None

    def stop(self) -> None:
        """End the stream; nothing of it is sent any more."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    def stopped(self) -> bool:
        """Tell whether nothing more may be sent."""
        return self._stopped

    async def next(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for the next item; `END` when there is none or the stream is stopped."""
        if not self.stopped():
            with trio.CancelScope() as self._waiting:
                try:
                    item = await receive()
                except (trio.EndOfChannel, StopAsyncIteration):
                    return END
            if not self.stopped():
                return item
        return END


class Connection(ABC):
    """The part that both framings share. They implement `take`, which is fed what is read.

    `ending`: nothing more is read, replies are still written. `gone`: nothing can be written.
    """

    def __init__(
        self,
        service: ServerContext,
        stream: trio.abc.Stream,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self.service = service
        self._accepted = accepted
        self.agent = service.agent
        self.stream = stream
        self.slots: dict[Hashable, StreamHandle] = {}
        self.answerer = Responder()
        self.authenticated = not service.auth
        self.ending = False
        self.gone = False
        self._scope = trio.CancelScope()
        self._lock = trio.Lock()
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._read_deadline = self._write_deadline = float("inf")
        self._greeted = False
        self._in_flight = 0
        self._room = trio.Event()
        self._nursery: trio.Nursery

    @abstractmethod
    async def feed(self, data: bytes) -> bool:
        """Handle bytes from the client; tell whether a request is begun but not complete."""

    def input_ended(self) -> None:
        """The client has said its last: end what has no end of its own."""
        for slot in list(self.slots.values()):
            if not slot.finite:
                slot.stop()

    async def serve(self, first: bytes, deadline: float) -> None:
        """Serve the connection until it ends; `first` is what was read to tell the framing.

        `deadline` is the instant by which a first request must be complete (and, where a key is
        asked for, the right key be given). Closes the stream.
        """
        self._read_deadline = self._scope.deadline = deadline
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    await self._read(first)
                await self._drain()
            if self._scope.cancelled_caught:
                _log.warning("Cut off a client that %s", self._fault)
        finally:
            self.abort()
            with trio.CancelScope() as at_once:
                at_once.cancel()
                await self.stream.aclose()

    def abort(self) -> None:
        """The connection is gone: stop all that still writes to it."""
        self.ending = self.gone = True
        for slot in list(self.slots.values()):
            slot.stop()

    async def _read(self, data: bytes | bytearray) -> None:
        try:
            while data and not self.ending:
                self.watch_input(partial=await self.feed(bytes(data)))
                if not self.ending:
                    data = await self.stream.receive_some(CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
        else:
            self._read_deadline = float("inf")
            self._arm()
            self.input_ended()

    def watch_input(self, *, partial: bool) -> None:
        """Set the deadline of reading: none for a known client between two requests."""
        if not self._greeted or not self.authenticated:
            return
        if not partial:
            if self._read_deadline != float("inf"):
                self._read_deadline = float("inf")
                self._arm()
        elif self._read_deadline == float("inf"):
            self._read_deadline = trio.current_time() + self.service.limits.message
            self._arm()

    def authenticate(self) -> None:
        """The client gave the right key."""
        if not self.authenticated:
            self.authenticated = True
            self._accepted()

    @property
    def longest(self) -> int:
        """Bytes of a message that is taken from this client now."""
        return MAX_MESSAGE if self.authenticated else MAX_UNAUTHENTICATED_MESSAGE

    def mark_handshaken(self) -> None:
        """A first complete request has come."""
        self._greeted = True

    @property
    def _fault(self) -> str:
        """Why a deadline has passed."""
        if self._write_deadline <= self._read_deadline:
            return "takes nothing"
        return "does not finish what it says" if self.authenticated else "shows no key"

    def _arm(self) -> None:
        self._scope.deadline = min(self._read_deadline, self._write_deadline)

    async def send(self, data: bytes) -> None:
        """Write a whole message, after those of others; silently nothing once it is lost.

        Not necessarily a checkpoint: callers wait for something else before they send again.
        """
        if not self._lock.locked():
            data = data[self._written_at_once(data) :]
            if not data:
                return
        async with self._lock:
            try:
                for start in range(0, len(data), CHUNK):
                    if self.gone:
                        return
                    self._write_deadline = trio.current_time() + self.service.limits.write
                    self._arm()
                    await self.stream.send_all(data[start : start + CHUNK])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.abort()
            # Not if it is cancelled: `serve` tells by it who kept us waiting.
            self._write_deadline = float("inf")
            self._arm()

    def _written_at_once(self, data: bytes) -> int:
        """Give the system what it takes without waiting; tell how much that was.

        Saves a turn of the event loop for each reply, a third of what a small request costs.
        """
        if self.gone or self._socket is None:
            return 0
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            return len(data)

    async def run_concurrently(self, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a request beside the others, as soon as there is room for it."""
        while self._in_flight >= MAX_IN_FLIGHT:
            self._room = trio.Event()
            await self._room.wait()
        self._in_flight += 1
        self._nursery.start_soon(self._counted, run, args)

    async def _counted(self, run: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await run(*args)
        finally:
            self._in_flight -= 1
            self._room.set()

    async def start(self, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a stream beside the others; returns when it has said that it started."""
        await self._nursery.start(run, *args)

    async def leave(self, reply: Callable[[Exception | None], Awaitable[None]]) -> None:
        """Leave the cluster, `reply`, then end the agent; goes on if the client is lost."""
        left, replied = trio.Event(), trio.Event()
        failed: list[Exception] = []

        async def carry_out() -> None:
            try:
                await self.agent.leave()
            except TrioserfError as error:
                failed.append(error)
            left.set()
            if not failed:
                with trio.move_on_after(self.service.limits.linger):
                    await replied.wait()
                self.agent.shutdown.set()

        if self.service.spawn is None:
            self._nursery.start_soon(carry_out)
        else:
            self.service.spawn(carry_out)
        try:
            await left.wait()
            await reply(failed[0] if failed else None)
        finally:
            replied.set()

    async def _drain(self) -> None:
        """After an error that ends it, let the client read the error before the door shuts."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                with trio.move_on_after(self.service.limits.linger):
                    await self.stream.send_eof()
                    while await self.stream.receive_some(CHUNK):
                        pass
