"""A control connection, independent of its framing: deadlines, writes and concurrent requests.

Writes never interleave: a message is sent whole, or the connection ends. A client that does not
read delays only its own requests and streams; when a write makes no progress for `Limits.write`
seconds, the connection is closed. Requests of a connection overlap, up to a limit.
(See control/README.md, § Limits.)
"""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import trio

from trioserf.agent.agent import Agent
from trioserf.control.errors import ControlError
from trioserf.control.server.access import AccessControl, Client
from trioserf.control.server.admission import UNIX, KeyTries, Limits, Place
from trioserf.control.server.audit import AuditLog, describe
from trioserf.control.server.commands import COMMANDS, Command, Stream
from trioserf.control.server.error_mapping import error_code
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.control.server.permissions import Requirement
from trioserf.counters import AggregateSample
from trioserf.errors import NoSuchQuery, TrioserfError
from trioserf.node.event_hub import Responder
from trioserf.node.timers import AutoResetEvent
from trioserf.operating_system.sockets import are_files
from trioserf.serf.member import Member

_log = logging.getLogger("trioserf.agent.ipc")

CHUNK = 65536
"""Bytes per read, and per write: each write has its own deadline."""
MAX_MESSAGE = 1024 * 1024
"""Longest line, longest msgpack message, in bytes."""
MAX_UNAUTHENTICATED_MESSAGE = 16 * 1024
"""The same before authentication, if `rpc_auth` is set: room for a key and little else."""
MAX_IN_FLIGHT = 256
"""Requests of one connection in flight; the next is not read before one ends."""
MAX_STREAMS = 128
"""Open streams of one connection."""

MAX_SUBMITTED = 64
"""Events of one connection that the node has not handled; then their results are waited for."""
TURN = 16
"""Requests of one connection, if they cost little, between which no other task runs."""

END: Any = object()
"""Returned by a stream after its last item."""


@attrs.define(eq=False, repr=False)
class ServerContext:
    """Shared by all connections of a server.

    Attributes:
        agent: the agent that clients control.
        auth: the key that clients must send; empty for none.
        wall: the time of day for records.
        limits: limits of each connection.
        spawn: starts a task that outlives the connection.
        cache: encoded lists of members by encoding, with the `members_version` of each.
        accepted: counts connections.
        requested: counts commands.
        key_tries: counts wrong keys.
        access: admits clients.
        audit: the audit log, if there is one.
    """

    agent: Agent
    auth: str = ""
    wall: WallClock = utc_now
    limits: Limits = attrs.field(factory=Limits)
    spawn: Callable[[Callable[[], Awaitable[None]]], None] | None = None
    cache: dict[str, tuple[int, bytes]] = attrs.field(factory=dict)
    accepted: AggregateSample = attrs.field(factory=AggregateSample)
    requested: AggregateSample = attrs.field(factory=AggregateSample)
    key_tries: KeyTries = attrs.field(factory=KeyTries)
    access: AccessControl = attrs.field(
        default=attrs.Factory(lambda self: AccessControl(self.auth), takes_self=True)
    )
    audit: AuditLog | None = None

    def encode_members(self, name: str, encode: Callable[[tuple[Member, ...]], bytes]) -> bytes:
        """Encode the list of members, if it has changed; `name` is that of the encoding."""
        node = self.agent.node
        version, encoded = self.cache.get(name, (-1, b""))
        if version != node.members_version:
            encoded = encode(node.members())
            self.cache[name] = node.members_version, encoded
        return encoded


