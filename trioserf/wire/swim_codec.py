"""Codec of memberlist's messages: a type byte, then a map (wire/README.md, § Message types).

One function per message and direction, in a table, because every packet passes here. Fields that
Go omits when empty (the source of a ping) are omitted here too.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    MAX_NAME,
    U16,
    U32,
    Fields,
    flag,
    ip_address,
    name,
    octets,
    optional_ip_address,
    pack,
    text,
    unpack_fields,
    unsigned,
)
from trioserf.wire.swim_messages import (
    MAX_META,
    Ack,
    Alive,
    Dead,
    ErrorMessage,
    IndirectPing,
    Message,
    Nack,
    NodeState,
    Ping,
    State,
    Suspect,
    UserMessage,
    Versions,
)

PING: Final = 0
INDIRECT_PING: Final = 1
ACK: Final = 2
SUSPECT: Final = 3
ALIVE: Final = 4
DEAD: Final = 5
PUSH_PULL: Final = 6
COMPOUND: Final = 7
USER: Final = 8
COMPRESS: Final = 9
ENCRYPT: Final = 10
NACK: Final = 11
CRC: Final = 12
ERROR: Final = 13
LABEL: Final = 244

_DIGEST: Final = b"Ev"
"""Our own field in pings and acks; Go skips fields that it does not know."""
_RELEASE: Final = b"Rel"
"""Our own field in acks."""
MAX_RELEASE: Final = 32
"""Characters of the longest release that is read."""
_MAX_CACHED: Final = 1400
"""Length of the longest encoded alive message that is cached, in bytes."""


def encode(message: Message) -> bytes:
    """Encode one message as type byte and body, byte for byte as Go does.

    For a push/pull see `StreamCodec.encode_push_pull`.

    Raises:
        UnicodeEncodeError: text with a surrogate that is not an escape.
        TypeError: the message is a push/pull.
    """
    encoder = _ENCODERS.get(type(message))
    if encoder is None:
        raise TypeError(f"a {type(message).__name__} cannot be encoded as one message")
    return encoder(message)


# --- decoding ---


def _decode_ping(data: bytes) -> Ping:
    get = unpack_fields(data[1:], "ping").get
    return Ping(
        unsigned(get(b"SeqNo"), "ping SeqNo", U32),
        name(get(b"Node"), "ping Node"),
        optional_ip_address(get(b"SourceAddr"), "ping SourceAddr"),
        unsigned(get(b"SourcePort"), "ping SourcePort", U16),
        name(get(b"SourceNode"), "ping SourceNode"),
        _digest(get(_DIGEST)),
    )


def _decode_indirect_ping(data: bytes) -> IndirectPing:
    get = unpack_fields(data[1:], "indirect ping").get
    return IndirectPing(
        unsigned(get(b"SeqNo"), "indirect ping SeqNo", U32),
        ip_address(get(b"Target"), "indirect ping Target"),
        unsigned(get(b"Port"), "indirect ping Port", U16),
        name(get(b"Node"), "indirect ping Node"),
        flag(get(b"Nack"), "indirect ping Nack"),
        optional_ip_address(get(b"SourceAddr"), "indirect ping SourceAddr"),
        unsigned(get(b"SourcePort"), "indirect ping SourcePort", U16),
        name(get(b"SourceNode"), "indirect ping SourceNode"),
    )


def _decode_ack(data: bytes) -> Ack:
    get = unpack_fields(data[1:], "ack").get
    return Ack(
        unsigned(get(b"SeqNo"), "ack SeqNo", U32),
        octets(get(b"Payload"), "ack Payload"),
        _digest(get(_DIGEST)),
        _release(get(_RELEASE)),
    )


def _digest(value: object) -> bytes:
    """Return a digest, which its reader checks: a malformed one must not refuse the message."""
    if value is None:
        return b""
    return value if type(value) is bytes and value else b"\0"


def _release(value: object) -> str:
    """Return a release; one that is too long or not printable ASCII counts as none."""
    if type(value) is not bytes or len(value) > MAX_RELEASE or not value.isascii():
        return ""
    text = value.decode("ascii")
    return text if text.isprintable() else ""


def _decode_nack(data: bytes) -> Nack:
    fields = unpack_fields(data[1:], "nack")
    return Nack(unsigned(fields.get(b"SeqNo"), "nack SeqNo", U32))


def _decode_suspect(data: bytes) -> Suspect:
    get = unpack_fields(data[1:], "suspect").get
    return Suspect(
        unsigned(get(b"Incarnation"), "suspect Incarnation", U32),
        name(get(b"Node"), "suspect Node"),
        name(get(b"From"), "suspect From"),
        flag(get(b"Refused"), "suspect Refused"),
    )


def _decode_dead(data: bytes) -> Dead:
    get = unpack_fields(data[1:], "dead").get
    return Dead(
        unsigned(get(b"Incarnation"), "dead Incarnation", U32),
        name(get(b"Node"), "dead Node"),
        name(get(b"From"), "dead From"),
    )


def _decode_alive(data: bytes) -> Alive:
    # Gossip repeats messages, so most are in the cache.
    return _decode_alive_cached(data) if len(data) <= _MAX_CACHED else _decode_alive_uncached(data)


def _decode_alive_uncached(data: bytes) -> Alive:
    get = unpack_fields(data[1:], "alive").get
    return Alive(
        unsigned(get(b"Incarnation"), "alive Incarnation", U32),
        name(get(b"Node"), "alive Node"),
        ip_address(get(b"Addr"), "alive Addr"),
        unsigned(get(b"Port"), "alive Port", U16),
        _meta(get(b"Meta"), "alive Meta"),
        _versions(octets(get(b"Vsn"), "alive Vsn")),
    )


_decode_alive_cached = lru_cache(maxsize=256)(_decode_alive_uncached)


def _decode_user(data: bytes) -> UserMessage:
    return UserMessage(data[1:])


def _decode_error(data: bytes) -> ErrorMessage:
    return ErrorMessage(text(unpack_fields(data[1:], "error").get(b"Error"), "error Error"))


def decode_node_state(fields: Fields) -> NodeState:
    """Decode the fields of one node in a push/pull.

    Raises:
        WireError: `field` or `limit`.
    """
    get = fields.get
    name_, addr, meta = get(b"Name"), get(b"Addr"), get(b"Meta")
    port, incarnation, state = get(b"Port"), get(b"Incarnation"), get(b"State")
    versions = get(b"Vsn")
    # A table has thousands of rows: usual ones are checked here, without a call for each field.
    if (
        type(name_) is type(addr) is type(versions) is bytes
        and (meta is None or type(meta) is bytes)
        and type(port) is type(incarnation) is type(state) is int
        and len(name_) <= MAX_NAME
        and len(addr) == 4
        and len(meta or b"") <= MAX_META
        and 0 <= port <= U16
        and 0 <= incarnation <= U32
        and 0 <= state <= 3
    ):
        return NodeState(
            name_.decode("utf-8", "surrogateescape"),
            addr,
            port,
            meta or b"",
            incarnation,
            _STATES[state],
            _versions(versions),
        )
    if state is None:
        state = 0
    if type(state) is not int or not 0 <= state <= 3:
        raise WireError("field", "node State: expected 0, 1, 2 or 3")
    return NodeState(
        name(name_, "node Name"),
        ip_address(addr, "node Addr"),
        unsigned(port, "node Port", U16),
        _meta(meta, "node Meta"),
        unsigned(incarnation, "node Incarnation", U32),
        _STATES[state],
        _versions(octets(versions, "node Vsn")),
    )


_STATES = tuple(State)


def _meta(value: object, field: str) -> bytes:
    meta = octets(value, field)
    if len(meta) > MAX_META:
        raise WireError("limit", f"{field}: {len(meta)} bytes, at most {MAX_META} are allowed")
    return meta


@lru_cache(maxsize=256)
def _versions(data: bytes) -> Versions | None:
    return Versions(*data[:6]) if len(data) >= 6 else None


Decoders = Mapping[int, Callable[[bytes], Message]]
DECODERS: Final[Decoders] = {
    PING: _decode_ping,
    INDIRECT_PING: _decode_indirect_ping,
    ACK: _decode_ack,
    SUSPECT: _decode_suspect,
    ALIVE: _decode_alive,
    DEAD: _decode_dead,
    USER: _decode_user,
    NACK: _decode_nack,
    ERROR: _decode_error,
}
"""Decoder of each type byte; its argument includes that byte."""


def decode(data: bytes, decoders: Decoders = DECODERS) -> Message:
    """Decode one message: any type except push/pull, compound, compress, encrypt and CRC.

    Args:
        data: type byte and body; bytes after the body are ignored, as in Go.
        decoders: the expected types.

    Raises:
        WireError: `truncated`, `unknown-type`, `msgpack`, `field` or `limit`.
    """
    if not data:
        raise WireError("truncated", "message: empty, expected a type byte")
    decoder = decoders.get(data[0])
    if decoder is None:
        raise WireError("unknown-type", f"message: type {data[0]} is not expected")
    return decoder(data)


# --- encoding ---


def _encode_ping(message: Ping) -> bytes:
    fields: dict[str, object] = {"Ev": message.digest} if message.digest else {}
    fields |= {"Node": message.node, "SeqNo": message.seq_no}
    _add_source(fields, message)
    return b"\x00" + pack(fields)


def _encode_indirect_ping(message: IndirectPing) -> bytes:
    fields: dict[str, object] = {
        "Nack": message.nack,
        "Node": message.node,
        "Port": message.port,
        "SeqNo": message.seq_no,
    }
    _add_source(fields, message)
    fields["Target"] = message.target
    return b"\x01" + pack(fields)


def _add_source(fields: dict[str, object], message: Ping | IndirectPing) -> None:
    if message.source_addr:
        fields["SourceAddr"] = message.source_addr
    if message.source_node:
        fields["SourceNode"] = message.source_node
    if message.source_port:
        fields["SourcePort"] = message.source_port


def _encode_ack(message: Ack) -> bytes:
    fields: dict[str, object] = {"Ev": message.digest} if message.digest else {}
    fields["Payload"] = message.payload or None
    if message.release:
        fields["Rel"] = message.release
    fields["SeqNo"] = message.seq_no
    return b"\x02" + pack(fields)


def _encode_nack(message: Nack) -> bytes:
    return b"\x0b" + pack({"SeqNo": message.seq_no})


def _encode_suspect(message: Suspect) -> bytes:
    fields = _suspect_or_dead_fields(message)
    if message.refused:
        fields["Refused"] = True
    return b"\x03" + pack(fields)


def _encode_dead(message: Dead) -> bytes:
    return b"\x05" + pack(_suspect_or_dead_fields(message))


def _suspect_or_dead_fields(message: Suspect | Dead) -> dict[str, object]:
    return {"From": message.source, "Incarnation": message.incarnation, "Node": message.node}


def _encode_alive(message: Alive) -> bytes:
    return b"\x04" + pack(
        {
            "Addr": message.addr,
            "Incarnation": message.incarnation,
            "Meta": message.meta or None,
            "Node": message.node,
            "Port": message.port,
            "Vsn": None if message.versions is None else _version_bytes(message.versions),
        }
    )


def _encode_user(message: UserMessage) -> bytes:
    return b"\x08" + message.payload


def _encode_error(message: ErrorMessage) -> bytes:
    return b"\x0d" + pack({"Error": message.error})


def node_state_fields(node: NodeState) -> dict[str, object]:
    """Return the fields of one node in a push/pull, in the order of the wire."""
    return {
        "Addr": node.addr,
        "Incarnation": node.incarnation,
        "Meta": node.meta or None,
        "Name": node.name,
        "Port": node.port,
        "State": int(node.state),
        "Vsn": None if node.versions is None else _version_bytes(node.versions),
    }


_version_bytes = lru_cache(maxsize=256)(bytes)
"""Members of a cluster have the same versions, or few different ones."""


def push_pull_header(join: bool, nodes: int, user_state: int) -> dict[str, object]:
    """Return the header fields of a push/pull, in the order of the wire.

    Args:
        join: whether it is part of a join.
        nodes: the number of nodes.
        user_state: the length of the user state, in bytes.
    """
    return {"Join": join, "Nodes": nodes, "UserStateLen": user_state}


# The key is the argument's type, which the type system cannot express.
_ENCODERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    Ping: _encode_ping,
    IndirectPing: _encode_indirect_ping,
    Ack: _encode_ack,
    Nack: _encode_nack,
    Suspect: _encode_suspect,
    Alive: _encode_alive,
    Dead: _encode_dead,
    UserMessage: _encode_user,
    ErrorMessage: _encode_error,
}
