"""Serf's RPC: msgpack maps over the same command table, for Serf's own clients.

A request is a header {Command, Seq} and, for most commands, a body; a reply is a header
{Error, Seq} and, for some, a body (see control/README.md, § RPC). Error texts are Serf's: scripts
and clients depend on them. As in Serf, input that Go's decoder rejects ends the connection, and
requests of one connection run one after another: clients may depend on the order of replies. Only
records of streams and queries may stand between two replies.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import msgpack
import trio

from trioserf.control.server import commands
from trioserf.control.server import msgpack_fields as fields
from trioserf.control.server.access import Client
from trioserf.control.server.admission import Place
from trioserf.control.server.connection import (
    CHUNK,
    END,
    MAX_MESSAGE,
    MAX_STREAMS,
    MAX_SUBMITTED,
    TURN,
    Connection,
    ServerContext,
    StreamHandle,
)
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.msgpack_fields import (
    BadBodyError,
    Body,
    Reader,
    header,
    member_fields,
    pack,
)
from trioserf.control.server.msgpack_handlers import (
    BODIES,
    BODILESS,
    COMMANDS_OF,
    HANDLERS,
    PROMPT,
    body_beside_error,
    error_text,
    event_record,
    json_name,
    json_values,
    query_record,
)
from trioserf.errors import InvalidFilter
from trioserf.event_filter import EventFilter
from trioserf.node.state_owner import Request
from trioserf.printable import printable
from trioserf.results import Dropped
from trioserf.serf.member import Member

_log = logging.getLogger("trioserf.agent.ipc")

EVENT_BUFFER = 512
"""Records kept for a stream whose client is slow, as in Serf."""

NO_RECIPIENT_DONE: Body = {"From": "", "Payload": None, "Type": "done"}
"""The only record of a query that matches no member."""
DONE_GAP = 0.02
"""Seconds between the last response to a query and its `done` record.

