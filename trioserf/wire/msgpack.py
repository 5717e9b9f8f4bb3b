"""The MessagePack dialect of memberlist and Serf (wire/README.md, § MessagePack dialect).

Strings are decoded as bytes, and the decoder of each field converts them.

A hostile header can announce a list of four billion elements, nested in another one, and the
unpacker reserves memory for a list at its header. So lists inside a structure are limited to
`MAX_LIST`. The few fields with long lists or maps are at the top level of a message and have
plain elements: they are split off first (`split_fields`) and read one element at a time
(`read_list`, `read_pairs`, `read_slices`), which reserves nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, TypeVar

from msgpack import ExtraData, OutOfData, Packer, Unpacker, UnpackException, unpackb

from trioserf.address import normalise
from trioserf.wire.errors import WireError

MAX_FIELDS: Final = 256
"""Maximum number of fields of one structure, known and unknown."""
MAX_LIST: Final = 16
"""Maximum length of a list inside a structure; the longest in use has eight elements."""
MAX_NAME: Final = 1024
"""Maximum length of a name, in bytes; names that Serf validates have at most 128."""

U8: Final = 0xFF
U16: Final = 0xFFFF
U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF
I64: Final = 0x7FFF_FFFF_FFFF_FFFF

Fields = dict[bytes, object]
T = TypeVar("T")


def new_packer(*, autoreset: bool = True) -> Packer:
    """Return a packer for the dialect; text may contain surrogate escapes."""
    return Packer(use_bin_type=False, unicode_errors="surrogateescape", autoreset=autoreset)


pack: Final[Callable[[object], bytes]] = new_packer().pack
"""Encode one value; the caller sorts the keys of its maps."""


def by_bytes(mapping: Mapping[str, T]) -> dict[str, T]:
    """Return a map sorted bytewise by key, as Go writes it."""
    if all(map(str.isascii, mapping)):  # sorted in the same order, without encoding each key
        return {key: mapping[key] for key in sorted(mapping)}
    return dict(sorted(mapping.items(), key=_bytewise))


def _bytewise(item: tuple[str, object]) -> bytes:
    return item[0].encode("utf-8", "surrogateescape")


def split(data: bytes, what: str) -> tuple[object, bytes]:
    """Decode one value; return it and the bytes after it.

    Raises:
        WireError: `msgpack`, not a complete value within the limits.
    """
    try:
        value: object = unpackb(data, raw=True, max_array_len=MAX_LIST, max_map_len=MAX_FIELDS)
    except ExtraData as more:
        return more.unpacked, bytes(more.extra)
    except (ValueError, UnpackException) as error:
        raise _not_msgpack(what, error) from error
    return value, b""


def unpack_fields(data: bytes, what: str, *, max_list: int = MAX_LIST) -> Fields:
    """Decode one structure.

    Args:
        data: MessagePack; bytes after it are ignored.
        what: the name of the structure, for the error.
        max_list: maximum length of a list in it.

    Raises:
        WireError: `msgpack`, not a complete map within the limits.
    """
    try:
        value: object = unpackb(data, raw=True, max_array_len=max_list, max_map_len=MAX_FIELDS)
    except ExtraData as more:
        value = more.unpacked
    except (ValueError, UnpackException) as error:
        raise _not_msgpack(what, error) from error
    return fields_of(value, what)


def split_fields(
    data: bytes, what: str, long: Collection[bytes]
) -> tuple[Fields, dict[bytes, bytes]]:
    """Decode one structure, except for its long fields.

    Args:
        data: MessagePack; bytes after it are ignored.
        what: the name of the structure, for the error.
        long: the names of the fields that may be long lists or maps.

    Returns:
        The other fields, and the encoded bytes of the long ones.

    Raises:
        WireError: `msgpack`, not a complete map, or a field over the limits.
    """
    unpacker = _unpacker(data, MAX_LIST, MAX_FIELDS)
    fields: Fields = {}
    unread: dict[bytes, bytes] = {}
    try:
        count = unpacker.read_map_header()
        if count > MAX_FIELDS:
            raise ValueError(f"{count} fields, at most {MAX_FIELDS} are allowed")  # noqa: TRY301
        for _ in range(count):
            key = unpacker.unpack()
            if type(key) is bytes and key in long:
                start = unpacker.tell()
                unpacker.skip()
                unread[key] = data[start : unpacker.tell()]
            else:
                fields[key] = unpacker.unpack()
    except (TypeError, ValueError, UnpackException) as error:
        raise _not_msgpack(what, error) from error
    return fields, unread


def read_list(data: bytes, field: str, limit: int) -> Iterator[object]:
    """Decode a long list of plain elements, one at a time; nil and no bytes mean empty.

    Raises:
        WireError: `field`, not a list; `msgpack`, a nested list or map; `limit`, too long.
    """
    unpacker, count = _header(data, field, limit, "a list")
    for _ in range(count):
        yield _next(unpacker, field)


def read_pairs(data: bytes, field: str, limit: int) -> Iterator[tuple[object, object]]:
    """Decode a large map of plain keys and values, one pair at a time (see `read_list`)."""
    unpacker, count = _header(data, field, limit, "a map")
    for _ in range(count):
        yield _next(unpacker, field), _next(unpacker, field)


def read_slices(data: bytes, field: str, limit: int) -> Iterator[bytes]:
    """Yield the encoded bytes of each element of a long list (see `read_list`)."""
    unpacker, count = _header(data, field, limit, "a list")
    for _ in range(count):
        start = unpacker.tell()
        try:
            unpacker.skip()
        except (ValueError, UnpackException) as error:
            raise _not_msgpack(field, error) from error
        yield data[start : unpacker.tell()]


def _unpacker(data: bytes, max_list: int, max_map: int) -> Unpacker:
    unpacker = Unpacker(
        raw=True,
        read_size=max(1, len(data)),
        max_buffer_size=max(1, len(data)),
        max_array_len=max_list,
        max_map_len=max_map,
        max_ext_len=16,
    )
    unpacker.feed(data)
    return unpacker


def _header(data: bytes, field: str, limit: int, kind: str) -> tuple[Unpacker, int]:
    """Decode the header of a list or map of plain elements."""
    unpacker = _unpacker(data, 0, 0)
    if data in (b"", b"\xc0"):
        return unpacker, 0
    try:
        if kind == "a map":
            count: int = unpacker.read_map_header()
        else:
            count = unpacker.read_array_header()
    except (ValueError, OutOfData) as error:
        raise WireError("field", f"{field}: expected {kind}") from error
    if count > limit:
        raise WireError("limit", f"{field}: {count} elements, at most {limit} are allowed")
    return unpacker, count


def _next(unpacker: Unpacker, field: str) -> object:
    try:
        value: object = unpacker.unpack()
    except (ValueError, UnpackException) as error:
        raise _not_msgpack(field, error) from error
    return value


def _not_msgpack(what: str, error: Exception) -> WireError:
    why = str(error) or type(error).__name__
    return WireError("msgpack", f"{what}: not the expected MessagePack: {why}")


def fields_of(value: object, what: str) -> Fields:
    """Return a decoded value as a structure.

    Raises:
        WireError: `msgpack`, not a map.
    """
    if isinstance(value, dict):
        return value
    raise WireError("msgpack", f"{what}: expected a map, got {_kind(value)}")


def unsigned(value: object, field: str, highest: int) -> int:
    """Return a field as an integer from 0 to `highest`; nil is 0.

    Raises:
        WireError: `field`, any other value, including floats and booleans.
    """
    if type(value) is int and 0 <= value <= highest:
        return value
    if value is None:
        return 0
    shown = str(value) if type(value) is int else _kind(value)
    raise WireError("field", f"{field}: expected an integer from 0 to {highest}, got {shown}")


def flag(value: object, field: str) -> bool:
    """Return a field as a boolean; nil is false.

    Raises:
        WireError: `field`, any other value.
    """
    if type(value) is bool:
        return value
    if value is None:
        return False
    raise WireError("field", f"{field}: expected a boolean, got {_kind(value)}")


def number(value: object, field: str) -> float:
    """Return a field as a float, possibly infinite or NaN; nil is 0.

    Raises:
        WireError: `field`, not a number.
    """
    if type(value) is float:
        return value
    if value is None:
        return 0.0
    if type(value) is int:
        return float(value)
    raise WireError("field", f"{field}: expected a number, got {_kind(value)}")


def octets(value: object, field: str) -> bytes:
    """Return a field as a byte string; nil is empty.

    Raises:
        WireError: `field`, any other value.
    """
    if type(value) is bytes:
        return value
    if value is None:
        return b""
    raise WireError("field", f"{field}: expected a byte string, got {_kind(value)}")


def text(value: object, field: str) -> str:
    """Return a field as text; bytes that are not UTF-8 become surrogate escapes.

    Raises:
        WireError: `field`, not a string.
    """
    if type(value) is bytes:
        return value.decode("utf-8", "surrogateescape")
    if value is None:
        return ""
    raise WireError("field", f"{field}: expected a string, got {_kind(value)}")


def name(value: object, field: str) -> str:
    """Return a field as a member's name: text of at most `MAX_NAME` bytes.

    Raises:
        WireError: `field`, not a string; `limit`, too long.
    """
    if type(value) is bytes and len(value) > MAX_NAME:
        raise WireError(
            "limit", f"{field}: a name of {len(value)} bytes, at most {MAX_NAME} are allowed"
        )
    return text(value, field)


def ip_address(value: object, field: str) -> bytes:
    """Return a field as the 4 or 16 bytes of an IP address; 4 for a v4-mapped one.

    Raises:
        WireError: `field`, any other value.
    """
    if type(value) is bytes:
        if len(value) == 4:
            return value
        if len(value) == 16:
            return normalise(value)
        got = f"{len(value)} bytes"
    else:
        got = _kind(value)
    raise WireError("field", f"{field}: expected an address of 4 or 16 bytes, got {got}")


def optional_ip_address(value: object, field: str) -> bytes:
    """Return a field as the bytes of an IP address, or empty if absent.

    Raises:
        WireError: `field`, any other value.
    """
    return b"" if value is None or value == b"" else ip_address(value, field)


def items(value: object, field: str) -> list[object]:
    """Return a field as a list; nil is empty.

    Raises:
        WireError: `field`, any other value.
    """
    if isinstance(value, list):
        return value
    if value is None:
        return []
    raise WireError("field", f"{field}: expected a list, got {_kind(value)}")


def mapping(value: object, field: str) -> Fields:
    """Return a field as a map; nil is empty.

    Raises:
        WireError: `field`, any other value.
    """
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise WireError("field", f"{field}: expected a map, got {_kind(value)}")


_KINDS = {
    type(None): "nil",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    bytes: "a string",
    list: "a list",
    dict: "a map",
}


def text_map(fields: Fields, what: str) -> dict[str, str]:
    """Return a map as one of strings to strings.

    Raises:
        WireError: `field`, a key or value that is not a string.
    """
    return {text(key, what): text(value, what) for key, value in fields.items()}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an extension type")
