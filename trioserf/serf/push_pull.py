"""Push/pulls: what both sides of one tell each other of intents, user events and clocks."""

from collections.abc import Callable, Generator
from typing import Final

from trioserf.serf.gossip_queues import GossipQueues
from trioserf.serf.incoming_queries import IncomingQueries
from trioserf.serf.intents import Intents
from trioserf.serf.lamport import LAST_TIME, is_newer
from trioserf.serf.member_table import MemberTable
from trioserf.serf.user_events import UserEvents
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import Join, Leave, SerfPushPull, UserEvent

_PIECE: Final = 512
"""Names or events of a push/pull taken in at once: a few milliseconds' work."""
_FRESH: Final = 8
"""Large events of a push/pull that are news to us and, as we take it, to the others as well."""


class PushPull:
    """Both halves of push/pulls (spec: push/pull merge); the arguments are the state's parts."""

    def __init__(
        self,
        table: MemberTable,
        intents: Intents,
        user_events: UserEvents,
        queries: IncomingQueries,
        outbox: GossipQueues,
        codec: Codec,
    ) -> None:
        self._table = table
        self._intents = intents
        self._user_events = user_events
        self._queries = queries
        self._outbox = outbox
        self._codec = codec

    def local_state(self) -> SerfPushPull:
        """Give our half of a push/pull."""
        return SerfPushPull(
            self._intents.clock.time,
            {name: record.status_ltime for name, record in self._table.records.items()},
            tuple(self._table.left),
            self._user_events.window.clock.time,
            self._user_events.buffered(),
            self._queries.window.clock.time,
        )

    def merge_remote_state(
        self,
        state: SerfPushPull,
        *,
        join: bool,
        ignore_events: bool,
        lives: Callable[[str], bool],
    ) -> Generator[None, float, None]:
        """Take in the other half of a push/pull, piece by piece (spec: push/pull merge).

        The generator waits for the instant of each of its steps to be sent to it, the first too,
        and takes in up to 512 names or events in a step.

        Args:
            state: what the other member sent.
            join: whether the exchange is somebody's join.
            ignore_events: whether user events from before our join are none of our business.
            lives: whether a member is alive for all that the failure detector knows, after it
                has taken in its part of the same exchange.
        """
        now = yield
        self._merge_clocks(state)
        # Those who left come first, with a later time than they had there: an intent about them
        # that we have heard already must not keep us from believing it. But whom the failure
        # detector holds for alive after this exchange has come back since; the other side has
        # not heard of it yet. Taken for leaving, it would be so until a later join. The same goes
        # for whom we do not know: when we hear that it lives, it has come back.
        left = set(state.left_members)
        for count, name in enumerate(state.left_members, 1):
            if name == self._table.name or (name in self._table.records and not lives(name)):
                self._intents.on_leave(Leave(_after(state.status_ltimes.get(name, 0)), name), now)
            if not count % _PIECE:
                now = yield
        for count, (name, ltime) in enumerate(state.status_ltimes.items(), 1):
            if name not in left:
                self._merge_join(name, ltime, now)
            if not count % _PIECE:
                now = yield
        if join and ignore_events:
            self._user_events.window.start_at(state.event_ltime)
        passed_on = 0
        for count, event in enumerate(self._user_events.events_from(state.events), 1):
            if self._user_events.receive(event, is_live=False) and not join:
                passed_on += self._pass_on_replayed(event, to_all=passed_on < _FRESH)
            if not count % _PIECE:
                now = yield

    def _pass_on_replayed(self, event: UserEvent, *, to_all: bool) -> bool:
        """Pass on a large event that a push/pull brought, as a Serf's can come no other way.

        Small ones have been gossiped. What a join brings is mostly old news to the others. A few
        large ones are fresh: perhaps nobody else of those who use streams has them, so that we
        send them to all, as if they were ours.
        """
        raw = self._codec.encode(event)
        if self._outbox.fits(raw):
            return False
        self._outbox.rebroadcast("Event", raw, to_all=to_all)
        return True

    def _merge_join(self, name: str, ltime: int, now: float) -> None:
        known = self._table.records.get(name)
        if known is not None and not is_newer(ltime, known.status_ltime):
            return
        if name == self._table.name and not self._intents.leaving:
            self._intents.refute_stale_intent(ltime, now)
        else:
            self._intents.on_join(Join(ltime, name), now)

    def _merge_clocks(self, state: SerfPushPull) -> None:
        """Witness the times of another's clocks, which have not been used for a message yet."""
        for clock, ltime in (
            (self._intents, state.ltime),
            (self._user_events.window, state.event_ltime),
            (self._queries.window, state.query_ltime),
        ):
            if ltime > 0:
                clock.witness(ltime - 1)


def _after(ltime: int) -> int:
    return min(ltime + 1, LAST_TIME)
