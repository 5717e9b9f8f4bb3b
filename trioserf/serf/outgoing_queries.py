"""Asking queries: who is expected to answer, and which queries run (spec: queries)."""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from trioserf.address import Address, packed
from trioserf.counters import Counters
from trioserf.errors import InvalidQuery, TooLarge
from trioserf.serf.config import SerfOptions
from trioserf.serf.filters import compiled
from trioserf.serf.incoming_queries import matches_filters
from trioserf.serf.internal_queries import PING, check_name
from trioserf.serf.lamport import LamportClock
from trioserf.serf.member_table import MemberTable
from trioserf.serf.query_collector import QueryResult, RunningQuery
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import (
    NodeFilter,
    Query,
    QueryFlag,
    QueryResponse,
    ResponseFlag,
    TagFilter,
)

_log = logging.getLogger("trioserf.serf")

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
"""An empty mapping that nobody can fill."""
_LONGEST_TIMEOUT: Final = 2**63 - 1
"""Nanoseconds that fit into a query."""
_MAX_RELAY_FACTOR: Final = 255


def default_query_timeout(gossip_interval: float, members: int, multiplier: int = 16) -> float:
    """Give the seconds a query runs unless its asker says otherwise.

    Args:
        gossip_interval: seconds between two rounds of gossip.
        members: members alive, at least 1 (ourselves).
        multiplier: rounds for each power of ten.
    """
    digits = len(str(members))  # = ceil(log10(members + 1)), exactly
    return gossip_interval * multiplier * digits


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@attrs.frozen(slots=True, kw_only=True)
class QueryParams:
    """What shall be asked, and how.

    Attributes:
        name: the query's name.
        payload: what is asked.
        nodes: names of those who are asked; none means everyone.
        tags: RE2 expressions by tag; all have to match.
        timeout: seconds until the deadline; None or 0 for Serf's default.
        ack: whether acknowledgements are wanted; without them a query cannot end early while
            some have not answered.
        relay_factor: members that pass each answer on as well, 0 to 255.
        first: answers that are enough, at least 1; None for all.
        internal: whether names that begin with `_serf_` are allowed.

    Raises:
        InvalidQuery: an internal name, or a number out of its range.
    """

    name: str
    payload: bytes = b""
    nodes: tuple[str, ...] = attrs.field(default=(), converter=_names)
    tags: Mapping[str, str] = NOTHING
    timeout: float | None = None
    ack: bool = True
    relay_factor: int = 0
    first: int | None = None
    internal: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.internal:
            check_name(self.name, self.payload)
        if not 0 <= self.relay_factor <= _MAX_RELAY_FACTOR:
            raise InvalidQuery(f"Relay factor must be between 0 and {_MAX_RELAY_FACTOR}")
        if self.timeout is not None and not self.timeout >= 0:
            raise InvalidQuery("The timeout of a query cannot be negative")
        if self.first is not None and self.first < 1:
            raise InvalidQuery("A query must wait for at least one answer")

    def filters(self) -> tuple[NodeFilter | TagFilter, ...]:
        """Give the filters for the members that are meant.

        Raises:
            InvalidFilter: an expression that cannot be understood.
        """
        for expr in self.tags.values():
            compiled(expr)
        by_name = (NodeFilter(self.nodes),) if self.nodes else ()
        return (*by_name, *(TagFilter(tag, expr) for tag, expr in self.tags.items()))


