"""The format of a snapshot file (see serf/README.md, § Snapshot file).

A snapshot is a text file of lines that a member appends, to rejoin its cluster after a restart.
From time to time the file is rewritten without its superseded lines. A crash can cut the last line
short or leave a hole of NULs, and users edit files: a malformed line is reported and skipped.

Names on the wire may contain any byte. Members whose name would break a line are not recorded, nor
are members with port 0.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from trioserf import arguments as check
from trioserf.serf.events import Event, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.value_objects import ValueObject

COMPACT_MIN: Final = 128 * 1024
"""Bytes up to which a file is never rewritten."""
COMPACT_PER_MEMBER: Final = 2 * 128
"""Bytes per alive member up to which a file is not rewritten: twice an assumed line."""
MAX_ERRORS: Final = 20
"""Errors reported one by one; further ones are only counted."""

_LTIME_MAX = 2**64 - 1
_SHOWN = 60  # characters of a malformed line in an error
_PRESENT = frozenset({"member-join", "member-update"})
_ABSENT = frozenset({"member-leave", "member-failed", "member-reap"})
# Printable ASCII; colons only inside brackets.
_ADDRESS = re.compile(r"(?:\[[!-Z^-~]+\]|[!-9;-Z^-~]+):([0-9]{1,5})")
_LTIME = re.compile(r"[0-9]{1,20}")


@attrs.frozen(eq=False, repr=False)
class LamportTimes(ValueObject):
    """The latest Lamport time of each kind, up to 2**64 - 1; 0 if there was none.

    Raises:
        TypeError, ValueError: not such a number.
    """

    member: int = 0
    event: int = 0
    query: int = 0

    def __attrs_post_init__(self) -> None:
        for name in ("member", "event", "query"):
            check.whole(name, getattr(self, name), 0, 2**64 - 1)


@attrs.frozen(eq=False, repr=False)
class SnapshotContents(ValueObject):
    """The contents of a snapshot.

    Attributes:
        alive: the members (ourselves too) with their addresses, as text with a port.
        clocks: the latest times; user events and queries up to them will be ignored.
        left: whether our last action was to leave.
        errors: a sentence for each malformed line.
        clean: whether lines may be appended. If not, rewrite the file first: it has errors, or a
            `leave` that was ignored but would be obeyed by the next start.
        size: bytes of the file.
    """

    alive: dict[str, str]
    clocks: LamportTimes
    left: bool = False
    errors: tuple[str, ...] = ()
    clean: bool = True
    size: int = attrs.field(default=0, eq=False)


EMPTY: Final = SnapshotContents({}, LamportTimes())
"""The snapshot of a first start."""


# --- reading ---


def parse(data: bytes, *, rejoin: bool = False) -> SnapshotContents:
    """Parse a snapshot of any bytes.

    Args:
        data: the whole file.
        rejoin: whether to ignore `leave` lines, which otherwise erase everything before them.
    """
    parser = _SnapshotParser(rejoin)
    lines = data.split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        # A crash leaves a hole before the lines that are appended later.
        parser.read(number, line.lstrip(b"\0").removesuffix(b"\r"))
        if line.startswith(b"\0"):
            parser.report(number, "a hole of NULs")
    if torn:
        parser.report(len(lines) + 1, f"cut short: {_excerpt(torn)}")
    return parser.result(len(data))


class _SnapshotParser:
    def __init__(self, rejoin: bool) -> None:
        self._rejoin = rejoin
        self._alive: dict[str, str] = {}
        self._clocks = {b"clock": 0, b"event-clock": 0, b"query-clock": 0}
        self._left = False
        self._errors: list[str] = []
        self._more_errors = 0

    def read(self, number: int, line: bytes) -> None:
        key, colon, value = line.partition(b": ")
        if not line or line.startswith((b"#", b"coordinate:")):
            pass
        elif line == b"leave":
            self._leave()
        elif b"\0" in line:
            self.report(number, f"NULs in {_excerpt(line)}")
        elif colon and key in self._clocks:
            self._clock(number, key, value)
        elif colon and key == b"alive":
            self._joined(number, value)
        elif colon and key == b"not-alive":
            self._alive.pop(_text(value), None)
        else:
            self.report(number, f"unknown line {_excerpt(line)}")

    def _leave(self) -> None:
        self._left = True
        if not self._rejoin:
            self._alive.clear()
            self._clocks = dict.fromkeys(self._clocks, 0)

    def _clock(self, number: int, key: bytes, value: bytes) -> None:
        digits = value.decode("ascii", "replace")
        if _LTIME.fullmatch(digits) and int(digits) <= _LTIME_MAX:
            # The last line counts, not the highest: a new cluster starts again from 1.
            self._clocks[key] = int(digits)
        else:
            self.report(
                number, f"expected a 64-bit number after {key.decode()}: {_excerpt(value)}"
            )

    def _joined(self, number: int, value: bytes) -> None:
        name, _, address = _text(value).rpartition(" ")
        match = _ADDRESS.fullmatch(address)
        if name and match and 0 < int(match[1]) < 65536:
            self._alive.pop(name, None)
            self._alive[name] = address
            self._left = False
        else:
            self.report(number, f"expected NAME ADDRESS:PORT after alive: {_excerpt(value)}")

    def report(self, number: int, error: str) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(f"line {number}: {error}")
        else:
            self._more_errors += 1

    def result(self, size: int) -> SnapshotContents:
        errors = self._errors
        if self._more_errors:
            errors = [*errors, f"and {self._more_errors} more errors"]
        member, event, query = self._clocks.values()
        return SnapshotContents(
            self._alive,
            LamportTimes(member, event, query),
            self._left,
            tuple(errors),
            clean=not errors and not (self._left and self._rejoin),
            size=size,
        )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _excerpt(data: bytes) -> str:
    text = repr(_text(data[:_SHOWN]))
    return f"{text}..." if len(data) > _SHOWN else text


# --- writing ---


class SnapshotState:
    """The intended contents of the file, and the lines that bring it there.

    The owner of the file appends the returned lines in order, and replaces the file by
    `compacted()` when `compaction_due()` or after a failed write.

    Args:
        contents: the present contents of the file.
    """

    def __init__(self, contents: SnapshotContents = EMPTY) -> None:
        self._alive = dict(contents.alive)
        self._written = contents.clocks
        self._event_clock = contents.clocks.event
        self._query_clock = contents.clocks.query
        self._left = False

    @property
    def alive(self) -> dict[str, str]:
        """A copy of the members with their addresses, as the next start will read them."""
        return dict(self._alive)

    def record(self, event: Event) -> bytes:
        """Record an event and return its lines; `clock_lines` returns those of its time."""
        if self._left:
            return b""
        if isinstance(event, UserEventReceived):
            self._event_clock = max(self._event_clock, _recordable_time(event.ltime))
        elif isinstance(event, QueryReceived):
            self._query_clock = max(self._query_clock, _recordable_time(event.ltime))
        elif event.kind in _PRESENT:
            return b"".join(map(self._record_alive, event.members))
        elif event.kind in _ABSENT:
            return b"".join(self._record_not_alive(member.name) for member in event.members)
        return b""

    def clock_lines(self, member_clock: int) -> bytes:
        """Return lines for the clocks that have advanced; call this every 0.5 s at most.

        Args:
            member_clock: the latest Lamport time of an intent, one less than the clock.
        """
        return b"" if self._left else self._newer_clocks(member_clock)

    def resume(self, members: Iterable[Member], clocks: LamportTimes) -> None:
        """Continue from the current members, after events were dropped.

        Replace the file by `compacted()` afterwards.

        Args:
            members: the alive members.
            clocks: the latest times seen.
        """
        if self._left:
            return
        self._alive = {}
        for member in members:
            self._record_alive(member)
        self._event_clock = max(self._event_clock, clocks.event)
        self._query_clock = max(self._query_clock, clocks.query)

    def leave(self, member_clock: int, *, keep: bool) -> bytes:
        """Return the last lines: we leave.

        Args:
            member_clock: see `clock_lines`.
            keep: whether to keep the members, for a start that rejoins.
        """
        if self._left:
            return b""
        lines = self._newer_clocks(member_clock) + b"leave\n"
        self._left = True
        if not keep:
            self._alive.clear()
        return lines

    def compaction_due(self, size: int) -> bool:
        """Return whether a file of this many bytes must be rewritten."""
        return size > max(COMPACT_MIN, COMPACT_PER_MEMBER * len(self._alive))

    def compacted(self) -> bytes:
        """Return the contents without superseded lines."""
        lines = [_alive_line(name, address) for name, address in self._alive.items()]
        self._written = LamportTimes(self._written.member, self._event_clock, self._query_clock)
        lines += _clock_lines(LamportTimes(), self._written)
        if self._left:
            lines.append(b"leave\n")
        return b"".join(lines)

    def _record_alive(self, member: Member) -> bytes:
        name, address = member.name, str(member.address)
        if self._alive.get(name) == address or not _is_recordable(member):
            return b""
        self._alive[name] = address
        return _alive_line(name, address)

    def _record_not_alive(self, name: str) -> bytes:
        if self._alive.pop(name, None) is None:
            return b""
        return b"not-alive: " + _bytes(name) + b"\n"

    def _newer_clocks(self, member_clock: int) -> bytes:
        latest = LamportTimes(
            max(member_clock, self._written.member), self._event_clock, self._query_clock
        )
        lines = b"".join(_clock_lines(self._written, latest))
        self._written = latest
        return lines


def _recordable_time(ltime: int) -> int:
    """Replace the last time by 0: clocks do not follow it, so no start can continue behind it."""
    return ltime if ltime < _LTIME_MAX else 0


def _clock_lines(written: LamportTimes, latest: LamportTimes) -> Sequence[bytes]:
    times = (
        (b"clock", written.member, latest.member),
        (b"event-clock", written.event, latest.event),
        (b"query-clock", written.query, latest.query),
    )
    return [b"%s: %d\n" % (key, new) for key, old, new in times if new > old]


def _alive_line(name: str, address: str) -> bytes:
    return b"alive: " + _bytes(name) + b" " + address.encode() + b"\n"


def _is_recordable(member: Member) -> bool:
    """Return whether a line can contain a member, and a start can use it."""
    name = member.name
    return bool(name and member.address.port) and not any(c in name for c in "\n\r\0")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
