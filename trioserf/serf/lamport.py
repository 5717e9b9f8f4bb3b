"""Lamport clocks, and the messages of the latest Lamport times (see serf/README.md, § Clocks).

Serf has three Lamport clocks (Lamport 1978): for intents, user events and queries. Each starts at
1; a sender takes the current time for its message, and a receiver sets its clock behind the time
of the message. Times are 64-bit numbers on the wire, and any host can send any number: one message
of time 2**63 moves every clock that witnesses it. No such message may cause members to drop the
messages of others as old. Sending and receiving are protected in different ways:

*Sending.* A clock always follows the highest received time, as in Serf. If it did not, members
that did follow would drop its messages as old. After 2**64 - 1 comes 0, as in Go, and the whole
cluster starts again from 0 (for the clock of intents see `Intents._wrap_clock`). Only a jump to
the very last time is not followed: it makes Go's clocks fall back to 0, and the first message of
a clock that did not jump raises them again.

*Receiving.* Two times of members that follow the protocol are never `FAR` apart, and a message
slightly behind the clock is old. A time further away belongs to another *epoch*: before a jump
that its sender has not witnessed, perhaps because of a partition, or after it. Each epoch has its
own clock and its own memory of duplicates, so that a message is old only compared with its own
epoch. The few epochs used last are kept. Within one epoch a `LamportWindow` is exactly Serf's ring
buffer, so that without such jumps nothing differs from Serf.

*Wrapping.* After a clock has wrapped to 0, its times are used again, in an epoch of the next
*lap*. Duplicates are still detected while the old epoch holds their time. A time that it no longer
holds is ambiguous. A replayed message is then an old one, because push/pulls repeat messages for
a long time. A live one is new, as in Serf, which is better than to drop the messages of the new
lap; `GossipQueues` drops it if its bytes were seen recently.

*Starting.* A node ignores messages from before its start. These include replayed events of an
unknown epoch behind its clock. Messages that are not replayed may belong to any epoch.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

LAST_TIME: Final = 2**64 - 1
"""The largest Lamport time that fits into a message."""
FAR: Final = 2**32
"""Times never differ by this without a jump: fifty days of a thousand messages per second."""
MAX_EPOCHS: Final = 5
"""Epochs that a window keeps; an attacker needs as many jumps to make it drop one."""


def is_newer(ltime: int, known: int) -> bool:
    """Return whether an intent of this time supersedes one of a known time about the same member.

    A later intent does. No time is later than the end of the range, so an intent from there is
    also superseded by any intent whose time is not near.
    """
    return ltime > known or (known > LAST_TIME - FAR and known - ltime > FAR)


class LamportClock:
    """A counter that stays ahead of all witnessed times, and wraps to 0 after the last.

    Args:
        time: the initial time, 1 as in Serf.
    """

    __slots__ = ("time",)

    def __init__(self, time: int = 1) -> None:
        self.time = time

    def increment(self) -> int:
        """Increment the time and return it."""
        self.time = (self.time + 1) & LAST_TIME
        return self.time

    def witness(self, seen: int) -> None:
        """Set the clock behind the time of a received message, a 64-bit number."""
        if seen >= self.time and (seen < LAST_TIME or seen - self.time <= FAR):
            self.time = (seen + 1) & LAST_TIME

    def __repr__(self) -> str:
        return f"LamportClock({self.time})"


class Rejection(Enum):
    """Why a message of some time is ignored."""

    OLD = "it is older than the window"
    BEFORE_START = "it is from before our start"


E = TypeVar("E")


class LamportSlot(Generic[E]):
    """The entry of one Lamport time, and its size in bytes."""

    __slots__ = ("entry", "ltime", "size")

    def __init__(self, ltime: int, entry: E) -> None:
        self.ltime = ltime
        self.entry = entry
        self.size = 0


class _Epoch(Generic[E]):
    """A clock, the earliest time that is accepted, and the slots of the latest times.

    Times are used again in each `lap`, the number of wraps of the window's clock before.
    """

    __slots__ = ("clock", "lap", "min_time", "slots")

    def __init__(self, clock: LamportClock, lap: int, min_time: int = 0) -> None:
        self.clock = clock
        self.lap = lap
        self.min_time = min_time
        self.slots: dict[int, LamportSlot[E]] = {}

    def is_near(self, ltime: int) -> bool:
        return -FAR <= ltime - self.clock.time <= FAR


class LamportWindow(Generic[E]):
    """A clock, and an entry for each of the latest times.

    A time is accepted if it is at most `length` behind the clock of its epoch (see above). The
    memory is limited in bytes too: above the budget the oldest times are dropped, and are old
    from then on, so that a dropped message cannot be taken for a new one.

    Args:
        length: number of times to keep, at least 1 (Serf: 512).
        new_entry: creates the entry of a time that is seen first.
        budget: the maximum sum of all `charge` sizes, in bytes.

    Attributes:
        clock: the time of our next message.
    """

    def __init__(self, length: int, new_entry: Callable[[], E], *, budget: int) -> None:
        self.clock = LamportClock()
        self._length = length
        self._new_entry = new_entry
        self._budget = budget
        self._used = 0
        self._current: _Epoch[E] = _Epoch(self.clock, 0)
        self._lap = 0
        self._others: list[_Epoch[E]] = []  # most recently used first
        self._reached = 1

    @property
    def min_time(self) -> int:
        """The earliest time that is accepted in the current epoch."""
        return self._current.min_time

    def witness(self, seen: int) -> None:
        """Set the clock, and the clock of the time's epoch, behind a time."""
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
        """Ignore messages before this time, in its epoch.

        A time in the future is ignored: it comes from a clock that we did not follow.
        """
        epoch = self._epoch_of(min_time)
        if epoch is None and min_time < self.clock.time:
            epoch = _Epoch(LamportClock(min_time), self._lap)
            self._add_epoch(epoch)
        if epoch is not None and min_time <= epoch.clock.time:
            epoch.min_time = max(epoch.min_time, min_time)

    def at(self, ltime: int, *, is_live: bool = True) -> LamportSlot[E] | Rejection:
        """Witness the time of a message; return the slot of that time, or why it is ignored.

        Args:
            ltime: the time.
            is_live: False for the replayed message of a push/pull.
        """
        index = ltime % self._length
        epoch: _Epoch[E] | None = self._current
        clock = self.clock
        is_next = clock.time - 1 <= ltime <= clock.time < LAST_TIME
        if is_next and clock.time >= self._reached and not self._others:  # nearly always
            clock.witness(ltime)
            self._reached = clock.time
        else:
            self.witness(ltime)
            epoch = self._epoch_of(ltime)
        if epoch is None:
            if not is_live and ltime < self.min_time:
                return Rejection.BEFORE_START
            epoch = _Epoch(LamportClock(min(ltime + 1, LAST_TIME)), self._lap)
            self._add_epoch(epoch)
        elif epoch is not self._current and epoch is not self._others[0]:
            self._others.remove(epoch)
            self._others.insert(0, epoch)
        slot = epoch.slots.get(index)
        if ltime < epoch.min_time:
            return Rejection.BEFORE_START
        if self._is_before(epoch, ltime):
            return Rejection.OLD
        if slot is None or slot.ltime != ltime:
            if not is_live and any(self._is_before(one, ltime) for one in self._near(ltime)):
                return Rejection.OLD
            if slot is not None:
                self._used -= slot.size
            slot = epoch.slots[index] = LamportSlot(ltime, self._new_entry())
        return slot

    def get(self, ltime: int) -> LamportSlot[E] | None:
        """Return the slot of a time in the current epoch, if there is one."""
        slot = self._current.slots.get(ltime % self._length)
        return slot if slot is not None and slot.ltime == ltime else None

    def charge(self, slot: LamportSlot[E], size: int) -> bool:
        """Account for `size` bytes that the caller will add to a slot.

        Returns:
            Whether they fit; if not, this slot alone would exceed the budget.
        """
        if slot.size + size > self._budget:
            return False
        slot.size += size
        self._used += size
        while self._used > self._budget:
            self._drop_oldest(slot)
        return True

    def __iter__(self) -> Iterator[LamportSlot[E]]:
        """Iterate over the slots of the current epoch, the oldest first."""
        return iter(sorted(self._current.slots.values(), key=lambda slot: slot.ltime))

    def _epoch_of(self, ltime: int) -> _Epoch[E] | None:
        """Return the epoch that holds a time, or else a near one of the latest lap, or None."""
        if not self._others:  # nearly always
            return self._current if self._current.is_near(ltime) else None
        near = self._near(ltime)
        if len(near) > 1:
            index = ltime % self._length
            for epoch in near:
                slot = epoch.slots.get(index)
                if slot is not None and slot.ltime == ltime:
                    return epoch
        return max(near, key=lambda epoch: epoch.lap) if near else None

    def _is_before(self, epoch: _Epoch[E], ltime: int) -> bool:
        return ltime < epoch.clock.time - self._length

    def _near(self, ltime: int) -> list[_Epoch[E]]:
        return [epoch for epoch in (self._current, *self._others) if epoch.is_near(ltime)]

    def _switch_epoch(self, epoch: _Epoch[E] | None, seen: int) -> None:
        """Follow a jump to another epoch, new or known."""
        old = self._current
        old.clock = LamportClock(self.clock.time)
        if epoch is None:
            epoch = _Epoch(self.clock, self._lap)
        else:
            self._others.remove(epoch)
            seen = max(seen, epoch.clock.time - 1)
            epoch.clock = self.clock
        self._current = epoch
        self.clock.time = seen + 1
        if old.slots or old.clock.time > 1:  # else it was never used
            self._add_epoch(old)
        self._reached = self.clock.time

    def _check_wrap(self) -> None:
        """Start a new epoch if the clock has wrapped to 0."""
        if self.clock.time < self._reached:
            old = self._current
            old.clock = LamportClock(LAST_TIME)
            self._lap += 1
            self._current = _Epoch(self.clock, self._lap)
            self._add_epoch(old)
        self._reached = self.clock.time

    def _add_epoch(self, epoch: _Epoch[E]) -> None:
        self._others.insert(0, epoch)
        while len(self._others) >= MAX_EPOCHS:
            dropped = self._others.pop()
            self._used -= sum(slot.size for slot in dropped.slots.values())

    def _drop_oldest(self, keep: LamportSlot[E]) -> None:
        """Drop the oldest time that holds bytes, other than `keep`."""
        for epoch in (*reversed(self._others), self._current):
            held = [s for s in epoch.slots.values() if s is not keep and s.size]
            if held:
                oldest = min(held, key=lambda slot: slot.ltime)
                del epoch.slots[oldest.ltime % self._length]
                self._used -= oldest.size
                epoch.min_time = max(epoch.min_time, oldest.ltime + 1)
                return
