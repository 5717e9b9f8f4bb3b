"""The Serf layer of one node: members, intents, user events, queries and push/pulls.

One object without a clock, a socket or a task. Its owner calls it with messages and the current
time, and afterwards runs and clears its effects: `events`, `direct_messages`, `large_broadcasts`
and `shutdown_orders`. Broadcasts wait in the three `queues`. Times (`now`, deadlines) are seconds
of one monotonic clock.

The modules beside this one have the rules (see serf/README.md); this one connects them.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from trioserf.address import Address
from trioserf.counters import Counters
from trioserf.errors import InvalidQuery
from trioserf.printable import short_name
from trioserf.results import QueryResult
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import DirectMessage, Effects, LargeBroadcast, Order
from trioserf.serf.event_repair import EventRepair
from trioserf.serf.events import Event, QueryReceived
from trioserf.serf.gossip_queues import GossipQueues, Kind
from trioserf.serf.incoming_queries import IncomingQueries, is_repeated, parse_address
from trioserf.serf.intents import Intents
from trioserf.serf.internal_queries import KEY_QUERIES, KeyHandler, no_keyring, plaintext_refused
from trioserf.serf.lamport import LamportClock
from trioserf.serf.member import Member
from trioserf.serf.member_table import MemberTable
from trioserf.serf.name_conflict import NameConflicts
from trioserf.serf.outgoing_queries import OutgoingQueries, QueryParams
from trioserf.serf.push_pull import PushPull
from trioserf.serf.query_collector import RunningQuery
from trioserf.serf.snapshot import LamportTimes
from trioserf.serf.user_events import UserEvents
from trioserf.swim.broadcast_queue import BroadcastQueue
from trioserf.swim.config import LAN, SwimOptions, Timing
from trioserf.swim.events import Cause
from trioserf.swim.reply_limits import ReplyLimits
from trioserf.wire.errors import WireError
from trioserf.wire.serf_codec import QUERY, USER_EVENT, decode
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

_DEDUPLICATED: Final = frozenset({USER_EVENT, QUERY})
"""Type bytes of user events and queries, whose duplicates have no effect."""


def earlier(first: float | None, second: float | None) -> float | None:
    """Return the earlier of two deadlines, each of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def _is_never_alive(name: str) -> bool:  # noqa: ARG001 - stands for a failure detector
    return False


