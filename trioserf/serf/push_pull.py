"""Push/pulls: exchange clocks, intents and user events with another member."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from trioserf.serf.gossip_queues import GossipQueues
from trioserf.serf.incoming_queries import IncomingQueries
from trioserf.serf.intents import Intents
from trioserf.serf.lamport import LAST_TIME, is_newer
from trioserf.serf.member_table import MemberTable
from trioserf.serf.user_events import UserEvents
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import Join, Leave, SerfPushPull, UserEvent

_PIECE: Final = 512
"""Rows of a kind merged in one step: a few milliseconds' work."""
_MAX_TO_ALL: Final = 8
"""New large events of one push/pull that we send to all members; further ones are old ones."""


class PushPull:
    """Serf's half of push/pulls; the arguments are the parts of `Serf`."""

    def __init__(
        self,
        table: MemberTable,
        intents: Intents,
        user_events: UserEvents,
        queries: IncomingQueries,
        gossip_queues: GossipQueues,
    ) -> None:
        self._table = table
        self._intents = intents
        self._user_events = user_events
        self._queries = queries
        self._gossip_queues = gossip_queues

    def local_state(self) -> SerfPushPull:
        """Return our half of a push/pull."""
        return SerfPushPull(
            self._intents.clock.time,
            {name: record.status_ltime for name, record in self._table.records.items()},
            tuple(self._table.left),
            self._user_events.window.clock.time,
            self._user_events.buffered(),
            self._queries.window.clock.time,
        )

    def merge_steps(
        self,
        state: SerfPushPull,
        *,
        join: bool,
        ignore_events: bool,
        is_alive: Callable[[str], bool],
    ) -> Iterator[Callable[[float], None]]:
        """Split the merge of a remote half into steps (see serf/README.md, § Members and intents).

        Args:
            state: the remote half.
            join: whether the push/pull is part of a join.
            ignore_events: whether to ignore user events from before our join.
            is_alive: whether a member is alive for the failure detector, which has merged its own
                part of the same push/pull before.

        Yields:
            Functions to call in order, each with the current time. One merges up to 512 rows of
            each kind: left members, other members and events.
        """
        left = set(state.left_members)
        left_members = iter(state.left_members)
        others = (row for row in state.status_ltimes.items() if row[0] not in left)
        events = self._user_events.events_from(state.events)
        rebroadcast = 0

        def merge_piece(now: float) -> None:
            nonlocal rebroadcast
            for name in islice(left_members, _PIECE):
                self._merge_left(name, state.status_ltimes.get(name, 0), is_alive, now)
            for name, ltime in islice(others, _PIECE):
                self._merge_join(name, ltime, now)
            for event in islice(events, _PIECE):
                if self._user_events.receive(event, is_live=False) and not join:
                    rebroadcast += self._rebroadcast_large(event, to_all=rebroadcast < _MAX_TO_ALL)

        def merge_first(now: float) -> None:
            self._merge_clocks(state)
            if join and ignore_events:
                self._user_events.window.start_at(state.event_ltime)
            merge_piece(now)

        yield merge_first
        event_count = sum(len(time.events) for time in state.events if time is not None)
        rows = max(len(state.left_members), len(state.status_ltimes), event_count)
        for _ in range(_PIECE, rows, _PIECE):
            yield merge_piece

    def _merge_left(
        self, name: str, ltime: int, is_alive: Callable[[str], bool], now: float
    ) -> None:
        """Apply an entry of LeftMembers, unless the member has probably rejoined since.

        The leave intent has the next time, so that it supersedes an intent of `ltime`. A member
        that is alive for the failure detector has rejoined, unknown to the remote member; a leave
        intent would make it leaving until a later join. An unknown member will have rejoined when
        its first alive message arrives.
        """
        if name == self._table.name or (name in self._table.records and not is_alive(name)):
            self._intents.on_leave(Leave(min(ltime + 1, LAST_TIME), name), now)

    def _merge_join(self, name: str, ltime: int, now: float) -> None:
        known = self._table.records.get(name)
        if known is not None and not is_newer(ltime, known.status_ltime):
            return
        if name == self._table.name and not self._intents.leaving:
            self._intents.refute_stale_intent(ltime, now)
        else:
            self._intents.on_join(Join(ltime, name), now)

    def _merge_clocks(self, state: SerfPushPull) -> None:
        """Witness the time before each remote clock: no message has the current time yet."""
        for clock, ltime in (
            (self._intents, state.ltime),
            (self._user_events.window, state.event_ltime),
            (self._queries.window, state.query_ltime),
        ):
            if ltime > 0:
                clock.witness(ltime - 1)

    def _rebroadcast_large(self, event: UserEvent, *, to_all: bool) -> bool:
        """Rebroadcast a replayed event that is too large for packets.

        Such an event of a Go agent spreads only by push/pull. The replay of a join is mostly old;
        in other push/pulls, the first few may be new to all members that use streams, so they are
        sent to all, like our own.

        Returns:
            Whether it was too large; a smaller one has been gossiped already.
        """
        raw = encode(event)
        if self._gossip_queues.fits(raw):
            return False
        self._gossip_queues.rebroadcast("Event", raw, to_all=to_all)
        return True
