"""Admission to the control port: places of connections, and tries of keys.

A connection that has asked nothing, or asks nothing at the moment, must not keep another one out.
(See control/README.md, § Limits.)
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trioserf.address import host_of, packed
from trioserf.operating_system.sockets import is_unix
from trioserf.rate_limit import TokenBucket
from trioserf.value_objects import ValueObject

UNIX: Final = "unix"
"""The source of all connections to Unix sockets, which only their owner can open."""
LOOPBACK: Final = "loopback"
"""The source of all other connections from this machine."""

KEY_TRIES: Final = 10
"""Wrong keys of one source at once."""
KEY_RATE: Final = 1.0
"""Further ones per second."""
_MAX_SOURCES: Final = 1024
"""Sources whose wrong keys are counted; the one whose first wrong key is oldest is dropped."""

_log = logging.getLogger("trioserf.agent.ipc")
_ALL, _TCP, _KEYLESS = "all", "TCP", "unauthenticated"


@attrs.frozen(eq=False, repr=False)
class Limits(ValueObject):
    """Limits of connections; times in seconds.

    Attributes:
        connections: open connections.
        kept_for_unix: how many of them only Unix sockets may have.
        loopback: how many may come from this machine over TCP.
        source: how many may come from one other address.
        unauthenticated: how many may be unauthenticated, if `rpc_auth` is set; Unix sockets do
            not count.
        source_unauthenticated: how many of them may come from one other address.
        first: from the connect to a complete first request.
        auth: from the connect to the right key, if `rpc_auth` is set.
        message: from the first byte of a request to its last.
        write: a write without progress.
        wrong_key: from a wrong key to the reply.
        linger: further reading after a last error, so that the client receives the error.
    """

    connections: int = 512
    kept_for_unix: int = 16
    loopback: int = 256
    source: int = 64
    unauthenticated: int = 64
    source_unauthenticated: int = 16
    first: float = 60.0
    auth: float = 20.0
    message: float = 60.0
    write: float = 30.0
    wrong_key: float = 1.0
    linger: float = 2.0


def _is_idle() -> bool:
    return False


class Place:
    """The place of one connection.

    Attributes:
        source: `unix`, `loopback`, or another address; of IPv6 its network of 64 bits.
        is_busy: returns whether a request or stream is in progress.
    """

    def __init__(
        self, places: "PlaceTable", source: str, groups: list[str], close: Callable[[], None]
    ) -> None:
        self.source = source
        self.groups = groups
        self.close = close
        self.is_busy: Callable[[], bool] = _is_idle
        self._places = places

    def mark_used(self) -> None:
        """Record that a request has ended: this connection now makes room last."""
        self._places.mark_used(self)

    def mark_authenticated(self) -> None:
        """Record the right key."""
        self._places.mark_authenticated(self)

    def release(self) -> None:
        """Make the place free again."""
        self._places.release(self)
        self.is_busy = _is_idle  # without the method, the connection is in no reference cycle


class PlaceTable:
    """The places of all connections.

    Each connection belongs to groups with a limit each: all, those over TCP, those of its source,
    the unauthenticated ones. When a group is full, the oldest of its connections that have asked
    nothing makes room; else the one that has been idle longest.

    Args:
        limits: the limits.
        needs_key: whether connections are unauthenticated at first.
    """

    def __init__(self, limits: Limits, *, needs_key: bool) -> None:
        self._limits = limits
        self._needs_key = needs_key
        self._sizes: Counter[str] = Counter()
        self._unused: dict[Place, None] = {}  # the oldest first
        self._used: dict[Place, None] = {}  # the longest idle first

    def __len__(self) -> int:
        return self._sizes[_ALL]

    @property
    def unauthenticated(self) -> int:
        """The number of unauthenticated connections, without those over Unix sockets."""
        return self._sizes[_KEYLESS]

    def admit(self, source: str, close: Callable[[], None]) -> Place | None:
        """Return a place for a new connection, or None if all others are busy.

        Args:
            source: see `source_of`.
            close: called at most once, to end the connection in favour of another one.
        """
        groups = self._groups(source)
        for group, limit in groups:
            if self._sizes[group] >= limit and not self._make_room(group):
                return None
        place = Place(self, source, [group for group, _ in groups], close)
        self._sizes.update(place.groups)
        self._unused[place] = None
        return place

    def _groups(self, source: str) -> list[tuple[str, int]]:
        """Return the groups of a connection with their limits, the smallest group first."""
        limits = self._limits
        if source == UNIX:
            return [(_ALL, limits.connections)]
        groups: list[tuple[str, int]] = []
        if self._needs_key:
            if source != LOOPBACK:
                groups.append((f"{_KEYLESS} {source}", limits.source_unauthenticated))
            groups.append((_KEYLESS, limits.unauthenticated))
        groups.append((source, limits.loopback if source == LOOPBACK else limits.source))
        groups.append((_TCP, limits.connections - limits.kept_for_unix))
        groups.append((_ALL, limits.connections))
        return groups

    def make_room(self) -> bool:
        """Close a connection, as if all places were taken; return False if all are busy."""
        return self._make_room(_ALL)

    def _make_room(self, group: str) -> bool:
        """Close a connection of this group; return False if all of them are busy."""
        for place in self._unused:
            if group in place.groups:
                break
        else:
            for place in self._used:
                if group in place.groups and not place.is_busy():
                    break
            else:
                return False
        place.release()
        place.close()
        return True

    def mark_used(self, place: Place) -> None:
        """Record that a request of an authenticated connection has ended."""
        if place.groups:
            self._unused.pop(place, None)
            self._used.pop(place, None)
            self._used[place] = None

    def mark_authenticated(self, place: Place) -> None:
        """Remove a connection from the unauthenticated ones."""
        keyless = [group for group in place.groups if group.startswith(_KEYLESS)]
        self._leave(place, keyless)

    def release(self, place: Place) -> None:
        """Forget a connection."""
        self._unused.pop(place, None)
        self._used.pop(place, None)
        self._leave(place, place.groups)

    def _leave(self, place: Place, groups: list[str]) -> None:
        place.groups = [group for group in place.groups if group not in groups]
        for group in groups:
            self._sizes[group] -= 1
            if not self._sizes[group]:
                del self._sizes[group]


class KeyTries:
    """The tries of each source: `KEY_TRIES` wrong keys, and `KEY_RATE` more every second."""

    def __init__(self) -> None:
        self._log = LimitedLog(_log)
        self._sources: dict[str, TokenBucket] = {}

    def are_left(self, source: str) -> bool:
        """Return whether a key of this source may be compared."""
        tries = self._sources.get(source)
        return tries is None or tries.has(1, trio.current_time())

    def reject(self, source: str, reason: str) -> None:
        """Count a rejected key, and log it."""
        if source not in self._sources:
            if len(self._sources) >= _MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            self._sources[source] = TokenBucket(KEY_RATE, KEY_TRIES)
        self._sources[source].take(1, trio.current_time())
        self._log.warning("Rejected a key from %s: %s", source, reason)


class LimitedLog:
    """Lines that any client can cause: a few at once, then one every 10 seconds."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines = TokenBucket(rate=0.1, burst=5)
        self._omitted = 0

    def warning(self, text: str, *args: object) -> None:
        """Log a line, or count it; the next line has the number of those that were omitted."""
        if not self._lines.take(1, trio.current_time()):
            self._omitted += 1
            return
        if self._omitted:
            text, args, self._omitted = (
                f"{text} (%d more lines omitted)",
                (*args, self._omitted),
                0,
            )
        self._log.warning(text, *args)


def source_of(stream: trio.abc.Stream) -> str:
    """Return the source of a connection (see `Place`)."""
    if not isinstance(stream, trio.SocketStream):
        return LOOPBACK
    if is_unix(stream.socket.family):
        return UNIX
    try:
        host, own = (name()[0] for name in (stream.socket.getpeername, stream.socket.getsockname))
    except OSError:
        return "unknown"  # it has disconnected already
    raw = packed(host)
    if host == own or raw[0] == 127 or raw == bytes(15) + b"\x01":
        return LOOPBACK
    return host_of(raw) if len(raw) == 4 else f"{host_of(raw[:8] + bytes(8))}/64"
