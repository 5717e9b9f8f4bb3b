"""Streams: one message from each side of a TCP connection (spec: streams).

`[label header][encryption][compress][message]`, outside in as in a packet, but here the lengths
come first: an encrypted stream is byte 10, the length of the sealed payload in four bytes, and the
payload, whose associated data are those five bytes and the label.

A push/pull has no length of its own; its end is where the last map and the bytes announced in the
header end. The decoder therefore takes bytes as they come, parses each once, and keeps nothing for
what a header merely promises: it holds what has arrived, within the limits below.
"""

import os
import struct
from collections.abc import Callable
from typing import Final, Protocol

from msgpack import OutOfData, Unpacker, UnpackException

from trioserf.swim.messages import Message, NodeState, PushPull, UserMessage
from trioserf.wire.crypto import OVERHEAD, Keys, Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.label import label_header, mismatch
from trioserf.wire.msgpack import U32, Fields, fields_of, flag, new_packer, pack, unsigned
from trioserf.wire.packet import compress_message, decompress_message
from trioserf.wire.swim import (
    COMPRESS,
    DECODERS,
    LABEL,
    USER,
    decode_node_state,
    node_state_fields,
    push_pull_header,
)

MAX_SEALED: Final = 20 * 1024 * 1024
"""Longest encrypted payload, in bytes."""
MAX_NODES: Final = 1_048_576
MAX_USER_STATE: Final = 20 * 1024 * 1024
MAX_USER_MESSAGE: Final = 20 * 1024 * 1024
MAX_EXPANDED: Final = 40 * 1024 * 1024
"""What a compressed stream may expand to, in bytes."""
MAX_COMPRESSED: Final = 65_536
"""Longest message we compress, in bytes: longer ones would hold up the event loop."""

_PUSH_PULL = 6
_ENCRYPT = 10
_WORTH_COMPRESSING = 128
_MAX_MAP = 256
_MAX_LIST = 16
_length = struct.Struct(">I")


class _Reader(Protocol):
    """Reads one kind of content; gives the message once it is whole."""

    def feed(self, data: bytes) -> Message | None: ...


