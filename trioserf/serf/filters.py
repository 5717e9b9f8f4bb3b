"""Filters of members: regular expressions.

Regular expressions have Go's syntax, which is RE2's: no look-around, no back references, and a
running time linear in the text. The library is imported with the first expression.

That is not enough for expressions from the network: 1 KiB can take 90 ms to compile, and 45 ms to
search. So `compile_cost` and `search_cost` bound this work beforehand, and `QueryFilters` takes it
from a budget (see serf/README.md, § Queries).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from trioserf.errors import InvalidFilter, reason_of
from trioserf.wire.serf_messages import TagFilter

MAX_EXPRESSION: Final = 1024
"""Bytes of the longest expression."""


class Pattern(Protocol):
    """A compiled expression; `programsize` is the number of its instructions."""

    programsize: int

    def search(self, text: str, /) -> object | None:
        """Search the whole text for the expression."""


_UNDECODED = re.compile("[\ud800-\udfff]")
"""Bytes that are not UTF-8, as decoded in names and tags; Go reads each of them as U+FFFD."""
_SINGLE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
"""`\\C` is a single byte in RE2. Go rejects it, so we must, to match the same members as Go."""
_MAX_PATTERNS = 32
"""Compiled expressions in the cache; each takes some kilobytes."""
_PATTERN_MEMORY = 256 * 1024
"""Bytes of one compiled expression; a few characters can require millions."""
_SHOWN = 64
"""Characters of an expression in an error."""
_LONGEST_REASON = 120
"""Characters of RE2's reason, which repeats a part of the expression."""
_TABLES = re.compile(r"\\[pP]")
_COPIES = re.compile(r"\{\d|\[:")
"""Parts of an expression that compile to long tables, or to many copies or instructions."""
_COST_OF_ALL, _COST_OF_BYTE, _COST_OF_TABLE, _COST_OF_COPIES = 50e-6, 3e-6, 700e-6, 300e-6
"""Seconds to compile an expression, each of its bytes, each part of `_TABLES` and `_COPIES`."""
_COST_OF_COPIED_TABLES = 5e-3
"""Seconds to compile copies of tables; `_PATTERN_MEMORY` limits them."""
_COST_OF_STEP = 10e-9
"""Seconds for each instruction and byte of text, if RE2 needs its slowest algorithm."""


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    """Return the RE2 module, and options that keep it from writing to stderr."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    # Only whether a text matches is asked. Captures take memory with the square of their number.
    options.never_capture = True
    return re2, options


def _shown(expr: str) -> str:
    return repr(expr) if len(expr) <= _SHOWN else f"{expr[:_SHOWN]!r}… ({len(expr)} characters)"


@lru_cache(maxsize=_MAX_PATTERNS)
def compiled(expr: str) -> Pattern:
    """Compile an expression in Go's syntax.

    Raises:
        InvalidFilter: it is malformed, not UTF-8, too long, or needs too much memory; or the
            library cannot be loaded now, for lack of descriptors.
    """
    reason = _defect(expr)
    if reason is not None:
        raise InvalidFilter(f"{_shown(expr)} is not a valid regular expression: {reason}")
    try:
        re2, options = _library()
    except (ImportError, OSError) as error:
        raise InvalidFilter(f"{_shown(expr)} cannot be compiled: {reason_of(error)}") from error
    try:
        pattern: Pattern = re2.compile(expr, options)
    except re2.error as error:
        found = error.args[0]
        reason = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    except MemoryError:
        reason = "it needs too much memory"
    else:
        re2.purge()  # its own cache would keep 128 more
        return pattern
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}…"
    raise InvalidFilter(f"{_shown(expr)} is not a valid regular expression: {reason}")


def _defect(expr: str) -> str | None:
    """Return why the library must not see an expression, or None."""
    if _UNDECODED.search(expr):
        return "invalid UTF-8"
    size = len(expr.encode())
    if size > MAX_EXPRESSION:
        return f"{size} bytes, expected at most {MAX_EXPRESSION}"
    if _SINGLE_BYTE.search(expr):
        return "invalid escape sequence: \\C"
    return None


def compile_cost(expr: str) -> float:
    """Return an upper bound of the seconds that it takes to compile an expression.

    Measured at most: 0.7 ms for a Unicode class that ignores case, 4 ms for copies of one, 90 µs a
    byte for counted repetitions, 2 µs for all else.
    """
    tables = sum(1 for _ in _TABLES.finditer(expr))
    copies = sum(1 for _ in _COPIES.finditer(expr))
    cost = _COST_OF_ALL + len(expr) * _COST_OF_BYTE
    cost += tables * _COST_OF_TABLE + copies * _COST_OF_COPIES
    return cost + _COST_OF_COPIED_TABLES if tables and copies else cost


def search_cost(pattern: Pattern, text: str) -> float:
    """Return an upper bound of the seconds that it takes to search a text for an expression."""
    return pattern.programsize * (len(text) + 1) * _COST_OF_STEP


def matches(pattern: Pattern, text: str) -> bool:
    """Return whether an expression matches somewhere in a name or the value of a tag."""
    if not text.isascii():
        text = _UNDECODED.sub("\ufffd", text)
    try:
        return pattern.search(text) is not None
    except MemoryError:
        return False


def tag_matches(tag_filter: TagFilter, tags: Mapping[str, str]) -> bool:
    """Return whether a member with these tags passes the filter of a query of our own.

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
