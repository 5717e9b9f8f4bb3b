"""The Serf layer of one node: members, intents, user events, queries, and their push/pull.

One object without a clock, a socket or a task. Its owner tells it what has come and what time it
is, and carries out what it finds in `events`, `sends`, `spreads`, `orders` and `results`
afterwards, emptying these lists; broadcasts stand in the three `queues`. Every instant (`now`,
deadlines) is in seconds of one monotonic clock.

The rules themselves stand in the modules beside this one; here they are put together.
"""

import logging
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Final

from trioserf.address import Address
from trioserf.counters import Counters
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import DirectMessage, Effects, LargeBroadcast, Order
from trioserf.serf.events import Event, QueryReceived
from trioserf.serf.gossip_queues import GossipQueues, Kind
from trioserf.serf.incoming_queries import IncomingQueries, parse_address
from trioserf.serf.intents import Intents
from trioserf.serf.internal_queries import KeyHandler, no_keyring
from trioserf.serf.lamport import LamportClock
from trioserf.serf.member import Member
from trioserf.serf.member_table import MemberRecord, MemberTable
from trioserf.serf.name_conflict import NameConflicts
from trioserf.serf.outgoing_queries import OutgoingQueries, QueryParams
from trioserf.serf.push_pull import PushPull
from trioserf.serf.query_collector import QueryResult, RunningQuery
from trioserf.serf.snapshot import LamportTimes
from trioserf.serf.user_events import UserEvents
from trioserf.swim.broadcast_queue import BroadcastQueue
from trioserf.swim.config import LAN, SwimOptions, Timing
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import (
    Join,
    Leave,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfPushPull,
    UserEvent,
)
from trioserf.wire.swim_messages import Versions

_log = logging.getLogger("trioserf.serf")

_DEDUPLICATED: Final = frozenset({3, 4})
"""Type bytes of user events and queries, of which every double is dropped for good."""


def _unknown(name: str) -> bool:  # noqa: ARG001 - stands for a failure detector
    return False


