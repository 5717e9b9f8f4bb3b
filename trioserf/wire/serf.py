"""The messages of the Serf layer as bytes: a type byte and a map (spec: the Serf layer).

Also the three things that travel inside other messages: the filters of queries, the tags in a
member's metadata, and the network coordinate in the payload of an ack.
"""

from collections.abc import Callable, Generator, Mapping
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
from trioserf.serf.options import USER_EVENT_HARD_LIMIT
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    I64,
    MAX_NAME,
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
    name,
    number,
    octets,
    optional_ip_address,
    pack,
    read_list,
    read_pairs,
    read_slices,
    split,
    split_fields,
    text,
    unpack_fields,
    unsigned,
)
from trioserf.wire.swim import USER

MAX_MEMBERS: Final = 1_048_576
"""Most names in a push/pull, as many as memberlist takes nodes."""
MAX_NAMES: Final = 65_536
"""Most names in a filter, filters of a query, or keys of a response."""
MAX_EVENTS: Final = 65_536
"""Most user events in a push/pull, and most Lamport times that it may tell of."""
_MAX_SIMULTANEOUS: Final = 4096
"""Most user events of one Lamport time in a push/pull."""
MAX_GOSSIPED: Final = 65_507
"""Bytes of a message that is gossiped or relayed: it must fit into a packet."""

LEAVE, JOIN, PUSH_PULL, USER_EVENT, QUERY, RESPONSE, CONFLICT, KEY, KEYS, RELAY = range(10)

_TAGS = 255
_COORDINATE = 1
_NODES, _TAG = 0, 1
_LONGEST: Final[Mapping[int, int]] = {
    LEAVE: MAX_GOSSIPED,
    JOIN: MAX_GOSSIPED,
    USER_EVENT: USER_EVENT_HARD_LIMIT,
    QUERY: MAX_GOSSIPED,
    RELAY: MAX_GOSSIPED,
}
"""Bytes of what may also come by stream, where it could be of any length."""
_LARGE: Final = 65_536
"""Bytes of a push/pull's state that are worth a pause before its rows are read."""
_PIECE: Final = 1024
"""Rows of a push/pull read between two pauses: a millisecond's work."""


# ---------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> SerfMessage:
    """Read one message, type byte included.

    Raises:
        WireError: it is none, or a field is not what it should be.
    """
    if not data:
        raise WireError("truncated", "Serf message: empty, expected a type byte")
    kind = data[0]
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise WireError("unknown-type", f"Serf message of type {kind}, expected 0 to 9")
    longest = _LONGEST.get(kind)
    if longest is not None and len(data) > longest:
        raise WireError("limit", f"Serf message of {len(data)} bytes, at most {longest} allowed")
    return decoder(data)


def _decode_leave(data: bytes) -> Leave:
    get = unpack_fields(data[1:], "leave").get
    return Leave(
        unsigned(get(b"LTime"), "leave LTime", U64),
        name(get(b"Node"), "leave Node"),
        flag(get(b"Prune"), "leave Prune"),
    )


def _decode_join(data: bytes) -> Join:
    get = unpack_fields(data[1:], "join").get
    return Join(unsigned(get(b"LTime"), "join LTime", U64), name(get(b"Node"), "join Node"))


def _decode_user_event(data: bytes) -> UserEvent:
    get = unpack_fields(data[1:], "user event").get
    return UserEvent(
        unsigned(get(b"LTime"), "user event LTime", U64),
        text(get(b"Name"), "user event Name"),
        octets(get(b"Payload"), "user event Payload"),
        flag(get(b"CC"), "user event CC"),
    )


def _decode_push_pull(data: bytes) -> SerfPushPull:
    reading = read_push_pull(data)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            state: SerfPushPull = end.value
            return state