class StreamCodec:
    """Messages to the bytes of streams and back, for one cluster's label and keys.

    Args:
        keyring: keys, followed as they change; None or empty means no encryption.
        label: the cluster's label, up to 255 bytes; empty for none.
        verify_incoming: refuse plaintext when there are keys.
        verify_outgoing: encrypt when there are keys.
        compress: compress messages of 128 bytes to 64 KiB where that makes them smaller.
        nonce: gives that many unpredictable bytes.

    Raises:
        ValueError: the label is too long.
    """

    def __init__(
        self,
        *,
        keyring: Keys | None,
        label: bytes = b"",
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
        compress: bool = True,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._sealer = Sealer(keyring, nonce)
        self._label = label
        self._header = label_header(label)
        self._verify_incoming = verify_incoming
        self._verify_outgoing = verify_outgoing
        self._compress = compress

    def encode(self, message: bytes) -> bytes:
        """Give the bytes to send for an encoded message: a ping, an ack, an error."""
        if self._compress and _WORTH_COMPRESSING <= len(message) <= MAX_COMPRESSED:
            compressed = compress_message(message)
            if len(compressed) < len(message):
                message = compressed
        if self._verify_outgoing and self._sealer.enabled:
            message = self._seal(message)
        return self._header + message

    def encode_push_pull(self, message: PushPull) -> bytes:
        """Give the bytes to send for an exchange of states."""
        packer = new_packer(autoreset=False)
        packer.pack(push_pull_header(message))
        for node in message.nodes:
            packer.pack(node_state_fields(node))
        return self.encode(b"\x06" + packer.bytes() + message.user_state)

    def encode_user_message(self, payload: bytes) -> bytes:
        """Give the bytes to send for a message of the layer above."""
        return self.encode(b"\x08" + pack({"UserMsgLen": len(payload)}) + payload)

    def decoder(self) -> "StreamDecoder":
        """Make a decoder for what one connection brings."""
        return StreamDecoder(self._sealer, self._label, verify=self._verify_incoming)

    def _seal(self, message: bytes) -> bytes:
        head = bytes((_ENCRYPT,)) + _length.pack(len(message) + OVERHEAD)
        return head + self._sealer.seal(message, head + self._label)


class StreamDecoder:
    """Takes the bytes of one stream and gives its one message.

    Args:
        sealer: opens what is encrypted.
        label: the label that the stream must have; empty for none.
        verify: refuse plaintext when there are keys.
    """

    def __init__(self, sealer: Sealer, label: bytes, *, verify: bool) -> None:
        self._sealer = sealer
        self._label = label
        self._verify = verify
        self._head = bytearray()
        self._is_labelled = False
        self._sealed: int | None = None
        self._content: _Reader | None = None
        self._has_begun = False

    def feed(self, data: bytes) -> Message | None:
        """Take in the next bytes.

        Returns:
            The message, once it is whole; bytes after it are ignored.

        Raises:
            WireError: these bytes are no message, or not one for us.
        """
        self._has_begun = self._has_begun or bool(data)
        if self._content is not None:
            return self._content.feed(data)
        self._head += data
        if not self._is_labelled and not self._strip_label():
            return None
        return self._open() if self._head else None

    def end(self) -> WireError:
        """Say what it means that the stream ends here, without a whole message."""
        if not self._has_begun:
            return WireError("truncated", "stream: closed before its first byte")
        return WireError("truncated", "stream: ends in the middle of a message")

    def _strip_label(self) -> bool:
        head = self._head
        if head[0] != LABEL:
            if self._label:
                raise mismatch(b"", self._label)
        elif len(head) < 2 or len(head) < 2 + head[1]:
            return False
        elif head[1] == 0:
            raise WireError("truncated", "label header: expected a length from 1 to 255")
        else:
            found = bytes(head[2 : 2 + head[1]])
            if found != self._label:
                raise mismatch(found, self._label)
            del head[: 2 + len(found)]
        self._is_labelled = True
        return True

    def _open(self) -> Message | None:
        head = self._head
        if head[0] != _ENCRYPT:
            if self._sealer.enabled and self._verify:
                raise WireError(
                    "plaintext-refused", "stream is not encrypted, but encryption is required"
                )
            self._content = _Content()
            return self._content.feed(bytes(head))
        if self._sealed is None:
            if not self._sealer.enabled:
                raise WireError(
                    "encrypted", "remote state is encrypted and encryption is not configured"
                )
            if len(head) < 5:
                return None
            (self._sealed,) = _length.unpack_from(head, 1)
            if self._sealed > MAX_SEALED:
                raise WireError(
                    "limit", f"encrypted stream of {self._sealed} bytes, at most {MAX_SEALED}"
                )
        end = 5 + self._sealed
        if len(head) < end:
            return None
        plain = self._sealer.open(bytes(head[5:end]), bytes(head[:5]) + self._label)
        return _whole(plain, "encrypted stream")


class _Content:
    """Reads what is inside label and encryption, whatever kind it turns out to be."""

    def __init__(self, *, may_be_compressed: bool = True) -> None:
        self._may_be_compressed = may_be_compressed
        self._reader: _Reader | None = None

    def feed(self, data: bytes) -> Message | None:
        if self._reader is None:
            if not data:
                return None
            self._reader = self._reader_of(data[0])
            data = data[1:]
        return self._reader.feed(data)

    def _reader_of(self, kind: int) -> _Reader:
        if kind == _PUSH_PULL:
            return _PushPullReader()
        if kind == USER:
            return _UserMessageReader()
        if kind == COMPRESS and self._may_be_compressed:
            return _CompressReader()
        if kind in DECODERS:
            return _SingleReader(kind)
        raise WireError("unknown-type", f"stream: message of type {kind} is not expected")


def _whole(data: bytes, what: str) -> Message:
    """Read content that has come as a whole."""
    if not data:
        raise WireError("truncated", f"{what}: empty, expected a message")
    compressed = what == "compressed stream"
    message = _Content(may_be_compressed=not compressed).feed(data)
    if message is None:
        raise WireError("truncated", f"{what}: ends in the middle of a message")
    return message


class _Maps:
    """A row of maps, parsed as they arrive."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unpacker = Unpacker(
            raw=True,
            max_buffer_size=limit,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=_MAX_LIST,
            max_map_len=_MAX_MAP,
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

    def take(self, count: int) -> bytes:
        """Give up to so many of the bytes that follow the last map."""
        data: bytes = self._unpacker.read_bytes(count)
        return data


class _SingleReader:
    """One message that is one map."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._data = bytearray((kind,))
        self._maps = _Maps(65_536)

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        self._data += data
        if self._maps.next("stream") is None:
            return None
        return DECODERS[self._kind](bytes(self._data))


class _CompressReader:
    def __init__(self) -> None:
        self._data = bytearray((COMPRESS,))
        self._maps = _Maps(MAX_SEALED)

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        self._data += data
        if self._maps.next("compress") is None:
            return None
        return _whole(decompress_message(bytes(self._data), MAX_EXPANDED), "compressed stream")


class _Tail:
    """So many bytes at the end of a message."""

    def __init__(self, length: int) -> None:
        self._left = length
        self._data = bytearray()

    def take(self, maps: _Maps) -> bytes | None:
        data = maps.take(self._left)
        self._data += data
        self._left -= len(data)
        return None if self._left else bytes(self._data)


class _UserMessageReader:
    def __init__(self) -> None:
        self._maps = _Maps(MAX_USER_MESSAGE + 65_536)
        self._tail: _Tail | None = None

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        if self._tail is None:
            header = self._maps.next("user message header")
            if header is None:
                return None
            self._tail = _Tail(
                _within(header, b"UserMsgLen", MAX_USER_MESSAGE, "user message length")
            )
        payload = self._tail.take(self._maps)
        return None if payload is None else UserMessage(payload)


class _PushPullReader:
    def __init__(self) -> None:
        self._maps = _Maps(MAX_EXPANDED + 65_536)
        self._is_join = False
        self._missing = 0
        self._nodes: list[NodeState] = []
        self._tail: _Tail | None = None

    def feed(self, data: bytes) -> Message | None:
        self._maps.feed(data)
        if self._tail is None:
            header = self._maps.next("push/pull header")
            if header is None:
                return None
            self._is_join = flag(header.get(b"Join"), "push/pull Join")
            self._missing = _within(header, b"Nodes", MAX_NODES, "push/pull nodes")
            self._tail = _Tail(
                _within(header, b"UserStateLen", MAX_USER_STATE, "push/pull user state")
            )
        while self._missing:
            fields = self._maps.next("push/pull node")
            if fields is None:
                return None
            self._nodes.append(decode_node_state(fields))
            self._missing -= 1
        user_state = self._tail.take(self._maps)
        if user_state is None:
            return None
        return PushPull(self._is_join, tuple(self._nodes), user_state)


def _within(header: Fields, key: bytes, limit: int, what: str) -> int:
    count = unsigned(header.get(key), what, U32)
    if count > limit:
        raise WireError("limit", f"{what}: {count}, at most {limit} are allowed")
    return count
