"""Queries of our own that are running (see serf/README.md, § Queries)."""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from trioserf.address import Address, packed
from trioserf.arguments import check_query_numbers
from trioserf.errors import InvalidFilter, InvalidQuery, TooLarge
from trioserf.printable import short_name
from trioserf.results import QueryResult
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import Effects
from trioserf.serf.filters import compiled, tag_matches
from trioserf.serf.internal_queries import KEY_QUERIES, PING, check_name
from trioserf.serf.lamport import LamportClock
from trioserf.serf.member import Member
from trioserf.serf.member_table import MemberTable
from trioserf.serf.query_collector import RunningQuery
from trioserf.serf.query_filters import MAX_FILTERS
from trioserf.serf.query_repeats import QueryRepeats
from trioserf.value_objects import ValueObject
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    NodeFilter,
    Query,
    QueryFlag,
    QueryResponse,
    ResponseFlag,
    TagFilter,
)
from trioserf.wire.serf_payloads import encode_filter

_log = logging.getLogger("trioserf.serf")

NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})
"""An immutable empty mapping."""
_MAX_TIMEOUT: Final = 2**63 - 1
"""The longest timeout of a query, in nanoseconds."""


def default_query_timeout(gossip_interval: float, members: int, multiplier: int = 16) -> float:
    """Return the default timeout of a query in seconds.

    Args:
        gossip_interval: seconds between two gossip rounds.
        members: alive members, at least 1 (ourselves).
        multiplier: gossip rounds for each power of ten of the members.
    """
    digits = len(str(members))  # = ceil(log10(members + 1)), exactly
    return gossip_interval * multiplier * digits


def _to_tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class QueryParams(ValueObject):
    """A query to send.

    Attributes:
        name: the query's name.
        payload: any bytes.
        nodes: names of the members to query; empty for all.
        tags: RE2 expressions by tag; all must match.
        timeout: seconds until the deadline; None or 0 for Serf's default.
        ack: whether to request acks; without them a query cannot finish early while a member has
            not responded.
        relay_factor: members that relay each response as well, 0 to 255.
        first: finish after this number of responses, at least 1; None for all.
        internal: whether names that begin with `_serf_` are allowed.

    Raises:
        InvalidQuery: the name is internal, or a number is out of its range.
    """

    name: str
    payload: bytes = b""
    nodes: tuple[str, ...] = attrs.field(default=(), converter=_to_tuple)
    tags: Mapping[str, str] = NO_TAGS
    timeout: float | None = None
    ack: bool = True
    relay_factor: int = 0
    first: int | None = None
    internal: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.internal:
            check_name(self.name, self.payload)
        check_query_numbers(self.timeout, self.relay_factor, self.first)

    def filters(self) -> tuple[NodeFilter | TagFilter, ...]:
        """Return the filters of the query.

        Raises:
            InvalidFilter: an expression is malformed, or there are too many.
        """
        if len(self.tags) >= MAX_FILTERS:
            raise InvalidFilter(
                f"{len(self.tags)} tags in one query, expected at most {MAX_FILTERS - 1}"
            )
        for expr in self.tags.values():
            compiled(expr)
        by_name = (NodeFilter(self.nodes),) if self.nodes else ()
        return (*by_name, *(TagFilter(tag, expr) for tag, expr in self.tags.items()))


def matches_filters(member: Member, filters: tuple[NodeFilter | TagFilter, ...]) -> bool:
    """Return whether a member passes the filters of a query of our own.

    Raises:
        InvalidFilter: an expression is malformed.
    """
    return all(
        member.name in f.names if isinstance(f, NodeFilter) else tag_matches(f, member.tags)
        for f in filters
    )


