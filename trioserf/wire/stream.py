"""Codec of streams: one message from each side of a TCP connection (wire/README.md, § Streams).

`[label header][encryption][compress][message]`

Only the side that dials sends the label header; an answer has none. Both are encrypted with the
label as associated data.

A push/pull has no length prefix: it ends with the last map and the bytes announced in its header.
So the decoder takes bytes as they arrive (see `stream_decoders`), and reserves no memory for
lengths that a header only announces.

Encrypted or compressed content arrives as a whole, and decoding 40 MiB at once would take
seconds. So the decoder works in steps of a few milliseconds, between which the caller can do
other work.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from trioserf.wire.encryption import NONCE_SIZE, OVERHEAD, Keys, Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.label import label_header, mismatch
from trioserf.wire.lzw import Expansion
from trioserf.wire.msgpack import new_packer, pack
from trioserf.wire.packet import compress_message
from trioserf.wire.stream_decoders import (
    MAX_SEALED,
    CompressDecoder,
    ContentDecoder,
    PushPullDecoder,
    decoder_of,
)
from trioserf.wire.swim_codec import ENCRYPT, LABEL, node_state_fields, push_pull_header
from trioserf.wire.swim_messages import Message, NodeState, PushPull

MAX_EXPANDED: Final = 40 * 1024 * 1024
"""Maximum expanded size of a compressed stream, in bytes."""
MAX_COMPRESSED: Final = 65_536
"""Longest message that we compress, in bytes: longer ones would block the event loop."""


_WORTH_COMPRESSING = 128
_STEP = 16_384
"""Bytes of content decoded in one step."""
_EXPANDED_STEP = 4096
"""Compressed bytes expanded in one step, to at most ten megabytes."""
_COMPRESSED = "compressed stream"
_length = struct.Struct(">I")


class StreamCodec:
    """Codec of streams with one cluster's label and keys.

    Args:
        keyring: the keys, which may change; None or empty means no encryption.
        label: the cluster's label, up to 255 bytes; empty for none.
        verify_incoming: whether to refuse plaintext if there are keys.
        verify_outgoing: whether to encrypt if there are keys.
        compress: whether to compress messages of 128 bytes to 64 KiB that become smaller by it.
        nonce: returns that many unpredictable bytes.
        sealer: shared with a packet codec; it replaces keyring, switches and nonce.

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

    def encode(self, message: bytes, *, is_answer: bool = False) -> bytes:
        """Return the stream for an encoded message: a ping, or as an answer an ack or an error."""
        if self._compress and _WORTH_COMPRESSING <= len(message) <= MAX_COMPRESSED:
            compressed = compress_message(message)
            if len(compressed) < len(message):
                message = compressed
        if self._sealer.seals:
            message = self._seal(message)
        return message if is_answer else self._header + message

    def encode_push_pull(self, message: PushPull, *, is_answer: bool = False) -> bytes:
        """Return the stream for a push/pull."""
        rows = [encode_nodes(message.nodes)]
        return self.join_push_pull(
            message.join, len(message.nodes), rows, message.user_state, is_answer=is_answer
        )

    def join_push_pull(
        self,
        join: bool,
        nodes: int,
        rows: Iterable[bytes],
        user_state: bytes,
        *,
        is_answer: bool,
    ) -> bytes:
        """Return the stream for a push/pull whose rows were encoded by `encode_nodes`.

        Args:
            join: whether it is part of a join.
            nodes: the number of rows.
            rows: the rows in pieces.
            user_state: the encoded state of Serf's layer.
            is_answer: whether it answers one, so that it has no label header.
        """
        header = pack(push_pull_header(join, nodes, len(user_state)))
        return self.encode(b"".join((b"\x06", header, *rows, user_state)), is_answer=is_answer)

    def encode_user_message(self, payload: bytes) -> bytes:
        """Return the stream for a user message."""
        return self.encode(b"\x08" + pack({"UserMsgLen": len(payload)}) + payload)

    def decoder(self, *, is_answer: bool = False) -> "StreamDecoder":
        """Return a decoder for what one side of a connection sends."""
        return StreamDecoder(self._sealer, self._label, is_answer=is_answer)

    def _seal(self, message: bytes) -> bytes:
        head = bytes((ENCRYPT,)) + _length.pack(len(message) + OVERHEAD)
        return head + self._sealer.seal(message, head + self._label)


