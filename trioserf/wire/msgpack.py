"""The MessagePack dialect of memberlist and Serf.

Structures are maps from field names to values, the names sorted bytewise. The Go programs write
the format of 2009: text and byte strings alike as fixraw, raw16 or raw32, never str8, never bin.
So nothing on the wire tells text from bytes; everything is read as bytes, and each field knows
what it wants to be. On the way in every form, old and new, is accepted, nil stands for a zero
value, unknown fields are skipped, and bytes after the structure are ignored, all as in Go.

A hostile header may announce a list of four thousand million elements, and one inside another:
the reader reserves memory for a list when it sees its header, before the elements have come. So
lists inside a structure are short here. The few fields that are long lists or maps, all of them
directly in a message and of plain elements, are cut out first (`split_fields`) and read by
themselves (`read_list`, `read_pairs`, `read_slices`), where nothing is reserved.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, TypeVar

from msgpack import ExtraData, OutOfData, Packer, Unpacker, UnpackException, unpackb

from trioserf.address import normalise
from trioserf.wire.errors import WireError

MAX_FIELDS: Final = 256
"""Most fields of one structure, known and unknown."""
MAX_LIST: Final = 16
"""Elements of a list inside a structure; the longest there is has eight."""
MAX_NAME: Final = 1024
"""Bytes of a name. Serf's are up to 128 where names are validated, and fit a packet elsewhere."""

U8: Final = 0xFF
U16: Final = 0xFFFF
U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF
I64: Final = 0x7FFF_FFFF_FFFF_FFFF

Fields = dict[bytes, object]
T = TypeVar("T")


def new_packer(*, autoreset: bool = True) -> Packer:
    """Make a packer for the dialect; text may hold surrogate escapes."""
    return Packer(use_bin_type=False, unicode_errors="surrogateescape", autoreset=autoreset)


pack: Final[Callable[[object], bytes]] = new_packer().pack
"""Encode one value; the caller has put the keys of its maps in order."""


def by_bytes(mapping: Mapping[str, T]) -> dict[str, T]:
    """Put a map of texts into the order in which Go writes it."""
    return dict(sorted(mapping.items(), key=_bytewise))


def _bytewise(item: tuple[str, object]) -> bytes:
    return item[0].encode("utf-8", "surrogateescape")


def split(data: bytes, what: str) -> tuple[object, bytes]:
    """Read one value; give it and the bytes after it. Strings of both kinds come as bytes.

    Raises:
        WireError: `msgpack`, not a whole value within the limits.
    """
    try:
        value: object = unpackb(data, raw=True, max_array_len=MAX_LIST, max_map_len=MAX_FIELDS)
    except ExtraData as more:
        return more.unpacked, bytes(more.extra)
    except (ValueError, UnpackException) as error:
        raise _not_msgpack(what, error) from error
    return value, b""


def unpack_fields(data: bytes, what: str, *, max_list: int = MAX_LIST) -> Fields:
    """Read one structure.

    Args:
        data: MessagePack, with or without bytes after it.
        what: what it is, for the error.
        max_list: the longest list anywhere in it.

    Raises:
        WireError: `msgpack`, not a whole map within the limits.
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
    """Read one structure, but leave some of its fields unread.

    Args:
        data: MessagePack, with or without bytes after it.
        what: what it is, for the error.
        long: the names of the fields that may be long lists or maps.

    Returns:
        The other fields, and the bytes of the long ones.

    Raises:
        WireError: `msgpack`, not a whole map, or a field not within the limits.
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


def read_list(data: bytes, field: str, at_most: int) -> Iterator[object]:
    """Read a long list of plain elements, one after the other; nil and nothing are empty.

    Raises:
        WireError: `field`, it is no list, or holds lists or maps; `limit`, it is too long.
    """
    unpacker, count = _header(data, field, at_most, "a list")
    for _ in range(count):
        yield _next(unpacker, field)


def read_pairs(data: bytes, field: str, at_most: int) -> Iterator[tuple[object, object]]:
    """Read a large map of plain keys to plain values, one after the other (as `read_list`)."""
    unpacker, count = _header(data, field, at_most, "a map")
    for _ in range(count):
        yield _next(unpacker, field), _next(unpacker, field)


