"""Filters: which events somebody wants, and whose tags a query means.

Regular expressions are Go's, which are RE2's: no look-around, no back references, and a running
time linear in the text, so that an expression from the network can do no harm. The library is
loaded with the first expression.
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


@attrs.frozen(slots=True)
class EventFilter:
    """One wish of an event handler or a stream.

    Attributes:
        kind: a kind of event, or `*` for all that Serf knows; `member-suspect` and
            `member-recovered` are seen only by those who name them.
        name: for `user` and `query`, the only name wanted; empty for all.
    """

    kind: str = "*"
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> list[Self]:
        """Read a comma-separated list such as `member-join,user:deploy,query`.

        Nothing at all means everything. No blanks are allowed, as in Serf. Names are compared
        letter by letter; what follows the first colon is the name.

        Raises:
            InvalidFilter: an item that is not one of the known kinds.
        """
        return [cls._parse_one(item) for item in (text or "*").split(",")]

    @classmethod
    def _parse_one(cls, item: str) -> Self:
        kind, colon, name = item.partition(":")
        if kind in _KINDS and (not colon or kind in _NAMED_KINDS):
            return cls(kind, name)
        raise InvalidFilter(
            f"{item!r} is no event filter; expected *, member-join, member-leave, member-failed,"
            " member-update, member-reap, member-suspect, member-recovered, user, user:NAME,"
            " query or query:NAME"
        )

    def matches(self, event: Event) -> bool:
        """Whether this event is wanted."""
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
        """Find the expression anywhere in the text."""


_UNDECODED = re.compile("[\ud800-\udfff]")
"""How bytes that are not UTF-8 come in names and tags; Go reads each of them as U+FFFD."""
_SINGLE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
"""RE2 knows `\\C` for any single byte; Go refuses it, and so must we to agree on who is meant."""
_PATTERNS_KEPT = 32
"""Compiled expressions remembered; each takes some kilobytes."""
_PATTERN_MEMORY = 4 * 1024 * 1024
"""Bytes that one of them may take, program and all; a few letters can stand for millions."""


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    """Give the RE2 module, and options that keep it from writing to stderr."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    return re2, options


@lru_cache(maxsize=_PATTERNS_KEPT)
def compiled(expr: str) -> Pattern:
    """Compile an expression in Go's syntax.

    Raises:
        InvalidFilter: it cannot be understood, or is not UTF-8.
    """
    if _UNDECODED.search(expr):
        raise InvalidFilter(f"{expr!r} is no regular expression: invalid UTF-8")
    if _SINGLE_BYTE.search(expr):
        raise InvalidFilter(f"{expr!r} is no regular expression: invalid escape sequence: \\C")
    re2, options = _library()
    try:
        pattern: Pattern = re2.compile(expr, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidFilter(f"{expr!r} is no regular expression: {text}") from None
    return pattern


def matches(pattern: Pattern, text: str) -> bool:
    """Whether a compiled expression occurs somewhere in a name or a tag's value."""
    if not text.isascii():
        text = _UNDECODED.sub("\ufffd", text)
    return pattern.search(text) is not None


def tag_matches(tag_filter: TagFilter, tags: Mapping[str, str]) -> bool:
    """Whether the filter of a query lets a member of these tags through.

    The expression may match anywhere in the value; a tag that is missing counts as empty.

    Raises:
        InvalidFilter: a bad expression; the query is not for anyone then.
    """
    return matches(compiled(tag_filter.expr), tags.get(tag_filter.tag, ""))


def anchored(expr: str) -> Pattern:
    """Compile an expression that a user gave for a member's name, status or tag, as Serf does it.

    It is put between `^` and `$` as it is, without a group, and scripts rely on that: `a|b` finds
    what begins with a or ends with b; `(a|b)` finds the two alone.

    Raises:
        InvalidFilter: it cannot be understood.
    """
    return compiled(f"^{expr}$")
