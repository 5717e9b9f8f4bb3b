"""Lamport clocks, and the memory of what was seen at the latest Lamport times.

Serf has three such clocks: for members' intents, for user events and for queries. Each starts at
1; a sender takes the present time for its message, and whoever hears of a time goes on behind it
(Lamport 1978; spec: clocks). They are 64-bit numbers on the wire, and anybody may send any number:
one message from the time 2**63 moves every clock there that hears of it. What must not happen then
is that anybody becomes deaf. Speaking and hearing need different care:

*Speaking.* A clock follows, as every Serf's does. Whoever did not would speak from a time that is
long past for those who did, and not be heard by them ("received old event"). After 2**64 - 1 comes
0, as in Go's arithmetic, where the whole cluster begins anew (`intents` tells where members' clock
does). Only a jump to the very last time is not followed: Go's clocks fall back to 0 by it, and the
first message of one that stayed lifts them again.

*Hearing.* Among honest peers times are never `FAR` apart, and what is a little behind the clock is
old news. A time that is further away comes from another *epoch*: from before a jump that somebody
has not heard of yet, or never will because its range of the network is cut off, or from after it.
Each epoch has its own clock and its own memory against duplicates, so that a message is old only
where it is compared with its own kind. A few epochs are kept, those used last. Within one, a
`LamportWindow` is exactly Serf's ring buffer; so without poison nothing differs from Serf. Where a
clock has begun anew at 0, its times stand again for what was said long ago. What the ring of that
epoch still holds is known for a double; what it had let go of before cannot be told from news any
more, and counts as that: better twice than never.

*Starting.* Who starts passes over what is from before its start. What others remember of an epoch
that it has no memory of is such, if that lies behind its clock: it would be old news told again.
Only news itself may come from anywhere.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

LAST_TIME: Final = 2**64 - 1
"""The largest Lamport time that fits into a message."""
FAR: Final = 2**32
"""Further ahead than any honest peer: fifty days of a thousand messages a second unheard."""
MAX_EPOCHS: Final = 5
"""Epochs that a window remembers; an attacker needs as many jumps to make us forget one."""


def is_newer(ltime: int, known: int) -> bool:
    """Whether an intent of this time overrules one of a known time about the same member.

    Later ones do. But what was said from the end of the range could never be overruled; so there
    anything does that is not near to it.
    """
    return ltime > known or (known > LAST_TIME - FAR and known - ltime > FAR)


class LamportClock:
    """A counter that never lags behind a time it has heard of, and begins anew after the last.

    Args:
        time: where to start, 1 as every Serf does.
    """

    __slots__ = ("time",)

    def __init__(self, time: int = 1) -> None:
        self.time = time

    def increment(self) -> int:
        """Count one on and give the new time."""
        self.time = (self.time + 1) & LAST_TIME
        return self.time

    def witness(self, seen: int) -> None:
        """Go on behind the time that somebody else's message bears, a 64-bit number."""
        if seen >= self.time and (seen < LAST_TIME or seen - self.time <= FAR):
            self.time = (seen + 1) & LAST_TIME

    def __repr__(self) -> str:
        return f"LamportClock({self.time})"


class Rejection(Enum):
    """Why a message of some time is not looked at."""

    OLD = "it is older than the window"
    BEFORE_START = "it is from before our beginning"


E = TypeVar("E")


class LamportSlot(Generic[E]):
    """What is remembered of one Lamport time."""

    __slots__ = ("entry", "ltime", "size")

    def __init__(self, ltime: int, entry: E) -> None:
        self.ltime = ltime
        self.entry = entry
        self.size = 0


class _Epoch(Generic[E]):
    """A clock, the earliest time to be looked at, and the slots of the latest times."""

    __slots__ = ("clock", "min_time", "slots")

    def __init__(self, clock: LamportClock, min_time: int = 0) -> None:
        self.clock = clock
        self.min_time = min_time
        self.slots: dict[int, LamportSlot[E]] = {}

    def is_near(self, ltime: int) -> bool:
        return -FAR <= ltime - self.clock.time <= FAR


