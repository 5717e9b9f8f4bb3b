"""Streams: one message from each side of a TCP connection (spec: streams).

`[label header][encryption][compress][message]`, outside in as in a packet, but here the lengths
come first: an encrypted stream is byte 10, the length of the sealed payload in four bytes, and the
payload, whose associated data are those five bytes and the label.

A push/pull has no length of its own; its end is where the last map and the bytes announced in the
header end. The decoder therefore takes bytes as they come (see `stream_readers`) and keeps nothing
for what a header merely promises.

What is encrypted or compressed comes as a whole, and up to 40 MiB of it would take seconds to
read in one go. So the decoder works in steps of a few milliseconds, and its owner does other
things in between.
"""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

from trioserf.wire.encryption import OVERHEAD, Keys, Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.label import label_header, mismatch
from trioserf.wire.lzw import Expansion
from trioserf.wire.msgpack import new_packer, pack
from trioserf.wire.packet import compress_message
from trioserf.wire.stream_decoders import (
    MAX_SEALED,
    CompressReader,
    PushPullReader,
    Reader,
    reader_of,
)
from trioserf.wire.swim_codec import LABEL, node_state_fields, push_pull_header
from trioserf.wire.swim_messages import Message, PushPull

MAX_EXPANDED: Final = 40 * 1024 * 1024
"""What a compressed stream may expand to, in bytes."""
MAX_COMPRESSED: Final = 65_536
"""Longest message we compress, in bytes: longer ones would hold up the event loop."""

_ENCRYPT = 10
_WORTH_COMPRESSING = 128
_STEP = 16_384
"""Bytes of content that are read in one step."""
_EXPANDED_STEP = 4096
"""Compressed bytes that are expanded in one step: up to ten megabytes may come of them."""
_COMPRESSED = "compressed stream"
_length = struct.Struct(">I")


class StreamCodec:
    """Messages to the bytes of streams and back, for one cluster's label and keys.

    Args:
        keyring: keys, followed as they change; None or empty means no encryption.
        label: the cluster's label, up to 255 bytes; empty for none.
        verify_incoming: refuse plaintext when there are keys.
        verify_outgoing: encrypt when there are keys.
        compress: compress messages of 128 bytes to 64 KiB where that makes them smaller.
        nonce: gives that many unpredictable bytes.
        sealer: has keys, switches and nonces, and is shared with a packet codec: these are not
            looked at then.

    Raises:
        ValueError: the label is too long.
    """

    def __init__(
        self,
        *,
        keyring: Keys | None = None,
        label: bytes = b"",
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
        compress: bool = True,
        nonce: Callable[[int], bytes] = os.urandom,
        sealer: Sealer | None = None,
    ) -> None:
        self._sealer = sealer or Sealer(
            keyring, nonce, verify_incoming=verify_incoming, verify_outgoing=verify_outgoing
        )
        self._label = label
        self._header = label_header(label)
        self._compress = compress

    def encode(self, message: bytes) -> bytes:
        """Give the bytes to send for an encoded message: a ping, an ack, an error."""
        if self._compress and _WORTH_COMPRESSING <= len(message) <= MAX_COMPRESSED:
            compressed = compress_message(message)
            if len(compressed) < len(message):
                message = compressed
        if self._sealer.seals:
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
        return StreamDecoder(self._sealer, self._label)

    def _seal(self, message: bytes) -> bytes:
        head = bytes((_ENCRYPT,)) + _length.pack(len(message) + OVERHEAD)
        return head + self._sealer.seal(message, head + self._label)


class StreamDecoder:
    """Takes the bytes of one stream and gives its one message.

    Args:
        sealer: opens what is encrypted.
        label: the label that the stream must have; empty for none.

    Attributes:
        fault: the first of the rows that were passed over, or None.
    """

    def __init__(self, sealer: Sealer, label: bytes) -> None:
        self.fault: WireError | None = None
        self._sealer = sealer
        self._label = label
        self._head = bytearray()
        self._is_labelled = False
        self._sealed: int | None = None
        self._reader: Reader | None = None
        self._has_begun = self._is_open = False
        self._pieces: Iterator[bytes] | None = None
        self._unread = 0
        self._envelope = ""

    def feed(self, data: bytes) -> Message | None:
        """Take in the next bytes and do a step of work; not to be called while it `is_busy`.

        Returns:
            The message, once it is whole; bytes after it are ignored.

        Raises:
            WireError: these bytes are no message, or not one for us.
        """
        self._has_begun = self._has_begun or bool(data)
        if self._is_open:
            self._pieces = _cut(data)
            return self.work()
        self._head += data
        if not self._is_labelled and self._head and not self._strip_label():
            return None
        return self._open() if self._head else None

    @property
    def is_busy(self) -> bool:
        """Whether `work` has to be called before more bytes are of use."""
        return self._pieces is not None

    @property
    def held(self) -> int:
        """The bytes of memory that are taken up by what has come, roughly."""
        held = 0 if self._reader is None else self._reader.held
        return len(self._head) + self._unread + held

    def work(self) -> Message | None:
        """Do another step of work on what has come (as `feed`)."""
        piece = None if self._pieces is None else next(self._pieces, None)
        if piece is not None:
            return self._read(piece)
        self._pieces, self._unread = None, 0
        if self._envelope:
            raise WireError("truncated", f"{self._envelope}: ends in the middle of a message")
        return None

    def end(self) -> WireError:
        """Say what it means that the stream ends here, without a whole message."""
        if not self._has_begun:
            return WireError("truncated", "stream: closed before its first byte")
        return WireError("truncated", "stream: ends in the middle of a message")

    def _read(self, piece: bytes) -> Message | None:
        reader = self._reader
        if reader is None:
            if not piece:
                return None
            may_be_compressed = self._envelope != _COMPRESSED
            self._reader = reader = reader_of(piece[0], may_be_compressed=may_be_compressed)
            piece = piece[1:]
        message = reader.feed(piece)
        if isinstance(reader, PushPullReader):
            self.fault = reader.fault
        elif isinstance(reader, CompressReader) and reader.content is not None:
            self._envelope = _COMPRESSED
            self._pieces = _expanded(reader.content)
            self._unread = len(reader.content)
            self._reader = None
        return message

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
            if self._sealer.enabled and self._sealer.verify_incoming:
                raise WireError(
                    "plaintext-refused", "stream is not encrypted, but encryption is required"
                )
            return self._begin(bytes(head))
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
        with memoryview(head) as view, view[5:end] as sealed:
            plain = self._sealer.open(sealed, bytes(head[:5]) + self._label)
        self._envelope = "encrypted stream"
        return self._begin(plain)

    def _begin(self, content: bytes) -> Message | None:
        """Begin to read what is inside label and encryption."""
        self._head = bytearray()
        self._is_open = True
        self._unread = len(content)
        self._pieces = _cut(content)
        return self.work()


def _cut(data: bytes) -> Iterator[bytes]:
    """Cut content into pieces for one step each."""
    if len(data) <= _STEP:
        return iter((data,))
    return (data[start : start + _STEP] for start in range(0, len(data), _STEP))


def _expanded(data: bytes) -> Iterator[bytes]:
    """Expand an LZW stream, a piece for each step; some of them may be empty.

    Raises:
        WireError: it is none.
    """
    expansion = Expansion(MAX_EXPANDED)
    for start in range(0, len(data), _EXPANDED_STEP):
        yield from _cut(expansion.expand(data[start : start + _EXPANDED_STEP]))
        if expansion.ended:
            return
    expansion.end()
