"""Codec of the Serf messages: a type byte, then a map (wire/README.md, § Serf messages)."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    I64,
    U8,
    U16,
    U32,
    U64,
    by_bytes,
    fields_of,
    flag,
    ip_address,
    mapping,
    name,
    octets,
    optional_ip_address,
    pack,
    read_list,
    split,
    split_fields,
    text,
    text_map,
    unpack_fields,
    unsigned,
)
from trioserf.wire.serf_messages import (
    ConflictResponse,
    Join,
    KeyRequest,
    KeyResponse,
    Leave,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfPushPull,
    UserEvent,
)
from trioserf.wire.serf_payloads import MAX_NAMES
from trioserf.wire.serf_push_pull import decode_push_pull, encode_push_pull

USER_EVENT_HARD_LIMIT: Final = 9 * 1024
"""Maximum length of a user event in any configuration, in bytes."""

MAX_GOSSIPED: Final = 65_507
"""Maximum length of a gossiped or relayed message, which must fit a packet, in bytes."""

LEAVE, JOIN, PUSH_PULL, USER_EVENT, QUERY, RESPONSE, CONFLICT, KEY, KEYS, RELAY = range(10)

_MAX_LENGTHS: Final[Mapping[int, int]] = {
    LEAVE: MAX_GOSSIPED,
    JOIN: MAX_GOSSIPED,
    USER_EVENT: USER_EVENT_HARD_LIMIT,
    QUERY: MAX_GOSSIPED,
    RELAY: MAX_GOSSIPED,
}
"""Maximum lengths of messages that may also arrive by stream, without a limit there."""


# --- decoding ---


def decode(data: bytes) -> SerfMessage:
    """Decode one message, including its type byte.

    Raises:
        WireError: an unknown type, a message over its limit, or an invalid field.
    """
    if not data:
        raise WireError("truncated", "Serf message: empty, expected a type byte")
    kind = data[0]
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise WireError("unknown-type", f"Serf message of type {kind}, expected 0 to 9")
    limit = _MAX_LENGTHS.get(kind)
    if limit is not None and len(data) > limit:
        raise WireError("limit", f"Serf message of {len(data)} bytes, at most {limit} allowed")
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
        tuple([octets(data, "query Filters") for data in filters]),
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
        text_map(mapping(get(b"Tags"), "member Tags"), "member Tags"),
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
    PUSH_PULL: decode_push_pull,
    USER_EVENT: _decode_user_event,
    QUERY: _decode_query,
    RESPONSE: _decode_response,
    CONFLICT: _decode_conflict,
    KEY: _decode_key_request,
    KEYS: _decode_key_response,
    RELAY: _decode_relay,
}


# --- encoding ---


def encode(message: SerfMessage) -> bytes:
    """Encode one message, including its type byte, byte for byte as Go does."""
    return _ENCODERS[type(message)](message)


def _encode_leave(message: Leave) -> bytes:
    return b"\x00" + pack({"LTime": message.ltime, "Node": message.node, "Prune": message.prune})


def _encode_join(message: Join) -> bytes:
    return b"\x01" + pack({"LTime": message.ltime, "Node": message.node})


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
            "Tags": by_bytes(message.tags),
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


# The key is the argument's type, which the type system cannot express.
_ENCODERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    Leave: _encode_leave,
    Join: _encode_join,
    SerfPushPull: encode_push_pull,
    UserEvent: _encode_user_event,
    Query: _encode_query,
    QueryResponse: _encode_response,
    ConflictResponse: _encode_conflict,
    KeyRequest: _encode_key_request,
    KeyResponse: _encode_key_response,
    Relay: _encode_relay,
}
