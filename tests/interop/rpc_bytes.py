"""Serf's RPC as bytes: messages, and the encoding of each value."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from trioserf.control.address import split_address

TIMEOUT = 20.0
"""Seconds until an agent must reply or close."""


def pack(*messages: Any) -> bytes:
    """Encode messages one after another; bytes stay as they are."""
    return b"".join(
        one if isinstance(one, bytes) else msgpack.packb(one, use_bin_type=True)
        for one in messages
    )


def header(command: Any, seq: Any = 7) -> dict[str, Any]:
    """Return the header of a request."""
    return {"Command": command, "Seq": seq}


HANDSHAKE = pack(header("handshake", 0), {"Version": 1})


class Raw:
    """A connection that only knows where msgpack messages end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection(split_address(address), TIMEOUT)
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False
        )
        self._received = bytearray()
        self._returned = 0

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *args: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_input(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def message(self) -> tuple[Any, bytes] | None:
        """Return the next message and its bytes; None when the agent has closed."""
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                try:
                    data = self._socket.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    return None
                self._received += data
                self._unpacker.feed(data)
            else:
                start, self._returned = self._returned, self._unpacker.tell()
                return value, bytes(self._received[start : self._returned])

    def rest(self) -> list[tuple[Any, bytes]]:
        """Return everything until the agent closes."""
        found = []
        while (message := self.message()) is not None:
            found.append(message)
        return found


def shape(value: Any, key: str = "") -> Any:
    """Return what must be equal: keys, their order, types and nils; not the values."""
    if isinstance(value, dict):
        if key in ("Tags", "Messages", "Keys") or "runtime" in value:
            return {"a map of": sorted({str(shape(one, "Tags")) for one in value.values()})}
        return [(name, shape(one, name)) for name, one in value.items()]
    if isinstance(value, list):
        return ["a list of", *sorted({str(shape(one)) for one in value})]
    return type(value).__name__


_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
          0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}  # fmt: skip
_SIZED = {0xC4: "B", 0xC5: ">H", 0xC6: ">I", 0xD9: "B", 0xDA: ">H", 0xDB: ">I"}
_COUNTED = {0xDC: (">H", 1), 0xDD: (">I", 1), 0xDE: (">H", 2), 0xDF: (">I", 2)}


def encodings(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the kind of each value, with its smallest sufficient size, and its first byte.

    For example `("text up to 31", "fixstr")` or `("bytes up to 255", "c4")`: two programs agree if
    the same kind has the same first byte.
    """
    at = 0
    while at < len(data):
        first, at = data[at], at + 1
        if first <= 0x7F or first >= 0xE0:
            yield "number up to 127" if first <= 0x7F else "number from -32", "fixint"
        elif first <= 0x8F:
            yield "map up to 15", "fixmap"
        elif first <= 0x9F:
            yield "list up to 15", "fixarray"
        elif first <= 0xBF:
            yield "text up to 31", "fixstr"
            at += first & 0x1F
        elif first in _FIXED:
            size = _FIXED[first]
            yield _scalar(first, int.from_bytes(data[at : at + size], "big")), f"{first:x}"
            at += size
        elif first in _SIZED:
            size = struct.calcsize(_SIZED[first])
            (length,) = struct.unpack_from(_SIZED[first], data, at)
            kind = "bytes" if first <= 0xC6 else "text"
            yield f"{kind} up to {_size_class(length, kind)}", f"{first:x}"
            at += size + length
        else:
            form, _ = _COUNTED[first]
            (count,) = struct.unpack_from(form, data, at)
            yield (
                f"{'list' if first <= 0xDD else 'map'} up to {_size_class(count, '')}",
                f"{first:x}",
            )
            at += struct.calcsize(form)


def _scalar(first: int, value: int) -> str:
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: "nil", 0xC2: "false", 0xC3: "true"}[first]
    if first in (0xCA, 0xCB):
        return "float"
    return f"number up to {_size_class(value, 'number')}"


def _size_class(value: int, kind: str) -> int:
    least = {"text": 31, "number": 127, "": 15}.get(kind, 255)
    return next(size for size in (least, 255, 65535, 2**32 - 1, 2**64 - 1) if value <= size)