class OutgoingQueries:
    """The running queries of this node.

    Args:
        table: the members.
        clock: the Lamport clock of queries.
        options: limits.
        gossip_interval: seconds; the default timeout is a multiple of it.
        rng: chooses the ids of queries.
        effects: receives queries that are sent again; its counters are for metrics.
    """

    def __init__(
        self,
        table: MemberTable,
        clock: LamportClock,
        *,
        options: SerfOptions,
        gossip_interval: float,
        rng: random.Random,
        effects: Effects,
    ) -> None:
        self._table = table
        self._clock = clock
        self._options = options
        self._gossip_interval = gossip_interval
        self._rng = rng
        self._counters = effects.counters
        self._repeats = QueryRepeats(table, effects.direct_messages, rng)
        self._running: dict[tuple[int, int], RunningQuery] = {}

    def __len__(self) -> int:
        return len(self._running)

    def default_timeout(self) -> float:
        """Return the timeout of queries without one, in seconds."""
        return default_query_timeout(
            self._gossip_interval,
            max(1, self._table.present_count),
            self._options.query_timeout_mult,
        )

    def start(
        self,
        params: QueryParams,
        address: Address,
        deliver: Callable[[QueryResult], None],
        now: float,
    ) -> tuple[RunningQuery, Query, bytes]:
        """Create a query and collect its responses from now on.

        Args:
            params: the query.
            address: our own, to which members respond.
            deliver: receives each result; a `QueryDone` is the last.
            now: the current time.

        Returns:
            The running query, and its message and bytes, which the caller must send.

        Raises:
            InvalidFilter: an expression is malformed.
            InvalidQuery: too many queries are running.
            TooLarge: the encoded query exceeds its limit.
        """
        if len(self._running) >= self._options.running_queries:
            raise InvalidQuery(f"{self._options.running_queries} queries are running already")
        filters = params.filters()
        seconds = params.timeout or self.default_timeout()
        message = Query(
            ltime=self._clock.time,
            id=self._rng.getrandbits(31),
            addr=packed(address.host),
            port=address.port,
            source_node=self._table.name,
            filters=tuple(map(encode_filter, filters)),
            flags=int(QueryFlag.ACK) if params.ack else 0,
            relay_factor=params.relay_factor,
            timeout=int(min(seconds * 1e9, _MAX_TIMEOUT)),
            name=params.name,
            payload=params.payload,
        )
        data = encode(message)
        if len(data) > self._options.query_size_limit:
            raise TooLarge(f"query exceeds limit of {self._options.query_size_limit} bytes")
        query = RunningQuery(
            message.ltime,
            message.id,
            params.name,
            deadline=now + message.timeout / 1e9,
            expected=self._expected(filters),
            wants_acks=params.ack,
            ack_suffices=params.name == PING,
            first=params.first,
            max_unexpected=self._options.unexpected_responders,
            deliver=deliver,
        )
        self._running[query.key] = query
        return query, message, data

    def repeat(self, query: RunningQuery, message: Query, now: float) -> None:
        """Send a query again to members that do not acknowledge it, if they should."""
        if message.flags & QueryFlag.ACK:
            self._repeats.add(query, message, now)

    def _expected(self, filters: tuple[NodeFilter | TagFilter, ...]) -> Iterable[str]:
        alive = self._table.alive()
        return [member.name for member in alive if not filters or matches_filters(member, filters)]

    def is_about_keys(self, response: QueryResponse) -> bool:
        """Return whether a response belongs to a key query of our own."""
        query = self._running.get((response.ltime, response.id))
        return query is not None and query.name in KEY_QUERIES

    def handle_response(self, response: QueryResponse, now: float) -> None:
        """Pass a response to its query."""
        query = self._running.get((response.ltime, response.id))
        if query is None or now > query.deadline:
            _log.debug(
                "reply for non-running query (LTime: %d, ID: %d, From: %s)",
                response.ltime,
                response.id,
                short_name(response.source),
            )
            return
        self._count(response, is_duplicate=query.handle_response(response))
        self._drop_if_finished(query)

    def _count(self, response: QueryResponse, *, is_duplicate: bool) -> None:
        kind = "acks" if response.flags & ResponseFlag.ACK else "responses"
        self._counters.counter(f"serf.query_{'duplicate_' if is_duplicate else ''}{kind}").add()

    def stop_waiting_for(self, name: str) -> None:
        """Stop waiting for a member that has left or failed."""
        for query in [query for query in self._running.values() if query.awaits(name)]:
            query.stop_waiting_for(name)
            self._drop_if_finished(query)

    def cancel(self, query: RunningQuery) -> None:
        """End a query now, which delivers its `QueryDone`."""
        query.finish()
        self._drop_if_finished(query)

    def finish_if_complete(self, query: RunningQuery) -> None:
        """End a query if it is complete."""
        query.finish_if_complete()
        self._drop_if_finished(query)

    @property
    def next_deadline(self) -> float | None:
        """The time at which `expire` has work to do, or None."""
        if not self._running:  # the usual case, and this is read after every packet
            return None
        ends_at = min(query.deadline for query in self._running.values())
        repeats_at = self._repeats.next_deadline
        return ends_at if repeats_at is None else min(ends_at, repeats_at)

    def expire(self, now: float) -> None:
        """End the queries whose deadline has passed, and repeat others."""
        for query in [query for query in self._running.values() if query.deadline <= now]:
            self.cancel(query)
        self._repeats.expire(now)

    def _drop_if_finished(self, query: RunningQuery) -> None:
        if query.finished:
            self._running.pop(query.key, None)
            self._repeats.discard(query)