class StreamHandle:
    """A running stream; it can be stopped between two records."""

    def __init__(self, finite: bool = False) -> None:
        self.finite = finite
        self._stopped = False
        self._waiting: trio.CancelScope | None = None

    def stop(self) -> None:
        """Stop the stream; no more of its records are sent."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    def stopped(self) -> bool:
        """Return whether the stream was stopped."""
        return self._stopped

    async def next(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for the next item; return `END` at the end or when the stream is stopped."""
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
    """The code common to both framings; each implements `feed`.

    Attributes:
        ending: no more is read; replies are still written.
        closed: no more can be written.
    """

    def __init__(
        self,
        context: ServerContext,
        stream: trio.abc.Stream,
        place: Place,
        client: Client | None = None,
    ) -> None:
        self.context = context
        self.place = place
        place.is_busy = self.is_busy
        self.client = client or context.access.identify(stream)
        self.client.on_revoked = self._revoke
        self._revoked = False
        self.agent = context.agent
        self.stream = stream
        self.streams: dict[Hashable, StreamHandle] = {}
        self.responder = Responder()
        self.authenticated = self.client.authenticated
        self.ending = False
        self.closed = False
        self._scope = trio.CancelScope()
        self._lock = trio.Lock()
        self._socket = None
        if isinstance(stream, trio.SocketStream) and are_files():
            self._socket = stream.socket
        self._read_deadline = self._write_deadline = float("inf")
        self._first_request_complete = False
        self._handling = False
        self._in_flight = 0
        self._request_ended = AutoResetEvent()
        self._nursery: trio.Nursery

    @abstractmethod
    async def feed(self, data: bytes) -> bool:
        """Handle bytes from the client; return whether a request is incomplete."""

    def is_busy(self) -> bool:
        """Return whether a request or a stream is in progress."""
        return bool(self._handling or self._in_flight or self.streams)

    def _mark_used(self) -> None:
        """Record that a request has ended; those without the key do not count."""
        if self._first_request_complete and self.authenticated:
            self.place.mark_used()

    def input_ended(self) -> None:
        """Stop all streams that have no end: the client has closed its sending side."""
        for handle in list(self.streams.values()):
            if not handle.finite:
                handle.stop()

    async def serve(self, first: bytes, deadline: float) -> None:
        """Serve the connection until it ends, then close the stream.

        Args:
            first: the bytes that were read to detect the framing.
            deadline: instant by which the first request must be complete and, if `rpc_auth` is
                set, the right key received.
        """
        self._read_deadline = self._scope.deadline = deadline
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    await self._read(first)
                await drain(self.stream, self.context.limits.linger)
            if self._revoked:
                _log.warning("Disconnected %s: its token was removed or changed", self.client.who)
            elif self._scope.cancelled_caught:
                _log.warning("Disconnected a client that %s", self._missed_deadline)
        finally:
            self.context.access.forget(self.client)
            self.abort()
            await trio.aclose_forcefully(self.stream)

    def _revoke(self) -> None:
        """End the connection, because the client's token was removed or changed."""
        self._revoked = True
        self.abort()
        self._scope.cancel()

    def abort(self) -> None:
        """Mark the connection as lost and stop its streams."""
        self.ending = self.closed = True
        for handle in list(self.streams.values()):
            handle.stop()

    async def _read(self, data: bytes | bytearray) -> None:
        try:
            while data and not self.ending:
                self._handling = True
                partial = await self.feed(bytes(data))
                self._handling = False
                self.watch_input(partial=partial)
                self._mark_used()
                if not self.ending:
                    data = await self._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
        else:
            self._read_deadline = float("inf")
            self._set_deadline()
            self.input_ended()

    async def _receive(self) -> bytes | bytearray:
        """Wait for bytes from the client; empty at the end.

        `trio.SocketStream` reads first and waits then, which costs a client that waits for each
        reply a failing call of the system per request.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is lost.
        """
        if self._socket is None:
            return await self.stream.receive_some(CHUNK)
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def watch_input(self, *, partial: bool) -> None:
        """Set the read deadline; an authenticated client has none between two requests."""
        if not self._first_request_complete or not self.authenticated:
            return
        if not partial:
            if self._read_deadline != float("inf"):
                self._read_deadline = float("inf")
                self._set_deadline()
        elif self._read_deadline == float("inf"):
            self._read_deadline = trio.current_time() + self.context.limits.message
            self._set_deadline()

    async def authenticate(self, key: str) -> str:
        """Return why a key is rejected, after a second; if it is valid, admit the client.

        Once its source has no tries left, a key is rejected whether or not it is valid.
        """
        context = self.context
        # Each user of a Unix socket has tries of its own.
        source = self.client.source if self.place.source == UNIX else self.place.source
        reason = "too many wrong keys from this address; try again in some seconds"
        if not context.access.has_keys or context.key_tries.are_left(source):
            if await context.access.authenticate(self.client, key):
                if not self.authenticated:
                    self.authenticated = True
                    self.place.mark_authenticated()
                return ""
            reason = "wrong key"
        if context.audit is not None:
            context.audit.refuse(self.client.source, "auth", "auth_failed")
        if context.access.has_keys:
            context.key_tries.reject(source, reason)
            await trio.sleep(context.limits.wrong_key)
        return reason

    def refusal(self) -> ControlError:
        """Return the error of a command that needs authentication."""
        error = self.context.access.refusal(self.client)
        if error.code == "forbidden" and self.context.audit is not None:
            self.context.audit.refuse(self.client.source, "connect", error.code)
        return error

    def authorize(self, name: str, command: Command | Stream, values: Mapping[str, Any]) -> None:
        """Check that the client may run a command with these parameters.

        Args:
            name: the command's name in JSON.
            command: the command.
            values: its parameters, named as in JSON.

        Raises:
            ControlError: `forbidden`; a scope is missing.
            NoSuchQuery: the query that would be responded to is unknown.
        """
        held = self.client.permissions
        if held.has_whole(command.scope):
            return
        target = None
        if command.named_by is not None and (held.has(command.scope) or "name" in values):
            target = command.named_by(self.agent, values)
        self.require(name, values, Requirement(command.scope, target))

    def require(self, name: str, values: Mapping[str, Any], required: Requirement) -> None:
        """Check one requirement of a command.

        Raises:
            ControlError: `forbidden`; a scope is missing.
        """
        try:
            self.client.require(required)
        except ControlError as error:
            if self.context.audit is not None:
                client = self.client
                what = describe(values)
                self.context.audit.record(client.who, client.address, name, what, error.code)
            raise

    @contextmanager
    def auditing(
        self, name: str, command: Command | Stream, values: Mapping[str, Any]
    ) -> Iterator[None]:
        """Write the outcome of the block to the audit log, unless the command only reads.

        Args:
            name: the command's name in JSON.
            command: the command.
            values: its parameters, named as in JSON.
        """
        audit = self.context.audit
        if audit is None or command.scope == "read":
            yield
            return
        who, address, what = self.client.who, self.client.address, describe(values)
        if command.scope == "respond" and command.named_by is not None:
            with suppress(NoSuchQuery):
                what |= describe({"query": command.named_by(self.agent, values)})
        outcome = ""
        try:
            yield
            outcome = "ok"
        finally:
            error = sys.exception()
            if not outcome:
                outcome = error_code(error) if isinstance(error, Exception) else "cancelled"
            audit.record(who, address, name, what, outcome)

    @property
    def max_message(self) -> int:
        """Maximum bytes of a message from this client."""
        return MAX_MESSAGE if self.authenticated else MAX_UNAUTHENTICATED_MESSAGE

    def mark_first_request(self) -> None:
        """Mark the first request as complete."""
        self._first_request_complete = True

    @property
    def _missed_deadline(self) -> str:
        """The reason for the log: which deadline has passed."""
        if self._write_deadline <= self._read_deadline:
            return "does not read"
        return "does not complete its request" if self.authenticated else "sends no valid key"

    def _set_deadline(self) -> None:
        self._scope.deadline = min(self._read_deadline, self._write_deadline)

    async def send(self, data: bytes) -> None:
        """Write a whole message, after earlier ones; do nothing once the connection is lost.

        Not always a checkpoint: callers await something else before they send again.
        """
        if not self._lock.locked():
            data = data[self._write_nowait(data) :]
            if not data:
                return
        async with self._lock:
            try:
                for start in range(0, len(data), CHUNK):
                    if self.closed:
                        return
                    self._write_deadline = trio.current_time() + self.context.limits.write
                    self._set_deadline()
                    await self.stream.send_all(data[start : start + CHUNK])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.abort()
            # Not when cancelled: `serve` derives from it which deadline has passed.
            self._write_deadline = float("inf")
            self._set_deadline()

    def _write_nowait(self, data: bytes) -> int:
        """Write what the system accepts without waiting; return the number of bytes.

        Saves a turn of the event loop per reply, a third of the cost of a small request.
        """
        if self.closed or self._socket is None:
            return 0
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            return len(data)

    async def run_concurrently(self, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a request concurrently, once fewer than MAX_IN_FLIGHT are running."""
        while self._in_flight >= MAX_IN_FLIGHT:
            await self._request_ended.wait()
        self._in_flight += 1
        self._nursery.start_soon(self._run_counted, run, args)

    async def _run_counted(
        self, run: Callable[..., Awaitable[None]], args: tuple[Any, ...]
    ) -> None:
        try:
            await run(*args)
        finally:
            self._in_flight -= 1
            self._mark_used()
            self._request_ended()

    async def start(self, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a stream concurrently; return when it has started."""
        await self._nursery.start(self._run_stream_to_its_end, run, args)

    async def _run_stream_to_its_end(
        self,
        run: Callable[..., Awaitable[None]],
        args: tuple[Any, ...],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            await run(*args, task_status=task_status)
        finally:
            self._mark_used()

    async def leave(self, reply: Callable[[Exception | None], Awaitable[None]]) -> None:
        """Leave the cluster, reply, then stop the agent, even if the client disconnects."""
        _log.info("Graceful leave triggered")
        left, replied = trio.Event(), trio.Event()
        failed: list[Exception] = []

        async def leave_and_stop() -> None:
            try:
                with self.auditing("leave", COMMANDS["leave"], {}):
                    await self.agent.leave()
            except TrioserfError as error:
                failed.append(error)
            left.set()
            if not failed:
                with trio.move_on_after(self.context.limits.linger):
                    await replied.wait()
                self.agent.shutdown.set()

        if self.context.spawn is None:
            self._nursery.start_soon(leave_and_stop)
        else:
            self.context.spawn(leave_and_stop)
        try:
            await left.wait()
            await reply(failed[0] if failed else None)
        finally:
            replied.set()


async def drain(stream: trio.abc.Stream, seconds: float) -> None:
    """Continue reading after a last error: a close would discard the error (TCP reset)."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.abc.HalfCloseableStream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(seconds):
                await stream.send_eof()
                while await stream.receive_some(CHUNK):
                    pass
