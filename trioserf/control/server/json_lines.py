"""The JSON lines: one JSON object per line (see control/README.md).

Replies to prompt requests that arrive together are sent together. The list of members is encoded
once for all clients until it changes.
"""

import json
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import trio

from trioserf.control.errors import ControlError
from trioserf.control.server import params
from trioserf.control.server.access import Client
from trioserf.control.server.admission import Place
from trioserf.control.server.commands import COMMANDS, CONNECTION_PARAMS, STREAMS, Command, Stream
from trioserf.control.server.connection import (
    CHUNK,
    END,
    MAX_STREAMS,
    MAX_SUBMITTED,
    TURN,
    Connection,
    ServerContext,
    StreamHandle,
)
from trioserf.control.server.error_mapping import capture_error, to_control_error
from trioserf.control.server.http import HTTP_ERROR, is_http
from trioserf.control.server.params import bad_request
from trioserf.control.server.permissions import Requirement
from trioserf.node.state_owner import Request

_log = logging.getLogger("trioserf.agent.ipc")

_CHEAP = frozenset(("event", "coordinate", "rtt"))
"""Commands of which `TURN` may run without a turn for other tasks."""
PROTOCOL = 1
"""The version in the reply to `handshake`."""


class NumberLiteral(float):
    """A number that keeps its text, to be echoed unchanged."""

    __slots__ = ("text",)
    text: str

    @classmethod
    def of(cls, text: str) -> "NumberLiteral":
        """Parse a number."""
        number = cls(text)
        number.text = text
        return number


def _integer(text: str) -> int | NumberLiteral:
    return NumberLiteral.of(text) if text == "-0" else int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_decode = json.JSONDecoder(
    parse_float=NumberLiteral.of, parse_int=_integer, parse_constant=_constant
).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(record: Mapping[str, Any] | str) -> bytes:
    r"""Encode a record in UTF-8.

    Text with surrogate escapes (bytes that are not UTF-8) has no UTF-8 form: such a record is
    encoded in ASCII, its escapes as `\udcXX`, which `json.loads` decodes unchanged.
    """
    try:
        return _encode(record).encode()
    except UnicodeEncodeError:
        return _encode_ascii(record).encode("ascii")


