"""The kinds of events, and filters of events for subscriptions, clients and handlers."""

from typing import Any, Final, Literal, NamedTuple, Protocol, Self

from trioserf.arguments import text, wrong_type
from trioserf.errors import InvalidFilter

MemberEventKind = Literal[
    "member-join",
    "member-leave",
    "member-failed",
    "member-update",
    "member-reap",
    "member-suspect",
    "member-recovered",
]
MEMBER_EVENT_KINDS: Final[tuple[MemberEventKind, ...]] = (
    "member-join",
    "member-leave",
    "member-failed",
    "member-update",
    "member-reap",
)
"""Serf's kinds, which subscriptions get by default."""

SUSPICION_EVENT_KINDS: Final[tuple[MemberEventKind, ...]] = ("member-suspect", "member-recovered")
"""Our own kinds, which a subscription gets only if its filters name them."""

_NAMED_KINDS = ("user", "query")
_SERF_KINDS = (*MEMBER_EVENT_KINDS, *_NAMED_KINDS)
_KINDS = frozenset({*_SERF_KINDS, *SUSPICION_EVENT_KINDS, "*"})


class _Event(Protocol):
    """An event of a node, or the record of one that a client receives."""

    @property
    def kind(self) -> str:
        """The kind of the event."""


class _Fields(NamedTuple):
    kind: str
    name: str


class EventFilter(_Fields):
    """One filter of an event handler or a subscription.

    Attributes:
        kind: a kind of event, or `*` for all of Serf's kinds; `member-suspect` and
            `member-recovered` must be named.
        name: for `user` and `query`, the name that matches; empty for all.

    Raises:
        InvalidFilter: an unknown kind, or a name of another kind than these two.
    """

    __slots__ = ()

    def __new__(cls, kind: str = "*", name: str = "") -> Self:
        """Make a filter."""
        if text("kind", kind) not in _KINDS or (text("name", name) and kind not in _NAMED_KINDS):
            raise _invalid(f"{kind}:{name}" if name else kind)
        return super().__new__(cls, kind, name)

    @classmethod
    def parse(cls, text: str) -> list[Self]:
        """Parse a comma-separated list such as `member-join,user:deploy,query`.

        An empty text matches all of Serf's kinds. Blanks are not allowed, as in Serf. The text
        after the first colon is the name, and is compared as it is.

        Raises:
            InvalidFilter: an item is not a known kind.
            TypeError: not a str.
        """
        if not isinstance(text, str):
            raise wrong_type("filter", "a str such as 'user:deploy'", text)
        return [cls._parse_one(item) for item in (text or "*").split(",")]

    @classmethod
    def _parse_one(cls, item: str) -> Self:
        kind, colon, name = item.partition(":")
        if kind not in _KINDS or (colon and kind not in _NAMED_KINDS):
            raise _invalid(item)
        return cls(kind, name)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the events that may pass."""
        return _SERF_KINDS if self.kind == "*" else (self.kind,)

    def matches(self, event: _Event) -> bool:
        """Return whether the event passes."""
        if event.kind not in self.kinds:
            return False
        return not self.name or self.name == getattr(event, "name", None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def event_filters(filters: tuple[Any, ...]) -> tuple[EventFilter, ...]:
    """Return the filters of a subscription, each of them an `EventFilter` or a text.

    Raises:
        InvalidFilter: a text is not a valid filter.
        TypeError: neither a text nor a filter.
    """
    found: list[EventFilter] = []
    for index, one in enumerate(filters):
        if isinstance(one, EventFilter):
            found.append(one)
        elif isinstance(one, str):
            found += EventFilter.parse(one)
        else:
            expected = "a str such as 'user:deploy', or an EventFilter"
            raise wrong_type(f"filters[{index}]", expected, one)
    return tuple(found)


def _invalid(item: str) -> InvalidFilter:
    return InvalidFilter(
        f"{item!r} is not a valid event filter; expected *, member-join, member-leave,"
        " member-failed, member-update, member-reap, member-suspect, member-recovered, user,"
        " user:NAME, query or query:NAME"
    )