class Serf:
    """The Serf layer of one node.

    Args:
        name: our own name.
        address: where other members reach us.
        codec: how messages are spelled.
        rng: randomness.
        options: limits and timeouts of this layer.
        timing: timings of membership.
        swim: switches of the member table.
        has_answerer: whether a handler or a stream here may answer this query; if not, the asker
            is told at once that no answer will follow.
        keys: does what key queries ask for.
        tally: counts for metrics.

    Attributes:
        events: what happened, for users.
        sends: messages to single members, as packets or by stream.
        spreads: messages to many members that fit no packet.
        orders: what the node itself shall do.
        results: what came back to our queries, each with its query.
        queues: the broadcasts, by Serf's names for them: Intent, Query and Event, in the order
            in which they fill a packet.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        codec: Codec,
        rng: random.Random,
        options: SerfOptions | None = None,
        timing: Timing = LAN,
        swim: SwimOptions | None = None,
        has_responder: Callable[[QueryReceived], bool] = lambda _: True,
        keys: KeyHandler = no_keyring,
        tally: Counters | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.options = options = options or SerfOptions()
        swim = swim or SwimOptions()
        self.results: list[tuple[RunningQuery, QueryResult]] = []
        tally = tally or Counters()
        self._effects = effects = Effects(counters=tally)
        self._received_sizes = tally.values("serf.msgs.received")
        self.events: list[Event] = effects.events
        self.direct_messages: list[DirectMessage] = effects.direct_messages
        self.large_broadcasts: list[LargeBroadcast] = effects.large_broadcasts
        self.shutdown_orders: list[Order] = effects.shutdown_orders
        self._codec = codec
        self._table = table = MemberTable(
            name,
            options=options,
            max_members=swim.max_members,
            effects=effects,
            decode_tags=codec.decode_tags,
            rng=rng,
        )
        self._outbox = GossipQueues(
            table.__len__,
            options,
            effects.large_broadcasts,
            codec.gossip_prefix,
            retransmit_mult=timing.retransmit_mult,
            largest=swim.largest_broadcast,
        )
        self.queues: Mapping[Kind, BroadcastQueue] = self._outbox.queues
        for queue in self.queues.values():
            queue.sizes = tally.values("serf.msgs.sent")
        self._intents = Intents(table, self.queues["Intent"], codec=codec, options=options)
        self._user_events = UserEvents(codec=codec, options=options, effects=effects)
        self._queries = IncomingQueries(
            table,
            codec=codec,
            options=options,
            effects=effects,
            rng=rng,
            to_ourselves=lambda response, now: self._asking.handle_response(response, now),
            has_responder=has_responder,
            keys=keys,
        )
        self._exchanges = PushPull(
            table, self._intents, self._user_events, self._queries, self._outbox, codec
        )
        self._asking = OutgoingQueries(
            table,
            self.query_clock,
            codec=codec,
            options=options,
            gossip_interval=timing.gossip_interval,
            rng=rng,
            tally=tally,
        )
        self._conflicts = NameConflicts(
            name,
            enabled=options.name_conflict_resolution,
            ask=self._ask,
            decode=codec.decode,
            effects=effects,
        )

    # --- reading ---

    def members(self) -> tuple[Member, ...]:
        """All members in the order of their appearance; the same tuple until one changes."""
        return self._table.snapshot()

    @property
    def members_version(self) -> int:
        """Grows with every change of `members()`."""
        return self._table.version

    def member(self, name: str) -> Member | None:
        """Find a member by its name."""
        return self._table.get(name)

    def record(self, name: str) -> MemberRecord | None:
        """Find a member with its Lamport time; to be read only."""
        return self._table.records.get(name)

    @property
    def alive_count(self) -> int:
        """Members that have neither failed nor left."""
        return self._table.present_count

    @property
    def clock(self) -> LamportClock:
        """The Lamport clock of members' intents."""
        return self._intents.clock

    @property
    def event_clock(self) -> LamportClock:
        """The Lamport clock of user events."""
        return self._user_events.window.clock

    @property
    def query_clock(self) -> LamportClock:
        """The Lamport clock of queries."""
        return self._queries.window.clock

    def clocks(self) -> LamportTimes:
        """Give the times that a snapshot records."""
        return LamportTimes(self.clock.time - 1, self._user_events.newest, self._queries.newest)

    def stats(self) -> dict[str, int]:
        """Count what `info` shows of this layer, under Serf's names, and the flaps."""
        return {
            "members": len(self._table),
            "failed": len(self._table.failed),
            "left": len(self._table.left),
            "member_time": self.clock.time,
            "event_time": self.event_clock.time,
            "query_time": self.query_clock.time,
            "intent_queue": len(self.queues["Intent"]),
            "event_queue": len(self.queues["Event"]),
            "query_queue": len(self.queues["Query"]),
            "flaps": self._effects.flaps,
        }

    # --- notices of the failure detector ---

    def member_joined(
        self, name: str, address: Address, meta: bytes, versions: Versions, now: float
    ) -> None:
        """Take in a member that is new or has come back; also ourselves at the start."""
        intent = self._intents.pop_recent_intent(name, now)
        self._table.on_join(name, address, meta, versions, now, intent=intent)

    def member_left(self, name: str, now: float) -> None:
        """Note that the failure detector has lost a member, or that it has left.

        Only its intents decide which of the two users are told.
        """
        self._table.on_leave(name, now)
        self._asking.on_member_gone(name)

    def member_updated(self, name: str, address: Address, meta: bytes, versions: Versions) -> None:
        """Take in the new tags of a member."""
        self._table.updated(name, address, meta, versions)

    def member_suspected(self, name: str) -> None:
        """Pass on that a member is suspected."""
        self._table.on_suspect(name)

    def member_recovered(self, name: str) -> None:
        """Pass on that a suspicion has proved unfounded."""
        self._table.on_suspect(name, recovered=True)

    def member_conflicted(self, name: str, other: Address, now: float) -> None:
        """Deal with somebody else at `other` who claims a member's name, perhaps ours.

        If it is ours and resolution is enabled, the cluster is asked who we are, and `GiveUpName`
        is ordered unless the majority knows us under our address.
        """
        if name == self.name:
            self._conflicts.resolve(self.address, other, now)
        else:
            known = self._table.get(name)
            self._conflicts.log(name, None if known is None else known.address, other)

    # --- messages ---

    def handle(self, raw: bytes, now: float) -> None:
        """Take in one message of the Serf layer, from a packet or a stream.

        Doubles of user events and queries, the bulk of what gossip brings, are recognised by
        their bytes alone.

        Args:
            raw: the encoded message, as it was sent.
            now: the instant.

        Raises:
            ValueError: it cannot be decoded (whatever the codec raises).
        """
        self._received_sizes.append(len(raw))
        if self._outbox.is_duplicate(raw):
            return
        message = self._codec.decode(raw)
        kind = self._dispatch(message, now)
        if raw[0] in _DEDUPLICATED:
            self._outbox.mark_seen(raw)
        if kind is not None:
            self._outbox.rebroadcast(kind, raw)

    def _dispatch(self, message: SerfMessage, now: float) -> Kind | None:
        """Do what a message says; name the queue in which it is to be passed on, if it is."""
        match message:
            case UserEvent():
                _log.debug("messageUserEventType: %s", message.name)
                return "Event" if self._user_events.receive(message) else None
            case QueryResponse():
                _log.debug("messageQueryResponseType: %s", message.source)
                self._asking.handle_response(message, now)
            case Query():
                _log.debug("messageQueryType: %s", message.name)
                return "Query" if self._queries.receive(message, now) else None
            case Join():
                _log.debug("messageJoinType: %s", message.node)
                return "Intent" if self._intents.on_join(message, now) else None
            case Leave():
                _log.debug("messageLeaveType: %s", message.node)
                return "Intent" if self._intents.on_leave(message, now) else None
            case Relay():
                self._relay(message)
            case _:
                _log.debug("Received a %s, which nobody sends so", type(message).__name__)
        return None

    def _relay(self, message: Relay) -> None:
        """Hand an answer on for somebody, as one packet; nothing is waited for or repeated."""
        to = parse_address(message.addr, message.port)
        if to is not None:
            _log.debug("Relaying response to addr: %s", to)
            self.direct_messages.append(DirectMessage(to, message.name, message.inner))

    # --- push/pull ---

    def local_state(self) -> SerfPushPull:
        """Give our half of a push/pull."""
        return self._exchanges.local_state()

    def merge_remote_state(
        self, state: SerfPushPull, *, join: bool, ignore_events: bool, now: float
    ) -> None:
        """Take in the other half of a push/pull in one go (see `merging`)."""
        merging = self.merging(state, join=join, ignore_events=ignore_events)
        next(merging)
        with suppress(StopIteration):
            while True:
                merging.send(now)

    def merging(
        self,
        state: SerfPushPull,
        *,
        join: bool,
        ignore_events: bool,
        lives: Callable[[str], bool] = _unknown,
    ) -> Generator[None, float, None]:
        """Take in the other half of a push/pull, piece by piece: see `Exchanges.merging`."""
        return self._exchanges.merge_remote_state(
            state, join=join, ignore_events=ignore_events, lives=lives
        )

    def restore(self, clocks: LamportTimes) -> None:
        """Go on where a snapshot ended: what is older than its clocks is old news.

        A user event or query is passed over up to its clock; zero means that there was none.
        """
        self._intents.witness(clocks.member)
        for window, last in (
            (self._user_events.window, clocks.event),
            (self._queries.window, clocks.query),
        ):
            if last:
                window.witness(last)
                window.start_at(last + 1)

    # --- what users ask for ---

    def announce_join(self, now: float) -> None:
        """Tell everyone that we have joined: to be called after a successful join."""
        self._intents.announce_join(now)

    def announce_leave(self, now: float, on_done: Callable[[], None] | None = None) -> None:
        """Tell everyone that we are about to leave.

        Args:
            now: the instant.
            on_done: called when everyone should know; during this call if nobody is there.
        """
        self._intents.announce_leave(now, on_done)

    def force_leave(
        self,
        name: str,
        *,
        prune: bool = False,
        now: float,
        on_done: Callable[[], None] | None = None,
    ) -> bool:
        """Declare that a failed member has left; `prune` erases it altogether.

        Returns:
            Whether it is known here; the others are told in any case.
        """
        return self._intents.force_leave(name, prune=prune, now=now, on_done=on_done)

    def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send an event to everyone, ourselves included, and give its Lamport time.

        Raises:
            TooLarge: over the limit, before or after encoding.
        """
        ltime, data = self._user_events.send(name, payload, coalesce=coalesce)
        self._outbox.send("Event", data)
        return ltime

    def ask(self, question: QueryParams, now: float) -> RunningQuery:
        """Ask the members that match; what comes back appears in `results`, `QueryDone` last.

        The first results, and even the last, may be there when this returns.

        Raises:
            InvalidFilter: an expression that cannot be understood.
            InvalidQuery: too many queries of ours run already.
            TooLarge: over the limit.
        """
        return self._ask(question, now, lambda query, result: self.results.append((query, result)))

    def _ask(
        self,
        question: QueryParams,
        now: float,
        deliver: Callable[[RunningQuery, QueryResult], None],
    ) -> RunningQuery:
        asked, message, data = self._asking.start(question, self.address, now, deliver)
        self._queries.receive(message, now, ours=True)
        self._asking.finish_if_complete(asked)
        if not asked.finished:
            self._outbox.send("Query", data)
        return asked

    def cancel(self, query: RunningQuery) -> None:
        """End a query of ours before its time; a `QueryDone` follows unless it has come."""
        self._asking.cancel(query)

    def default_query_timeout(self) -> float:
        """Give the seconds a query runs unless its asker says otherwise."""
        return self._asking.default_timeout()

    def respond(self, number: int, payload: bytes, now: float) -> None:
        """Answer a query that was delivered here, once.

        Args:
            number: `QueryReceived.id`.
            payload: the answer.
            now: the instant.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
            TooLarge: over every limit; a smaller answer may still be given.
        """
        self._queries.respond(number, payload, now)

    def decline(self, number: int, now: float) -> None:
        """Tell the asker that no answer of ours will follow.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
        """
        self._queries.decline(number, now)

    # --- the passing of time ---

    @property
    def next_deadline(self) -> float | None:
        """The instant at which `expire` has something to do, or None."""
        intents, asking = self._intents.next_deadline, self._asking.next_deadline
        if intents is None or asking is None:
            return asking if intents is None else intents
        return min(intents, asking)

    def expire(self, now: float) -> None:
        """End the queries and erase the leaving members whose time has come."""
        self._intents.expire(now)
        self._asking.expire(now)

    def reap(self, now: float) -> None:
        """Erase members that are gone for too long, and forget what is of no use any more.

        To be called every 15 seconds.
        """
        self._table.reap(now)
        self._intents.reap(now)
        self._queries.forget_expired(now)

    def reconnect_candidate(self) -> Member | None:
        """Choose a failed member to be called, or nobody; to be asked every reconnect interval."""
        return self._table.reconnect_candidate()

    def check_queues(self) -> None:
        """Warn of long queues and cut those that are too long; to be called every 30 seconds."""
        for kind, queue in self.queues.items():
            self._effects.counters.values(f"serf.queue.{kind}").append(len(queue))
        self._outbox.check()
