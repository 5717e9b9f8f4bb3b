"""Decoders of the content of streams as it arrives (wire/README.md, § Streams).

One decoder for each message type. It parses each byte once and holds only bytes that have
arrived, within the limits below. An invalid row of a push/pull is skipped, so that it does not
prevent the exchange of the others.
"""

from typing import Final, Protocol

from msgpack import OutOfData, Unpacker, UnpackException

from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import MAX_FIELDS, MAX_LIST, U32, Fields, fields_of, flag, unsigned
from trioserf.wire.packet import compressed_part
from trioserf.wire.swim_codec import COMPRESS, DECODERS, PUSH_PULL, USER, decode_node_state
from trioserf.wire.swim_messages import Message, NodeState, PushPull, UserMessage

MAX_SEALED: Final = 20 * 1024 * 1024
"""Maximum length of an encrypted or compressed payload, in bytes."""
MAX_NODES: Final = 1_048_576
MAX_USER_STATE: Final = 20 * 1024 * 1024
MAX_USER_MESSAGE: Final = 20 * 1024 * 1024

_MAX_MAP_SIZE = 131_072
"""Maximum length of one map, in bytes; a row has at most some kilobytes."""
_ROW_MEMORY = 640
"""Memory for one row of a push/pull, without its name and metadata, in bytes."""


class ContentDecoder(Protocol):
    """Decodes one message type."""

    @property
    def held(self) -> int:
        """The memory that this decoder holds, in bytes."""
        ...

    def feed(self, data: bytes) -> Message | None:
        """Add bytes; return the message once it is complete."""
        ...


def decoder_of(kind: int, *, may_be_compressed: bool) -> ContentDecoder:
    """Return a decoder for a message type.

    Args:
        kind: the type byte.
        may_be_compressed: whether a compress message is allowed here.

    Raises:
        WireError: `unknown-type`, a type that is not sent by stream.
    """
    if kind == PUSH_PULL:
        return PushPullDecoder()
    if kind == USER:
        return _UserMessageDecoder()
    if kind == COMPRESS and may_be_compressed:
        return CompressDecoder()
    if kind in DECODERS:
        return _SingleMapDecoder(kind)
    raise WireError("unknown-type", f"stream: message of type {kind} is not expected")


class _Maps:
    """A sequence of maps, parsed as they arrive."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unpacker = Unpacker(
            raw=True,
            max_buffer_size=limit,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=MAX_LIST,
            max_map_len=MAX_FIELDS,
            max_ext_len=0,
        )

    def feed(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
        except (ValueError, UnpackException) as error:
            raise WireError("limit", f"stream: more than {self._limit} bytes at once") from error

    def next(self, what: str) -> Fields | None:
        try:
            value: object = self._unpacker.unpack()
        except OutOfData:
            return None
        except (ValueError, UnpackException) as error:
            why = str(error) or type(error).__name__
            raise WireError("msgpack", f"{what}: not the expected MessagePack: {why}") from error
        return fields_of(value, what)

    def read_bytes(self, count: int) -> bytes:
        """Remove and return up to `count` bytes after the last map."""
        data: bytes = self._unpacker.read_bytes(count)
        return data


class _SingleMapDecoder:
    """A message of one map."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._data = bytearray((kind,))
        self._maps = _Maps(65_536)

    @property
    def held(self) -> int:
        return 2 * len(self._data)

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        self._data += data
        if self._maps.next("stream") is None:
            return None
        return DECODERS[self._kind](bytes(self._data))


class CompressDecoder:
    """A compress message; it returns no message, but sets `content` for expansion."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self._maps = _Maps(MAX_SEALED)
        self._received = 0

    @property
    def held(self) -> int:
        """The memory that this decoder holds, in bytes."""
        return self._received

    def feed(self, data: bytes) -> Message | None:
        """Add bytes; set `content` once the message is complete."""
        self._maps.feed(data)
        self._received += len(data)
        fields = self._maps.next("compress")
        if fields is not None:
            self.content = compressed_part(fields)
        return None


class _Tail:
    """The bytes of announced length at the end of a message."""

    def __init__(self, length: int) -> None:
        self._left = length
        self._pieces: list[bytes] = []
        self.held = 0

    def read_from(self, maps: _Maps) -> bytes | None:
        data = maps.read_bytes(self._left)
        if data:
            self._pieces.append(data)
        self.held += len(data)
        self._left -= len(data)
        return None if self._left else b"".join(self._pieces)


class _UserMessageDecoder:
    def __init__(self) -> None:
        self._maps = _Maps(_MAX_MAP_SIZE)
        self._tail: _Tail | None = None

    @property
    def held(self) -> int:
        return _MAX_MAP_SIZE if self._tail is None else self._tail.held

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        if self._tail is None:
            header = self._maps.next("user message header")
            if header is None:
                return None
            self._tail = _Tail(
                _length(header, b"UserMsgLen", MAX_USER_MESSAGE, "user message length")
            )
        payload = self._tail.read_from(self._maps)
        return None if payload is None else UserMessage(payload)


class PushPullDecoder:
    """A push/pull.

    Attributes:
        first_error: the error of the first skipped row, or None.
    """

    def __init__(self) -> None:
        self.first_error: WireError | None = None
        self._maps = _Maps(_MAX_MAP_SIZE)
        self._is_join = False
        self._missing = 0
        self._nodes: list[NodeState] = []
        self._names_and_meta = 0
        self._tail: _Tail | None = None

    @property
    def held(self) -> int:
        """The memory that this decoder holds, in bytes."""
        rows = len(self._nodes) * _ROW_MEMORY + self._names_and_meta
        return _MAX_MAP_SIZE + rows + (0 if self._tail is None else self._tail.held)

    def feed(self, data: bytes) -> Message | None:
        """Add bytes; return the message once it is complete."""
        self._maps.feed(data)
        if self._tail is None:
            header = self._maps.next("push/pull header")
            if header is None:
                return None
            self._is_join = flag(header.get(b"Join"), "push/pull Join")
            self._missing = _length(header, b"Nodes", MAX_NODES, "push/pull nodes")
            self._tail = _Tail(
                _length(header, b"UserStateLen", MAX_USER_STATE, "push/pull user state")
            )
        while self._missing:
            fields = self._maps.next("push/pull node")
            if fields is None:
                return None
            self._missing -= 1
            self._add_row(fields)
        user_state = self._tail.read_from(self._maps)
        if user_state is None:
            return None
        return PushPull(self._is_join, tuple(self._nodes), user_state)

    def _add_row(self, fields: Fields) -> None:
        try:
            node = decode_node_state(fields)
        except WireError as error:
            self.first_error = self.first_error or error.with_traceback(None)
        else:
            self._nodes.append(node)
            self._names_and_meta += len(node.name) + len(node.meta)


def _length(header: Fields, key: bytes, limit: int, what: str) -> int:
    count = unsigned(header.get(key), what, U32)
    if count > limit:
        raise WireError("limit", f"{what}: {count}, at most {limit} are allowed")
    return count
