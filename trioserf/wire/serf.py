"""The messages of the Serf layer as bytes: a type byte and a map (spec: the Serf layer).

Also the three things that travel inside other messages: the filters of queries, the tags in a
member's metadata, and the network coordinate in the payload of an ack.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from trioserf.serf.coordinate import DIMENSIONS, Coordinate
from trioserf.serf.effects import Codec
from trioserf.serf.messages import (
    BufferedEvents,
    ConflictResponse,
    Join,
    KeyRequest,
    KeyResponse,
    Leave,
    NodeFilter,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfPushPull,
    TagFilter,
    UserEvent,
)
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    I64,
    U8,
    U16,
    U32,
    U64,
    Fields,
    fields_of,
    flag,
    ip_address,
    items,
    mapping,
    number,
    octets,
    optional_ip_address,
    pack,
    split,
    text,
    unpack_fields,
    unsigned,
)
from trioserf.wire.swim import USER

MAX_MEMBERS: Final = 1_048_576
"""Most names in a push/pull, as many as memberlist takes nodes."""
MAX_NAMES: Final = 65_536
"""Most names in a filter, filters of a query, or keys of a response."""

LEAVE, JOIN, PUSH_PULL, USER_EVENT, QUERY, RESPONSE, CONFLICT, KEY, KEYS, RELAY = range(10)

_TAGS = 255
_COORDINATE = 1
_NODES, _TAG = 0, 1


# ---------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> SerfMessage:
    """Read one message, type byte included.

    Raises:
        WireError: it is none, or a field is not what it should be.
    """
    if not data:
        raise WireError("truncated", "Serf message: empty, expected a type byte")
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        raise WireError("unknown-type", f"Serf message of type {data[0]}, expected 0 to 9")
    return decoder(data)


def _decode_leave(data: bytes) -> Leave:
    get = unpack_fields(data[1:], "leave").get
    return Leave(
        unsigned(get(b"LTime"), "leave LTime", U64),
        text(get(b"Node"), "leave Node"),
        flag(get(b"Prune"), "leave Prune"),
    )


def _decode_join(data: bytes) -> Join:
    get = unpack_fields(data[1:], "join").get
    return Join(unsigned(get(b"LTime"), "join LTime", U64), text(get(b"Node"), "join Node"))


def _decode_user_event(data: bytes) -> UserEvent:
    get = unpack_fields(data[1:], "user event").get
    return UserEvent(
        unsigned(get(b"LTime"), "user event LTime", U64),
        text(get(b"Name"), "user event Name"),
        octets(get(b"Payload"), "user event Payload"),
        flag(get(b"CC"), "user event CC"),
    )


def _decode_push_pull(data: bytes) -> SerfPushPull:
    get = unpack_fields(data[1:], "push/pull state", max_list=MAX_MEMBERS, max_map=MAX_MEMBERS).get
    ltimes = {
        text(name, "StatusLTimes name"): unsigned(ltime, "StatusLTimes", U64)
        for name, ltime in mapping(get(b"StatusLTimes"), "StatusLTimes").items()
    }
    return SerfPushPull(
        unsigned(get(b"LTime"), "push/pull LTime", U64),
        ltimes,
        tuple(text(name, "LeftMembers") for name in items(get(b"LeftMembers"), "LeftMembers")),
        unsigned(get(b"EventLTime"), "push/pull EventLTime", U64),
        tuple(map(_buffered_events, items(get(b"Events"), "push/pull Events"))),
        unsigned(get(b"QueryLTime"), "push/pull QueryLTime", U64),
    )


def _buffered_events(value: object) -> BufferedEvents | None:
    if value is None:
        return None
    get = fields_of(value, "Events").get
    return BufferedEvents(
        unsigned(get(b"LTime"), "Events LTime", U64),
        tuple(_name_and_payload(event) for event in items(get(b"Events"), "Events")),
    )


def _name_and_payload(value: object) -> tuple[str, bytes]:
    get = fields_of(value, "Events").get
    return text(get(b"Name"), "Events Name"), octets(get(b"Payload"), "Events Payload")


def _decode_query(data: bytes) -> Query:
    get = unpack_fields(data[1:], "query", max_list=MAX_NAMES).get
    return Query(
        unsigned(get(b"LTime"), "query LTime", U64),
        unsigned(get(b"ID"), "query ID", U32),
        optional_ip_address(get(b"Addr"), "query Addr"),
        unsigned(get(b"Port"), "query Port", U16),
        text(get(b"SourceNode"), "query SourceNode"),
        tuple(octets(one, "query Filters") for one in items(get(b"Filters"), "query Filters")),
        unsigned(get(b"Flags"), "query Flags", U32),
        unsigned(get(b"RelayFactor"), "query RelayFactor", U8),
        unsigned(get(b"Timeout"), "query Timeout", I64),
        text(get(b"Name"), "query Name"),
        octets(get(b"Payload"), "query Payload"),
    )


def _decode_response(data: bytes) -> QueryResponse:
    get = unpack_fields(data[1:], "query response").get
    return QueryResponse(
        unsigned(get(b"LTime"), "query response LTime", U64),
        unsigned(get(b"ID"), "query response ID", U32),
        text(get(b"From"), "query response From"),
        unsigned(get(b"Flags"), "query response Flags", U32),
        octets(get(b"Payload"), "query response Payload"),
    )


def _decode_conflict(data: bytes) -> ConflictResponse:
    get = unpack_fields(data[1:], "conflict response").get
    return ConflictResponse(
        text(get(b"Name"), "member Name"),
        ip_address(get(b"Addr"), "member Addr"),
        unsigned(get(b"Port"), "member Port", U16),
        _text_map(mapping(get(b"Tags"), "member Tags"), "member Tags"),
        unsigned(get(b"Status"), "member Status", U8),
        *(unsigned(get(key), f"member {key.decode()}", U8) for key in _MEMBER_VERSIONS),
    )


_MEMBER_VERSIONS = (
    b"ProtocolMin",
    b"ProtocolMax",
    b"ProtocolCur",
    b"DelegateMin",
    b"DelegateMax",
    b"DelegateCur",
)


def _decode_key_request(data: bytes) -> KeyRequest:
    return KeyRequest(octets(unpack_fields(data[1:], "key request").get(b"Key"), "key"))


def _decode_key_response(data: bytes) -> KeyResponse:
    get = unpack_fields(data[1:], "key response", max_list=MAX_NAMES).get
    return KeyResponse(
        flag(get(b"Result"), "key response Result"),
        text(get(b"Message"), "key response Message"),
        tuple(text(key, "Keys") for key in items(get(b"Keys"), "key response Keys")),
        text(get(b"PrimaryKey"), "key response PrimaryKey"),
    )


def _decode_relay(data: bytes) -> Relay:
    header, inner = split(data[1:], "relay header")
    get = fields_of(header, "relay header").get
    to = mapping(get(b"DestAddr"), "relay DestAddr").get
    return Relay(
        ip_address(to(b"IP"), "relay IP"),
        unsigned(to(b"Port"), "relay Port", U16),
        text(get(b"DestName"), "relay DestName"),
        inner,
        text(to(b"Zone"), "relay Zone"),
    )


_DECODERS: Final[Mapping[int, Callable[[bytes], SerfMessage]]] = {
    LEAVE: _decode_leave,
    JOIN: _decode_join,
    PUSH_PULL: _decode_push_pull,
    USER_EVENT: _decode_user_event,
    QUERY: _decode_query,
    RESPONSE: _decode_response,
    CONFLICT: _decode_conflict,
    KEY: _decode_key_request,
    KEYS: _decode_key_response,
    RELAY: _decode_relay,
}


def decode_filter(data: bytes) -> NodeFilter | TagFilter:
    """Read one filter of a query, type byte included.

    Raises:
        WireError: `unknown-type`, or it cannot be read.
    """
    kind = data[0] if data else -1
    if kind == _NODES:
        names, _ = split(data[1:], "node filter", max_list=MAX_NAMES)
        return NodeFilter(tuple(text(name, "node filter") for name in items(names, "node filter")))
    if kind == _TAG:
        get = unpack_fields(data[1:], "tag filter").get
        return TagFilter(text(get(b"Tag"), "filter Tag"), text(get(b"Expr"), "filter Expr"))
    raise WireError("unknown-type", f"filter of type {kind}, expected 0 or 1")


def decode_tags(meta: bytes) -> Mapping[str, str]:
    """Read a member's metadata as its tags; without the magic byte all of it is the role.

    Raises:
        WireError: the magic byte, but no map of texts after it.
    """
    if not meta.startswith(b"\xff"):
        return {"role": text(meta, "role")}
    return _text_map(unpack_fields(meta[1:], "tags"), "tags")


def _text_map(fields: Fields, what: str) -> dict[str, str]:
    return {text(key, what): text(value, what) for key, value in fields.items()}


def decode_coordinate(payload: bytes) -> Coordinate:
    """Read the coordinate in an ack's payload.

    Raises:
        WireError: another version, or not a coordinate of finite numbers in our dimensions.
    """
    if not payload.startswith(b"\x01"):
        found = payload[0] if payload else "none"
        raise WireError("version", f"coordinate of version {found}, expected {_COORDINATE}")
    get = unpack_fields(payload[1:], "coordinate").get
    coordinate = Coordinate(
        tuple(number(part, "coordinate Vec") for part in items(get(b"Vec"), "coordinate Vec")),
        number(get(b"Error"), "coordinate Error"),
        number(get(b"Adjustment"), "coordinate Adjustment"),
        number(get(b"Height"), "coordinate Height"),
    )
    fault = coordinate.fault()
    if fault is not None:
        raise WireError("field", f"coordinate: {fault}, expected {DIMENSIONS} finite numbers")
    return coordinate


# ---------------------------------------------------------------------------------------- writing


def encode(message: SerfMessage) -> bytes:
    """Spell one message as Go does, type byte included."""
    return _ENCODERS[type(message)](message)


def _encode_leave(message: Leave) -> bytes:
    return b"\x00" + pack({"LTime": message.ltime, "Node": message.node, "Prune": message.prune})


def _encode_join(message: Join) -> bytes:
    return b"\x01" + pack({"LTime": message.ltime, "Node": message.node})


def _encode_push_pull(message: SerfPushPull) -> bytes:
    events = [
        None
        if slot is None
        else {
            "Events": [{"Name": name, "Payload": load or None} for name, load in slot.events],
            "LTime": slot.ltime,
        }
        for slot in message.events
    ]
    return b"\x02" + pack(
        {
            "EventLTime": message.event_ltime,
            "Events": events,
            "LTime": message.ltime,
            "LeftMembers": message.left_members,
            "QueryLTime": message.query_ltime,
            "StatusLTimes": _sorted(message.status_ltimes),
        }
    )


def _encode_user_event(message: UserEvent) -> bytes:
    return b"\x03" + pack(
        {
            "CC": message.coalesce,
            "LTime": message.ltime,
            "Name": message.name,
            "Payload": message.payload or None,
        }
    )


def _encode_query(message: Query) -> bytes:
    return b"\x04" + pack(
        {
            "Addr": message.addr or None,
            "Filters": message.filters or None,
            "Flags": message.flags,
            "ID": message.id,
            "LTime": message.ltime,
            "Name": message.name,
            "Payload": message.payload or None,
            "Port": message.port,
            "RelayFactor": message.relay_factor,
            "SourceNode": message.source_node,
            "Timeout": message.timeout,
        }
    )


def _encode_response(message: QueryResponse) -> bytes:
    return b"\x05" + pack(
        {
            "Flags": message.flags,
            "From": message.source,
            "ID": message.id,
            "LTime": message.ltime,
            "Payload": message.payload or None,
        }
    )


def _encode_conflict(message: ConflictResponse) -> bytes:
    return b"\x06" + pack(
        {
            "Addr": message.addr,
            "DelegateCur": message.delegate_cur,
            "DelegateMax": message.delegate_max,
            "DelegateMin": message.delegate_min,
            "Name": message.name,
            "Port": message.port,
            "ProtocolCur": message.protocol_cur,
            "ProtocolMax": message.protocol_max,
            "ProtocolMin": message.protocol_min,
            "Status": message.status,
            "Tags": _sorted(message.tags),
        }
    )


def _encode_key_request(message: KeyRequest) -> bytes:
    return b"\x07" + pack({"Key": message.key})


def _encode_key_response(message: KeyResponse) -> bytes:
    return b"\x08" + pack(
        {
            "Keys": message.keys or None,
            "Message": message.message,
            "PrimaryKey": message.primary_key,
            "Result": message.result,
        }
    )


def _encode_relay(message: Relay) -> bytes:
    to = {"IP": message.addr, "Port": message.port, "Zone": message.zone}
    return b"\x09" + pack({"DestAddr": to, "DestName": message.name}) + message.inner


# The key type fixes the argument's type, which the type system cannot say.
_ENCODERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    Leave: _encode_leave,
    Join: _encode_join,
    SerfPushPull: _encode_push_pull,
    UserEvent: _encode_user_event,
    Query: _encode_query,
    QueryResponse: _encode_response,
    ConflictResponse: _encode_conflict,
    KeyRequest: _encode_key_request,
    KeyResponse: _encode_key_response,
    Relay: _encode_relay,
}


def encode_filter(one: NodeFilter | TagFilter) -> bytes:
    """Spell one filter of a query, type byte included."""
    if isinstance(one, NodeFilter):
        return b"\x00" + pack(one.names)
    return b"\x01" + pack({"Expr": one.expr, "Tag": one.tag})


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Spell tags as a member's metadata; its length is the caller's to check."""
    return b"\xff" + pack(_sorted(tags))


def encode_coordinate(coordinate: Coordinate) -> bytes:
    """Spell a coordinate as an ack's payload."""
    return b"\x01" + pack(
        {
            "Adjustment": coordinate.adjustment,
            "Error": coordinate.error,
            "Height": coordinate.height,
            "Vec": coordinate.vec,
        }
    )


def _sorted(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(mapping.items(), key=_bytewise))


def _bytewise(item: tuple[str, Any]) -> bytes:
    return item[0].encode("utf-8", "surrogateescape")


SERF_CODEC: Final = Codec(
    encode=encode,
    decode=decode,
    encode_filter=encode_filter,
    decode_filter=decode_filter,
    decode_tags=decode_tags,
    gossip_prefix=bytes((USER,)),
)
"""What the Serf layer of a node speaks."""
