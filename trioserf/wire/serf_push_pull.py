"""A push/pull's state of the Serf layer as bytes, read with pauses (spec: the Serf layer)."""

from collections.abc import Generator
from typing import Final

from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import (
    MAX_NAME,
    U64,
    by_bytes,
    fields_of,
    items,
    octets,
    pack,
    read_list,
    read_pairs,
    read_slices,
    split_fields,
    text,
    unpack_fields,
    unsigned,
)
from trioserf.wire.serf_messages import BufferedEvents, SerfPushPull

MAX_MEMBERS: Final = 1_048_576
"""Most names in a push/pull, as many as memberlist takes nodes."""
MAX_EVENTS: Final = 65_536
"""Most user events in a push/pull, and most Lamport times that it may tell of."""
_MAX_SIMULTANEOUS: Final = 4096
"""Most user events of one Lamport time in a push/pull."""
_LARGE: Final = 65_536
"""Bytes of a push/pull's state that are worth a pause before its rows are read."""
_PIECE: Final = 1024
"""Rows of a push/pull read between two pauses: a millisecond's work."""


def decode_push_pull(data: bytes) -> SerfPushPull:
    """Read a push/pull's state in one go (as `read_push_pull`)."""
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


def encode_push_pull(message: SerfPushPull) -> bytes:
    """Spell a push/pull's state as Go does, type byte included."""
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
            "StatusLTimes": by_bytes(message.status_ltimes),
        }
    )
