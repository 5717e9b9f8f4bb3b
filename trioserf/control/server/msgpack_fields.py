"""Bodies of Serf's RPC: decoding of fields, encoding of headers and members.

Field names and key order are Serf's. Missing and nil fields have Go's zero values, unknown ones
are ignored; text may be str or bin, because older clients send only one of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from trioserf.address import packed
from trioserf.serf.member import Member

Reader = Callable[[object], Any]
Body = dict[str, Any]

_packer = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape")


def pack(value: object) -> bytes:
    """Encode a value: bin for bytes, str8 for longer text."""
    data: bytes = _packer.pack(value)
    return data


class BadBodyError(Exception):
    """A header or body that Serf would reject."""


_OK = b"\x82\xa5Error\xa0\xa3Seq"


def header(seq: int, error: str = "") -> bytes:
    """Encode the header of a reply or record."""
    return (_OK + pack(seq)) if not error else pack({"Error": error, "Seq": seq})


def text(value: object) -> str:
    """Return text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise BadBodyError(f"expected text, got {type(value).__name__}")
    return value


def blob(value: object) -> bytes:
    """Return bytes."""
    return value if isinstance(value, bytes) else text(value).encode("utf-8", "surrogateescape")


def truth(value: object) -> bool:
    """Return a boolean; 0 and 1 are accepted too, as in Go."""
    if value is not None and not (isinstance(value, int) and value in (0, 1)):
        raise BadBodyError(f"expected a boolean, got {type(value).__name__}")
    return bool(value)


def number(low: int, high: int) -> Reader:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(value: object) -> int:
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadBodyError(f"expected a whole number from {low} to {high}")
        return value

    return read


def texts(value: object) -> list[str]:
    """Return a list of texts."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadBodyError(f"expected a list, got {type(value).__name__}")
    return [text(item) for item in value]


def mapping(value: object) -> dict[str, str]:
    """Return a map of texts."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadBodyError(f"expected a map, got {type(value).__name__}")
    return {text(key): text(item) for key, item in value.items()}


U64 = number(0, 2**64 - 1)


def read(body: object, fields: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the known fields of a body.

    Raises:
        BadBodyError: the body is not a map, or a field has a wrong type.
    """
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise BadBodyError(f"expected a map, got {type(body).__name__}")
    return {name: reader(body.get(name)) for name, reader in fields.items()}


def member_fields(member: Member) -> dict[str, Any]:
    """Convert a member to Serf's fields."""
    versions = member.versions
    return {
        "Addr": packed(member.address.host),
        "DelegateCur": versions.delegate_cur,
        "DelegateMax": versions.delegate_max,
        "DelegateMin": versions.delegate_min,
        "Name": member.name,
        "Port": member.address.port,
        "ProtocolCur": versions.protocol_cur,
        "ProtocolMax": versions.protocol_max,
        "ProtocolMin": versions.protocol_min,
        "Status": member.status,
        "Tags": dict(sorted(member.tags.items())),
    }


def go_text(value: object) -> str:
    """Format a value of `info` as Go does; a list with commas."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