class StreamDecoder:
    """Decodes the one message of a stream.

    Args:
        sealer: decrypts encrypted streams.
        label: the cluster's label; empty for none.
        is_answer: whether the message comes from the side that was dialled, without a header.

    Attributes:
        first_error: the error of the first skipped row, or None.
        nonce: the nonce of the encryption; empty if the stream is not encrypted.
    """

    def __init__(self, sealer: Sealer, label: bytes, *, is_answer: bool) -> None:
        self.first_error: WireError | None = None
        self.nonce = b""
        self._sealer = sealer
        self._label = label
        self._label_in_header = b"" if is_answer else label
        self._head = bytearray()
        self._is_labelled = False
        self._sealed: int | None = None
        self._decoder: ContentDecoder | None = None
        self._has_begun = self._is_open = False
        self._pieces: Iterator[bytes] | None = None
        self._unread = 0
        self._envelope = ""

    def feed(self, data: bytes) -> Message | None:
        """Add bytes and run one step; must not be called while `is_busy`.

        Returns:
            The message once it is complete; bytes after it are ignored.

        Raises:
            WireError: an invalid stream.
        """
        self._has_begun = self._has_begun or bool(data)
        if self._is_open:
            self._pieces = _split(data)
            return self.work()
        self._head += data
        if not self._is_labelled and self._head and not self._strip_label():
            return None
        return self._open() if self._head else None

    @property
    def is_busy(self) -> bool:
        """Whether `work` must be called before the next `feed`."""
        return self._pieces is not None

    @property
    def held(self) -> int:
        """The memory that this decoder holds, in bytes, roughly."""
        held = 0 if self._decoder is None else self._decoder.held
        return len(self._head) + self._unread + held

    def work(self) -> Message | None:
        """Run another step on the bytes of the last `feed` (result as in `feed`)."""
        piece = None if self._pieces is None else next(self._pieces, None)
        if piece is not None:
            return self._read(piece)
        self._pieces, self._unread = None, 0
        if self._envelope:
            raise WireError("truncated", f"{self._envelope}: ends in the middle of a message")
        return None

    def end(self) -> WireError:
        """Return the error of a stream that ends here, without a complete message."""
        if not self._has_begun:
            return WireError("truncated", "stream: closed before its first byte")
        return WireError("truncated", "stream: ends in the middle of a message")

    def _read(self, piece: bytes) -> Message | None:
        decoder = self._decoder
        if decoder is None:
            if not piece:
                return None
            may_be_compressed = self._envelope != _COMPRESSED
            self._decoder = decoder = decoder_of(piece[0], may_be_compressed=may_be_compressed)
            piece = piece[1:]
        message = decoder.feed(piece)
        if isinstance(decoder, PushPullDecoder):
            self.first_error = decoder.first_error
        elif isinstance(decoder, CompressDecoder) and decoder.content is not None:
            self._envelope = _COMPRESSED
            self._pieces = _expand(decoder.content)
            self._unread = len(decoder.content)
            self._decoder = None
        return message

    def _strip_label(self) -> bool:
        head = self._head
        if head[0] != LABEL:
            if self._label_in_header:
                raise mismatch(b"", self._label)
        elif len(head) < 2 or len(head) < 2 + head[1]:
            return False
        elif head[1] == 0:
            raise WireError("truncated", "label header: expected a length from 1 to 255")
        else:
            found = bytes(head[2 : 2 + head[1]])
            if found != self._label_in_header:
                raise mismatch(found, self._label_in_header)
            del head[: 2 + len(found)]
        self._is_labelled = True
        return True

    def _open(self) -> Message | None:
        head = self._head
        if head[0] != ENCRYPT:
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
            self.nonce = bytes(sealed[1 : 1 + NONCE_SIZE])
        self._envelope = "encrypted stream"
        return self._begin(plain)

    def _begin(self, content: bytes) -> Message | None:
        """Begin to decode the content inside label and encryption."""
        self._head = bytearray()
        self._is_open = True
        self._unread = len(content)
        self._pieces = _split(content)
        return self.work()


def encode_nodes(nodes: Iterable[NodeState]) -> bytes:
    """Encode rows of a push/pull."""
    packer = new_packer(autoreset=False)
    for node in nodes:
        packer.pack(node_state_fields(node))
    return bytes(packer.bytes())


def _split(data: bytes) -> Iterator[bytes]:
    """Split content into one piece for each step."""
    if len(data) <= _STEP:
        return iter((data,))
    return (data[start : start + _STEP] for start in range(0, len(data), _STEP))


def _expand(data: bytes) -> Iterator[bytes]:
    """Expand an LZW stream into one piece for each step; a piece may be empty.

    Raises:
        WireError: an invalid stream.
    """
    expansion = Expansion(MAX_EXPANDED)
    for start in range(0, len(data), _EXPANDED_STEP):
        yield from _split(expansion.expand(data[start : start + _EXPANDED_STEP]))
        if expansion.ended:
            return
    expansion.end()
