r"""The snapshot: what a member wants to remember of its cluster when it starts again.

A text file of lines, the same for Go's program and for this one (spec: snapshot file):

    alive: NAME ADDRESS:PORT    the member is here (the last space ends the name)
    not-alive: NAME             it left or failed
    clock: N                    the newest Lamport time seen among joins and leaves,
    event-clock: N              among the user events delivered
    query-clock: N              and among the queries delivered
    coordinate: ...             of older versions; not ours
    leave                       we left on purpose
    # ...                       a comment

Lines are appended as things happen; now and then the file is rewritten without what has been
overtaken. A crash may cut the last line short or leave a hole of NULs, and people have editors:
whatever cannot be read is a fault to be reported, never a reason to stop.

Names are bytes on the wire and may hold anything, also what ends a line here; members whose names
do are not recorded, nor those who claim to be at port 0.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from trioserf.serf.events import Event, QueryReceived, UserEventReceived
from trioserf.serf.member import Member

COMPACT_MIN: Final = 128 * 1024
"""Bytes up to which a file is never rewritten."""
COMPACT_PER_MEMBER: Final = 2 * 128
"""Bytes per living member up to which it is not either: twice what a line may take."""
MAX_ERRORS: Final = 20
"""Faults reported one by one; further ones are only counted."""

_LTIME_MAX = 2**64 - 1
_SHOWN = 60  # characters of a faulty line in the report
_PRESENT = frozenset({"member-join", "member-update"})
_GONE = frozenset({"member-leave", "member-failed", "member-reap"})
# Printable ASCII; colons only inside brackets.
_ADDRESS = re.compile(r"(?:\[[!-Z^-~]+\]|[!-9;-Z^-~]+):([0-9]{1,5})")
_LTIME = re.compile(r"[0-9]{1,20}")


@attrs.frozen
class LamportTimes:
    """The newest Lamport time of each kind; 0 if there was none."""

    member: int = 0
    event: int = 0
    query: int = 0


@attrs.frozen
class SnapshotContents:
    """What a snapshot says.

    Attributes:
        alive: the address, as text with a port, of every member (ourselves too) that was there.
        clocks: the newest times; user events and queries up to them are old news.
        left: whether the last thing we did was to leave.
        faults: what could not be read, a sentence each.
        clean: whether the file can be continued by appending. If not, rewrite it first: it has
            faults, or says `leave` where that was overlooked and would be believed next time.
        size: bytes read.
    """

    alive: dict[str, str]
    clocks: LamportTimes
    left: bool = False
    errors: tuple[str, ...] = ()
    clean: bool = True
    size: int = attrs.field(default=0, eq=False)


EMPTY: Final = SnapshotContents({}, LamportTimes())
"""The snapshot of a member that starts for the first time."""


# --- reading ---


def parse(data: bytes, *, rejoin: bool = False) -> SnapshotContents:
    """Read a snapshot; any bytes will do.

    Args:
        data: the whole file.
        rejoin: overlook that we left; otherwise leaving forgets all that was before it.
    """
    replay = _SnapshotParser(rejoin)
    lines = data.split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        # A hole that a crash left precedes what was appended after it.
        replay.read(number, line.lstrip(b"\0").removesuffix(b"\r"))
        if line.startswith(b"\0"):
            replay.report(number, "a hole of NULs")
    if torn:
        replay.report(len(lines) + 1, f"cut short: {_excerpt(torn)}")
    return replay.result(len(data))


class _SnapshotParser:
    """The state of the reader."""

    def __init__(self, rejoin: bool) -> None:
        self._rejoin = rejoin
        self._alive: dict[str, str] = {}
        self._clocks = {b"clock": 0, b"event-clock": 0, b"query-clock": 0}
        self._left = False
        self._faults: list[str] = []
        self._more_faults = 0

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
            # The last one, not the greatest: a cluster that began anew counts anew.
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

    def report(self, number: int, fault: str) -> None:
        if len(self._faults) < MAX_ERRORS:
            self._faults.append(f"line {number}: {fault}")
        else:
            self._more_faults += 1

    def result(self, size: int) -> SnapshotContents:
        faults = self._faults
        if self._more_faults:
            faults = [*faults, f"and {self._more_faults} faults more"]
        member, event, query = self._clocks.values()
        return SnapshotContents(
            self._alive,
            LamportTimes(member, event, query),
            self._left,
            tuple(faults),
            clean=not faults and not (self._left and self._rejoin),
            size=size,
        )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _excerpt(data: bytes) -> str:
    text = repr(_text(data[:_SHOWN]))
    return f"{text}..." if len(data) > _SHOWN else text


# --- writing ---


class SnapshotState:
    """What the file ought to say, and the lines that make it say so.

    Whoever owns the file appends what the methods return, in their order, and replaces the file
    by `compacted()` when `compaction_due()` says so or when an append went wrong.

    Args:
        replayed: what the file says already.
    """

    def __init__(self, replayed: SnapshotContents = EMPTY) -> None:
        self._alive = dict(replayed.alive)
        self._written = replayed.clocks
        self._event_clock = replayed.clocks.event
        self._query_clock = replayed.clocks.query
        self._left = False

    @property
    def alive(self) -> dict[str, str]:
        """A copy of the members and their addresses, as a start would find them."""
        return dict(self._alive)

    @property
    def left(self) -> bool:
        """Whether we left; nothing is recorded any more then."""
        return self._left

    def record(self, event: Event) -> bytes:
        """Take an event in and give the lines for it; times are written by `clock_lines`."""
        if self._left:
            return b""
        if isinstance(event, UserEventReceived):
            self._event_clock = max(self._event_clock, _recordable_time(event.ltime))
        elif isinstance(event, QueryReceived):
            self._query_clock = max(self._query_clock, _recordable_time(event.ltime))
        elif event.kind in _PRESENT:
            return b"".join(map(self._record_alive, event.members))
        elif event.kind in _GONE:
            return b"".join(self._record_not_alive(member.name) for member in event.members)
        return b""

    def clock_lines(self, member_clock: int) -> bytes:
        """Give lines for the times that are newer than the written ones.

        To be called every 0.5 s at most: of the times in between nobody needs to know.

        Args:
            member_clock: the newest Lamport time seen among joins and leaves (one less than what
                the clock itself shows).
        """
        return b"" if self._left else self._newer_clocks(member_clock)

    def resume(self, members: Iterable[Member], clocks: LamportTimes) -> None:
        """Start over from the members there are, because events were missed.

        The file has to be replaced by `compacted()` afterwards.

        Args:
            members: those alive now.
            clocks: the newest times seen.
        """
        if self._left:
            return
        self._alive = {}
        for member in members:
            self._record_alive(member)
        self._event_clock = max(self._event_clock, clocks.event)
        self._query_clock = max(self._query_clock, clocks.query)

    def leave(self, member_clock: int, *, keep: bool) -> bytes:
        """Give the last lines: we leave.

        Args:
            member_clock: as for `clock_lines`.
            keep: whether the members shall be found again (by a start that rejoins); else they
                are forgotten.
        """
        if self._left:
            return b""
        lines = self._newer_clocks(member_clock) + b"leave\n"
        self._left = True
        if not keep:
            self._alive.clear()
        return lines

    def compaction_due(self, size: int) -> bool:
        """Whether a file of this many bytes is worth rewriting."""
        return size > max(COMPACT_MIN, COMPACT_PER_MEMBER * len(self._alive))

    def compacted(self) -> bytes:
        """Give the whole content, as short as it can be."""
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
        newest = LamportTimes(
            max(member_clock, self._written.member), self._event_clock, self._query_clock
        )
        lines = b"".join(_clock_lines(self._written, newest))
        self._written = newest
        return lines


def _recordable_time(ltime: int) -> int:
    """Leave out the one time that clocks do not follow: a start could not go on behind it."""
    return ltime if ltime < _LTIME_MAX else 0


def _clock_lines(written: LamportTimes, newest: LamportTimes) -> Sequence[bytes]:
    times = (
        (b"clock", written.member, newest.member),
        (b"event-clock", written.event, newest.event),
        (b"query-clock", written.query, newest.query),
    )
    return [b"%s: %d\n" % (key, new) for key, old, new in times if new > old]


def _alive_line(name: str, address: str) -> bytes:
    return b"alive: " + _bytes(name) + b" " + address.encode() + b"\n"


def _is_recordable(member: Member) -> bool:
    """Whether a line can tell of a member, and a start make use of it."""
    name = member.name
    return bool(name and member.address.port) and not any(c in name for c in "\n\r\0")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