class LamportWindow(Generic[E]):
    """A clock, and an entry for each of the times just past it.

    A time is young if it is at most `length` behind the clock of its epoch (see the head of this
    file). What is remembered is limited in bytes too: beyond the budget the oldest times are
    forgotten, and count as past from then on, so that nothing that was forgotten can be taken for
    new.

    Args:
        length: times remembered, at least 1 (Serf: 512).
        new_entry: makes the entry of a time that is seen first.
        budget: the sum of what `charge` may be told, in bytes.

    Attributes:
        clock: the time of our next message.
    """

    def __init__(self, length: int, new_entry: Callable[[], E], *, budget: int) -> None:
        self.clock = LamportClock()
        self._length = length
        self._new_entry = new_entry
        self._budget = budget
        self._used = 0
        self._current: _Epoch[E] = _Epoch(self.clock)
        self._others: list[_Epoch[E]] = []  # the one heard of last comes first
        self._reached = 1

    @property
    def min_time(self) -> int:
        """Messages before this time are passed over."""
        return self._current.min_time

    def witness(self, seen: int) -> None:
        """Let the clock go on behind a time, and whatever epoch that belongs to."""
        self._check_wrap()
        epoch = self._epoch_of(seen)
        clock = self.clock
        has_ended = seen == LAST_TIME or (epoch is not None and epoch.clock.time == LAST_TIME)
        if seen - clock.time > FAR and not has_ended:
            self._switch_epoch(epoch, seen)
        elif epoch is self._current:
            clock.witness(seen)
            self._check_wrap()
        elif epoch is not None:
            epoch.clock.time = max(epoch.clock.time, min(seen + 1, LAST_TIME))

    def start_at(self, min_time: int) -> None:
        """Pass over whatever is older than this from now on, in the epoch that it belongs to.

        A start in the future is none: it comes from a clock that was not followed.
        """
        epoch = self._epoch_of(min_time)
        if epoch is None and min_time < self.clock.time:
            epoch = _Epoch(LamportClock(min_time))
            self._add_epoch(epoch)
        if epoch is not None and min_time <= epoch.clock.time:
            epoch.min_time = max(epoch.min_time, min_time)

    def at(self, ltime: int, *, is_live: bool = True) -> LamportSlot[E] | Rejection:
        """Witness the time of a message and give what is remembered of that time.

        Args:
            ltime: the time.
            is_live: whether the message came by itself, not from another member's memory.
        """
        self.witness(ltime)
        place = ltime % self._length
        epoch = self._epoch_of(ltime)
        if epoch is None:
            if not is_live and ltime < self.min_time:
                return Rejection.BEFORE_START
            epoch = _Epoch(LamportClock(min(ltime + 1, LAST_TIME)))
            self._add_epoch(epoch)
        elif epoch is not self._current and epoch is not self._others[0]:
            self._others.remove(epoch)
            self._others.insert(0, epoch)
        slot = epoch.slots.get(place)
        if ltime < epoch.min_time:
            return Rejection.BEFORE_START
        if ltime < epoch.clock.time - self._length:
            return Rejection.OLD
        if slot is None or slot.ltime != ltime:
            if slot is not None:
                self._used -= slot.size
            slot = epoch.slots[place] = LamportSlot(ltime, self._new_entry())
        return slot

    def charge(self, slot: LamportSlot[E], size: int) -> bool:
        """Account for something that is going to be kept in a slot, `size` bytes.

        Returns:
            False if this slot alone would be over the budget: nothing more can be kept there.
        """
        if slot.size + size > self._budget:
            return False
        slot.size += size
        self._used += size
        while self._used > self._budget:
            self._drop_oldest(slot)
        return True

    def __iter__(self) -> Iterator[LamportSlot[E]]:
        """Give the slots of the present epoch, the oldest first."""
        return iter(sorted(self._current.slots.values(), key=lambda slot: slot.ltime))

    def _epoch_of(self, ltime: int) -> _Epoch[E] | None:
        """Find the epoch that a time belongs to: one that remembers it, or one that is near."""
        near = [epoch for epoch in (self._current, *self._others) if epoch.is_near(ltime)]
        if len(near) > 1:
            place = ltime % self._length
            for epoch in near:
                slot = epoch.slots.get(place)
                if slot is not None and slot.ltime == ltime:
                    return epoch
        return near[0] if near else None

    def _switch_epoch(self, epoch: _Epoch[E] | None, seen: int) -> None:
        """Follow a far jump: the present becomes another epoch, a new one or one that was."""
        past = self._current
        past.clock = LamportClock(self.clock.time)
        if epoch is None:
            epoch = _Epoch(self.clock)
        else:
            self._others.remove(epoch)
            seen = max(seen, epoch.clock.time - 1)
            epoch.clock = self.clock
        self._current = epoch
        self.clock.time = seen + 1
        if past.slots or past.clock.time > 1:  # else nothing was ever heard of it
            self._add_epoch(past)
        self._reached = self.clock.time

    def _check_wrap(self) -> None:
        """See whether the clock has begun anew, which leaves what was before behind."""
        if self.clock.time < self._reached:
            past = self._current
            past.clock = LamportClock(LAST_TIME)
            self._current = _Epoch(self.clock)
            self._add_epoch(past)
        self._reached = self.clock.time

    def _add_epoch(self, epoch: _Epoch[E]) -> None:
        self._others.insert(0, epoch)
        while len(self._others) >= MAX_EPOCHS:
            forgotten = self._others.pop()
            self._used -= sum(slot.size for slot in forgotten.slots.values())

    def _drop_oldest(self, spared: LamportSlot[E]) -> None:
        """Forget one time that holds anything; the budget shows that there is one."""
        for epoch in (*reversed(self._others), self._current):
            held = [s for s in epoch.slots.values() if s is not spared and s.size]
            if held:
                oldest = min(held, key=lambda slot: slot.ltime)
                del epoch.slots[oldest.ltime % self._length]
                self._used -= oldest.size
                epoch.min_time = max(epoch.min_time, oldest.ltime + 1)
                return
