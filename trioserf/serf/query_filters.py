"""The filters of received queries, within a budget of work (see serf/README.md, § Queries).

Any member, and without encryption any host, can send expressions that are expensive to compile or
to search. The budget is in seconds of upper bounds (see `compile_cost`), not of measured time, so
that a simulation repeats. An ordinary expression takes 0.1 ms of it once; results are remembered.
"""

from collections.abc import Mapping
from typing import Final

from trioserf.rate_limit import SourceLimits, TokenBucket
from trioserf.serf.filters import compile_cost, compiled, matches, search_cost
from trioserf.serf.member import Member
from trioserf.wire.errors import WireError
from trioserf.wire.serf_messages import NodeFilter, TagFilter
from trioserf.wire.serf_payloads import decode_filter

MAX_FILTERS: Final = 64
"""Filters of one query."""
_BURST: Final = 0.008
"""Seconds of work for one source at once, and thus for one packet."""
_RATE: Final = 0.01
"""Seconds of work for one source, for each second."""
_TOTAL_BURST, _TOTAL_RATE = 0.02, 0.05
"""The same for all sources."""
_DECODE_COST, _DECODE_COST_OF_BYTE = 5e-6, 0.02e-6
"""Seconds to decode one filter, and each of its bytes: a list may have thousands of names."""
_MAX_RESULTS: Final = 256
"""Remembered results of an expression on one of our tags."""


class QueryFilters:
    """Compares the filters of received queries with one member, ourselves."""

    def __init__(self) -> None:
        self._limits = SourceLimits(_RATE, _BURST, TokenBucket(_TOTAL_RATE, _TOTAL_BURST))
        self._results: dict[tuple[str, str], bool] = {}

    def match(self, filters: tuple[bytes, ...], member: Member, source: str, now: float) -> bool:
        """Return whether a member passes all filters of a query.

        Args:
            filters: as encoded in the query.
            member: ourselves.
            source: the host that sent the query to us.
            now: the current time.

        Raises:
            WireError: `budget`, there are too many filters, or they need too much work; or a
                filter is malformed.
            InvalidFilter: an expression is malformed.
        """
        if len(filters) > MAX_FILTERS:
            raise WireError("budget", f"{len(filters)} filters, expected at most {MAX_FILTERS}")
        for data in filters:
            self._spend(_DECODE_COST + len(data) * _DECODE_COST_OF_BYTE, source, now)
            one = decode_filter(data)
            if isinstance(one, NodeFilter):
                passes = member.name in one.names
            else:
                passes = self._tag_matches(one, member.tags, source, now)
            if not passes:
                return False
        return True

    def _tag_matches(
        self, tag_filter: TagFilter, tags: Mapping[str, str], source: str, now: float
    ) -> bool:
        key = tag_filter.expr, tags.get(tag_filter.tag, "")
        known = self._results.get(key)
        if known is not None:
            return known
        expr, value = key
        self._spend(compile_cost(expr), source, now)
        pattern = compiled(expr)
        self._spend(search_cost(pattern, value), source, now)
        if len(self._results) >= _MAX_RESULTS:
            del self._results[next(iter(self._results))]
        self._results[key] = result = matches(pattern, value)
        return result

    def _spend(self, cost: float, source: str, now: float) -> None:
        if not self._limits.take(source, cost, now):
            raise WireError("budget", "the filters of queries need too much work")
