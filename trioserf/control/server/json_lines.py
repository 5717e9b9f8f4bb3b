"""One JSON object a line: the framing that any language speaks (reference: this room's README).

Replies to prompt requests that arrive together leave together. The list of members is encoded
once for all clients until it changes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import trio

from trioserf.control.errors import ControlError
from trioserf.control.server import params
from trioserf.control.server.commands import COMMANDS, CONNECTION_PARAMS, STREAMS, Command, Stream
from trioserf.control.server.connection import (
    CHUNK,
    END,
    MAX_STREAMS,
    Connection,
    ServerContext,
    StreamHandle,
)
from trioserf.control.server.error_mapping import capture_error, to_control_error
from trioserf.control.server.params import bad_request

PROTOCOL = 1
"""The version that `handshake` tells."""


class NumberLiteral(float):
    """A number that remembers how it was spelled, to be echoed so."""

    __slots__ = ("text",)
    text: str

    @classmethod
    def of(cls, text: str) -> "NumberLiteral":
        """Read a number."""
        number = cls(text)
        number.text = text
        return number


def _integer(text: str) -> int | NumberLiteral:
    return NumberLiteral.of(text) if text == "-0" else int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_decode = json.JSONDecoder(
    parse_float=NumberLiteral.of, parse_int=_integer, parse_constant=_constant
).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(record: Mapping[str, Any] | str) -> bytes:
    r"""Spell a record in UTF-8.

    Text with surrogate escapes (bytes that are not UTF-8) has no UTF-8 form: such a record is
    spelled in ASCII, its escapes as `\udcXX`, which `json.loads` reads back unchanged.
    """
    try:
        return _encode(record).encode()
    except UnicodeEncodeError:
        return _encode_ascii(record).encode("ascii")


def decode(line: bytes) -> dict[str, Any]:
    """Read a request.

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
    """Spell a seq as it came.

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
        service: ServerContext,
        stream: trio.abc.Stream,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(service, stream, accepted)
        self._parts: list[bytes] = []
        self._length = 0
        self._out: list[bytes] = []
        self._out_length = 0

    async def feed(self, data: bytes) -> bool:
        """Handle every line that is complete."""
        lines = data.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if self._parts:
                self._parts.append(line)
                self._length += len(line)
                line = b"".join(self._parts)
                self._parts, self._length = [], 0
            if len(line) > self.longest:
                await self._too_long()
                return False
            if line and not line.isspace():
                await self._line(line)
                if self.ending:
                    return False
        if self._out:
            await self._flush()
        if rest:
            self._parts.append(rest)
            self._length += len(rest)
            if self._length > self.longest:
                await self._too_long()
                return False
        return bool(self._parts)

    async def _too_long(self) -> None:
        fault = ControlError("line_too_long", f"a line may have {self.longest} bytes")
        await self._put(_error(b"{", fault))
        await self._flush()
        self.ending = True

    async def _line(self, line: bytes) -> None:
        """Answer one request, or begin to."""
        prefix = b"{"
        with capture_error("?") as attempt:
            request = decode(line)
            if "seq" in request:
                prefix = b'{"seq":%b,' % encode_seq(request["seq"])
            attempt.command = params.text(request.get("command"), "command")
            self.service.requested.add()
            await self._dispatch(attempt.command, prefix, request)
        if attempt.fault is not None:
            await self._put(_error(prefix, attempt.fault))

    async def _dispatch(self, name: str, prefix: bytes, request: dict[str, Any]) -> None:
        if not self.authenticated and name != "auth":
            self.mark_handshaken()
            raise ControlError("auth_required", "the first command must be auth, with the key")
        command = COMMANDS.get(name)
        if command is not None:
            values = self._with_answerer(command, command.params.read(request))
            if name == "members" and not (values["name"] or values["status"] or values["tags"]):
                await self._put(prefix + self._members())
            elif command.prompt:
                result = await command.run(self.agent, **values)
                await self._put(_ok(prefix, command.show(result)))
            elif name == "leave":
                await self.run_concurrently(self._leave, prefix)
            else:
                await self.run_concurrently(self._perform, name, command, prefix, values)
        elif (stream := STREAMS.get(name)) is not None:
            values = self._with_answerer(stream, stream.params.read(request))
            await self._open(name, stream, prefix, values)
        elif (known := CONNECTION_PARAMS.get(name)) is not None:
            await self._put(_ok(prefix, self._connection_command(name, known.read(request))))
        else:
            raise ControlError("unknown_command", f"unknown command '{name}'")
        self.mark_handshaken()

    def _with_answerer(self, command: Command | Stream, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "by": self.answerer} if command.answers else values

    def _connection_command(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        if name == "handshake":
            from trioserf import __version__

            node = self.agent.node.name
            return {"protocol": PROTOCOL, "version": __version__, "node": node}
        if name == "auth":
            if self.service.auth and not self.service.key_matches(values["key"]):
                raise ControlError("auth_failed", "wrong key")
            self.authenticate()
            return {}
        slot = self.slots.pop(b'{"seq":%b,' % encode_seq(values["stop"]), None)
        if slot is not None:
            slot.stop()
        return {}

    def _members(self) -> bytes:
        """The reply to `members` without filters, after its seq."""
        node = self.agent.node
        version, body = self.service.cache.get("json members", (-1, b""))
        if version != node.members_version:
            version = node.members_version
            body = _ok(b"", COMMANDS["members"].show(node.members()))
            self.service.cache["json members"] = version, body
        return body

    async def _perform(
        self, name: str, command: Command, prefix: bytes, values: dict[str, Any]
    ) -> None:
        """Carry out a request that waits for others."""
        with capture_error(name) as attempt:
            reply = _ok(prefix, command.show(await command.run(self.agent, **values)))
        await self.send(reply if attempt.fault is None else _error(prefix, attempt.fault))

    async def _leave(self, prefix: bytes) -> None:
        async def reply(error: Exception | None) -> None:
            await self.send(
                _ok(prefix, {})
                if error is None
                else _error(prefix, to_control_error(error, "leave"))
            )

        await self.leave(reply)

    async def _open(
        self, name: str, stream: Stream, prefix: bytes, values: dict[str, Any]
    ) -> None:
        if prefix != b"{" and prefix in self.slots:
            raise bad_request("seq: a stream with this seq is open")
        if len(self.slots) >= MAX_STREAMS:
            raise bad_request(f"a connection may have {MAX_STREAMS} streams")
        await self._flush()
        await self.start(self._stream, name, stream, prefix, values)

    async def _stream(
        self,
        name: str,
        stream: Stream,
        prefix: bytes,
        values: dict[str, Any],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Send the records of a stream until it ends or is stopped."""
        slot = StreamHandle(stream.finite)
        key: object = prefix if prefix != b"{" else slot
        self.slots[key] = slot
        started = False
        try:
            with capture_error(name) as attempt:
                async with stream.open(self.agent, **values) as receive:
                    await self.send(_ok(prefix, {}))
                    started = True
                    task_status.started()
                    while (item := await slot.next(receive)) is not END:
                        record = stream.show(item, self.service.wall)
                        await self.send(prefix + encode(record)[1:] + b"\n")
            if attempt.fault is not None:
                await self.send(_error(prefix, attempt.fault))
        finally:
            if self.slots.get(key) is slot:
                del self.slots[key]
            if not started:
                task_status.started()

    async def _put(self, reply: bytes) -> None:
        """Add a reply to those that leave together."""
        self._out.append(reply)
        self._out_length += len(reply)
        if self._out_length > CHUNK:
            await self._flush()

    async def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out) if len(self._out) > 1 else self._out[0]
            self._out, self._out_length = [], 0
            await self.send(data)


def _ok(prefix: bytes, result: Mapping[str, Any]) -> bytes:
    """Spell a reply; `prefix` opens the object and holds its seq, if any."""
    if not result:
        return prefix + b'"ok":true}\n'
    return prefix + b'"ok":true,' + encode(result)[1:] + b"\n"


def _error(prefix: bytes, fault: ControlError) -> bytes:
    """Spell an error; what belongs to the request's result stands beside it."""
    error: dict[str, Any] = {"code": fault.code, "message": fault.message}
    beside = dict(fault.details)
    if "causes" in beside:
        error["causes"] = beside.pop("causes")
    return prefix + b'"ok":false,' + encode({"error": error, **beside})[1:] + b"\n"
