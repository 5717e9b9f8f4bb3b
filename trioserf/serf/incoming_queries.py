"""Queries of others: filtered, acknowledged, delivered, answered once (spec: queries).

An answer goes straight to the asker, as a packet; one that is too large for that goes by a stream
of its own, but only to an address that a member has announced: the address in a query is anybody's
claim, and nobody shall make us open connections to strangers. If the asker wishes, some other
members pass the answer on as well, in case our packet is lost.
"""

import logging
import random
from collections.abc import Callable

import attrs

from trioserf.address import Address, address_of, packed
from trioserf.errors import InvalidFilter, NoSuchQuery, TooLarge
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import DirectMessage, Effects
from trioserf.serf.events import QueryReceived
from trioserf.serf.filters import tag_matches
from trioserf.serf.internal_queries import (
    CONFLICT,
    KEY_QUERIES,
    PING,
    PREFIX,
    DeferredResponse,
    KeyHandler,
    answer_key_query,
    fit_keys,
)
from trioserf.serf.lamport import LamportWindow, Rejection
from trioserf.serf.member import Member
from trioserf.serf.member_table import MemberTable
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import (
    ConflictResponse,
    KeyResponse,
    NodeFilter,
    Query,
    QueryFlag,
    QueryResponse,
    Relay,
    ResponseFlag,
    Status,
    TagFilter,
)

_log = logging.getLogger("trioserf.serf")

_ID_SIZE = 100
"""Bytes that Python needs for a number that is remembered."""
_RELAYS_FROM_PROTOCOL = 5
"""The first protocol version whose members pass answers on."""


def matches_filters(member: Member, filters: tuple[NodeFilter | TagFilter, ...]) -> bool:
    """Whether a query with these filters is for this member.

    Raises:
        InvalidFilter: an expression that cannot be understood.
    """
    return all(
        member.name in one.names if isinstance(one, NodeFilter) else tag_matches(one, member.tags)
        for one in filters
    )


def parse_address(addr: bytes, port: int) -> Address | None:
    """Give the address to which a peer wants something sent, or None if nothing can be."""
    if not port or len(addr) not in {4, 16}:
        return None
    return address_of(addr, port)


@attrs.define(slots=True, eq=False)
class _Pending:
    """What an answer needs to know of its query; `to` is None if the asker is us."""

    ltime: int
    query_id: int
    to: Address | None
    requester: str
    relay_factor: int
    wants_ack: bool
    deadline: float
    declined: bool = False


