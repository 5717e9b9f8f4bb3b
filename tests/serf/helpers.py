"""The Serf layers of one or several members, and their messages."""

import random
from collections.abc import Callable
from typing import Final

import attrs

from trioserf.address import Address, packed
from trioserf.results import QueryResult
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import Event, MemberEvent, QueryReceived
from trioserf.serf.internal_queries import KeyHandler, no_keyring
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import RunningQuery
from trioserf.serf.serf import Serf
from trioserf.swim.config import SwimOptions
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import (
    BufferedEvents,
    Leave,
    NodeFilter,
    Query,
    QueryResponse,
    SerfMessage,
    SerfPushPull,
    Status,
    TagFilter,
)
from trioserf.wire.serf_payloads import encode_filter, encode_tags
from trioserf.wire.swim_codec import USER
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions

ACK: Final = 1
"""The flag of a query that requests acks, and of a response that is an ack."""
FINAL_ACK: Final = 257
"""The flags of an ack that no response will follow."""
NO_BROADCAST: Final = 2
"""The flag of a query that must not be rebroadcast."""


def meta(**tags: str) -> bytes:
    """Return a member's metadata."""
    return encode_tags(tags)


NO_TAGS: Final = meta()


def address_of(name: str) -> Address:
    """Return the address of a member, one for each initial letter."""
    return Address(f"10.0.0.{ord(name[0])}", 7946)


# --- one member ---


def serf(
    name: str = "a",
    *others: str,
    options: SerfOptions | None = None,
    has_responder: Callable[[QueryReceived], bool] = lambda _: True,
    keys: KeyHandler = no_keyring,
    may_vote: Callable[[str], bool] = lambda _: True,
    seed: int = 1,
) -> Serf:
    """Return the Serf layer of `name` in a cluster with the others, without pending effects."""
    state = Serf(
        name,
        address_of(name),
        rng=random.Random(seed),
        options=options or SerfOptions(user_event_size_limit=1024, query_size_limit=2048),
        swim=SwimOptions(largest_broadcast=1400),
        has_responder=has_responder,
        keys=keys,
        may_vote=may_vote,
    )
    for member in (name, *others):
        join(state, member)
    state.events.clear()
    return state


def join(
    state: Serf,
    name: str,
    tags: bytes = NO_TAGS,
    *,
    now: float = 0.0,
    versions: Versions = OUR_VERSIONS,
) -> None:
    """Report a join of the failure detector."""
    state.member_joined(name, address_of(name), tags, versions, now)


def status(state: Serf, name: str) -> Status:
    """Return the status of a member that exists."""
    member = state.member(name)
    assert member is not None
    return member.status_code


def in_status(expected: Status) -> Serf:
    """Return the Serf layer of a, in which b has had this status since time 0."""
    state = serf("a", "b", "c")
    if expected in {Status.LEAVING, Status.LEFT}:
        state._intents.on_leave(Leave(5, "b"), 0.0)
    if expected in {Status.LEFT, Status.FAILED}:
        state.member_left("b", 0.0)
    state.events.clear()
    assert status(state, "b") is expected
    return state


# --- effects ---


def drain_events(events: list[Event]) -> list[tuple[str, str]]:
    """Remove all events from a list; return the kind and name of each."""
    found: list[tuple[str, str]] = []
    for event in events:
        name = event.members[0].name if isinstance(event, MemberEvent) else event.name
        found.append((event.kind, name))
    events.clear()
    return found


def broadcasts(state: Serf) -> list[SerfMessage]:
    """Drain the broadcast queues and return each message once."""
    return [decode(data) for data in raw_broadcasts(state)]


def raw_broadcasts(state: Serf) -> list[bytes]:
    """Drain the broadcast queues and return each encoded message once."""
    return [data for queue in state.queues.values() for data in drained(queue.fill_packet)]


def drained(fill_packet: Callable[[int, int], list[bytes]]) -> list[bytes]:
    """Drain a broadcast queue; return its messages without their type byte of gossip."""
    found: dict[bytes, None] = {}
    while messages := fill_packet(0, 1_000_000):
        assert {message[0] for message in messages} == {USER}
        found.update(dict.fromkeys(message[1:] for message in messages))
    return list(found)


