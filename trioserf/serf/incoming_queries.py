"""Received queries: filter, acknowledge, deliver, respond once (see serf/README.md, § Queries).

A requester that misses our ack or response sends the query again, and gets both again. A response
goes to the requester in one packet. If requested, some members relay it as well, in
case ours is lost. A response too large for a packet goes on a stream. Streams and relays are for
the addresses of members only, because the address in a query can be forged.
"""

import logging
import math
import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import attrs

from trioserf.address import Address, address_of, packed
from trioserf.errors import AlreadyAnswered, InvalidFilter, NoSuchQuery, TooLarge
from trioserf.printable import short_name
from trioserf.rate_limit import TokenBucket
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import DirectMessage, Effects
from trioserf.serf.events import QueryReceived
from trioserf.serf.internal_queries import (
    CONFLICT,
    KEY_QUERIES,
    PING,
    PREFIX,
    DeferredResponse,
    KeyHandler,
    handle_key_query,
    plaintext_refused,
    truncate_keys,
)
from trioserf.serf.lamport import LamportWindow, Rejection
from trioserf.serf.member import Member
from trioserf.serf.member_table import MemberTable
from trioserf.serf.query_filters import QueryFilters
from trioserf.swim.reply_limits import ReplyLimits
from trioserf.wire.errors import WireError
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    ConflictResponse,
    KeyResponse,
    Query,
    QueryFlag,
    QueryResponse,
    Relay,
    ResponseFlag,
    SerfMessage,
    Status,
)

_log = logging.getLogger("trioserf.serf")

_ID_SIZE = 100
"""Bytes of memory for one query id."""
_MIN_RELAY_PROTOCOL = 5
"""The first protocol version whose members relay responses."""
_MAX_REPEATS = 8
"""Times that an ack and a response are sent again; our own requesters ask 7 times at most."""
_RELAY_RATE, _RELAY_BURST = 512, 512
"""Relayed copies a second, and at once: each query may request 255 copies of two packets."""
_DRAWS, _MIN_DRAWS = 4, 16
"""Members drawn for each relay, and at least for each response: no query may cost a scan."""


def parse_address(addr: bytes, port: int) -> Address | None:
    """Return the address in a message, or None if it is not usable."""
    if not port or len(addr) not in {4, 16}:
        return None
    return address_of(addr, port)


def is_repeated(message: SerfMessage) -> bool:
    """Return whether a message is a query that its requester may have sent again.

    Receivers pass on all others.
    """
    return isinstance(message, Query) and bool(message.flags & QueryFlag.NO_BROADCAST)


@attrs.define(eq=False, repr=False)
class _Pending:
    """A query that may still get a response; `to` is None for a query of our own.

    `ack` and `response` are what was sent in packets, and `repeats` counts how often again.
    """

    name: str
    ltime: int
    query_id: int
    to: Address | None
    requester: str
    relay_factor: int
    wants_ack: bool
    deadline: float
    declined: bool = False
    ack: bytes = b""
    response: bytes = b""
    repeats: int = 0


