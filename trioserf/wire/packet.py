"""Codec of UDP packets (wire/README.md, § Packets).

`[label header][encryption][CRC header][compress | compound | one message]`

Several messages go into compounds. Nesting deeper than compress, compound, message is never
produced, so the decoder rejects it and needs no recursion.
"""

import os
import struct
from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

from trioserf.wire import lzw
from trioserf.wire.encryption import NONCE_SIZE, OVERHEAD, Keys, Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.label import label_header, strip_label
from trioserf.wire.msgpack import U8, Fields, octets, pack, unpack_fields, unsigned
from trioserf.wire.swim_codec import COMPOUND, COMPRESS, CRC, DECODERS, ERROR, decode
from trioserf.wire.swim_messages import Message

MAX_EXPANDED: Final = 65_536
"""Maximum expanded size of a compressed packet, in bytes: the size of a datagram."""

COMPOUND_OVERHEAD: Final = 2
"""Bytes of a compound's header."""

PART_OVERHEAD: Final = 2
"""Bytes that a compound adds to each part."""

CRC_OVERHEAD: Final = 5

_MAX_PARTS = 255
_LZW = 0

_DECODERS = {kind: decoder for kind, decoder in DECODERS.items() if kind != ERROR}
_PACKET_TYPES = frozenset((*_DECODERS, COMPOUND, COMPRESS, CRC))
_checksum = struct.Struct(">I")
_lengths = [struct.Struct(f">{count}H") for count in range(_MAX_PARTS + 1)]


def compress_message(data: bytes) -> bytes:
    """Wrap a message, a compound or the content of a stream into a compress message."""
    return b"\x09" + pack({"Algo": _LZW, "Buf": lzw.compress(data)})


def decompress_message(data: bytes, limit: int) -> bytes:
    """Expand a compress message; `data` includes the type byte.

    Raises:
        WireError: an invalid message, or one that expands to more than `limit` bytes.
    """
    return lzw.decompress(compressed_part(unpack_fields(data[1:], "compress")), limit)


def compressed_part(fields: Fields) -> bytes:
    """Return the LZW stream in the fields of a compress message.

    Raises:
        WireError: an invalid field, or `compression` for an unknown algorithm.
    """
    algorithm = unsigned(fields.get(b"Algo"), "compress Algo", U8)
    if algorithm != _LZW:
        raise WireError("compression", f"compression algorithm {algorithm}, expected 0 (LZW)")
    return octets(fields.get(b"Buf"), "compress Buf")


def make_compound(parts: Sequence[bytes]) -> bytes:
    """Join 0 to 255 messages of up to 65,535 bytes into one.

    Raises:
        struct.error: a part is too long.
        IndexError: too many parts.
    """
    lengths = _lengths[len(parts)].pack(*map(len, parts))
    return b"".join((bytes((COMPOUND, len(parts))), lengths, *parts))


def split_compound(data: bytes) -> tuple[list[bytes], WireError | None]:
    """Split a compound, including its type byte, into its parts.

    Returns:
        The complete parts, and a `truncated` error if some are incomplete.
    """
    if len(data) < COMPOUND_OVERHEAD:
        return [], WireError("truncated", "compound: expected the number of its parts")
    count = data[1]
    start = COMPOUND_OVERHEAD + PART_OVERHEAD * count
    if len(data) < start:
        return [], WireError("truncated", f"compound: expected the lengths of {count} parts")
    parts: list[bytes] = []
    for length in _lengths[count].unpack_from(data, COMPOUND_OVERHEAD):
        end = start + length
        if end > len(data):
            missing = count - len(parts)
            return parts, WireError(
                "truncated", f"compound: {missing} of {count} parts are incomplete"
            )
        parts.append(data[start:end])
        start = end
    return parts, None


