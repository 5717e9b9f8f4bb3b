"""Serf's RPC: msgpack maps over the same command table, for Serf's own clients.

A request is a header {Command, Seq} and, for most commands, a body; a reply is a header
{Error, Seq} and, where one is due, a body (spec: RPC). The texts of errors are those that scripts
and clients look for. What Go's decoder refuses ends the connection, as it does there. Requests of
one connection are carried out one after another, also as there: clients may count on the order of
replies. Only the records of streams and queries come in between.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgpack
import trio

from trioserf.control.server import commands
from trioserf.control.server import msgpack_fields as fields
from trioserf.control.server.connection import (
    END,
    MAX_MESSAGE,
    MAX_STREAMS,
    Connection,
    ServerContext,
    StreamHandle,
)
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.msgpack_fields import BadBodyError, Body, Reader, header, pack
from trioserf.control.server.msgpack_handlers import (
    BODIES,
    BODILESS,
    HANDLERS,
    PROMPT,
    body_beside_error,
    error_text,
    event_record,
    query_record,
)
from trioserf.errors import InvalidFilter
from trioserf.serf.events import Dropped
from trioserf.serf.filters import EventFilter

_log = logging.getLogger("trioserf.agent.ipc")

EVENT_BUFFER = 512
"""Events kept for one stream whose client is slow, as in Serf."""

NOBODY: Body = {"From": "", "Payload": None, "Type": "done"}
"""The only record of a query that is for nobody."""
DONE_GAP = 0.02
"""Seconds between the last answer to a query and its end.