def sent(state: Serf) -> list[tuple[str, SerfMessage]]:
    """Remove and return the messages to single members, each with its receiver's name."""
    found = []
    for direct in state.direct_messages:
        assert direct.address == address_of(direct.node)
        found.append((direct.node, decode(direct.data)))
    state.direct_messages.clear()
    return found


# --- queries of our own ---


@attrs.frozen
class StartedQuery:
    """A query of a member, and the results that it has delivered."""

    query: RunningQuery
    _results: list[QueryResult]

    def results(self) -> list[QueryResult]:
        """Remove and return the results."""
        found = list(self._results)
        self._results.clear()
        return found


def start_query(state: Serf, params: QueryParams, now: float = 0.0) -> StartedQuery:
    """Start a query of a member."""
    results: list[QueryResult] = []
    return StartedQuery(state.ask(params, results.append, now), results)


# --- messages ---


def query(
    ltime: int = 9,
    id: int = 77,  # noqa: A002 - as in the message
    *,
    source: str = "b",
    to: Address | None = None,
    filters: tuple[NodeFilter | TagFilter | bytes, ...] = (),
    flags: int = ACK,
    relay_factor: int = 0,
    timeout: float = 15.0,
    name: str = "load",
    payload: bytes = b"x",
) -> bytes:
    """Encode a query of b."""
    address = to or address_of(source)
    return encode(
        Query(
            ltime,
            id,
            packed(address.host),
            address.port,
            source,
            tuple(f if isinstance(f, bytes) else encode_filter(f) for f in filters),
            flags,
            relay_factor,
            int(timeout * 1e9),
            name,
            payload,
        )
    )


def response(flags: int = 0, payload: bytes = b"") -> QueryResponse:
    """Return the response of a to that query."""
    return QueryResponse(9, 77, "a", flags, payload)


def push_pull(
    ltime: int = 0,
    status_ltimes: dict[str, int] | None = None,
    left: tuple[str, ...] = (),
    event_ltime: int = 0,
    events: tuple[BufferedEvents | None, ...] = (),
    query_ltime: int = 0,
) -> SerfPushPull:
    """Return the half of a push/pull."""
    return SerfPushPull(ltime, status_ltimes or {}, left, event_ltime, events, query_ltime)


def merge(state: Serf, remote: SerfPushPull, *, join: bool = False, ignore: bool = False) -> None:
    """Merge the remote half of a push/pull."""
    for step in state.merge_steps(remote, join=join, ignore_events=ignore):
        step(0.0)


# --- several members ---


class Cluster:
    """Several Serf layers with each other as members; `run` delivers all their messages.

    Attributes:
        lost: names of members that receive no message.
        streams: how many messages were sent by stream.
    """

    def __init__(
        self,
        *names: str,
        has_responder: Callable[[QueryReceived], bool] = lambda _: True,
        keys: KeyHandler = no_keyring,
    ) -> None:
        self.states = {name: serf(name, has_responder=has_responder, keys=keys) for name in names}
        for state in self.states.values():
            for other in names:
                if other != state.name:
                    join(state, other)
            state.events.clear()
        self.lost: set[str] = set()
        self.streams = 0

    def __getitem__(self, name: str) -> Serf:
        return self.states[name]

    def run(self, now: float) -> None:
        """Deliver messages until none is left."""
        by_address = {address_of(name): state for name, state in self.states.items()}
        is_busy = True
        while is_busy:
            is_busy = False
            for sender in list(self.states.values()):
                for raw in raw_broadcasts(sender):
                    is_busy = True
                    for state in self.states.values():
                        if state is not sender and state.name not in self.lost:
                            state.handle(raw, now)
                direct_messages = list(sender.direct_messages)
                sender.direct_messages.clear()
                for direct in direct_messages:
                    is_busy = True
                    self.streams += direct.stream
                    if direct.address in by_address and direct.node not in self.lost:
                        by_address[direct.address].handle(direct.data, now)

    def ask(self, requester: str, params: QueryParams, now: float = 0.0) -> StartedQuery:
        """Start a query of a member and deliver all messages."""
        started = start_query(self[requester], params, now)
        self.run(now)
        return started

    def queries(self, name: str) -> list[QueryReceived]:
        """Return the queries that were delivered to a member."""
        return [event for event in self[name].events if isinstance(event, QueryReceived)]