class PacketCodec:
    """Codec of packets with one cluster's label and keys. It never compresses (see `lzw`).

    Args:
        keyring: the keys, which may change; None or empty means no encryption.
        label: the cluster's label, up to 255 bytes; empty for none.
        verify_incoming: whether to refuse plaintext if there are keys.
        verify_outgoing: whether to encrypt if there are keys; off only while a running cluster
            moves to encryption.
        nonce: returns that many unpredictable bytes.
        size: maximum size of a packet, in bytes; used by `budget`.

    Attributes:
        sealer: the keys and the two switches, which may be changed there.
        nonce: the nonce of the last decoded packet; empty if it was not encrypted.

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
        nonce: Callable[[int], bytes] = os.urandom,
        size: int = 1400,
    ) -> None:
        self.sealer = Sealer(
            keyring, nonce, verify_incoming=verify_incoming, verify_outgoing=verify_outgoing
        )
        self.nonce = b""
        self._label = label
        self._header = label_header(label)
        self._size = size

    @property
    def overhead(self) -> int:
        """Bytes that label and encryption add to each packet."""
        return len(self._header) + (OVERHEAD if self.sealer.seals else 0)

    @property
    def largest(self) -> int:
        """Length of the longest message that fits a packet, encrypted or not, in bytes."""
        reserved = len(self._header) + OVERHEAD + CRC_OVERHEAD + COMPOUND_OVERHEAD + PART_OVERHEAD
        return self._size - reserved

    def budget(self, first_len: int) -> int:
        """Return how many bytes are left for further messages beside a first one.

        Args:
            first_len: the length of the first message in bytes; 0 for none.

        Returns:
            Bytes, of which each further message also takes `PART_OVERHEAD`; negative if the
            first message is too long. Room for a checksum is reserved.
        """
        used = self.overhead + CRC_OVERHEAD + COMPOUND_OVERHEAD
        if first_len:
            used += first_len + PART_OVERHEAD
        return self._size - used

    def decode(self, data: bytes) -> tuple[list[Message], WireError | None]:
        """Decode a datagram of any bytes.

        Returns:
            The valid messages, in order, and the first error. An incomplete compound yields its
            complete parts, and an invalid part does not affect the others.
        """
        try:
            data = self._unwrap(data)
            kind = data[0]
            if kind == COMPRESS:
                data = decompress_message(data, MAX_EXPANDED)
                kind = data[0] if data else -1
            if kind != COMPOUND:
                return [decode(data, _DECODERS)], None
        except WireError as error:
            return [], error
        parts, first_error = split_compound(data)
        messages = []
        for part in parts:
            try:
                messages.append(decode(part, _DECODERS))
            except WireError as error:
                first_error = first_error or error
        return messages, first_error

    def _unwrap(self, data: bytes) -> bytes:
        if self._label or data.startswith(b"\xf4"):
            data = strip_label(data, self._label)
        sealer = self.sealer
        self.nonce = b""
        if sealer.enabled:
            try:
                nonce = data[1 : 1 + NONCE_SIZE]
                data = sealer.open(data, self._label)
                self.nonce = nonce
            except WireError as error:
                if sealer.verify_incoming:
                    raise _refused(data, error) from error
        if not data:
            raise WireError("truncated", "packet: empty, expected a message")
        if data[0] != CRC:
            return data
        if len(data) <= CRC_OVERHEAD:
            raise WireError("truncated", "checksum: expected four bytes and a message")
        content = data[CRC_OVERHEAD:]
        (expected,) = _checksum.unpack_from(data, 1)
        found = crc32(content)
        if found != expected:
            raise WireError("crc", f"checksum {found:08x}, expected {expected:08x}")
        return content

    def pack(self, messages: Sequence[bytes], *, crc: bool) -> list[bytes]:
        """Encode datagrams of encoded messages, one for each 255 messages.

        Args:
            messages: encoded messages, each up to 65,535 bytes if there are several.
            crc: whether to add a checksum, for receivers known to understand protocol 5.

        Raises:
            struct.error: a message is too long for a compound.
        """
        if len(messages) == 1:
            return [self._wrap(messages[0], crc=crc)]
        return [
            self._wrap(make_compound(messages[start : start + _MAX_PARTS]), crc=crc)
            for start in range(0, len(messages), _MAX_PARTS)
        ]

    def _wrap(self, data: bytes, *, crc: bool) -> bytes:
        if crc:
            data = b"\x0c" + _checksum.pack(crc32(data)) + data
        if self.sealer.seals:
            data = self.sealer.seal(data, self._label)
        return self._header + data if self._header else data


def _refused(data: bytes, error: WireError) -> WireError:
    """Return the error for a refused packet: plaintext, or bytes that no key decrypts."""
    # Encryption versions 0 and 1 equal the types of pings, which always have this field.
    is_ping = data[:1] in (b"\0", b"\1") and b"SeqNo" in data
    if is_ping or (data and data[0] > 1 and data[0] in _PACKET_TYPES):
        return WireError(
            "plaintext-refused", "packet is not encrypted, but encryption is required"
        )
    return error
