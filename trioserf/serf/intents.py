"""Intents: join and leave messages about members (see serf/README.md, § Members and intents).

They distinguish a member that left from one that failed. Each has a Lamport time, and for each
member only the latest counts. An intent about an unknown member is buffered for a while.
"""

import logging
from collections.abc import Callable

import attrs

from trioserf.serf.config import SerfOptions
from trioserf.serf.lamport import FAR, LAST_TIME, LamportClock, is_newer
from trioserf.serf.member_table import MemberRecord, MemberTable
from trioserf.swim.broadcast_queue import BroadcastQueue
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import Join, Leave, Status

_log = logging.getLogger("trioserf.serf")


@attrs.frozen(eq=False, repr=False)
class _BufferedIntent:
    status: Status
    ltime: int
    received_at: float


class Intents:
    """The rules for intents, our own and others'.

    Args:
        table: the members.
        queue: the broadcast queue of intents.
        options: timeouts and limits.

    Attributes:
        clock: the Lamport clock of intents.
        leaving: whether we have broadcast our leave; until then, leave intents about us are
            refuted.
    """

    def __init__(self, table: MemberTable, queue: BroadcastQueue, *, options: SerfOptions) -> None:
        self.clock = LamportClock()
        self.leaving = False
        self._table = table
        self._queue = queue
        self._options = options
        self._buffer: dict[str, _BufferedIntent] = {}
        # The latest time of any accepted intent, except near the end of the range.
        self._latest = 0
        # The delay is always the same, so the first entry is due first.
        self._prune_deadlines: dict[str, float] = {}

    def witness(self, ltime: int) -> None:
        """Witness a time of another member."""
        before = self.clock.time
        self.clock.witness(ltime)
        self._wrap_clock(before)

    def _wrap_clock(self, before: int) -> None:
        """Set a clock that has wrapped to 0 behind the latest intent about any member.

        Intents at 0 would be ignored: the known ones are later. A packet can wrap the clock a
        hundred times, so that the latest time is not searched in the table.
        """
        if self.clock.time < before:
            self.clock.time = 1 + self._latest

    def _accept(self, record: MemberRecord, ltime: int) -> None:
        """Record the time of the latest intent about a member."""
        record.status_ltime = ltime
        self._update_latest(ltime)

    def _update_latest(self, ltime: int) -> None:
        if self._latest < ltime <= LAST_TIME - FAR:
            self._latest = ltime

    # --- our own ---

    def announce_join(self, now: float, *, urgent: bool = False) -> None:
        """Broadcast a join intent at the current Lamport time."""
        message = Join(self.clock.time, self._table.name)
        self.on_join(message, now)
        self._queue.queue(encode(message), urgent=urgent)

    def refute_stale_intent(self, ltime: int, now: float) -> None:
        """Broadcast a join intent later than an unknown intent about us in a push/pull.

        That intent is of an earlier run of this node. A member that handles it as a leave, at the
        next Lamport time, keeps us leaving until a later join, so ours is later than that.
        """
        self.witness(min(ltime + 1, LAST_TIME))
        self.announce_join(now, urgent=True)

    def announce_leave(self, now: float, on_done: Callable[[], None] | None = None) -> None:
        """Broadcast that we leave, and no longer refute it.

        Args:
            now: the current time.
            on_done: called after the last transmit; at once if no other member is alive.
        """
        self.leaving = True
        self._broadcast_leave(self._table.name, prune=False, now=now, on_done=on_done)

    def force_leave(
        self, name: str, *, prune: bool, now: float, on_done: Callable[[], None] | None = None
    ) -> bool:
        """Broadcast a leave intent for another member; `prune` erases it everywhere.

        Returns:
            Whether the member is in our table; the intent is broadcast in any case.
        """
        known = name in self._table.records
        self._broadcast_leave(name, prune=prune, now=now, on_done=on_done)
        return known

    def _broadcast_leave(
        self, name: str, *, prune: bool, now: float, on_done: Callable[[], None] | None
    ) -> None:
        message = Leave(self.clock.time, name, prune)
        self.clock.increment()
        self.on_leave(message, now)
        self._wrap_clock(message.ltime)
        if self._table.has_others_alive:
            self._queue.queue(encode(message), on_done=on_done, urgent=True)
        elif on_done is not None:
            on_done()

    # --- of other members ---

    def on_join(self, message: Join, now: float) -> bool:
        """Handle a join intent.

        Returns:
            Whether it was new, so that it must be rebroadcast.
        """
        self.witness(message.ltime)
        record = self._table.records.get(message.node)
        if record is None:
            return self._buffer_intent(message.node, Status.ALIVE, message.ltime, now)
        if not is_newer(message.ltime, record.status_ltime):
            return False
        self._accept(record, message.ltime)
        if record.status is Status.LEAVING:
            self._table.to_alive(record)
            self._prune_deadlines.pop(message.node, None)
        return True

    def on_leave(self, message: Leave, now: float) -> bool:
        """Handle a leave intent.

        Returns:
            Whether it was new, so that it must be rebroadcast.
        """
        self.witness(message.ltime)
        record = self._table.records.get(message.node)
        if record is None:
            return self._buffer_intent(message.node, Status.LEAVING, message.ltime, now)
        if not is_newer(message.ltime, record.status_ltime):
            return False
        if message.node == self._table.name and not self.leaving:
            _log.debug("Refuting an older leave intent")
            self.announce_join(now, urgent=True)
            return False
        self._accept(record, message.ltime)
        if record.status is Status.ALIVE:
            self._table.to_leaving(record)
        elif record.status is Status.FAILED:
            self._table.force_left(record, now)
        if message.prune and message.node != self._table.name:
            self._prune(record, now)
        return True

    def _prune(self, record: MemberRecord, now: float) -> None:
        name = record.member.name
        if record.status is Status.LEAVING:
            delay = self._options.broadcast_timeout + self._options.leave_propagate_delay
            self._prune_deadlines.setdefault(name, now + delay)
        else:
            self._table.erase(name, forced=True)

    # --- about unknown members ---

    def _buffer_intent(self, name: str, status: Status, ltime: int, now: float) -> bool:
        known = self._buffer.get(name)
        if known is not None and not is_newer(ltime, known.ltime):
            return False
        self._buffer.pop(name, None)
        if len(self._buffer) >= self._options.intents_kept:
            self._drop_oldest()
        self._buffer[name] = _BufferedIntent(status, ltime, now)
        return True

    def _drop_oldest(self) -> None:
        """Drop an eighth at once, so that a flood costs little for each intent."""
        oldest = list(self._buffer)[: max(1, self._options.intents_kept // 8)]
        for name in oldest:
            del self._buffer[name]

    def pop_recent_intent(self, name: str, now: float) -> tuple[Status, int]:
        """Return the initial status and Lamport time of a new member."""
        known = self._buffer.pop(name, None)
        if known is None or now - known.received_at > self._options.intent_timeout:
            return (Status.ALIVE, 0)
        self._update_latest(known.ltime)
        return (known.status, known.ltime)

    # --- time ---

    @property
    def next_deadline(self) -> float | None:
        """The time at which the next leaving member must be erased, or None."""
        return next(iter(self._prune_deadlines.values()), None)

    def expire(self, now: float) -> None:
        """Erase the members whose prune is due, except those that have rejoined."""
        for name in [name for name, due in self._prune_deadlines.items() if due <= now]:
            del self._prune_deadlines[name]
            record = self._table.records.get(name)
            if record is not None and record.status is not Status.ALIVE:
                self._table.erase(name, forced=True)

    def reap(self, now: float) -> None:
        """Drop buffered intents whose members have not joined in time."""
        before = now - self._options.intent_timeout
        for name in [name for name, kept in self._buffer.items() if kept.received_at < before]:
            del self._buffer[name]
