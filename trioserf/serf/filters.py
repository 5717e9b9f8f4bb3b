"""Filters of events and of members.

Regular expressions have Go's syntax, which is RE2's: no look-around, no back references, and a
running time linear in the text, so that an expression from the network cannot block the node. The
library is imported with the first expression.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, Self

import attrs

from trioserf.errors import InvalidFilter
from trioserf.serf.events import MEMBER_EVENT_KINDS, SUSPICION_EVENT_KINDS, Event, MemberEvent
from trioserf.wire.serf_messages import TagFilter

# --- events ---

_KINDS = frozenset({*MEMBER_EVENT_KINDS, *SUSPICION_EVENT_KINDS, "user", "query", "*"})
_NAMED_KINDS = frozenset({"user", "query"})


@attrs.frozen
class EventFilter:
    """One filter of an event handler or a subscription.

    Attributes:
        kind: a kind of event, or `*` for all of Serf's kinds; `member-suspect` and
            `member-recovered` must be named.
        name: for `user` and `query`, the name that matches; empty for all.
    """

    kind: str = "*"
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> list[Self]:
        """Parse a comma-separated list such as `member-join,user:deploy,query`.

        An empty text matches all of Serf's kinds. Blanks are not allowed, as in Serf. The text
        after the first colon is the name, and is compared as it is.

        Raises:
            InvalidFilter: an item is not a known kind.
        """
        return [cls._parse_one(item) for item in (text or "*").split(",")]

    @classmethod
    def _parse_one(cls, item: str) -> Self:
        kind, colon, name = item.partition(":")
        if kind in _KINDS and (not colon or kind in _NAMED_KINDS):
            return cls(kind, name)
        raise InvalidFilter(
            f"{item!r} is not a valid event filter; expected *, member-join, member-leave,"
            " member-failed, member-update, member-reap, member-suspect, member-recovered, user,"
            " user:NAME, query or query:NAME"
        )

    def matches(self, event: Event) -> bool:
        """Return whether the event passes."""
        if self.kind == "*":
            return event.kind not in SUSPICION_EVENT_KINDS
        if self.kind != event.kind:
            return False
        return isinstance(event, MemberEvent) or not self.name or self.name == event.name

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


# --- expressions ---


class Pattern(Protocol):
    """A compiled expression."""

    def search(self, text: str, /) -> object | None:
        """Search the whole text for the expression."""


_UNDECODED = re.compile("[\ud800-\udfff]")
"""Bytes that are not UTF-8, as decoded in names and tags; Go reads each of them as U+FFFD."""
_SINGLE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
"""`\\C` is a single byte in RE2. Go rejects it, so we must, to match the same members as Go."""
_MAX_PATTERNS = 32
"""Compiled expressions in the cache; each takes some kilobytes."""
_PATTERN_MEMORY = 4 * 1024 * 1024
"""Bytes of one compiled expression; a few characters can require millions."""


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    """Return the RE2 module, and options that keep it from writing to stderr."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    return re2, options


@lru_cache(maxsize=_MAX_PATTERNS)
def compiled(expr: str) -> Pattern:
    """Compile an expression in Go's syntax.

    Raises:
        InvalidFilter: it is malformed or not UTF-8.
    """
    if _UNDECODED.search(expr):
        raise InvalidFilter(f"{expr!r} is not a valid regular expression: invalid UTF-8")
    if _SINGLE_BYTE.search(expr):
        raise InvalidFilter(
            f"{expr!r} is not a valid regular expression: invalid escape sequence: \\C"
        )
    re2, options = _library()
    try:
        pattern: Pattern = re2.compile(expr, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidFilter(f"{expr!r} is not a valid regular expression: {text}") from None
    return pattern


def matches(pattern: Pattern, text: str) -> bool:
    """Return whether an expression matches somewhere in a name or the value of a tag."""
    if not text.isascii():
        text = _UNDECODED.sub("\ufffd", text)
    return pattern.search(text) is not None


def tag_matches(tag_filter: TagFilter, tags: Mapping[str, str]) -> bool:
    """Return whether a member with these tags passes the filter of a query.

    The expression may match anywhere in the value; a missing tag counts as empty.

    Raises:
        InvalidFilter: the expression is malformed.
    """
    return matches(compiled(tag_filter.expr), tags.get(tag_filter.tag, ""))


def anchored(expr: str) -> Pattern:
    """Compile a user's expression for a member's name, status or tag, as Serf does.

    `^` and `$` are added without a group, and scripts rely on that: `a|b` matches texts that
    begin with a or end with b; `(a|b)` matches only those two texts.

    Raises:
        InvalidFilter: it is malformed.
    """
    return compiled(f"^{expr}$")
