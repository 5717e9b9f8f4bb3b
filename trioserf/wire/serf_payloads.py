"""Codecs of payloads: query filters, tags in metadata, network coordinates in acks.

See wire/README.md, § Serf messages.
"""

from collections.abc import Mapping
from typing import Final

from trioserf.coordinate import DIMENSIONS, Coordinate
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    by_bytes,
    items,
    number,
    pack,
    read_list,
    text,
    text_map,
    unpack_fields,
)
from trioserf.wire.serf_messages import NodeFilter, TagFilter

MAX_NAMES: Final = 65_536
"""Maximum number of names in a filter, filters of a query, or keys of a response."""

_COORDINATE = 1
_NODES, _TAG = 0, 1


def decode_filter(data: bytes) -> NodeFilter | TagFilter:
    """Decode one filter of a query, including its type byte.

    Raises:
        WireError: `unknown-type`, or an invalid filter.
    """
    kind = data[0] if data else -1
    if kind == _NODES:
        names = read_list(data[1:], "node filter", MAX_NAMES)
        return NodeFilter(tuple([text(name, "node filter") for name in names]))
    if kind == _TAG:
        get = unpack_fields(data[1:], "tag filter").get
        return TagFilter(text(get(b"Tag"), "filter Tag"), text(get(b"Expr"), "filter Expr"))
    raise WireError("unknown-type", f"filter of type {kind}, expected 0 or 1")


def decode_tags(meta: bytes) -> Mapping[str, str]:
    """Decode a member's metadata as tags; without the magic byte all of it is the role.

    Raises:
        WireError: the magic byte without a map of strings after it.
    """
    if not meta.startswith(b"\xff"):
        return {"role": text(meta, "role")}
    return text_map(unpack_fields(meta[1:], "tags"), "tags")


def decode_coordinate(payload: bytes) -> Coordinate:
    """Decode the coordinate in the payload of an ack.

    Raises:
        WireError: an unknown version, wrong dimensions, or a number that is not finite.
    """
    if not payload.startswith(b"\x01"):
        found = payload[0] if payload else "none"
        raise WireError("version", f"coordinate of version {found}, expected {_COORDINATE}")
    get = unpack_fields(payload[1:], "coordinate").get
    coordinate = Coordinate(
        tuple([number(part, "coordinate Vec") for part in items(get(b"Vec"), "coordinate Vec")]),
        number(get(b"Error"), "coordinate Error"),
        number(get(b"Adjustment"), "coordinate Adjustment"),
        number(get(b"Height"), "coordinate Height"),
    )
    reason = coordinate.find_defect()
    if reason is not None:
        raise WireError("field", f"coordinate: {reason}, expected {DIMENSIONS} finite numbers")
    return coordinate


def encode_filter(query_filter: NodeFilter | TagFilter) -> bytes:
    """Encode one filter of a query, including its type byte."""
    if isinstance(query_filter, NodeFilter):
        return b"\x00" + pack(query_filter.names)
    return b"\x01" + pack({"Expr": query_filter.expr, "Tag": query_filter.tag})


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Encode tags as metadata; the caller checks the length."""
    return b"\xff" + pack(by_bytes(tags))


def encode_coordinate(coordinate: Coordinate) -> bytes:
    """Encode a coordinate as the payload of an ack."""
    return b"\x01" + pack(
        {
            "Adjustment": coordinate.adjustment,
            "Error": coordinate.error,
            "Height": coordinate.height,
            "Vec": coordinate.vec,
        }
    )