def decode(line: bytes) -> dict[str, Any]:
    """Decode a request.

    Raises:
        ControlError: `bad_request`; not UTF-8, not JSON or not an object.
    """
    try:
        request = _decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_request(f"the line is not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the line is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise bad_request("the line is not a JSON object")
    return request


def encode_seq(seq: object) -> bytes:
    """Encode a seq as it was received.

    Raises:
        ControlError: `bad_request`; neither a number nor a string.
    """
    if isinstance(seq, str):
        return encode(seq)
    if isinstance(seq, NumberLiteral):
        return seq.text.encode("ascii")
    if isinstance(seq, int) and not isinstance(seq, bool):
        return b"%d" % seq
    raise bad_request("seq: expected a number or a string")


class JsonLines(Connection):
    """A connection of JSON lines."""

    def __init__(
        self,
        context: ServerContext,
        stream: trio.abc.Stream,
        place: Place,
        client: Client | None = None,
    ) -> None:
        super().__init__(context, stream, place, client)
        self._parts: list[bytes] = []
        self._length = 0
        self._has_begun = False
        self._out: list[bytes] = []
        self._out_length = 0
        self._submitted: deque[tuple[bytes, Request[int]]] = deque()
        """Events without a reply, by the beginning of that."""
        self._turn = 0

    async def feed(self, data: bytes) -> bool:
        """Handle every complete line."""
        lines = data.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if self._parts:
                self._parts.append(line)
                self._length += len(line)
                line = b"".join(self._parts)
                self._parts, self._length = [], 0
            if len(line) > self.max_message:
                await self._reject_long_line()
                return False
            if line and not line.isspace():
                if self._turn <= 0:
                    self._turn = TURN
                    await trio.lowlevel.checkpoint()  # other tasks run between two requests
                await self._handle_line(line)
                if self.ending:
                    return False
        await self._flush()
        if rest:
            self._parts.append(rest)
            self._length += len(rest)
            if self._length > self.max_message:
                await self._reject_long_line()
                return False
        return bool(self._parts)

    async def _reject_long_line(self) -> None:
        error = ControlError("line_too_long", f"a line may have {self.max_message} bytes")
        await self._end_with(_encode_error(b"{", error))

    async def _end_with(self, reply: bytes) -> None:
        """Send a last reply, and read no more."""
        await self._put(reply)
        await self._flush()
        self.ending = True

    async def _handle_line(self, line: bytes) -> None:
        """Handle one request; end the connection if its first line is not a JSON object.

        What follows such a line belongs to another protocol and must not be executed, such as the
        body of an HTTP request that a web page makes a browser send.
        """
        prefix = b"{"
        with capture_error("?") as captured:
            request = decode(line)
            self._has_begun = True
            if "seq" in request:
                prefix = b'{"seq":%b,' % encode_seq(request["seq"])
            captured.command = params.text(request.get("command"), "command")
            self.context.requested.add()
            await self._dispatch(captured.command, prefix, request)
        if captured.control_error is None:
            return
        reply = _encode_error(prefix, captured.control_error)
        if self._has_begun:
            await self._put(reply)
        elif is_http(line):
            _log.warning("A client at %s sent an HTTP request", self.place.source)
            await self._end_with(HTTP_ERROR)
        else:
            await self._end_with(reply)

    async def _dispatch(self, name: str, prefix: bytes, request: dict[str, Any]) -> None:
        if not self.authenticated and name != "auth":
            self.mark_first_request()
            raise self.refusal()
        command = COMMANDS.get(name)
        self._turn -= 1 if name in _CHEAP else TURN
        if command is not None:
            values = command.params.read(request)
            self.authorize(name, command, values)
            values = self._with_responder(name, command, values)
            if name == "members" and not (values["name"] or values["status"] or values["tags"]):
                await self._put(prefix + self._encode_members())
            elif name == "event" and self.context.audit is None:
                submitted = await self.agent.node.submit_user_event(**values)
                self._submitted.append((prefix, submitted))
                if len(self._submitted) >= MAX_SUBMITTED:
                    await self._collect()
            elif command.prompt:
                with self.auditing(name, command, values):
                    result = await command.run(self.agent, **values)
                await self._put(_encode_reply(prefix, command.show(result)))
            elif name == "leave":
                await self.run_concurrently(self._leave, prefix)
            else:
                await self.run_concurrently(self._run_command, name, command, prefix, values)
        elif (stream := STREAMS.get(name)) is not None:
            values = stream.params.read(request)
            self.authorize(name, stream, values)
            values = self._with_responder(name, stream, values)
            await self._start_stream(name, stream, prefix, values)
        elif (parameters := CONNECTION_PARAMS.get(name)) is not None:
            await self._put(
                _encode_reply(
                    prefix,
                    await self._handle_connection_command(name, parameters.read(request)),
                )
            )
        else:
            raise ControlError("unknown_command", f"unknown command '{name}'")
        self.mark_first_request()

    def _with_responder(
        self, name: str, command: Command | Stream, values: dict[str, Any]
    ) -> dict[str, Any]:
        """Add the client's `Responder`; a client that may not respond only watches.

        Raises:
            ControlError: `forbidden`; it declares that it responds.
        """
        if not command.responds:
            return values
        if "answers" in values and not self.client.permissions.has("respond"):
            if values["answers"]:
                self.require(name, values, Requirement("respond"))
            values = {**values, "answers": False}
        return {**values, "by": self.responder}

    async def _handle_connection_command(
        self, name: str, values: dict[str, Any]
    ) -> dict[str, Any]:
        if name == "handshake":
            from trioserf import __version__

            node = self.agent.node.name
            return {"protocol": PROTOCOL, "version": __version__, "node": node}
        if name == "auth":
            access = self.context.access
            if access.has_keys and (reason := await self.authenticate(values["key"])):
                raise ControlError("auth_failed", reason)
            if not self.authenticated:
                raise self.refusal()
            return {}
        handle = self.streams.pop(b'{"seq":%b,' % encode_seq(values["stop"]), None)
        if handle is not None:
            handle.stop()
        return {}

    def _encode_members(self) -> bytes:
        """Return the encoded reply to `members` without filters, after its seq."""
        show = COMMANDS["members"].show
        return self.context.encode_members(
            "json", lambda members: _encode_reply(b"", show(members))
        )

    async def _run_command(
        self, name: str, command: Command, prefix: bytes, values: dict[str, Any]
    ) -> None:
        """Run a command that waits for other members."""
        with capture_error(name) as captured, self.auditing(name, command, values):
            reply = _encode_reply(prefix, command.show(await command.run(self.agent, **values)))
        await self.send(
            reply
            if captured.control_error is None
            else _encode_error(prefix, captured.control_error)
        )

    async def _leave(self, prefix: bytes) -> None:
        async def reply(error: Exception | None) -> None:
            await self.send(
                _encode_reply(prefix, {})
                if error is None
                else _encode_error(prefix, to_control_error(error, "leave"))
            )

        await self.leave(reply)

    async def _start_stream(
        self, name: str, stream: Stream, prefix: bytes, values: dict[str, Any]
    ) -> None:
        if prefix != b"{" and prefix in self.streams:
            raise bad_request("seq: a stream with this seq is open")
        if len(self.streams) >= MAX_STREAMS:
            raise bad_request(f"a connection may have {MAX_STREAMS} streams")
        await self._flush()
        await self.start(self._run_stream, name, stream, prefix, values)

    async def _run_stream(
        self,
        name: str,
        stream: Stream,
        prefix: bytes,
        values: dict[str, Any],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Send the records of a stream until it ends or is stopped."""
        handle = StreamHandle(stream.finite)
        key: object = prefix if prefix != b"{" else handle
        self.streams[key] = handle
        started = False
        try:
            with capture_error(name) as captured:
                async with AsyncExitStack() as stack:
                    with self.auditing(name, stream, values):
                        receive = await stack.enter_async_context(
                            stream.open(self.agent, **values)
                        )
                    await self.send(_encode_reply(prefix, {}))
                    started = True
                    task_status.started()
                    while (item := await handle.next(receive)) is not END:
                        record = stream.show(item, self.context.wall)
                        await self.send(prefix + encode(record)[1:] + b"\n")
            if captured.control_error is not None:
                await self.send(_encode_error(prefix, captured.control_error))
        finally:
            if self.streams.get(key) is handle:
                del self.streams[key]
            if not started:
                task_status.started()

    async def _put(self, reply: bytes) -> None:
        """Queue a reply, to be sent with others."""
        if self._submitted:
            await self._collect()
        self._out.append(reply)
        self._out_length += len(reply)
        if self._out_length > CHUNK:
            await self._flush()

    async def _collect(self) -> None:
        """Wait for the results of the submitted events, and queue the replies."""
        while self._submitted:
            prefix, request = self._submitted.popleft()
            with capture_error("event") as captured:
                reply = _encode_reply(prefix, {"ltime": await request.result()})
            if captured.control_error is not None:
                reply = _encode_error(prefix, captured.control_error)
            self._out.append(reply)
            self._out_length += len(reply)

    async def _flush(self) -> None:
        if self._submitted:
            await self._collect()
        if self._out:
            data = b"".join(self._out) if len(self._out) > 1 else self._out[0]
            self._out, self._out_length = [], 0
            await self.send(data)


def _encode_reply(prefix: bytes, result: Mapping[str, Any]) -> bytes:
    """Encode a reply; `prefix` opens the object and holds its seq, if any."""
    if not result:
        return prefix + b'"ok":true}\n'
    return prefix + b'"ok":true,' + encode(result)[1:] + b"\n"


def _encode_error(prefix: bytes, control_error: ControlError) -> bytes:
    """Encode an error; its causes go into `error`, other details beside it."""
    error: dict[str, Any] = {"code": control_error.code, "message": control_error.message}
    details = dict(control_error.details)
    if "causes" in details:
        error["causes"] = details.pop("causes")
    return prefix + b'"ok":false,' + encode({"error": error, **details})[1:] + b"\n"
