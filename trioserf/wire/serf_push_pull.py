"""Codec of the Serf layer's state in a push/pull; a large one is decoded in steps."""

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
"""Maximum number of names in a push/pull, like memberlist's number of nodes."""
MAX_EVENTS: Final = 65_536
"""Maximum number of user events and of Lamport times in a push/pull."""
_MAX_SIMULTANEOUS: Final = 4096
"""Maximum number of user events of one Lamport time in a push/pull."""
_LARGE: Final = 65_536
"""Length above which decoding pauses before the rows, in bytes."""
_STEP: Final = 1024
"""Rows decoded between two pauses: about a millisecond of work."""


def decode_push_pull(data: bytes) -> SerfPushPull:
    """Decode the state in one step (see `read_push_pull`)."""
    reading = read_push_pull(data)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            state: SerfPushPull = end.value
            return state


def read_push_pull(data: bytes) -> Generator[int, None, SerfPushPull]:
    """Decode the state, including its type byte, with pauses for other work.

    Names longer than `MAX_NAME` are skipped, so that one invalid name does not prevent the
    exchange.

    Yields:
        The number of rows decoded so far, about every thousand rows.

    Raises:
        WireError: another message type, or an invalid field.
    """
    if data[:1] != b"\x02":
        raise WireError("unknown-type", "push/pull state: expected a message of type 2")
    fields, unread = split_fields(data[1:], "push/pull state", _PUSH_PULL_ROWS)
    if len(data) > _LARGE:
        yield 0
    get, rows = fields.get, unread.get
    ltimes: dict[str, int] = {}
    pairs = read_pairs(rows(b"StatusLTimes", b""), "StatusLTimes", MAX_MEMBERS)
    for count, (name, ltime) in enumerate(pairs, 1):
        if not _is_too_long(name):
            ltimes[text(name, "StatusLTimes name")] = unsigned(ltime, "StatusLTimes", U64)
        if not count % _STEP:
            yield count
    left: list[str] = []
    names = read_list(rows(b"LeftMembers", b""), "LeftMembers", MAX_MEMBERS)
    for count, name in enumerate(names, 1):
        if not _is_too_long(name):
            left.append(text(name, "LeftMembers"))
        if not count % _STEP:
            yield len(ltimes) + count
    events: list[BufferedEvents | None] = []
    total = paused = 0
    for slot in read_slices(rows(b"Events", b""), "push/pull Events", MAX_EVENTS):
        buffered = _buffered_events(slot)
        events.append(buffered)
        total += 1 if buffered is None else 1 + len(buffered.events)
        if total > MAX_EVENTS:
            raise WireError("limit", f"push/pull Events: more than {MAX_EVENTS}")
        if total >= paused + _STEP:
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


def _is_too_long(name: object) -> bool:
    return type(name) is bytes and len(name) > MAX_NAME


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
    """Encode the state, including its type byte, byte for byte as Go does."""
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