def read_push_pull(data: bytes) -> Generator[int, None, SerfPushPull]:
    """Read a push/pull's state, type byte included, with pauses for others' work.

    Names that no member can have are passed over: a member that believed in one shall not keep
    us from exchanging states with it.

    Yields:
        The rows read so far, every thousand of them.

    Raises:
        WireError: it is none, or a field is not what it should be.
    """
    if data[:1] != b"\x02":
        raise WireError("unknown-type", "push/pull state: expected a message of type 2")
    fields, unread = split_fields(data[1:], "push/pull state", _PUSH_PULL_ROWS)
    if len(data) > _LARGE:
        yield 0
    get, rows = fields.get, unread.get
    ltimes: dict[str, int] = {}
    pairs = read_pairs(rows(b"StatusLTimes", b""), "StatusLTimes", MAX_MEMBERS)
    for count, (who, ltime) in enumerate(pairs, 1):
        if not _is_too_long(who):
            ltimes[text(who, "StatusLTimes name")] = unsigned(ltime, "StatusLTimes", U64)
        if not count % _PIECE:
            yield count
    left: list[str] = []
    names = read_list(rows(b"LeftMembers", b""), "LeftMembers", MAX_MEMBERS)
    for count, who in enumerate(names, 1):
        if not _is_too_long(who):
            left.append(text(who, "LeftMembers"))
        if not count % _PIECE:
            yield len(ltimes) + count
    events: list[BufferedEvents | None] = []
    total = paused = 0
    for slot in read_slices(rows(b"Events", b""), "push/pull Events", MAX_EVENTS):
        one = _buffered_events(slot)
        events.append(one)
        total += 1 if one is None else 1 + len(one.events)
        if total > MAX_EVENTS:
            raise WireError("limit", f"push/pull Events: more than {MAX_EVENTS}")
        if total >= paused + _PIECE:
            paused = total
            yield len(ltimes) + len(left) + total
    return SerfPushPull(
        unsigned(get(b"LTime"), "push/pull LTime", U64),
        ltimes,
        tuple(left),
        unsigned(get(b"EventLTime"), "push/pull EventLTime", U64),
        tuple(events),
        unsigned(get(b"QueryLTime"), "push/pull QueryLTime", U64),
    )


_PUSH_PULL_ROWS = frozenset({b"StatusLTimes", b"LeftMembers", b"Events"})


def _is_too_long(who: object) -> bool:
    return type(who) is bytes and len(who) > MAX_NAME


def _buffered_events(slot: bytes) -> BufferedEvents | None:
    if slot == b"\xc0":
        return None
    get = unpack_fields(slot, "Events", max_list=min(_MAX_SIMULTANEOUS, len(slot))).get
    return BufferedEvents(
        unsigned(get(b"LTime"), "Events LTime", U64),
        tuple(_name_and_payload(event) for event in items(get(b"Events"), "Events")),
    )


def _name_and_payload(value: object) -> tuple[str, bytes]:
    get = fields_of(value, "Events").get
    return text(get(b"Name"), "Events Name"), octets(get(b"Payload"), "Events Payload")


def _decode_query(data: bytes) -> Query:
    fields, unread = split_fields(data[1:], "query", (b"Filters",))
    get = fields.get
    filters = read_list(unread.get(b"Filters", b""), "query Filters", MAX_NAMES)
    return Query(
        unsigned(get(b"LTime"), "query LTime", U64),
        unsigned(get(b"ID"), "query ID", U32),
        optional_ip_address(get(b"Addr"), "query Addr"),
        unsigned(get(b"Port"), "query Port", U16),
        name(get(b"SourceNode"), "query SourceNode"),
        tuple([octets(one, "query Filters") for one in filters]),
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
        name(get(b"From"), "query response From"),
        unsigned(get(b"Flags"), "query response Flags", U32),
        octets(get(b"Payload"), "query response Payload"),
    )


def _decode_conflict(data: bytes) -> ConflictResponse:
    get = unpack_fields(data[1:], "conflict response").get
    return ConflictResponse(
        name(get(b"Name"), "member Name"),
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
    fields, unread = split_fields(data[1:], "key response", (b"Keys",))
    get = fields.get
    keys = read_list(unread.get(b"Keys", b""), "key response Keys", MAX_NAMES)
    return KeyResponse(
        flag(get(b"Result"), "key response Result"),
        text(get(b"Message"), "key response Message"),
        tuple([text(key, "key response Keys") for key in keys]),
        text(get(b"PrimaryKey"), "key response PrimaryKey"),
    )


def _decode_relay(data: bytes) -> Relay:
    header, inner = split(data[1:], "relay header")
    get = fields_of(header, "relay header").get
    to = mapping(get(b"DestAddr"), "relay DestAddr").get
    return Relay(
        ip_address(to(b"IP"), "relay IP"),
        unsigned(to(b"Port"), "relay Port", U16),
        name(get(b"DestName"), "relay DestName"),
        inner,
        name(to(b"Zone"), "relay Zone"),
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
        names = read_list(data[1:], "node filter", MAX_NAMES)
        return NodeFilter(tuple([text(one, "node filter") for one in names]))
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
        tuple([number(part, "coordinate Vec") for part in items(get(b"Vec"), "coordinate Vec")]),
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