def read_slices(data: bytes, field: str, at_most: int) -> Iterator[bytes]:
    """Give the bytes of each element of a long list (as `read_list`)."""
    unpacker, count = _header(data, field, at_most, "a list")
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


def _header(data: bytes, field: str, at_most: int, kind: str) -> tuple[Unpacker, int]:
    """Read the header of a list or map whose elements are plain."""
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
    if count > at_most:
        raise WireError("limit", f"{field}: {count} elements, at most {at_most} are allowed")
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
    """Take a value read by this module as a structure.

    Raises:
        WireError: `msgpack`, it is something else.
    """
    if isinstance(value, dict):
        return value
    raise WireError("msgpack", f"{what}: expected a map, got {_kind(value)}")


def unsigned(value: object, field: str, highest: int) -> int:
    """Take a field as an integer from 0 to `highest`; nil is 0.

    Raises:
        WireError: `field`, anything else; floats and booleans too.
    """
    if type(value) is int and 0 <= value <= highest:
        return value
    if value is None:
        return 0
    shown = str(value) if type(value) is int else _kind(value)
    raise WireError("field", f"{field}: expected an integer from 0 to {highest}, got {shown}")


def flag(value: object, field: str) -> bool:
    """Take a field as a boolean; nil is false.

    Raises:
        WireError: `field`, anything else.
    """
    if type(value) is bool:
        return value
    if value is None:
        return False
    raise WireError("field", f"{field}: expected a boolean, got {_kind(value)}")


def number(value: object, field: str) -> float:
    """Take a field as a float, which may be infinite or not a number; nil is 0.

    Raises:
        WireError: `field`, neither a float nor an integer.
    """
    if type(value) is float:
        return value
    if value is None:
        return 0.0
    if type(value) is int:
        return float(value)
    raise WireError("field", f"{field}: expected a number, got {_kind(value)}")


def octets(value: object, field: str) -> bytes:
    """Take a field as a byte string; nil is empty.

    Raises:
        WireError: `field`, anything else.
    """
    if type(value) is bytes:
        return value
    if value is None:
        return b""
    raise WireError("field", f"{field}: expected a byte string, got {_kind(value)}")


def text(value: object, field: str) -> str:
    """Take a field as text, in which bytes that are not UTF-8 become surrogate escapes.

    Raises:
        WireError: `field`, not a string.
    """
    if type(value) is bytes:
        return value.decode("utf-8", "surrogateescape")
    if value is None:
        return ""
    raise WireError("field", f"{field}: expected a string, got {_kind(value)}")


def name(value: object, field: str) -> str:
    """Take a field as the name of a member: text of at most `MAX_NAME` bytes.

    Raises:
        WireError: `field`, not a string; `limit`, too long.
    """
    if type(value) is bytes and len(value) > MAX_NAME:
        raise WireError("limit", f"{field}: a name of {len(value)} bytes, expected {MAX_NAME}")
    return text(value, field)


def ip_address(value: object, field: str) -> bytes:
    """Take a field as the 4 or 16 bytes of an IP address; a v4-mapped one becomes 4 bytes.

    Raises:
        WireError: `field`, anything else.
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
    """Take a field as the bytes of an IP address, or empty where none was given.

    Raises:
        WireError: `field`, anything else.
    """
    return b"" if value is None or value == b"" else ip_address(value, field)


def items(value: object, field: str) -> list[object]:
    """Take a field as a list; nil is empty.

    Raises:
        WireError: `field`, anything else.
    """
    if isinstance(value, list):
        return value
    if value is None:
        return []
    raise WireError("field", f"{field}: expected a list, got {_kind(value)}")


def mapping(value: object, field: str) -> Fields:
    """Take a field as a map; nil is empty.

    Raises:
        WireError: `field`, anything else.
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
    """Take a map as one of texts to texts.

    Raises:
        WireError: `field`, something in it is none.
    """
    return {text(key, what): text(value, what) for key, value in fields.items()}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an extension type")
