"""Coalescing: a burst of events becomes a few for handlers (see serf/README.md, § Coalescing).

A burst begins with its first event. It ends after `quiet` seconds without an event, or `period`
seconds after its beginning; the gathered events are then delivered.
"""

import attrs

from trioserf.event_filter import MEMBER_EVENT_KINDS, MemberEventKind
from trioserf.serf.events import Event, MemberEvent, UserEventReceived
from trioserf.serf.member import Member

PERIOD = 3.0
"""Seconds after which a burst is delivered even if it continues."""
QUIET = 1.0
"""Seconds without an event that end a burst."""

_MAX_REAPED = 1024
"""Reaped members whose last event is kept: they may be reaped again, or never rejoin."""


@attrs.define(eq=False, repr=False)
class _Window:
    """The deadline of a burst."""

    period: float
    quiet: float
    _end: float | None = None
    deadline: float | None = None

    def extend(self, now: float) -> None:
        if self._end is None:
            self._end = now + self.period
        self.deadline = min(self._end, now + self.quiet)

    def is_due(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def close(self) -> None:
        self._end = self.deadline = None


class MemberCoalescer:
    """Gathers member events: keeps the latest for each member, delivers one event for each kind.

    A member whose last delivered event was of the same kind is omitted: it failed and rejoined
    within the burst. Updates are always delivered. Suspicions are not coalesced, as they are only
    useful at once.

    Args:
        period: seconds a burst may last.
        quiet: seconds without an event that end it.
    """

    def __init__(self, period: float = PERIOD, quiet: float = QUIET) -> None:
        self._window = _Window(period, quiet)
        self._latest: dict[str, tuple[MemberEventKind, Member]] = {}
        self._delivered: dict[str, MemberEventKind] = {}
        self._reaped: dict[str, None] = {}

    @property
    def deadline(self) -> float | None:
        """The time at which the burst ends, unless another event comes; None between bursts."""
        return self._window.deadline

    def feed(self, event: Event, now: float) -> bool:
        """Gather an event if it is of this coalescer's kind; return whether it was gathered."""
        if not isinstance(event, MemberEvent) or event.kind not in MEMBER_EVENT_KINDS:
            return False
        for member in event.members:
            self._latest[member.name] = (event.kind, member)
        self._window.extend(now)
        return True

    def flush(self, now: float) -> list[Event]:
        """Return the gathered events if the burst has ended."""
        return self.drain() if self._window.is_due(now) else []

    def drain(self) -> list[Event]:
        """End the burst and return the gathered events."""
        by_kind: dict[MemberEventKind, list[Member]] = {}
        for name, (kind, member) in self._latest.items():
            if kind == "member-update" or self._delivered.get(name) != kind:
                self._remember(name, kind)
                by_kind.setdefault(kind, []).append(member)
        self._latest.clear()
        self._window.close()
        return [MemberEvent(kind, tuple(members)) for kind, members in by_kind.items()]

    def _remember(self, name: str, kind: MemberEventKind) -> None:
        self._delivered[name] = kind
        if kind != "member-reap":
            self._reaped.pop(name, None)
            return
        self._reaped[name] = None
        if len(self._reaped) > _MAX_REAPED:
            oldest = next(iter(self._reaped))
            del self._reaped[oldest], self._delivered[oldest]


class UserCoalescer:
    """Gathers user events with the coalesce flag: keeps the latest for each name.

    The latest are those of the highest Lamport time; all events of that name and time are kept.

    Args:
        period: seconds a burst may last.
        quiet: seconds without an event that end it.
    """

    def __init__(self, period: float = PERIOD, quiet: float = QUIET) -> None:
        self._window = _Window(period, quiet)
        self._newest: dict[str, list[UserEventReceived]] = {}

    @property
    def deadline(self) -> float | None:
        """The time at which the burst ends, unless another event comes; None between bursts."""
        return self._window.deadline

    def feed(self, event: Event, now: float) -> bool:
        """Gather an event if it is of this coalescer's kind; return whether it was gathered."""
        if not isinstance(event, UserEventReceived) or not event.coalesce:
            return False
        kept = self._newest.get(event.name)
        if kept is None or kept[0].ltime < event.ltime:
            self._newest[event.name] = [event]
        elif kept[0].ltime == event.ltime:
            kept.append(event)
        self._window.extend(now)
        return True

    def flush(self, now: float) -> list[Event]:
        """Return the gathered events if the burst has ended."""
        return self.drain() if self._window.is_due(now) else []

    def drain(self) -> list[Event]:
        """End the burst and return the gathered events."""
        gathered: list[Event] = [event for kept in self._newest.values() for event in kept]
        self._newest.clear()
        self._window.close()
        return gathered


class EventCoalescer:
    """Both coalescers, each with its own bursts.

    Args:
        period: seconds a burst may last.
        quiet: seconds without an event that end it.
    """

    def __init__(self, period: float = PERIOD, quiet: float = QUIET) -> None:
        self._members = MemberCoalescer(period, quiet)
        self._users = UserCoalescer(period, quiet)

    @property
    def deadline(self) -> float | None:
        """The time at which the burst ends, unless another event comes; None between bursts."""
        deadlines = (self._members.deadline, self._users.deadline)
        return min((at for at in deadlines if at is not None), default=None)

    def feed(self, event: Event, now: float) -> bool:
        """Gather an event; return whether a coalescer gathered it."""
        return self._members.feed(event, now) or self._users.feed(event, now)

    def flush(self, now: float) -> list[Event]:
        """Return the gathered events of bursts that have ended, members first."""
        return self._members.flush(now) + self._users.flush(now)

    def drain(self) -> list[Event]:
        """End the burst and return the gathered events."""
        return self._members.drain() + self._users.drain()
