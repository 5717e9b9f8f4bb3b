"""A digest of the newest user events, in pings and acks (see README.md, § Digests).

The field is our own. Go decodes maps by field names and skips those that it does not know.
"""

from typing import Final

import attrs

from trioserf.value_objects import ValueObject
from trioserf.wire.errors import WireError

MAX_DIGEST: Final = 20
"""Bytes of the longest digest; most have nine."""
MAX_TIMES: Final = 256
"""Lamport times in one digest."""
HASH_SIZE: Final = 4
"""Bytes of a hash: of one event, and of all together."""
_LAST_TIME: Final = 2**64 - 1


@attrs.frozen(eq=False, repr=False)
class EventDigest(ValueObject):
    """What a member knows of the newest events.

    Attributes:
        clock: its event clock, 64 bits.
        first: the Lamport time before those in the hash.
        last: the last Lamport time in the hash; `first` if there is none.
        hash: a hash of all events from `first` + 1 to `last`, 32 bits.
    """

    clock: int
    first: int
    last: int
    hash: int


def encode_digest(digest: EventDigest) -> bytes:
    """Encode a digest; `last` is below `clock`, and at most `MAX_TIMES` above `first`."""
    return b"".join(
        (
            _varint(digest.clock),
            _varint(digest.clock - 1 - digest.last),
            _varint(digest.last - digest.first),
            digest.hash.to_bytes(HASH_SIZE, "big"),
        )
    )


def decode_digest(data: bytes) -> EventDigest:
    """Decode a digest.

    Raises:
        WireError: `limit`, `truncated` or `field`.
    """
    if len(data) > MAX_DIGEST:
        raise WireError("limit", f"digest: {len(data)} bytes, expected at most {MAX_DIGEST}")
    numbers, place = [], 0
    for _ in range(3):
        number, place = _read_varint(data, place)
        numbers.append(number)
    clock, behind, count = numbers
    last = clock - 1 - behind
    if len(data) != place + HASH_SIZE:
        text = f"digest: {len(data) - place} bytes of hash, expected {HASH_SIZE}"
        raise WireError("truncated", text)
    if clock > _LAST_TIME or count > MAX_TIMES or last - count < 0:
        raise WireError("field", "digest: Lamport times out of range")
    return EventDigest(clock, last - count, last, int.from_bytes(data[place:], "big"))


def _varint(number: int) -> bytes:
    """Encode a number in groups of 7 bits, the lowest first, with the high bit if more follow."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it."""
    number = shift = 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place += 1
        shift += 7
        if byte < 0x80:
            return number, place
    raise WireError("truncated", "digest: ends within a number")