class IncomingQueries:
    """Received queries, including our own.

    Args:
        table: the members.
        options: limits.
        effects: receives events and messages.
        rng: chooses relays.
        deliver_own_response: receives our responses to our own queries, and the current time.
        has_responder: whether a handler or subscription may respond to a query.
        keys: handles key queries.
        may_carry_keys: whether key queries that arrived encrypted, or not, are handled.
        replies: limits what is sent to addresses that are not members'.

    Attributes:
        window: the Lamport clock of queries, and the ids seen recently.
        latest_time: the latest Lamport time seen, 0 at first, for snapshots.
    """

    def __init__(
        self,
        table: MemberTable,
        *,
        options: SerfOptions,
        effects: Effects,
        rng: random.Random,
        deliver_own_response: Callable[[QueryResponse, float], None],
        has_responder: Callable[[QueryReceived], bool],
        keys: KeyHandler,
        may_carry_keys: Callable[[bool], bool],
        replies: ReplyLimits,
    ) -> None:
        self.window: LamportWindow[set[int]] = LamportWindow(
            options.query_buffer, set, budget=options.query_buffer_bytes
        )
        self.latest_time = 0
        self._table = table
        self._options = options
        self._effects = effects
        self._rng = rng
        self._deliver_own_response = deliver_own_response
        self._has_responder = has_responder
        self._keys = keys
        self._may_carry_keys = may_carry_keys
        self._replies = replies
        self._filters = QueryFilters()
        self._relay_limit = TokenBucket(_RELAY_RATE, _RELAY_BURST)
        self._pending: dict[int, _Pending] = {}
        self._answered: dict[int, float] = {}
        # Queries that may be repeated, by their Lamport times and ids.
        self._repeatable: dict[tuple[int, int], _Pending] = {}
        self._last_id = 0

    # --- receiving ---

    def receive(
        self,
        query: Query,
        now: float,
        *,
        source: str = "",
        sealed: bool = False,
        ours: bool = False,
    ) -> bool:
        """Handle a query of another member, or our own (`ours`).

        Args:
            query: the query.
            now: the current time.
            source: the host that sent it to us.
            sealed: whether it arrived encrypted.
            ours: whether it is our own.

        Returns:
            Whether to rebroadcast it.
        """
        if query.name in KEY_QUERIES and not self._may_carry_keys(sealed or ours):
            self._effects.drops.append(plaintext_refused())
            return False
        if not self._is_new(query):
            if is_repeated(query):
                self._respond_again(query, now)
            return False
        self.latest_time = max(self.latest_time, query.ltime)
        counters = self._effects.counters
        counters.counter("serf.queries").add()
        counters.increment_label(f"serf.queries.{query.name}")
        rebroadcast = not query.flags & QueryFlag.NO_BROADCAST
        if not self._matches_us(query, source, now):
            return rebroadcast
        to = None if ours else parse_address(query.addr, query.port)
        if to is None and not ours:
            _log.debug(
                "query %s of %s has no usable address",
                short_name(query.name),
                short_name(query.source_node),
            )
            return False
        pending = _Pending(
            query.name,
            query.ltime,
            query.id,
            to,
            query.source_node,
            # A relaying member may send it in plaintext.
            0 if query.name in KEY_QUERIES else query.relay_factor,
            bool(query.flags & QueryFlag.ACK),
            now + query.timeout / 1e9,
        )
        if pending.wants_ack and not ours:
            self._make_room(self._repeatable)
            self._repeatable[query.ltime, query.id] = pending
        if query.name.startswith(PREFIX):
            self._handle_internal(pending, query, now)
        else:
            self._deliver(pending, query, now)
        return rebroadcast

    def _is_new(self, query: Query) -> bool:
        slot = self.window.at(query.ltime)
        if isinstance(slot, Rejection):
            if slot is not Rejection.BEFORE_START:
                _log.warning(
                    "received old query %s from time %d (current: %d)",
                    short_name(query.name),
                    query.ltime,
                    self.window.clock.time,
                )
            return False
        if query.id in slot.entry:
            return False
        if not self.window.charge(slot, _ID_SIZE):
            _log.warning(
                "too many queries of time %d, dropping %s", query.ltime, short_name(query.name)
            )
            return False
        slot.entry.add(query.id)
        return True

    def _matches_us(self, query: Query, source: str, now: float) -> bool:
        local = self._table.get(self._table.name)
        if local is None:
            return False
        try:
            return self._filters.match(query.filters, local, source, now)
        except WireError as error:
            self._effects.drops.append(error)
        except InvalidFilter as error:
            _log.warning("cannot filter query %s: %s", short_name(query.name), error)
        return False

    def _deliver(self, pending: _Pending, query: Query, now: float) -> None:
        self._last_id += 1
        self._make_room(self._pending)
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
        self._acknowledge(pending, now, is_final=not self._has_responder(event))
        self._effects.events.append(event)

    # --- responding ---

    def respond(self, number: int, payload: bytes, now: float) -> None:
        """Respond to a query, once.

        Args:
            number: our number of the query, `QueryReceived.id`.
            payload: the response.
            now: the current time.

        Raises:
            AlreadyAnswered: a response was sent already.
            NoSuchQuery: the query is unknown, or past its deadline.
            TooLarge: the response exceeds every limit; a smaller one is still possible.
        """
        pending = self._find(number, now)
        self._send_response(pending, payload, now)
        del self._pending[number]
        self._make_room(self._answered)
        self._answered[number] = pending.deadline

    def decline(self, number: int, now: float) -> None:
        """Notify the requester that no response will follow, if it requested acks.

        A response is still possible, but the query may have finished without it.

        Raises:
            NoSuchQuery: the query is unknown, answered, or past its deadline.
        """
        self._acknowledge(self._find(number, now), now, is_final=True)

    def name_of(self, number: int) -> str:
        """Return the name of a query that may still get a response.

        Raises:
            NoSuchQuery: the query is unknown or answered.
        """
        pending = self._pending.get(number)
        if pending is None:
            raise self._not_pending(number)
        return pending.name

    def _find(self, number: int, now: float) -> _Pending:
        pending = self._pending.get(number)
        if pending is None or now > pending.deadline:
            raise self._not_pending(number, now)
        return pending

    def _not_pending(self, number: int, now: float = 0.0) -> NoSuchQuery:
        if now <= self._answered.get(number, -math.inf):
            return AlreadyAnswered("response already sent")
        return NoSuchQuery("No pending queries matching ID")

    def _make_room(self, queries: dict[Any, Any]) -> None:
        if len(queries) >= self._options.pending_queries:
            del queries[next(iter(queries))]

    def forget_expired(self, now: float) -> None:
        """Drop queries past their deadline."""
        for number in [n for n, pending in self._pending.items() if now > pending.deadline]:
            del self._pending[number]
        for number in [n for n, deadline in self._answered.items() if now > deadline]:
            del self._answered[number]
        for key in [k for k, pending in self._repeatable.items() if now > pending.deadline]:
            del self._repeatable[key]

    def _acknowledge(self, pending: _Pending, now: float, *, is_final: bool) -> None:
        if pending.declined or not (pending.wants_ack or pending.to is None):
            return
        pending.declined = is_final
        flags = int(ResponseFlag.ACK)
        if is_final:
            flags |= ResponseFlag.NO_ANSWER_WILL_FOLLOW
        response = QueryResponse(pending.ltime, pending.query_id, self._table.name, flags)
        if pending.to is None:
            self._deliver_own_response(response, now)
        else:
            pending.ack = encode(response)
            self._send(pending, pending.to, pending.ack, now)

    def _send_response(self, pending: _Pending, payload: bytes, now: float) -> None:
        response = self._response(pending, payload)
        data = encode(response)
        limit = self._options.query_response_size_limit
        if len(data) > limit:
            if pending.to is None or self._replies.is_member(pending.requester, pending.to):
                limit = max(limit, self._options.answer_cap)
            if len(data) > limit:
                raise TooLarge(f"response exceeds limit of {limit} bytes")
        if pending.to is None:
            self._deliver_own_response(response, now)
            return
        if len(data) <= self._options.query_response_size_limit:
            pending.response = data
        self._send(pending, pending.to, data, now)

    def _respond_again(self, query: Query, now: float) -> None:
        """Send the ack and the response to a query again: one of them may have been lost."""
        pending = self._repeatable.get((query.ltime, query.id))
        if pending is None or pending.to is None or now > pending.deadline:
            return
        if pending.repeats >= _MAX_REPEATS:
            return
        pending.repeats += 1
        for data in (pending.ack, pending.ack, pending.response):
            if data:
                self._send(pending, pending.to, data, now)

    def _response(self, pending: _Pending, payload: bytes) -> QueryResponse:
        return QueryResponse(pending.ltime, pending.query_id, self._table.name, 0, payload)

    def _send(self, pending: _Pending, to: Address, data: bytes, now: float) -> None:
        limit = self._options.query_response_size_limit
        if len(data) > limit:
            self._effects.direct_messages.append(
                DirectMessage(to, pending.requester, data, stream=True)
            )
            return
        if not self._replies.allows(pending.requester, to, len(data), now):
            error = WireError("budget", f"too many responses to {to}, which is not a member's")
            self._effects.drops.append(error)
            return
        self._effects.direct_messages.append(DirectMessage(to, pending.requester, data))
        if not self._replies.is_member(pending.requester, to):
            return
        # With so few members, relays would hardly be additional paths; Serf has the same rule.
        if not 0 < pending.relay_factor < len(self._table):
            return
        if not self._relay_limit.take(pending.relay_factor, now):
            error = WireError("budget", f"too many relays of responses to {to}")
            self._effects.drops.append(error)
            return
        relay = Relay(packed(to.host), to.port, pending.requester, data)
        wrapped = encode(relay)
        if len(wrapped) > limit:
            _log.debug("relayed response exceeds limit of %d bytes", limit)
            return
        for member in self._relays(pending):
            self._effects.direct_messages.append(
                DirectMessage(member.address, member.name, wrapped)
            )

    def _relays(self, pending: _Pending) -> list[Member]:
        """Choose random members that can relay; perhaps too few if many members cannot."""
        members, factor = self._table.snapshot(), pending.relay_factor
        drawn = self._rng.sample(members, min(max(_DRAWS * factor, _MIN_DRAWS), len(members)))
        candidates = (
            member
            for member in drawn
            if member.status_code is Status.ALIVE
            and member.versions.protocol_max >= _MIN_RELAY_PROTOCOL
            and member.name not in {self._table.name, pending.requester}
        )
        return list(islice(candidates, factor))

    # --- internal queries ---

    def _handle_internal(self, pending: _Pending, query: Query, now: float) -> None:
        """Respond, or acknowledge that no response will follow."""
        response = self._internal_response(query)
        self._acknowledge(pending, now, is_final=response is None)
        if isinstance(response, DeferredResponse):
            response.on_result(
                lambda keys, now: self._respond_late(pending, query.name, keys, now)
            )
        elif isinstance(response, KeyResponse):
            payload = self._encode_truncated(pending, response)
            self._respond_internally(pending, query.name, payload, now)
        elif response is not None:
            self._respond_internally(pending, query.name, response, now)

    def _internal_response(self, query: Query) -> bytes | KeyResponse | DeferredResponse | None:
        if query.name == CONFLICT:
            return self._answer_conflict(query.payload.decode("utf-8", "surrogateescape"))
        action = KEY_QUERIES.get(query.name)
        if action is not None:
            return handle_key_query(action, query.payload, self._keys)
        if query.name != PING:
            _log.warning("Unhandled internal query '%s'", short_name(query.name))
        return None

    def _respond_internally(
        self, pending: _Pending, name: str, payload: bytes, now: float
    ) -> None:
        try:
            self._send_response(pending, payload, now)
        except TooLarge as error:
            _log.error("Failed to respond to %s: %s", name, error)

    def _respond_late(self, pending: _Pending, name: str, keys: KeyResponse, now: float) -> None:
        if now > pending.deadline:
            _log.error("Failed to respond to %s: its deadline has passed", name)
            return
        self._respond_internally(pending, name, self._encode_truncated(pending, keys), now)

    def _encode_truncated(self, pending: _Pending, keys: KeyResponse) -> bytes:
        """Encode a response about keys, truncated to the limit of a packet."""

        def size(keys: KeyResponse) -> int:
            response = self._response(pending, encode(keys))
            return len(encode(response))

        limit = self._options.query_response_size_limit
        return encode(truncate_keys(keys, limit, size) if keys.keys else keys)

    def _answer_conflict(self, name: str) -> bytes | None:
        """Return our record of a member, unless it is about ourselves."""
        if name == self._table.name:
            return None
        _log.debug("Got conflict resolution query for '%s'", short_name(name))
        member = self._table.get(name)
        if member is None:
            return None
        return encode(
            ConflictResponse(
                member.name,
                packed(member.address.host),
                member.address.port,
                member.tags,
                int(member.status_code),
                *member.versions,
            )
        )
