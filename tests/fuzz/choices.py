"""Messages from a few bytes: each byte selects a value, most of them hostile but valid."""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from trioserf.coordinate import Coordinate
from trioserf.wire import serf_codec, serf_payloads, swim_codec
from trioserf.wire.event_digest import EventDigest, encode_digest
from trioserf.wire.msgpack import pack
from trioserf.wire.serf_messages import (
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
from trioserf.wire.swim_messages import (
    OUR_VERSIONS,
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

T = TypeVar("T")

NAMES: Final = (
    "us", "peer", "n0", "n1", "n2", "n3", "n4", "n5", "", "us\0", "us\n", " us", "US",
    "\udcff\udcfe", "é" * 10, "\x1b[2J\r\n" * 20, "%s%n{0}", "../../x", "_serf_ping",
    "x" * 128, "x" * 129, "y" * 1024, "z" * 1025, "n" * 60_000,
)  # fmt: skip
LARGE_NAME: Final = "n" * 1_000_000
NUMBERS: Final = (0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**64 - 1, -1)
TIMES: Final = (0, 1, 2, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 600, 2**64 - 2, 2**64 - 1)
TIMEOUTS: Final = (10**10, 0, 1, -1, 10**18, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
ADDRESSES: Final = (
    b"\x7f\0\0\2", b"\x7f\0\0\1", b"\x7f\0\0\3", bytes(4), b"\xff" * 4, b"\xe0\0\0\1",
    bytes(15) + b"\1", bytes(10) + b"\xff\xff\x7f\0\0\2", b"\xfe\x80" + bytes(13) + b"\1",
    bytes(16), b"", b"\x7f\0\0", bytes(17),
)  # fmt: skip
PORTS: Final = (7946, 0, 1, 65_535, 65_536, 7947)
SIZES: Final = (0, 1, 10, 100, 255, 256, 511, 512, 513, 1000, 1024, 1400, 9_000, 9_300, 60_000)
VERSIONS: Final = (
    OUR_VERSIONS,
    OUR_VERSIONS,
    None,
    Versions(0, 0, 0, 0, 0, 0),
    Versions(5, 1, 2, 5, 2, 5),
    Versions(1, 5, 9, 2, 5, 9),
    Versions(0, 255, 0, 0, 255, 0),
    Versions(255, 255, 255, 255, 255, 255),
    Versions(1, 2, 2, 2, 5, 2),
    Versions(1, 3, 3, 2, 4, 4),
)
METAS: Final = (
    serf_payloads.encode_tags({"role": "web"}),
    serf_payloads.encode_tags({}),
    serf_payloads.encode_tags({"": "", "\0": "\n", "=": "\udcff", "é": "x" * 100}),
    serf_payloads.encode_tags({f"t{number}": "v" for number in range(80)}),
    serf_payloads.encode_tags({f"{number:x}": "" for number in range(150)}),
    b"",
    b"\xff",
    b"\xff\xc0",
    b"\xff\xdf\xff\xff\xff\xff",
    b"\xff\x81\xa1a\x01",
    b"\xff" + b"\x91" * 400,
    b"r" * 512,
    b"r" * 513,
    b"\0" * 512,
)
CHEAP: Final = ("", ".*", "^web$", "web", "[", "(a|b|c|d|é)*\\z", "\udcff", "a" * 1025)
"""Expressions for our own queries, which have no budget."""
EXPRESSIONS: Final = (
    *CHEAP, "(a?){999}", "((a?){30}){30}", r"(?i)\PL\PL\PL\PL", "x*" * 300, "(?s).{1000}", r"\C",
    "(" * 400 + ")" * 400, "(?P<n>a)", "\0", "a" * 1024, "(?i)" + r"\pL" * 100,
)  # fmt: skip
EVENTS: Final = ("deploy", "", "ignored", "e" * 300, "\0", "a\nb", "\udcff", "crash")
QUERIES: Final = (
    "load", "ignored", "", "_serf_ping", "_serf_conflict", "_serf_install-key", "_serf_use-key",
    "_serf_remove-key", "_serf_list-keys", "_serf_unknown", "q\0\n", "\udcff",
)  # fmt: skip
KEYS: Final = bytes(range(16)), bytes(32), b"k" * 24, b"short", b"", b"k" * 33
COUNTS: Final = (1,) * 12 + (2, 5, 60, 255)
MANY: Final = (0, 1, 2, 16, 17, 65, 1000, 10_000)
"""Lengths of lists in a message."""
ROWS: Final = (0, 1, 1, 2, 2, 3, 3, 17, 17, 100, 600)
"""Rows of a push/pull."""
MAX_MESSAGE: Final = 500_000
"""Bytes of the lists in a message, so that much memory for it is a find."""
FLOATS: Final = (
    0.0, -0.0, 1e-5, 1.5, 10.0, -1.0, 1e18, 1e308, 5e-324, math.inf, -math.inf, math.nan,
)  # fmt: skip


class Choices:
    """Reads choices from bytes; behind their end there are zeros.

    Attributes:
        index: the number of a message among several that are made from the same bytes.
        clock: the Lamport time near which times are chosen.
        queries: time and id of queries to respond to.
    """

    def __init__(
        self,
        data: bytes,
        index: int = 0,
        clock: int = 0,
        queries: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.index = index
        self.clock = clock
        self.queries = queries
        self._data = data
        self._at = 0

    def again(self, index: int) -> "Choices":
        """Return the same choices from here on, for another message."""
        return Choices(self._data[self._at :], index, self.clock, self.queries)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def of(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def name(self) -> str:
        number = self.byte()
        if number >= 224:
            return "l" * 900 + str(self.index)
        if number >= 160:
            return f"m{self.index}.{number % 4}"
        return NAMES[number % len(NAMES)]

    def u32(self) -> int:
        number = self.byte()
        if number >= 128:
            return (number - 128) * 2 + self.index
        return NUMBERS[number % len(NUMBERS)]

    def ltime(self) -> int:
        number = self.byte()
        if number >= 64:
            return max(0, min(2**64 - 1, self.clock + (number - 160) * 8 + self.index))
        return max(0, TIMES[number % len(TIMES)] - self.index)

    def address(self) -> bytes:
        number = self.byte()
        if number >= 128:
            return bytes((127, number % 4, self.index % 256, number % 8))
        return ADDRESSES[number % len(ADDRESSES)]

    def names(self) -> tuple[str, ...]:
        """Return a name many times, as far as it fits a large message."""
        name = self.name()
        return (name,) * min(self.of(MANY), MAX_MESSAGE // (len(name) + 1))

    def octets(self) -> bytes:
        return bytes((self.byte(),)) * self.of(SIZES)


# ------------------------------------------------------------------------------ memberlist's layer


def alive(c: Choices) -> Alive:
    return Alive(c.u32(), c.name(), c.address(), c.of(PORTS), c.of(METAS), c.of(VERSIONS))


def node_state(c: Choices) -> NodeState:
    state = c.of((State.ALIVE, *State))
    name = LARGE_NAME if c.byte() == 255 and c.index == 0 else c.name()
    one = alive(c)
    return NodeState(name, one.addr, one.port, one.meta, one.incarnation, state, one.versions)


DIGESTS = (
    b"",
    encode_digest(EventDigest(2, 0, 1, 7)),
    encode_digest(EventDigest(1000, 743, 999, 2**32 - 1)),
    encode_digest(EventDigest(2**64 - 1, 2**64 - 258, 2**64 - 2, 0)),
    encode_digest(EventDigest(3, 0, 0, 0)),
    b"\0",
    b"\x80" * 20,
    bytes(300),
)


def coordinate(c: Choices) -> bytes:
    """Return the payload of an ack."""
    if c.byte() % 4 == 3:
        return c.octets()
    size = c.of((8, 8, 8, 0, 7, 16, 17, 1000))
    vec = [c.of(FLOATS)] * size
    error, adjustment, height = c.of(FLOATS), c.of(FLOATS), c.of(FLOATS)
    return serf_payloads.encode_coordinate(Coordinate(tuple(vec), error, adjustment, height))


def digest(c: Choices) -> bytes:
    """Return a digest of user events."""
    return c.of(DIGESTS)


def _ping(c: Choices) -> Ping:
    return Ping(c.u32(), c.name(), c.address(), c.of(PORTS), c.name(), digest(c))


def _indirect_ping(c: Choices) -> IndirectPing:
    seq_no, target, port, nack = c.u32(), c.address(), c.of(PORTS), c.byte() % 2 == 1
    return IndirectPing(seq_no, target, port, c.name(), nack, c.address(), c.of(PORTS), c.name())


def _user(c: Choices) -> UserMessage:
    return UserMessage(serf_message(c))


_MESSAGES: Final[Sequence[Callable[[Choices], Message]]] = (
    alive,
    alive,
    lambda c: Suspect(c.u32(), c.name(), c.name(), refused=c.byte() % 2 == 1),
    lambda c: Dead(c.u32(), c.name(), c.name()),
    _ping,
    _indirect_ping,
    lambda c: Ack(c.u32(), coordinate(c), digest(c)),
    lambda c: Nack(c.u32()),
    lambda c: ErrorMessage(c.name()),
    _user,
    _user,
    _user,
    _user,
)


def message(c: Choices) -> bytes:
    """Return an encoded message of a packet."""
    return swim_codec.encode(c.of(_MESSAGES)(c))


# ------------------------------------------------------------------------------------ Serf's layer


def serf_message(c: Choices) -> bytes:
    """Return an encoded message of Serf's layer."""
    made = c.of(_SERF_MESSAGES)(c)
    return made if isinstance(made, bytes) else serf_codec.encode(made)


def query(c: Choices) -> Query:
    ltime, name, number = c.ltime(), c.of(QUERIES), c.u32()
    filters = _filters(c)
    flags = c.of((0, 1, 2, 3, 2**32 - 1, 2**32))
    relay_factor = c.of((0, 0, 1, 5, 255, 256))
    timeout, payload = c.of(TIMEOUTS), _query_payload(c)
    addr, port, source = c.address(), c.of(PORTS), c.name()
    return Query(
        ltime, number, addr, port, source, filters, flags, relay_factor, timeout, name, payload
    )


def _query_payload(c: Choices) -> bytes:
    kind = c.byte() % 4
    if kind == 0:
        return c.octets()
    if kind == 1:
        return c.name().encode("utf-8", "surrogateescape")
    key = serf_codec.encode(KeyRequest(c.of(KEYS)))
    return key if kind == 2 else serf_message(c)


def _filters(c: Choices) -> tuple[bytes, ...]:
    kind = c.byte()
    if kind < 64:
        return ()
    one = _filter(c)
    if kind < 192:
        return (one,)
    count = c.of(MANY)
    if kind < 224:
        return (one,) * min(count, MAX_MESSAGE // (len(one) + 1))
    different = (TagFilter("role", c.of(EXPRESSIONS) + str(number)) for number in range(count))
    return tuple(map(serf_payloads.encode_filter, different))


def _filter(c: Choices) -> bytes:
    match c.byte() % 4:
        case 0:
            return serf_payloads.encode_filter(NodeFilter(c.names()))
        case 1:
            return c.octets()
    tag = c.of(("role", "", "a", "\0"))
    return serf_payloads.encode_filter(TagFilter(tag, c.of(EXPRESSIONS)))


def _response(c: Choices) -> QueryResponse:
    ltime, number = c.ltime(), c.u32()
    if c.queries and c.byte() % 4:
        ltime, number = c.of(c.queries)
    flags, source = c.of((0, 1, 256, 257, 2**32 - 1)), c.name()
    return QueryResponse(ltime, number, source, flags, _response_payload(c))


def _response_payload(c: Choices) -> bytes:
    match c.byte() % 4:
        case 0:
            return c.octets()
        case 1:
            tags = {c.name(): c.name()} if c.byte() % 2 else {}
            addr, port, status = c.address(), c.of(PORTS), c.of((1, 0, 2, 3, 4, 5, 255))
            member = ConflictResponse("us", addr, port, tags, status, *OUR_VERSIONS)
            return serf_codec.encode(member)
        case 2:
            keys = KeyResponse(c.byte() % 2 == 1, c.name(), c.names(), c.name())
            return serf_codec.encode(keys)
    return serf_message(c)


def _relay(c: Choices) -> Relay:
    addr, port, name = c.address(), c.of(PORTS), c.name()
    return Relay(addr, port, name, serf_message(c), c.name())


def push_pull_state(c: Choices) -> SerfPushPull:
    """Return the state of Serf's layer in a push/pull."""
    ltime, event_ltime, query_ltime = c.ltime(), c.ltime(), c.ltime()
    count = c.of(ROWS)
    rows = [c.again(index) for index in range(count)]
    if len(rows[0].again(0).name() if rows else "") > 1000:
        rows = rows[:17]
    ltimes = {one.name(): one.ltime() for one in rows}
    left = [one.name() for one in rows] if c.byte() % 2 else []
    slots: list[BufferedEvents | None] = []
    left_bytes = MAX_MESSAGE
    for index in range(c.of((0, 0, 1, 1, 3, 64, 513))):
        one = c.again(index)
        name, payload, count = one.of(EVENTS), one.octets(), one.of((1, 1, 1, 0, 2, 16, 17, 500))
        count = min(count, max(0, left_bytes) // (len(payload) + 100))
        left_bytes -= count * (len(payload) + 100)
        events = ((name, payload),) * count
        slots.append(BufferedEvents(one.ltime(), events) if index % 8 < 7 else None)
    return SerfPushPull(ltime, ltimes, tuple(left), event_ltime, tuple(slots), query_ltime)


_SERF_MESSAGES: Final[Sequence[Callable[[Choices], SerfMessage | bytes]]] = (
    lambda c: UserEvent(c.ltime(), c.of(EVENTS), c.octets(), c.byte() % 2 == 1),
    query,
    query,
    _response,
    lambda c: Join(c.ltime(), c.name()),
    lambda c: Leave(c.ltime(), c.name(), c.byte() % 2 == 1),
    _relay,
    _response_payload,
    lambda c: KeyRequest(c.octets()),
    push_pull_state,
    lambda c: bytes((c.byte(),)) + pack({"LTime": c.of(FLOATS), "Node": [[]] * c.byte()}),
    Choices.octets,
)