Go's client keeps acks and answers in two queues and stops at the end of either, whatever the
other still holds; a Go agent ends a query seconds after the last answer.
"""
MAX_ITEMS = 4096
"""Items of one list or map; memory is taken as soon as their number is read, so it is small."""

_HEADER: Mapping[str, Reader] = {"Command": fields.text, "Seq": fields.U64}


class MsgpackRpc(Connection):
    """A connection of Serf's RPC."""

    def __init__(
        self,
        service: ServerContext,
        stream: trio.abc.Stream,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(service, stream, accepted)
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

    async def feed(self, data: bytes) -> bool:
        """Handle every message that is complete."""
        with capture_error("?") as attempt:
            await self._take(data)
        if attempt.fault is not None:
            self._end()
        if self._out:
            await self._flush()
        return self._pending is not None or self._unread()

    def _unread(self) -> bool:
        """Tell whether part of a message waits for its rest."""
        return bool(self._fed > self._unpacker.tell())

    async def _take(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
            self._fed += len(data)
            while not self.ending:
                await self._message(self._unpacker.unpack())
        except msgpack.OutOfData:
            if self._fed - self._unpacker.tell() > self.longest:
                _log.error("a request of a stranger is too long")
                self._end()
        except (BadBodyError, msgpack.UnpackException, ValueError, TypeError) as error:
            _log.error("failed to decode a request: %s", str(error) or type(error).__name__)
            self._end()

    def _end(self) -> None:
        """Stop reading, as Go does after a request that it cannot take."""
        self.ending = True

    async def _message(self, message: object) -> None:
        if self._pending is None:
            if isinstance(message, dict):
                # Go reads each header over the one before: what is missing stays as it was.
                message = {**self._last, **message}
            self._last = fields.read(message, _HEADER)
            await self._begin(self._last["Command"], self._last["Seq"])
        else:
            (command, seq), self._pending = self._pending, None
            if not self._skip_body:
                await self._perform(command, seq, fields.read(message, BODIES[command]))
            self._skip_body = False

    async def _begin(self, command: str, seq: int) -> None:
        """Take a header: refuse the request, wait for its body or carry it out."""
        self.service.requested.add()
        if command != "handshake" and not self._handshaken:
            _log.error("Failed to evaluate request: Handshake required")
            self._out += header(seq, "Handshake required")
            self._end()
        elif not self.authenticated and command not in ("handshake", "auth"):
            self._out += header(seq, "Authentication required")
            if command in BODIES:
                self._pending, self._skip_body = (command, seq), True
        elif command in BODIES:
            self._pending = command, seq
        elif command in BODILESS:
            await self._perform(command, seq, {})
        else:
            _log.error("Failed to evaluate request: command %.80r not recognized", command)
            self._out += header(seq, "Unsupported command")
            self._end()

    async def _perform(self, command: str, seq: int, body: Body) -> None:
        """Carry out a request; replies to earlier ones do not wait for one that takes its time."""
        self.mark_handshaken()
        match command:
            case "handshake":
                self._out += header(seq, self._handshake(body["Version"]))
            case "auth":
                fits = self.service.key_matches(body["AuthKey"])
                if fits:
                    self.authenticate()
                self._out += header(seq, "" if fits else "Invalid authentication token")
            case "stop":
                self._stop(body["Stop"])
                self._out += header(seq)
            case "members":
                self._out += header(seq) + self._members()
            case "members-filtered":
                await self._filtered(seq, body)
            case "stream" | "monitor":
                await self._open(command, seq, body)
            case "query":
                await self._flush()
                await self.start(self._query, seq, body)
            case "leave":
                await self._pause()
                await self._leave(seq)
            case _:
                if command not in PROMPT:
                    await self._pause()
                self._out += await self._answer(command, seq, body)

    async def _pause(self) -> None:
        """Before a request that takes its time: send what is ready, let no deadline pass."""
        self.watch_input(partial=False)
        await self._flush()

    async def _answer(self, command: str, seq: int, body: Body) -> bytes:
        """Carry out a request and spell its reply."""
        reply = b""
        with capture_error(command) as attempt:
            if command == "respond":
                await commands.respond(self.agent, body["ID"], body["Payload"], self.answerer)
            else:
                reply = await HANDLERS[command](self.agent, body)
        if attempt.fault is None:
            return header(seq) + reply
        return header(seq, error_text(attempt.error, attempt.fault)) + body_beside_error(
            command, attempt.fault
        )

    def _handshake(self, version: int) -> str:
        if version != 1:
            return "Unsupported IPC version"
        if self._handshaken:
            return "Handshake already performed"
        self._handshaken = True
        return ""

    def _stop(self, seq: int) -> None:
        slot = self.slots.pop(seq, None)
        if slot is not None:
            slot.stop()
        if self._monitor is not None and self._monitor[0] == seq:
            self._monitor[1].stop()
            self._monitor = None

    def abort(self) -> None:
        """The connection is gone; the monitor is not among the streams, so end it too."""
        super().abort()
        self._end_monitor()

    def input_ended(self) -> None:
        """Serf knows no half-closed connections: nothing is left to tell this client."""
        for slot in list(self.slots.values()):
            slot.stop()
        self._end_monitor()

    def _end_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor[1].stop()

    def _members(self) -> bytes:
        node = self.agent.node
        version, body = self.service.cache.get("rpc members", (-1, b""))
        if version != node.members_version:
            version = node.members_version
            body = pack({"Members": [fields.member(one) for one in node.members()]})
            self.service.cache["rpc members"] = version, body
        return body

    async def _filtered(self, seq: int, body: Body) -> None:
        """Filtered members; a bad expression ends the connection without a word, as in Serf."""
        if not (body["Name"] or body["Status"] or body["Tags"]):
            self._out += header(seq) + self._members()
            return
        try:
            found = await commands.members(self.agent, body["Name"], body["Status"], body["Tags"])
        except InvalidFilter as error:
            _log.error("Failed to evaluate request: Failed to compile regex: %.200s", error)
            self._end()
        else:
            self._out += header(seq) + pack({"Members": [fields.member(one) for one in found]})

    async def _open(self, command: str, seq: int, body: Body) -> None:
        """Open a stream or the one monitor, unless that is refused."""
        error = ""
        level = body.get("LogLevel", "").upper()
        if command == "stream":
            try:
                EventFilter.parse(body["Type"])
            except InvalidFilter:
                error = "Invalid event filter"
            if not error and seq in self.slots:
                error = "Stream with given sequence exists"
            elif not error and len(self.slots) >= MAX_STREAMS:
                error = "Too many streams"
        elif level not in commands.LOG_LEVELS:
            error = f"Unknown log level: {level}"
        elif self._monitor is not None:
            error = "Monitor already exists"
        await self._flush()
        if error:
            await self.send(header(seq, error))
        elif command == "stream":
            await self.start(self._stream, seq, body["Type"])
        else:
            await self.start(self._watch_log, seq, level)

    async def _stream(self, seq: int, kinds: str, *, task_status: trio.TaskStatus[None]) -> None:
        slot = self.slots[seq] = StreamHandle()
        filters = EventFilter.parse(kinds)
        node = self.agent.node
        with node.subscribe(*filters, answers=self.answerer, buffer=EVENT_BUFFER) as events:
            await self._pump(seq, slot, events.receive, event_record, task_status)
        if self.slots.get(seq) is slot:
            del self.slots[seq]

    async def _watch_log(
        self, seq: int, level: str, *, task_status: trio.TaskStatus[None]
    ) -> None:
        slot = StreamHandle()
        self._monitor = seq, slot
        with self.agent.logs.subscribe(level, buffer=EVENT_BUFFER) as lines:
            await self._pump(
                seq, slot, lines.receive, lambda line: {"Log": line.text}, task_status
            )

    async def _pump(
        self,
        seq: int,
        slot: StreamHandle,
        receive: Callable[[], Awaitable[Any]],
        show: Callable[[Any], Body],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Say that the stream began, then send its records."""
        start = header(seq)
        await self.send(start)
        task_status.started()
        while (item := await slot.next(receive)) is not END:
            if isinstance(item, Dropped):
                _log.warning("Dropped %d records for a slow client", item.count)
            else:
                await self.send(start + pack(show(item)))

    async def _query(self, seq: int, body: Body, *, task_status: trio.TaskStatus[None]) -> None:
        """Ask the cluster and send what comes; not for `stop` to end."""
        slot = StreamHandle(finite=True)
        self.slots[slot] = slot
        started = False
        try:
            with capture_error("query") as attempt:
                async with commands.query(
                    self.agent,
                    body["Name"],
                    body["Payload"],
                    nodes=body["FilterNodes"],
                    tags=body["FilterTags"],
                    timeout=max(body["Timeout"], 1) / 1e9 if body["Timeout"] else None,
                    ack=body["RequestAck"],
                    relay_factor=body["RelayFactor"],
                    first=None,
                ) as receive:
                    start = header(seq)
                    await self.send(start)
                    started = True
                    task_status.started()
                    heard = trio.current_time()
                    while (item := await slot.next(receive)) is not END:
                        record = query_record(item)
                        if record["Type"] == "done":
                            await trio.sleep_until(heard + DONE_GAP)
                        await self.send(start + pack(record))
                        heard = trio.current_time()
            if isinstance(attempt.error, InvalidFilter):
                # Serf asks all the same, and nobody feels meant.
                _log.warning("Query '%.80s' is for nobody: %.200s", body["Name"], attempt.error)
                await self.send(header(seq) + header(seq) + pack(NOBODY))
            elif attempt.fault is not None:
                await self.send(header(seq, error_text(attempt.error, attempt.fault)))
        finally:
            del self.slots[slot]
            if not started:
                task_status.started()

    async def _leave(self, seq: int) -> None:
        async def reply(error: Exception | None) -> None:
            await self.send(header(seq, "" if error is None else str(error)))

        await self.leave(reply)

    async def _flush(self) -> None:
        if self._out:
            data, self._out = bytes(self._out), bytearray()
            await self.send(data)
