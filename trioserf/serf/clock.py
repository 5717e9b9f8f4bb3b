"""Lamport clocks, and the memory of what was seen at the latest Lamport times.

Serf has three such clocks: for members' intents, for user events and for queries. Each starts at
1; a sender takes the present time for its message, and whoever hears of a time goes on behind it
(Lamport 1978; spec: clocks). They are 64-bit numbers on the wire, and anybody may send any number,
so two things need care:

*Overflow.* Go's clock becomes 0 after 2**64 - 1, and with it goes the order of everything. Here a
time in the last 2**32 of the range is believed only from those who got there in small steps: a
time that is `FAR` ahead of ours and beyond `CEILING` is refused. There is always room to count on,
and a clock that really is at the end of its range stays there.

*Deafness.* A message from the time 2**63 moves a clock there. Following is right: it is what every
Serf does, and those who followed hear only the ones who did so too ("received old event"). But
whoever has not heard of the jump yet, or never will because its range of the network is cut off,
goes on counting below, and a Serf that followed does not hear it any more. A `LamportWindow`
therefore keeps the epoch that it was torn from: times near the old clock are still young, with the
old memory against duplicates. Among honest peers times are never `FAR` apart, and then a window is
exactly Serf's ring buffer.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

LAST_TIME: Final = 2**64 - 1
"""The largest Lamport time that fits into a message."""
FAR: Final = 2**32
"""Further ahead than any honest peer: fifty days of a thousand messages a second unheard."""
CEILING: Final = 2**64 - 2**32
"""Where no clock may jump to; it can only be walked into."""
EPOCHS_KEPT: Final = 4
"""Older epochs of a window; an attacker needs as many jumps to make us forget the honest one."""


class LamportClock:
    """A counter that never lags behind a time it has heard of.

    Args:
        time: where to start, 1 as every Serf does.
    """

    __slots__ = ("time",)

    def __init__(self, time: int = 1) -> None:
        self.time = time

    def increment(self) -> int:
        """Count one on and give the new time; at the end of the range it stays."""
        if self.time < LAST_TIME:
            self.time += 1
        return self.time

    def admits(self, seen: int) -> bool:
        """Whether this time may be believed: a u64, and no jump into the end of the range."""
        return 0 <= seen <= LAST_TIME and (seen <= CEILING or seen - self.time <= FAR)

    def witness(self, seen: int) -> bool:
        """Go on behind the time that somebody else's message bears.

        Returns:
            False if it is not to be believed (see `admits`): the message should be dropped.
        """
        if seen < self.time:
            return seen >= 0
        if not self.admits(seen):
            return False
        self.time = min(seen + 1, LAST_TIME)
        return True

    def __repr__(self) -> str:
        return f"LamportClock({self.time})"


class Refusal(Enum):
    """Why a message of some time is not looked at."""

    OLD = "it is older than the window"
    BEFORE_START = "it is from before our beginning"
    UNBELIEVABLE = "no clock can have come there"


E = TypeVar("E")


class Slot(Generic[E]):
    """What is remembered of one Lamport time."""

    __slots__ = ("entry", "ltime", "size")

    def __init__(self, ltime: int, entry: E) -> None:
        self.ltime = ltime
        self.entry = entry
        self.size = 0


class _Epoch(Generic[E]):
    """A clock, the earliest time to be looked at, and the slots of the latest times."""

    __slots__ = ("clock", "min_time", "slots")

    def __init__(self, clock: LamportClock, min_time: int) -> None:
        self.clock = clock
        self.min_time = min_time
        self.slots: dict[int, Slot[E]] = {}


class LamportWindow(Generic[E]):
    """A clock, and an entry for each of the times just past it.

    A time is young if it is at most `length` behind the clock (or behind that of a kept older
    epoch, see the head of this file). What is remembered is limited in bytes too: beyond the
    budget the oldest times are forgotten, and count as past from then on, so that nothing that
    was forgotten can be taken for new.

    Args:
        length: times remembered, at least 1 (Serf: 512).
        new_entry: makes the entry of a time that is seen first.
        budget: the sum of what `charge` may be told, in bytes.
    """

    def __init__(self, length: int, new_entry: Callable[[], E], *, budget: int) -> None:
        self.clock = LamportClock()
        self._length = length
        self._new_entry = new_entry
        self._budget = budget
        self._used = 0
        self._present: _Epoch[E] = _Epoch(self.clock, 0)
        self._older: list[_Epoch[E]] = []

    @property
    def min_time(self) -> int:
        """Messages before this time are passed over."""
        return self._present.min_time

    def witness(self, seen: int) -> bool:
        """Let the clock go on behind a time (see `LamportClock.witness`), far jumps included."""
        if seen - self.clock.time > FAR and self.clock.admits(seen):
            self._leave_behind()
        if not self.clock.witness(seen):
            return False
        epoch = self._epoch_of(seen)
        if epoch is not None and epoch is not self._present:
            epoch.clock.witness(seen)
        return True

    def start_at(self, min_time: int) -> None:
        """Pass over whatever is older than this from now on, in the epoch that it belongs to.

        A start in the future is none: it comes from a clock that was not believed.
        """
        epoch = self._epoch_of(min_time)
        if epoch is not None and min_time <= epoch.clock.time:
            epoch.min_time = max(epoch.min_time, min_time)

    def at(self, ltime: int) -> Slot[E] | Refusal:
        """Witness the time of a message and give what is remembered of that time."""
        if not self.witness(ltime):
            return Refusal.UNBELIEVABLE
        epoch = self._epoch_of(ltime)
        if epoch is None:
            return Refusal.BEFORE_START if ltime < self.min_time else Refusal.OLD
        if ltime < epoch.min_time:
            return Refusal.BEFORE_START
        place = ltime % self._length
        slot = epoch.slots.get(place)
        if slot is None or slot.ltime != ltime:
            if slot is not None:
                self._used -= slot.size
            slot = epoch.slots[place] = Slot(ltime, self._new_entry())
        return slot

    def charge(self, slot: Slot[E], size: int) -> bool:
        """Account for something that is going to be kept in a slot, `size` bytes.

        Returns:
            False if this slot alone would be over the budget: nothing more can be kept there.
        """
        if slot.size + size > self._budget:
            return False
        slot.size += size
        self._used += size
        while self._used > self._budget:
            self._forget_oldest(slot)
        return True

    def __iter__(self) -> Iterator[Slot[E]]:
        """Give the slots of the present epoch, the oldest first."""
        return iter(sorted(self._present.slots.values(), key=lambda slot: slot.ltime))

    def _epoch_of(self, ltime: int) -> _Epoch[E] | None:
        """Find where a time is young, or None if it is old everywhere."""
        if ltime >= self.clock.time - self._length:
            return self._present
        for epoch in self._older:
            if -self._length <= ltime - epoch.clock.time <= FAR:
                return epoch
        return None

    def _leave_behind(self) -> None:
        past = self._present
        self._older.insert(0, past)
        past.clock = LamportClock(self.clock.time)
        self._present = _Epoch(self.clock, 0)
        for epoch in self._older[EPOCHS_KEPT:]:
            self._used -= sum(slot.size for slot in epoch.slots.values())
        del self._older[EPOCHS_KEPT:]

    def _forget_oldest(self, spared: Slot[E]) -> None:
        """Forget one time that holds anything; the budget shows that there is one."""
        for epoch in (*reversed(self._older), self._present):
            held = [s for s in epoch.slots.values() if s is not spared and s.size]
            if held:
                oldest = min(held, key=lambda slot: slot.ltime)
                del epoch.slots[oldest.ltime % self._length]
                self._used -= oldest.size
                epoch.min_time = max(epoch.min_time, oldest.ltime + 1)
                return