Go's client keeps acks and responses in two queues and stops at the end of either, whatever the
other still holds; a Go agent ends a query seconds after the last response.
"""
MAX_ITEMS = 4096
"""Items of one list or map; small, because memory is allocated when their number is read."""

_CHEAP = frozenset(("event", "members", "get-coordinate", "handshake", "stop"))
"""Commands of which `TURN` may run without a turn for other tasks."""

_HEADER: Mapping[str, Reader] = {"Command": fields.text, "Seq": fields.U64}


def _members_body(members: Iterable[Member]) -> bytes:
    return pack({"Members": list(map(member_fields, members))})


def _encode_error(seq: int, command: str, captured: capture_error) -> bytes:
    """Encode the reply to a command that failed."""
    assert captured.control_error is not None
    text = error_text(captured.error, captured.control_error)
    return header(seq, text) + body_beside_error(command, captured.control_error)


class MsgpackRpc(Connection):
    """A connection of Serf's RPC."""

    def __init__(
        self,
        context: ServerContext,
        stream: trio.abc.Stream,
        place: Place,
        client: Client | None = None,
    ) -> None:
        super().__init__(context, stream, place, client)
        self._unpacker = msgpack.Unpacker(
            raw=False,
            unicode_errors="surrogateescape",
            max_buffer_size=MAX_MESSAGE,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
        self._handshaken = False
        self._last: dict[str, Any] = {"Command": "", "Seq": 0}
        self._pending: tuple[str, int] | None = None
        self._skip_body = False
        self._monitor: tuple[int, StreamHandle] | None = None
        self._fed = 0
        self._out = bytearray()
        self._submitted: deque[tuple[int, Request[int]]] = deque()
        """Events without a reply, by their seq."""
        self._turn = TURN

    async def feed(self, data: bytes) -> bool:
        """Handle every complete message."""
        with capture_error("?") as captured:
            await self._unpack(data)
        if captured.control_error is not None:
            self._end()
        await self._flush()
        return self._pending is not None or self._has_partial_message()

    def _has_partial_message(self) -> bool:
        """Return whether a message is incomplete."""
        return bool(self._fed > self._unpacker.tell())

    async def _unpack(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
            self._fed += len(data)
            message = self._unpacker.unpack()
            while not self.ending:
                await self._handle_message(message)
                if len(self._out) > CHUNK:
                    await self._flush()
                message = self._unpacker.unpack()
                if self._pending is None and self._turn <= 0:
                    self._turn = TURN
                    await trio.lowlevel.checkpoint()  # other tasks run between two requests
        except msgpack.OutOfData:
            if self._fed - self._unpacker.tell() > self.max_message:
                _log.error("a request of an unauthenticated client is too long")
                self._end()
        except (BadBodyError, msgpack.UnpackException, ValueError, TypeError) as error:
            _log.error("failed to decode a request: %s", str(error) or type(error).__name__)
            self._end()

    def _end(self) -> None:
        """Stop reading, as Go does after a request that it cannot decode."""
        self.ending = True

    async def _handle_message(self, message: object) -> None:
        if self._pending is None:
            if isinstance(message, dict):
                # Go decodes each header into the previous one: a missing field keeps its value.
                message = {**self._last, **message}
            self._last = fields.read(message, _HEADER)
            await self._handle_header(self._last["Command"], self._last["Seq"])
        else:
            (command, seq), self._pending = self._pending, None
            if not self._skip_body:
                await self._run_command(command, seq, fields.read(message, BODIES[command]))
            self._skip_body = False

    async def _handle_header(self, command: str, seq: int) -> None:
        """Handle a header: reject the request, wait for its body or run the command."""
        self.context.requested.add()
        if self._submitted and command != "event":
            await self._collect()
        if command != "handshake" and not self._handshaken:
            _log.error("Failed to evaluate request: Handshake required")
            self._out += header(seq, "Handshake required")
            self._end()
        elif not self.authenticated and command not in ("handshake", "auth"):
            refusal = self.refusal()
            required = refusal.code == "auth_required"
            self._out += header(seq, "Authentication required" if required else refusal.message)
            if command in BODIES:
                self._pending, self._skip_body = (command, seq), True
        elif command in BODIES:
            self._pending = command, seq
        elif command in BODILESS:
            await self._run_command(command, seq, {})
        else:
            shown = printable(command[:80])
            _log.error("Failed to evaluate request: command '%s' not recognized", shown)
            self._out += header(seq, "Unsupported command")
            self._end()

    async def _run_command(self, command: str, seq: int, body: Body) -> None:
        """Run a command; first send earlier replies if it waits for other members."""
        self.mark_first_request()
        self._turn -= 1 if command in _CHEAP else TURN
        declared = COMMANDS_OF.get(command)
        if declared is not None and not self.client.permissions.has_whole(declared.scope):
            with capture_error(command) as captured:
                self.authorize(json_name(command), declared, json_values(command, body))
            if captured.control_error is not None:
                await self._collect()
                self._out += _encode_error(seq, command, captured)
                return
        match command:
            case "event" if self.context.audit is None:
                await self._submit_event(seq, body)
            case "handshake":
                self._out += header(seq, self._handshake(body["Version"]))
            case "auth":
                matches = not await self.authenticate(body["AuthKey"])
                self._out += header(seq, "" if matches else "Invalid authentication token")
            case "stop":
                self._stop_stream(body["Stop"])
                self._out += header(seq)
            case "members":
                self._out += header(seq) + self._encode_members()
            case "members-filtered":
                await self._handle_members_filtered(seq, body)
            case "stream" | "monitor":
                await self._start_stream(command, seq, body)
            case "query":
                await self._flush()
                await self.start(self._run_query, seq, body)
            case "leave":
                await self._prepare_to_wait()
                await self._leave(seq)
            case _:
                if command not in PROMPT:
                    await self._prepare_to_wait()
                self._out += await self._run_handler(command, seq, body)

    async def _submit_event(self, seq: int, body: Body) -> None:
        """Send a user event; `_collect` waits for the results of several of them together."""
        with capture_error("event") as captured:
            request = await self.agent.node.submit_user_event(
                body["Name"], body["Payload"], coalesce=body["Coalesce"]
            )
            self._submitted.append((seq, request))
        if captured.control_error is not None:
            await self._collect()
            self._out += _encode_error(seq, "event", captured)
        elif len(self._submitted) >= MAX_SUBMITTED:
            await self._collect()

    async def _collect(self) -> None:
        """Wait for the results of the submitted events, and reply."""
        while self._submitted:
            seq, request = self._submitted.popleft()
            if request.has_succeeded:
                self._out += header(seq)
                continue
            with capture_error("event") as captured:
                await request.result()
            failed = captured.control_error is not None
            self._out += _encode_error(seq, "event", captured) if failed else header(seq)

    async def _prepare_to_wait(self) -> None:
        """Send earlier replies and disable the read deadline, before a command that waits."""
        self.watch_input(partial=False)
        await self._flush()

    async def _run_handler(self, command: str, seq: int, body: Body) -> bytes:
        """Run a command and encode its reply."""
        reply = b""
        with capture_error(command) as captured, self._auditing(command, body):
            if command == "respond":
                await commands.respond(self.agent, body["ID"], body["Payload"], self.responder)
            else:
                reply = await HANDLERS[command](self.agent, body)
        if captured.control_error is None:
            return header(seq) + reply
        return _encode_error(seq, command, captured)

    def _auditing(self, command: str, body: Body) -> AbstractContextManager[None]:
        values = json_values(command, body)
        return self.auditing(json_name(command), COMMANDS_OF[command], values)

    def _handshake(self, version: int) -> str:
        if version != 1:
            return "Unsupported IPC version"
        if self._handshaken:
            return "Handshake already performed"
        self._handshaken = True
        return ""

    def _stop_stream(self, seq: int) -> None:
        handle = self.streams.pop(seq, None)
        if handle is not None:
            handle.stop()
        if self._monitor is not None and self._monitor[0] == seq:
            self._monitor[1].stop()
            self._monitor = None

    def is_busy(self) -> bool:
        """Return whether a request, a stream or the monitor is in progress."""
        return super().is_busy() or self._monitor is not None

    def abort(self) -> None:
        """Mark the connection as lost and stop its streams and the monitor."""
        super().abort()
        self._stop_monitor()

    def input_ended(self) -> None:
        """Stop all streams: Serf does not support half-closed connections."""
        for handle in list(self.streams.values()):
            handle.stop()
        self._stop_monitor()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor[1].stop()

    def _encode_members(self) -> bytes:
        return self.context.encode_members("msgpack", _members_body)

    async def _handle_members_filtered(self, seq: int, body: Body) -> None:
        """Reply with matching members; an invalid expression ends the connection, as in Serf."""
        if not (body["Name"] or body["Status"] or body["Tags"]):
            self._out += header(seq) + self._encode_members()
            return
        try:
            found = await commands.members(self.agent, body["Name"], body["Status"], body["Tags"])
        except InvalidFilter as error:
            _log.error("Failed to evaluate request: Failed to compile regex: %.200s", error)
            self._end()
        else:
            self._out += header(seq) + _members_body(found)

    async def _start_stream(self, command: str, seq: int, body: Body) -> None:
        """Start a stream or the one monitor, or reply with an error."""
        error = ""
        level = body.get("LogLevel", "").upper()
        if command == "stream":
            try:
                EventFilter.parse(body["Type"])
            except InvalidFilter:
                error = "Invalid event filter"
            if not error and seq in self.streams:
                error = "Stream with given sequence exists"
            elif not error and len(self.streams) >= MAX_STREAMS:
                error = "Too many streams"
        elif level not in commands.LOG_LEVELS:
            error = f"Unknown log level: {level}"
        elif self._monitor is not None:
            error = "Monitor already exists"
        await self._flush()
        if error:
            await self.send(header(seq, error))
        elif command == "stream":
            await self.start(self._run_stream, seq, body["Type"])
        else:
            await self.start(self._run_monitor, seq, level)

    async def _run_stream(
        self, seq: int, filter_text: str, *, task_status: trio.TaskStatus[None]
    ) -> None:
        handle = self.streams[seq] = StreamHandle()
        filters = EventFilter.parse(filter_text)
        node = self.agent.node
        may_respond = self.client.permissions.has("respond")
        answers = self.responder if may_respond else False
        with node.subscribe(*filters, answers=answers, buffer=EVENT_BUFFER) as events:
            await self._send_records(seq, handle, events.receive, event_record, task_status)
        if self.streams.get(seq) is handle:
            del self.streams[seq]

    async def _run_monitor(
        self, seq: int, level: str, *, task_status: trio.TaskStatus[None]
    ) -> None:
        handle = StreamHandle()
        self._monitor = seq, handle
        with self.agent.logs.subscribe(level, buffer=EVENT_BUFFER) as lines:
            await self._send_records(
                seq, handle, lines.receive, lambda line: {"Log": line.text}, task_status
            )

    async def _send_records(
        self,
        seq: int,
        handle: StreamHandle,
        receive: Callable[[], Awaitable[Any]],
        show: Callable[[Any], Body],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Reply, then send the records of the stream."""
        start = header(seq)
        await self.send(start)
        task_status.started()
        while (item := await handle.next(receive)) is not END:
            if isinstance(item, Dropped):
                _log.warning("Dropped %d records for a slow client", item.count)
            else:
                await self.send(start + pack(show(item)))

    async def _run_query(
        self, seq: int, body: Body, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Send a query and its records; `stop` does not end it."""
        handle = StreamHandle(finite=True)
        self.streams[handle] = handle
        started = False
        try:
            with capture_error("query") as captured:
                async with AsyncExitStack() as stack:
                    with self._auditing("query", body):
                        opening = commands.query(
                            self.agent,
                            body["Name"],
                            body["Payload"],
                            nodes=body["FilterNodes"],
                            tags=body["FilterTags"],
                            timeout=max(body["Timeout"], 1) / 1e9 if body["Timeout"] else None,
                            ack=body["RequestAck"],
                            relay_factor=body["RelayFactor"],
                            first=None,
                        )
                        receive = await stack.enter_async_context(opening)
                    start = header(seq)
                    await self.send(start)
                    started = True
                    task_status.started()
                    last_sent = trio.current_time()
                    while (item := await handle.next(receive)) is not END:
                        record = query_record(item)
                        if record["Type"] == "done":
                            await trio.sleep_until(last_sent + DONE_GAP)
                        await self.send(start + pack(record))
                        last_sent = trio.current_time()
            if isinstance(captured.error, InvalidFilter):
                # Serf sends the query anyway; it matches no member.
                _log.warning(
                    "Query '%.80s' matches no member: %.200s", body["Name"], captured.error
                )
                await self.send(header(seq) + header(seq) + pack(NO_RECIPIENT_DONE))
            elif captured.control_error is not None:
                await self.send(header(seq, error_text(captured.error, captured.control_error)))
        finally:
            del self.streams[handle]
            if not started:
                task_status.started()

    async def _leave(self, seq: int) -> None:
        async def reply(error: Exception | None) -> None:
            await self.send(header(seq, "" if error is None else str(error)))

        await self.leave(reply)

    async def _flush(self) -> None:
        if self._submitted:
            await self._collect()
        if self._out:
            data, self._out = bytes(self._out), bytearray()
            await self.send(data)
