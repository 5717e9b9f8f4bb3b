"""The common base of the Trio and the asyncio client, without sockets and tasks.

One task reads the connection and passes each reply to the call that waits for it, so any number
of tasks may share a client. The reader never waits for another task: a stream whose reader is
slow loses records and receives their number (`Dropped`); the agent does the same when the
connection is slow.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar
from weakref import WeakValueDictionary

from trioserf.address import Address
from trioserf.control.client import requests
from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
    Record,
)
from trioserf.control.client.requests import (
    Action,
    LineReader,
    Object,
    Request,
    StreamRequest,
    encode_line,
    error_from,
    record_queue,
    result_of,
)
from trioserf.control.errors import ControlError
from trioserf.event_filter import EventFilter
from trioserf.health import Health
from trioserf.results import Dropped, QueryResult

ResultT = TypeVar("ResultT")

BUFFER = 1024
"""Records kept for a stream whose reader is busy."""
QUERY_BUFFER = 65_536
"""Records kept for a query: an ack and a response of each member of a large cluster."""
WRITE_TIMEOUT = 10.0
"""Seconds after which the connection to an agent that accepts no request is ended."""
CHUNK = 65_536
"""Bytes per read."""


class Event(Protocol):
    """`trio.Event` or `asyncio.Event`."""

    def set(self) -> object:
        """Wake all tasks that wait."""

    async def wait(self) -> object:
        """Wait until the event is set."""


class _PendingReply:
    def __init__(self, arrived: Event) -> None:
        self.arrived = arrived
        self.reply: Object = {}


class RecordBuffer:
    """Records of one stream, between the task that reads the connection and the stream's reader.

    Args:
        size: records kept.
        new_event: makes an event of the loop.
        checkpoint: lets other tasks run.
    """

    def __init__(
        self, size: int, new_event: Callable[[], Event], checkpoint: Callable[[], Awaitable[None]]
    ) -> None:
        self._new_event = new_event
        self._checkpoint = checkpoint
        self._records = record_queue(size)
        self._changed = new_event()
        self._error: ControlError | None = None
        self.finished = False

    def put(self, record: Object) -> None:
        """Queue a record, or count it as dropped."""
        if record.get("ok") is False:
            self.fail(error_from(record))
            return
        self._records.put(record)
        self._changed.set()

    def fail(self, error: ControlError) -> None:
        """Raise this error in the reader after the queued records."""
        self._error = self._error or error
        self._changed.set()

    def close(self) -> None:
        """Drop all records; the reader receives no more."""
        self.finished = True
        self._changed.set()

    async def get(self) -> Object | None:
        """Wait for a record; return None at the end."""
        await self._checkpoint()
        while not self.finished and not self._records:
            if self._error is not None:
                raise self._error
            self._changed = self._new_event()
            await self._changed.wait()
        if self.finished:
            return None
        record = self._records.pop()
        self.finished = record.get("type") == "done"
        return record


class Records(Generic[ResultT]):
    """The records of a stream, for one reader.

    `async with` starts the stream, and stops it at the end of the block. `async for` without it
    also starts the stream; if the loop is then abandoned, the stream is stopped when another
    record arrives and no reference to the stream is left.

    Iterating raises ControlError if the agent rejects the stream, or the stream or the connection
    fails.
    """

    def __init__(
        self,
        buffer: RecordBuffer,
        read: Callable[[Record], ResultT],
        start: Callable[[], Awaitable[object]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._buffer = buffer
        self._read = read
        self._start = start
        self._stop = stop
        self._started = False

    async def __aenter__(self) -> Self:
        await self._start_once()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ResultT:
        if not self._started:
            await self._start_once()
        record = await self._buffer.get()
        if record is None:
            raise StopAsyncIteration
        return self._read(record)

    async def aclose(self) -> None:
        """Stop the stream; it has no more records."""
        if self._started and not self._buffer.finished:
            self._buffer.close()
            await self._stop()

    async def _start_once(self) -> None:
        if not self._started:
            await self._start()
            self._started = True


class AsyncClient(ABC):
    """An open connection to an agent.

    Wrong types of arguments are TypeErrors; every other error is a ControlError: with the agent's
    code and message, or `disconnected` when the connection ends before the reply. Cancelling a
    call abandons its reply, not the request.
    Callers set time limits themselves (`trio.fail_after(5)`, `asyncio.timeout(5)`).

    Args:
        new_event: makes an event of the loop.
        checkpoint: lets other tasks run.
    """

    def __init__(
        self, new_event: Callable[[], Event], checkpoint: Callable[[], Awaitable[None]]
    ) -> None:
        self._new_event = new_event
        self._checkpoint = checkpoint
        self._reader = LineReader()
        self._seq = 0
        self._pending: dict[int, _PendingReply] = {}
        # Weak: a stream without references has been abandoned.
        self._streams: WeakValueDictionary[int, RecordBuffer] = WeakValueDictionary()
        # Streams that were stopped, until the agent confirms it.
        self._stopping: set[int] = set()
        self._ended: ControlError | None = None

    async def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Return the members that match the expressions (anchored as `^…$`; empty: any)."""
        return await self._call(requests.members(name, status, tags))

    async def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send a user event; return its Lamport time."""
        return await self._call(requests.event(name, payload, coalesce))

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> Records[QueryResult]:
        """Send a query; the records are acks and responses, `QueryDone` last.

        Args:
            name: name of the query.
            payload: its payload.
            nodes: only these members (none: all).
            tags: only members whose tags match these expressions.
            timeout: seconds until the query ends (None: the cluster's default).
            ack: whether members acknowledge the query.
            relay_factor: members that relay each response, 0 to 255.
            first: end after this many responses.
        """
        request = requests.query(
            name,
            payload,
            nodes=nodes,
            tags=tags,
            timeout=timeout,
            ack=ack,
            relay_factor=relay_factor,
            first=first,
        )
        return self._open(request, QUERY_BUFFER)

    def stream(
        self, *types: str | EventFilter, coalesce: bool = False, answers: bool | None = None
    ) -> Records[AgentEvent]:
        """Subscribe to events.

        Args:
            types: event filters such as `member-join`, `user:deploy`, `query` (none: all), as
                texts or `EventFilter` objects.
            coalesce: deliver bursts of member events together, up to three seconds late.
            answers: whether this client responds to queries (`respond` or `decline`), so that
                queries wait for it. None: true if the types name queries or the client has
                responded before; otherwise queries wait one second for it.
        """
        return self._open(requests.stream(types, coalesce, answers), BUFFER)

    def monitor(self, level: str = "INFO") -> Records[LogEntry | Dropped]:
        """Subscribe to the agent's log, beginning with its last 512 lines."""
        return self._open(requests.monitor(level), BUFFER)

    async def respond(self, id: int, payload: bytes = b"") -> None:  # noqa: A002
        """Respond to a query of a stream (`no_such_query`: too late)."""
        await self._call(requests.respond(id, payload))

    async def decline(self, id: int) -> None:  # noqa: A002
        """Report that no response will follow, so that the requester need not wait."""
        await self._call(requests.decline(id))

    async def join(self, addresses: Iterable[str | Address], *, replay: bool = False) -> int:
        """Join through these addresses; return how many were reached (`join_failed`: none)."""
        return await self._call(requests.join(addresses, replay))

    async def leave(self) -> None:
        """Leave the cluster; return when that is done. The agent then stops."""
        await self._call(requests.leave())

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left; `prune` removes it altogether."""
        await self._call(requests.force_leave(name, prune))

    async def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> dict[str, str]:
        """Change the agent's tags; return all of them."""
        return await self._call(requests.tags(set, delete))

    async def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys (in base64) on every member.

        Raises:
            ControlError: `key_failed`, with the report's fields as `details`.
        """
        return await self._call(requests.keys(action, key))

    async def info(self) -> dict[str, dict[str, Any]]:
        """Return the groups of `serf info`, numbers as numbers."""
        return await self._call(requests.info())

    async def health(self) -> Health:
        """Return what the agent says about itself."""
        return await self._call(requests.health())

    async def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Return the network coordinate of a member (None: of the agent)."""
        return await self._call(requests.coordinate(node))

    async def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate the round-trip time of two members (`other`: the agent), in seconds."""
        return await self._call(requests.rtt(node, other))

    async def handshake(self, auth: str | None = None) -> Record:
        """Send the key, if any; return the agent's `protocol`, `version` and `node`."""
        if auth:
            await self._call(requests.auth(auth))
        return await self._call(requests.handshake())

    @abstractmethod
    async def _send(self, data: bytes) -> None:
        """Write a whole line within WRITE_TIMEOUT, or end the connection."""

    @abstractmethod
    async def _send_shielded(self, data: bytes) -> None:
        """Write a whole line even if the caller is cancelled; ignore a lost connection."""

    @abstractmethod
    def _send_later(self, data: bytes) -> None:
        """Write a whole line in another task."""

    async def _call(self, request: Request[ResultT]) -> ResultT:
        seq = self._next_seq()
        return request.read(await self._ask(request.command, request.parameters, seq))

    async def _ask(self, command: str, parameters: Object, seq: int) -> Object:
        """Send a request, wait for its reply and return the reply's fields."""
        pending = self._pending[seq] = _PendingReply(self._new_event())
        try:
            await self._send(encode_line(command, seq, parameters))
            await pending.arrived.wait()
        finally:
            del self._pending[seq]
        if not pending.reply:
            raise self._ended or ControlError("disconnected", "no reply arrived")
        return result_of(pending.reply)

    def _open(self, request: StreamRequest[ResultT], size: int) -> Records[ResultT]:
        """Prepare a stream; its reader starts and stops it."""
        seq = self._next_seq()
        buffer = self._streams[seq] = RecordBuffer(size, self._new_event, self._checkpoint)
        start = partial(self._ask, request.command, request.parameters, seq)
        return Records(buffer, request.read, start, partial(self._stop, seq))

    async def _stop(self, seq: int) -> None:
        """Stop a stream; its later records and the reply are ignored."""
        self._streams.pop(seq, None)
        self._stopping.add(seq)
        await self._send_shielded(_stop_line(seq))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _end(self, error: ControlError) -> None:
        """Fail all calls and streams."""
        self._ended = self._ended or error
        for pending in self._pending.values():
            pending.arrived.set()
        for buffer in list(self._streams.values()):
            buffer.fail(self._ended)

    def _feed(self, data: bytes) -> None:
        """Dispatch the records that are complete with these bytes."""
        for record in self._reader.feed(data):
            self._dispatch(record)

    def _dispatch(self, record: Object) -> None:
        seq = record.pop("seq", None)
        if not isinstance(seq, int):
            return
        pending = self._pending.get(seq)
        if pending is not None and "ok" in record and not pending.reply:
            pending.reply = record
            pending.arrived.set()
        elif (buffer := self._streams.get(seq)) is not None:
            buffer.put(record)
        elif "ok" not in record and seq not in self._stopping:
            self._stopping.add(seq)
            self._send_later(_stop_line(seq))
        elif seq < 0:
            self._stopping.discard(-seq)


def _stop_line(seq: int) -> bytes:
    return encode_line("stop", -seq, {"stop": seq})


def handshake_error(error: ControlError, address: str) -> ControlError:
    """Return the error of a failed handshake: an agent of Serf closes the connection."""
    if error.code != "disconnected":
        return error
    return ControlError("protocol", f"the server at {address} does not speak JSON lines")
