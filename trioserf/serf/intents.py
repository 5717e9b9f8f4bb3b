"""Intents: what members say, of themselves or of others, about joining and leaving.

They make the difference between a member that left and one that failed. Each bears a Lamport time,
and for each member only the newest counts; an intent that comes before its member is buffered for
a while (spec: members and intents).
"""

import logging
from collections.abc import Callable

import attrs

from trioserf.serf.config import SerfOptions
from trioserf.serf.lamport import FAR, LAST_TIME, LamportClock, is_newer
from trioserf.serf.member_table import MemberRecord, MemberTable
from trioserf.swim.broadcast_queue import BroadcastQueue
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import Join, Leave, Status

_log = logging.getLogger("trioserf.serf")


@attrs.frozen(slots=True)
class _Buffered:
    status: Status
    ltime: int
    heard: float


class Intents:
    """The rules for intents, ours and others'.

    Args:
        table: the members.
        queue: for broadcasts.
        codec: how they are spelled.
        options: timeouts and bounds.

    Attributes:
        clock: the members' Lamport clock.
        leaving: whether we have said that we leave; until then we contradict whoever says it.
    """

    def __init__(
        self, table: MemberTable, queue: BroadcastQueue, *, codec: Codec, options: SerfOptions
    ) -> None:
        self.clock = LamportClock()
        self.leaving = False
        self._table = table
        self._queue = queue
        self._codec = codec
        self._options = options
        self._buffer: dict[str, _Buffered] = {}
        self._prune_deadlines: dict[
            str, float
        ] = {}  # all after the same delay, so the first is due first

    def witness(self, ltime: int) -> None:
        """Let the clock go on behind a time."""
        before = self.clock.time
        self.clock.witness(ltime)
        self._wrap_clock(before)

    def _wrap_clock(self, before: int) -> None:
        """Go on behind what is known of members, if the clock has come to the end of its range.

        At 0 nobody would believe us: members' intents of old are later.
        """
        if self.clock.time < before:
            known = [one.status_ltime for one in self._table.records.values()]
            self.clock.time = 1 + max(
                (time for time in known if time <= LAST_TIME - FAR), default=0
            )

    # --- ours ---

    def announce_join(self, now: float, *, urgent: bool = False) -> None:
        """Tell everyone that we have joined, at the present Lamport time."""
        message = Join(self.clock.time, self._table.name)
        self.on_join(message, now)
        self._queue.queue(self._codec.encode(message), urgent=urgent)

    def refute_stale_intent(self, ltime: int, now: float) -> None:
        """Say that we are here to somebody who knows an intent about us that we do not.

        It is of an earlier life of ours, or of somebody who believed that life to have left; and
        who took it for a leave would hold us for leaving until a later join. So this one is later
        than any leave that is made of the same intent, which bears the next time.
        """
        self.witness(min(ltime + 1, LAST_TIME))
        self.announce_join(now, urgent=True)

    def announce_leave(self, now: float, on_done: Callable[[], None] | None = None) -> None:
        """Tell everyone that we are about to leave, and contradict this no longer.

        Args:
            now: the instant.
            on_done: called when it has been sent often enough; at once if nobody is there.
        """
        self.leaving = True
        self._broadcast_leave(self._table.name, prune=False, now=now, on_done=on_done)

    def force_leave(
        self, name: str, *, prune: bool, now: float, on_done: Callable[[], None] | None = None
    ) -> bool:
        """Declare that somebody else has left; `prune` erases it everywhere.

        Returns:
            Whether such a member is known; the cluster is told in any case.
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
            self._queue.queue(self._codec.encode(message), on_done=on_done, urgent=True)
        elif on_done is not None:
            on_done()

    # --- others' ---

    def on_join(self, message: Join, now: float) -> bool:
        """Take in a join intent.

        Returns:
            Whether it was news, to be passed on.
        """
        self.witness(message.ltime)
        record = self._table.records.get(message.node)
        if record is None:
            return self._keep(message.node, Status.ALIVE, message.ltime, now)
        if not is_newer(message.ltime, record.status_ltime):
            return False
        record.status_ltime = message.ltime
        if record.status is Status.LEAVING:
            self._table.to_alive(record)
            self._prune_deadlines.pop(message.node, None)
        return True

    def on_leave(self, message: Leave, now: float) -> bool:
        """Take in a leave intent.

        Returns:
            Whether it was news, to be passed on.
        """
        self.witness(message.ltime)
        record = self._table.records.get(message.node)
        if record is None:
            return self._keep(message.node, Status.LEAVING, message.ltime, now)
        if not is_newer(message.ltime, record.status_ltime):
            return False
        if message.node == self._table.name and not self.leaving:
            _log.debug("Refuting an older leave intent")
            self.announce_join(now, urgent=True)
            return False
        record.status_ltime = message.ltime
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

    # --- those without a member ---

    def _keep(self, name: str, status: Status, ltime: int, now: float) -> bool:
        known = self._buffer.get(name)
        if known is not None and not is_newer(ltime, known.ltime):
            return False
        self._buffer.pop(name, None)
        if len(self._buffer) >= self._options.intents_kept:
            self._drop_oldest()
        self._buffer[name] = _Buffered(status, ltime, now)
        return True

    def _drop_oldest(self) -> None:
        """Make room for an eighth more at once, so that a flood costs little for each intent."""
        oldest = list(self._buffer)[: max(1, self._options.intents_kept // 8)]
        for name in oldest:
            del self._buffer[name]

    def pop_recent_intent(self, name: str, now: float) -> tuple[Status, int]:
        """Give the status and Lamport time with which a new member begins."""
        known = self._buffer.pop(name, None)
        if known is None or now - known.heard > self._options.intent_timeout:
            return (Status.ALIVE, 0)
        return (known.status, known.ltime)

    # --- the passing of time ---

    @property
    def next_deadline(self) -> float | None:
        """When the next leaving member is to be erased."""
        return next(iter(self._prune_deadlines.values()), None)

    def expire(self, now: float) -> None:
        """Erase the leaving members whose time has come; those that came back are spared."""
        for name in [name for name, due in self._prune_deadlines.items() if due <= now]:
            del self._prune_deadlines[name]
            record = self._table.records.get(name)
            if record is not None and record.status is not Status.ALIVE:
                self._table.erase(name, forced=True)

    def reap(self, now: float) -> None:
        """Forget the intents whose members have not come."""
        before = now - self._options.intent_timeout
        for name in [name for name, kept in self._buffer.items() if kept.heard < before]:
            del self._buffer[name]