class Serf:
    """The Serf layer of one node.

    Args:
        name: our own name.
        address: the advertised address.
        rng: randomness.
        options: limits and timeouts of this layer.
        timing: timings of membership.
        swim: switches of the member table.
        has_responder: whether a handler or subscription may respond to a query; if not, the
            requester is notified at once.
        keys: handles key queries.
        may_carry_keys: whether key queries and their responses are sent, and handled if they
            arrived encrypted or not.
        may_vote: whether the response of a member counts in a name conflict.
        counters: counters for metrics.

    Attributes:
        events: events for users.
        drops: reasons for which parts of messages were not handled.
        direct_messages: messages to single members, in packets or on streams.
        large_broadcasts: broadcasts too large for a packet.
        shutdown_orders: reasons for the node to shut down.
        repair: notices user events that this node has missed.
        queues: the broadcast queues by Serf's names, Intent, Query and Event, in the order in
            which they fill a packet.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        rng: random.Random,
        options: SerfOptions | None = None,
        timing: Timing = LAN,
        swim: SwimOptions | None = None,
        has_responder: Callable[[QueryReceived], bool] = lambda _: True,
        keys: KeyHandler = no_keyring,
        may_carry_keys: Callable[[bool], bool] = lambda _: True,
        may_vote: Callable[[str], bool] = lambda _: True,
        counters: Counters | None = None,
    ) -> None:
        self.name = name
        self.address = address
        options = options or SerfOptions()
        swim = swim or SwimOptions()
        counters = counters or Counters()
        self._effects = effects = Effects(counters=counters)
        self._received_sizes = counters.values("serf.msgs.received")
        self.events: list[Event] = effects.events
        self.drops = effects.drops
        self.direct_messages: list[DirectMessage] = effects.direct_messages
        self.large_broadcasts: list[LargeBroadcast] = effects.large_broadcasts
        self.shutdown_orders: list[Order] = effects.shutdown_orders
        self._table = table = MemberTable(
            name, options=options, max_members=swim.max_members, effects=effects, rng=rng
        )
        self._gossip_queues = GossipQueues(
            table.__len__,
            lambda: table.present_count - 1,
            options,
            effects.large_broadcasts,
            retransmit_mult=timing.retransmit_mult,
            largest=swim.largest_broadcast,
        )
        self.queues: Mapping[Kind, BroadcastQueue] = self._gossip_queues.queues
        for queue in self.queues.values():
            queue.sizes = counters.values("serf.msgs.sent")
        self._intents = Intents(table, self.queues["Intent"], options=options)
        self._user_events = UserEvents(options=options, effects=effects)
        self.repair = EventRepair(self._user_events, table.__len__, rng)
        self._replies = ReplyLimits(self._member_address, swim.allowed)
        self._may_carry_keys = may_carry_keys
        self._incoming_queries = IncomingQueries(
            table,
            options=options,
            effects=effects,
            rng=rng,
            deliver_own_response=self._handle_response,
            has_responder=has_responder,
            keys=keys,
            may_carry_keys=may_carry_keys,
            replies=self._replies,
        )
        self._push_pull = PushPull(
            table, self._intents, self._user_events, self._incoming_queries, self._gossip_queues
        )
        self._outgoing_queries = OutgoingQueries(
            table,
            self.query_clock,
            options=options,
            gossip_interval=timing.gossip_interval,
            rng=rng,
            effects=effects,
        )
        self._name_conflicts = NameConflicts(
            name,
            enabled=not options.disable_name_resolution,
            ask=self.ask,
            may_vote=may_vote,
            effects=effects,
        )

    # --- reading ---

    def members(self) -> tuple[Member, ...]:
        """Return all members in the order of their first appearance.

        The result is the same tuple until a member changes.
        """
        return self._table.snapshot()

    @property
    def members_version(self) -> int:
        """A number that grows with every change of `members()`."""
        return self._table.version

    def member(self, name: str) -> Member | None:
        """Return the member with this name, or None."""
        return self._table.get(name)

    @property
    def alive_count(self) -> int:
        """The number of members that have neither failed nor left."""
        return self._table.present_count

    @property
    def clock(self) -> LamportClock:
        """The Lamport clock of intents."""
        return self._intents.clock

    @property
    def event_clock(self) -> LamportClock:
        """The Lamport clock of user events."""
        return self._user_events.window.clock

    @property
    def query_clock(self) -> LamportClock:
        """The Lamport clock of queries."""
        return self._incoming_queries.window.clock

    def latest_times(self) -> LamportTimes:
        """Return the latest Lamport times seen, for snapshots."""
        return LamportTimes(
            self.clock.time - 1, self._user_events.latest_time, self._incoming_queries.latest_time
        )

    def stats(self) -> dict[str, int]:
        """Return the values of this layer in `info`, under Serf's names, and the flaps."""
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

    # --- events of the failure detector ---

    def member_joined(
        self, name: str, address: Address, meta: bytes, versions: Versions, now: float
    ) -> None:
        """Handle a join or rejoin of a member; at the start, of ourselves."""
        intent = self._intents.pop_recent_intent(name, now)
        self._table.on_join(name, address, meta, versions, now, intent=intent)

    def member_left(self, name: str, now: float, cause: Cause | None = None) -> None:
        """Handle the death or leave of a member.

        Its intents decide whether the event for users is a leave, or a failure with its cause.
        """
        self._table.on_leave(name, now, cause)
        self._outgoing_queries.stop_waiting_for(name)

    def member_updated(self, name: str, address: Address, meta: bytes, versions: Versions) -> None:
        """Handle an update of a member."""
        self._table.on_update(name, address, meta, versions)

    def member_acknowledged(self, name: str, release: str) -> None:
        """Handle the release in the ack of a probe; empty if the ack had none."""
        self._table.on_release(name, release)

    def member_suspected(self, name: str) -> None:
        """Handle a suspicion."""
        self._table.on_suspect(name)

    def member_recovered(self, name: str) -> None:
        """Handle the refutation of a suspicion."""
        self._table.on_suspect(name, recovered=True)

    def member_conflicted(self, name: str, other: Address, now: float) -> None:
        """Handle a node at `other` that claims the name of a member.

        If the name is ours and resolution is enabled, the members vote; `NameConflictLost` is
        ordered if we lose (see serf/README.md, § Name conflicts).
        """
        if name == self.name:
            self._name_conflicts.resolve(self.address, other, now)
        else:
            known = self._table.get(name)
            self._name_conflicts.log(name, None if known is None else known.address, other)

    # --- messages ---

    def handle(
        self, raw: bytes, now: float, source: Address | None = None, *, sealed: bool = False
    ) -> None:
        """Handle a message of the Serf layer from a packet or a stream.

        Most gossip is duplicates of user events and queries, which are dropped undecoded.

        Args:
            raw: the encoded message.
            now: the current time.
            source: the address that sent it to us.
            sealed: whether it arrived encrypted.

        Raises:
            WireError: it is malformed.
        """
        self._received_sizes.append(len(raw))
        if self._gossip_queues.is_duplicate(raw, source):
            return
        message = decode(raw)
        host = "" if source is None else source.host
        kind = self._dispatch(message, now, host, sealed=sealed)
        if raw[0] in _DEDUPLICATED and not is_repeated(message):
            self._gossip_queues.mark_seen(raw)
        if kind is not None:
            self._gossip_queues.rebroadcast(kind, raw, source)

    def _dispatch(
        self, message: SerfMessage, now: float, source: str, *, sealed: bool
    ) -> Kind | None:
        """Handle a message; return the queue in which to rebroadcast it, or None."""
        match message:
            case UserEvent():
                _log.debug("messageUserEventType: %s", short_name(message.name))
                return "Event" if self._user_events.receive(message) else None
            case QueryResponse():
                _log.debug("messageQueryResponseType: %s", short_name(message.source))
                if not self._may_carry_keys(sealed) and self._outgoing_queries.is_about_keys(
                    message
                ):
                    raise plaintext_refused()
                self._handle_response(message, now)
            case Query():
                _log.debug("messageQueryType: %s", short_name(message.name))
                is_new = self._incoming_queries.receive(message, now, source=source, sealed=sealed)
                return "Query" if is_new else None
            case Join():
                if not self._intents.on_join(message, now):
                    return None  # mostly duplicates, whose log lines would cost more than they do
                _log.debug("messageJoinType: %s", short_name(message.node))
                return "Intent"
            case Leave():
                if not self._intents.on_leave(message, now):
                    return None
                _log.debug("messageLeaveType: %s", short_name(message.node))
                return "Intent"
            case Relay():
                self._relay(message, now)
            case _:
                _log.debug(
                    "Ignored a %s, which is not sent as a user message", type(message).__name__
                )
        return None

    def _handle_response(self, response: QueryResponse, now: float) -> None:
        self._outgoing_queries.handle_response(response, now)

    def _relay(self, message: Relay, now: float) -> None:
        """Forward a response of another member to its requester in one packet."""
        to = parse_address(message.addr, message.port)
        if to is None:
            return
        if not self._replies.allows(message.name, to, len(message.inner), now):
            text = f"too many responses to relay to {to}, which is not a member's"
            self.drops.append(WireError("budget", text))
            return
        _log.debug("Relaying response to addr: %s", to)
        self.direct_messages.append(DirectMessage(to, message.name, message.inner))

    def _member_address(self, name: str) -> Address | None:
        member = self._table.get(name)
        return None if member is None else member.address

    # --- push/pull ---

    def local_state(self) -> SerfPushPull:
        """Return our half of a push/pull."""
        return self._push_pull.local_state()

    def merge_steps(
        self,
        state: SerfPushPull,
        *,
        join: bool,
        ignore_events: bool,
        is_alive: Callable[[str], bool] = _is_never_alive,
    ) -> Iterator[Callable[[float], None]]:
        """Split the merge of a remote half into steps (see `PushPull.merge_steps`)."""
        return self._push_pull.merge_steps(
            state, join=join, ignore_events=ignore_events, is_alive=is_alive
        )

    def restore(self, clocks: LamportTimes) -> None:
        """Continue from the clocks of a snapshot.

        User events and queries up to their clock will be ignored; 0 means that there was none.
        """
        self._intents.witness(clocks.member)
        for window, last in (
            (self._user_events.window, clocks.event),
            (self._incoming_queries.window, clocks.query),
        ):
            if last:
                window.witness(last)
                window.start_at(last + 1)

    # --- requests of users ---

    def announce_join(self, now: float) -> None:
        """Broadcast our join intent; call this after a successful join."""
        self._intents.announce_join(now)
        self._name_conflicts.note_join(now)

    def announce_leave(self, now: float, on_done: Callable[[], None] | None = None) -> None:
        """Broadcast our leave intent.

        Args:
            now: the current time.
            on_done: called after the last transmit; at once if no other member is alive.
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
        """Declare that a failed member has left; `prune` erases it.

        Returns:
            Whether it is in our table; the intent is broadcast in any case.
        """
        return self._intents.force_leave(name, prune=prune, now=now, on_done=on_done)

    def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send a user event to all members, ourselves included; return its Lamport time.

        Raises:
            TooLarge: it exceeds the limit, before or after encoding.
        """
        ltime, data = self._user_events.send(name, payload, coalesce=coalesce)
        self._gossip_queues.send("Event", data)
        return ltime

    def ask(
        self, params: QueryParams, deliver: Callable[[QueryResult], None], now: float
    ) -> RunningQuery:
        """Query the members that match.

        Args:
            params: the query.
            deliver: receives each result, `QueryDone` as the last; it may be called before this
                returns.
            now: the current time.

        Raises:
            InvalidFilter: an expression is malformed.
            InvalidQuery: too many queries of our own are running, or it is about keys, and gossip
                is not encrypted although there are keys.
            TooLarge: the encoded query exceeds its limit.
        """
        if params.name in KEY_QUERIES and not self._may_carry_keys(True):
            raise InvalidQuery(
                "keys can be listed and changed only while gossip is encrypted; set"
                " verify_outgoing first"
            )
        query, message, data = self._outgoing_queries.start(params, self.address, deliver, now)
        self._incoming_queries.receive(message, now, ours=True)
        self._outgoing_queries.finish_if_complete(query)
        if not query.finished:
            self._gossip_queues.send("Query", data)
            if self._gossip_queues.fits(data):  # streams are not lost
                self._outgoing_queries.repeat(query, message, now)
        return query

    def cancel(self, query: RunningQuery) -> None:
        """End a query of our own early; this delivers `QueryDone`, unless it has finished."""
        self._outgoing_queries.cancel(query)

    def query_name(self, number: int) -> str:
        """Return the name of a received query that may still get a response.

        Raises:
            NoSuchQuery: the query is unknown or answered.
        """
        return self._incoming_queries.name_of(number)

    def respond(self, number: int, payload: bytes, now: float) -> None:
        """Respond to a query, once.

        Args:
            number: `QueryReceived.id`.
            payload: the response.
            now: the current time.

        Raises:
            NoSuchQuery: the query is unknown, answered, or past its deadline.
            TooLarge: the response exceeds every limit; a smaller one is still possible.
        """
        self._incoming_queries.respond(number, payload, now)

    def decline(self, number: int, now: float) -> None:
        """Notify the requester that no response will follow.

        Raises:
            NoSuchQuery: the query is unknown, answered, or past its deadline.
        """
        self._incoming_queries.decline(number, now)

    # --- time ---

    @property
    def next_deadline(self) -> float | None:
        """The time at which `expire` has work to do, or None."""
        return earlier(self._intents.next_deadline, self._outgoing_queries.next_deadline)

    def expire(self, now: float) -> None:
        """Handle deadlines: end queries, erase leaving members."""
        self._intents.expire(now)
        self._outgoing_queries.expire(now)

    def reap(self, now: float) -> None:
        """Erase members that failed or left too long ago, and expired intents and queries.

        Call this every 15 seconds.
        """
        self._table.reap(now)
        self._intents.reap(now)
        self._incoming_queries.forget_expired(now)

    def reconnect_candidate(self) -> Member | None:
        """Choose a failed member to reconnect to, or None; call this every reconnect interval."""
        return self._table.reconnect_candidate()

    def check_queues(self) -> None:
        """Log long queues and prune those above the limit; call this every 30 seconds."""
        for kind, queue in self.queues.items():
            self._effects.counters.values(f"serf.queue.{kind}").append(len(queue))
        self._gossip_queues.check()