class OutgoingQueries:
    """The queries of ours that run.

    Args:
        table: the members.
        clock: the queries' Lamport clock.
        codec: how messages are spelled.
        options: limits.
        gossip_interval: seconds; the default timeout of queries is a multiple of it.
        rng: gives the numbers of queries.
        tally: counts what comes back.
    """

    def __init__(
        self,
        table: MemberTable,
        clock: LamportClock,
        *,
        codec: Codec,
        options: SerfOptions,
        gossip_interval: float,
        rng: random.Random,
        tally: Counters,
    ) -> None:
        self._table = table
        self._clock = clock
        self._codec = codec
        self._options = options
        self._gossip_interval = gossip_interval
        self._rng = rng
        self._tally = tally
        self._running: dict[tuple[int, int], RunningQuery] = {}

    def __len__(self) -> int:
        return len(self._running)

    def default_timeout(self) -> float:
        """Give the seconds a query runs unless its asker says otherwise."""
        return default_query_timeout(
            self._gossip_interval,
            max(1, self._table.present_count),
            self._options.query_timeout_mult,
        )

    def start(
        self,
        question: QueryParams,
        address: Address,
        now: float,
        deliver: Callable[[RunningQuery, QueryResult], None],
    ) -> tuple[RunningQuery, Query, bytes]:
        """Make a query and collect for it from now on.

        Args:
            question: what is asked.
            address: where answers are to go.
            now: the instant.
            deliver: takes what comes back.

        Returns:
            The collector, and the message with its bytes, which is still to be sent.

        Raises:
            InvalidFilter: an expression that cannot be understood.
            InvalidQuery: too many queries run already.
            TooLarge: over the limit.
        """
        if len(self._running) >= self._options.asked_queries:
            raise InvalidQuery(f"{self._options.asked_queries} queries are running already")
        filters = question.filters()
        seconds = question.timeout or self.default_timeout()
        message = Query(
            ltime=self._clock.time,
            id=self._rng.getrandbits(31),
            addr=packed(address.host),
            port=address.port,
            source_node=self._table.name,
            filters=tuple(map(self._codec.encode_filter, filters)),
            flags=int(QueryFlag.ACK) if question.ack else 0,
            relay_factor=question.relay_factor,
            timeout=int(min(seconds * 1e9, _LONGEST_TIMEOUT)),
            name=question.name,
            payload=question.payload,
        )
        data = self._codec.encode(message)
        if len(data) > self._options.query_size_limit:
            raise TooLarge(f"query exceeds limit of {self._options.query_size_limit} bytes")
        asked = RunningQuery(
            message.ltime,
            message.id,
            question.name,
            deadline=now + message.timeout / 1e9,
            expected=self._expected(filters),
            wants_acks=question.ack,
            ack_suffices=question.name == PING,
            first=question.first,
            max_unexpected=self._options.unexpected_answers,
            deliver=deliver,
        )
        self._running[asked.key] = asked
        return asked, message, data

    def _expected(self, filters: tuple[NodeFilter | TagFilter, ...]) -> Iterable[str]:
        alive = self._table.alive()
        return [member.name for member in alive if not filters or matches_filters(member, filters)]

    def handle_response(self, response: QueryResponse, now: float) -> None:
        """Hand a response to its query."""
        query = self._running.get((response.ltime, response.id))
        if query is None or now > query.deadline:
            _log.debug(
                "reply for non-running query (LTime: %d, ID: %d, From: %s)",
                response.ltime,
                response.id,
                response.source,
            )
            return
        self._count(response, double=query.handle_response(response))
        self._drop_if_finished(query)

    def _count(self, response: QueryResponse, *, double: bool) -> None:
        kind = "acks" if response.flags & ResponseFlag.ACK else "responses"
        self._tally.counter(f"serf.query_{'duplicate_' if double else ''}{kind}").add()

    def on_member_gone(self, name: str) -> None:
        """Wait no longer for a member that has left or failed."""
        for query in list(self._running.values()):
            query.on_member_gone(name)
            self._drop_if_finished(query)

    def cancel(self, query: RunningQuery) -> None:
        """End a query before its time; what was collected is concluded."""
        query.finish()
        self._drop_if_finished(query)

    def finish_if_complete(self, query: RunningQuery) -> None:
        """End a query from which nothing more can come."""
        query.finish_if_complete()
        self._drop_if_finished(query)

    @property
    def next_deadline(self) -> float | None:
        """When the next query ends."""
        if not self._running:  # nearly always, and it is asked after every packet
            return None
        return min(query.deadline for query in self._running.values())

    def expire(self, now: float) -> None:
        """End the queries whose deadline has come."""
        for query in [query for query in self._running.values() if query.deadline <= now]:
            self.cancel(query)

    def _drop_if_finished(self, query: RunningQuery) -> None:
        if query.finished:
            self._running.pop(query.key, None)