class IncomingQueries:
    """Taking queries in and answering them.

    Args:
        table: the members.
        codec: how messages are spelled.
        options: limits.
        effects: where events and messages to members go.
        rng: chooses the relays.
        to_ourselves: takes our responses to our own queries, with the instant.
        has_answerer: whether anybody here may answer a query.
        keys: does what key queries ask for.

    Attributes:
        window: the queries' Lamport clock and what was seen lately.
        newest: the latest Lamport time taken in, 0 at first; what a snapshot records.
    """

    def __init__(
        self,
        table: MemberTable,
        *,
        codec: Codec,
        options: SerfOptions,
        effects: Effects,
        rng: random.Random,
        to_ourselves: Callable[[QueryResponse, float], None],
        has_responder: Callable[[QueryReceived], bool],
        keys: KeyHandler,
    ) -> None:
        self.window: LamportWindow[set[int]] = LamportWindow(
            options.query_buffer, set, budget=options.query_buffer_bytes
        )
        self.newest = 0
        self._table = table
        self._codec = codec
        self._options = options
        self._effects = effects
        self._rng = rng
        self._to_ourselves = to_ourselves
        self._has_answerer = has_responder
        self._keys = keys
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0

    # --- taking in ---

    def receive(self, query: Query, now: float, *, ours: bool = False) -> bool:
        """Take in a query that somebody, or we ourselves (`ours`), asked.

        Returns:
            Whether it is to be passed on.
        """
        if not self._is_news(query):
            return False
        self.newest = max(self.newest, query.ltime)
        tally = self._effects.counters
        tally.counter("serf.queries").add()
        tally.increment_label(f"serf.queries.{query.name}")
        pass_on = not query.flags & QueryFlag.NO_BROADCAST
        if not self._meant_for_us(query):
            return pass_on
        to = None if ours else parse_address(query.addr, query.port)
        if to is None and not ours:
            _log.debug("query %s of %s has no address", query.name, query.source_node)
            return False
        pending = _Pending(
            query.ltime,
            query.id,
            to,
            query.source_node,
            query.relay_factor,
            bool(query.flags & QueryFlag.ACK),
            now + query.timeout / 1e9,
        )
        if query.name.startswith(PREFIX):
            self._answer_internally(pending, query, now)
        else:
            self._deliver(pending, query, now)
        return pass_on

    def _is_news(self, query: Query) -> bool:
        slot = self.window.at(query.ltime)
        if isinstance(slot, Rejection):
            if slot is not Rejection.BEFORE_START:
                _log.warning(
                    "received old query %s from time %d (current: %d)",
                    query.name,
                    query.ltime,
                    self.window.clock.time,
                )
            return False
        if query.id in slot.entry:
            return False
        if not self.window.charge(slot, _ID_SIZE):
            _log.warning("too many queries of time %d, dropping %s", query.ltime, query.name)
            return False
        slot.entry.add(query.id)
        return True

    def _meant_for_us(self, query: Query) -> bool:
        us = self._table.get(self._table.name)
        try:
            filters = tuple(self._codec.decode_filter(data) for data in query.filters)
            return us is not None and matches_filters(us, filters)
        except (ValueError, InvalidFilter) as error:
            _log.warning("cannot filter query %s: %s", query.name, error)
            return False

    def _deliver(self, pending: _Pending, query: Query, now: float) -> None:
        self._last_id += 1
        if len(self._pending) >= self._options.pending_queries:
            del self._pending[next(iter(self._pending))]
        self._pending[self._last_id] = pending
        event = QueryReceived(
            self._last_id,
            query.ltime,
            query.id,
            query.name,
            query.payload,
            query.source_node,
            pending.deadline,
        )
        self._acknowledge(pending, now, no_answer=not self._has_answerer(event))
        self._effects.events.append(event)

    # --- answering ---

    def respond(self, number: int, payload: bytes, now: float) -> None:
        """Answer a query, once.

        Args:
            number: our number of the query, `QueryReceived.id`.
            payload: the answer.
            now: the instant.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
            TooLarge: over every limit; a smaller answer may still be given.
        """
        pending = self._find(number, now)
        self._send_answer(pending, payload, now)
        del self._pending[number]

    def decline(self, number: int, now: float) -> None:
        """Tell the asker, if it wished for acknowledgements, that no answer of ours will follow.

        An answer may be given nevertheless; it may come too late for the asker, though.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
        """
        self._acknowledge(self._find(number, now), now, no_answer=True)

    def _find(self, number: int, now: float) -> _Pending:
        pending = self._pending.get(number)
        if pending is None or now > pending.deadline:
            raise NoSuchQuery("No pending queries matching ID")
        return pending

    def forget_expired(self, now: float) -> None:
        """Forget the queries that cannot be answered any more."""
        for number in [n for n, pending in self._pending.items() if now > pending.deadline]:
            del self._pending[number]

    def _acknowledge(self, pending: _Pending, now: float, *, no_answer: bool) -> None:
        if pending.declined or not (pending.wants_ack or pending.to is None):
            return
        pending.declined = no_answer
        flags = int(ResponseFlag.ACK)
        if no_answer:
            flags |= ResponseFlag.NO_ANSWER_WILL_FOLLOW
        response = QueryResponse(pending.ltime, pending.query_id, self._table.name, flags)
        if pending.to is None:
            self._to_ourselves(response, now)
        else:
            self._send(pending, pending.to, self._codec.encode(response))

    def _send_answer(self, pending: _Pending, payload: bytes, now: float) -> None:
        response = self._response(pending, payload)
        data = self._codec.encode(response)
        limit = self._options.query_response_size_limit
        if len(data) > limit:
            if pending.to is None or self._is_member(pending.to, pending.requester):
                limit = max(limit, self._options.answer_cap)
            if len(data) > limit:
                raise TooLarge(f"response exceeds limit of {limit} bytes")
        if pending.to is None:
            self._to_ourselves(response, now)
        else:
            self._send(pending, pending.to, data)

    def _response(self, pending: _Pending, payload: bytes) -> QueryResponse:
        return QueryResponse(pending.ltime, pending.query_id, self._table.name, 0, payload)

    def _is_member(self, address: Address, name: str) -> bool:
        member = self._table.get(name)
        return member is not None and member.address == address

    def _send(self, pending: _Pending, to: Address, data: bytes) -> None:
        limit = self._options.query_response_size_limit
        if len(data) > limit:
            self._effects.direct_messages.append(
                DirectMessage(to, pending.requester, data, stream=True)
            )
            return
        self._effects.direct_messages.append(DirectMessage(to, pending.requester, data))
        # A relay must not be the only way: with so few members it would hardly be another one.
        if not 0 < pending.relay_factor < len(self._table):
            return
        relay = Relay(packed(to.host), to.port, pending.requester, data)
        wrapped = self._codec.encode(relay)
        if len(wrapped) > limit:
            _log.debug("relayed response exceeds limit of %d bytes", limit)
            return
        for member in self._relays(pending):
            self._effects.direct_messages.append(
                DirectMessage(member.address, member.name, wrapped)
            )

    def _relays(self, pending: _Pending) -> list[Member]:
        fit = [
            member
            for member in self._table.alive()
            if member.versions.protocol_max >= _RELAYS_FROM_PROTOCOL
            and member.name not in {self._table.name, pending.requester}
        ]
        return self._rng.sample(fit, min(pending.relay_factor, len(fit)))

    # --- internal queries ---

    def _answer_internally(self, pending: _Pending, query: Query, now: float) -> None:
        """Answer, or say at once that there is no answer."""
        answer = self._internal_answer(query)
        self._acknowledge(pending, now, no_answer=answer is None)
        if isinstance(answer, DeferredResponse):
            answer.on_result(
                lambda answer, now: self._answer_late(pending, query.name, answer, now)
            )
        elif isinstance(answer, KeyResponse):
            self._answer_member(pending, query.name, self._encode_truncated(pending, answer), now)
        elif answer is not None:
            self._answer_member(pending, query.name, answer, now)

    def _internal_answer(self, query: Query) -> bytes | KeyResponse | DeferredResponse | None:
        if query.name == CONFLICT:
            return self._answer_conflict(query.payload.decode("utf-8", "surrogateescape"))
        action = KEY_QUERIES.get(query.name)
        if action is not None:
            return answer_key_query(action, query.payload, self._keys, self._codec.decode)
        if query.name != PING:
            _log.warning("Unhandled internal query '%s'", query.name)
        return None

    def _answer_member(self, pending: _Pending, name: str, answer: bytes, now: float) -> None:
        try:
            self._send_answer(pending, answer, now)
        except TooLarge as error:
            _log.error("Failed to respond to %s: %s", name, error)

    def _answer_late(self, pending: _Pending, name: str, answer: KeyResponse, now: float) -> None:
        if now > pending.deadline:
            _log.error("Failed to respond to %s: its deadline has passed", name)
            return
        self._answer_member(pending, name, self._encode_truncated(pending, answer), now)

    def _encode_truncated(self, pending: _Pending, answer: KeyResponse) -> bytes:
        """Spell an answer about keys, cut to what a packet can carry."""

        def size(answer: KeyResponse) -> int:
            response = self._response(pending, self._codec.encode(answer))
            return len(self._codec.encode(response))

        limit = self._options.query_response_size_limit
        return self._codec.encode(fit_keys(answer, limit, size) if answer.keys else answer)

    def _answer_conflict(self, name: str) -> bytes | None:
        """Say what we know of a member, to whom it may concern, unless it is us."""
        if name == self._table.name:
            return None
        _log.debug("Got conflict resolution query for '%s'", name)
        member = self._table.get(name)
        if member is None:
            return None
        return self._codec.encode(
            ConflictResponse(
                member.name,
                packed(member.address.host),
                member.address.port,
                member.tags,
                int(Status(member.status)),
                *member.versions,
            )
        )
