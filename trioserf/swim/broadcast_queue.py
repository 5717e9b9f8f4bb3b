"""Broadcast queues, and how packets are filled from them (swim/README.md, § Broadcast queue).

Gossip has no acknowledgements. Each message is sent to random members a fixed number of times, a
multiple of the logarithm of the cluster size, which reaches every member with high probability
(SWIM §4.1). Messages with fewer transmissions go first. Random members repeat themselves, so that
some members get a message several times and others never: the transmissions of one message go to
different members, and not to those that are known to have it (see README.md, § Distinct targets).

Every outgoing packet reads a queue, which is mostly empty but may have ten thousand messages. So
it keeps, for each number of transmissions, one sorted list of integers, each of which combines
the length and the serial number of a message. A bisection finds the next message: the longest
that fits, and of equally long ones the newest.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Final

from trioserf.counters import Samples

_SERIAL_BITS = 48
_LARGEST = 65_507
"""Maximum payload of a UDP packet, whatever the configured size."""

EAGER = 8
"""Transmissions of a message that are worth packets of their own, whatever its multiplier."""
_MAX_SKIPPED = 64
"""Messages that a packet skips because its target has them: none may search a long queue."""
_MAX_HOLDERS = 64
"""Members of which a message records that they have it: as many as any has transmissions."""

_NO_HOLDERS: Final[set[Hashable]] = set()
"""The holders of a message without any, shared because a queue may have ten thousand messages."""

OnDone = Callable[[], None]


def retransmit_limit(mult: int, n: int) -> int:
    """Return the number of transmissions of a broadcast in a cluster of n members."""
    return mult * math.ceil(math.log10(n + 1))


class Broadcast:
    """A message in a queue.

    Attributes:
        data: the message, empty when it is finished.
        cover: the number of different members that get it in its first round, 0 for no more than
            other messages.
        holders: members that have it: it was sent to them, or came from them.
        transmits: the number of transmissions.
    """

    __slots__ = ("cover", "data", "holders", "name", "on_done", "priority", "transmits")

    def __init__(
        self,
        data: bytes,
        name: str | None,
        on_done: OnDone | None,
        priority: list[list[int]],
        cover: int,
    ) -> None:
        self.data = data
        self.name = name
        self.on_done = on_done
        self.priority = priority
        self.cover = cover
        self.holders = _NO_HOLDERS
        self.transmits = 0

    def add_holder(self, member: Hashable | None) -> None:
        """Record that a member has the message, unless that is finished; ignore None."""
        if member is not None and self.data and len(self.holders) < _MAX_HOLDERS:
            if self.holders is _NO_HOLDERS:
                self.holders = set()
            self.holders.add(member)


class BroadcastQueue:
    """A queue of broadcasts of one kind.

    An `on_done` callback is called once: after the last transmission of its message, when a
    newer message of the same name replaces it, or when it is pruned. It may queue messages.

    Args:
        retransmit_mult: multiplier of the retransmit limit, at least 1.
        least_mult: the same if it is greater. Transmissions that are due to this one alone, beyond
            the first `EAGER`, go with pings and acks only, so that they need no packets.
        node_count: returns the current cluster size.
        others: returns the number of other members that may get messages. Once as many have a
            message, its further transmissions may go to any member again.
        largest: the longest message that fits any packet, in bytes. A longer one is dropped and
            done at once; otherwise it would stay in the queue for ever.
        prefix: prepended to every message; counts towards its length.

    Attributes:
        sizes: records the length of every transmitted message, unless it is None.
    """

    __slots__ = (
        "_by_name",
        "_largest",
        "_least_mult",
        "_mult",
        "_node_count",
        "_others",
        "_plain",
        "_prefix",
        "_selected",
        "_serial",
        "_skipped",
        "_spare",
        "_spare_count",
        "_uncovered",
        "_urgent",
        "_waiting",
        "sizes",
    )

    def __init__(
        self,
        retransmit_mult: int,
        node_count: Callable[[], int],
        *,
        least_mult: int = 0,
        others: Callable[[], int] | None = None,
        largest: int = _LARGEST,
        prefix: bytes = b"",
    ) -> None:
        self._mult = retransmit_mult
        self._least_mult = least_mult
        self._others = others or (lambda: node_count() - 1)
        self._prefix = prefix
        self._node_count = node_count
        self._largest = largest
        self._waiting: dict[int, Broadcast] = {}
        self._by_name: dict[str, int] = {}
        # Two priorities. priority[t]: the sorted keys of the messages with t transmissions.
        self._urgent: list[list[int]] = [[]]
        self._plain: list[list[int]] = [[]]
        # Those that go with pings and acks only.
        self._spare: list[list[int]] = [[]]
        self._spare_count = 0
        self._selected: list[int] = []
        self._skipped: list[int] = []
        self._uncovered = 0
        self._serial = 0
        self.sizes: Samples | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def queue(
        self,
        data: bytes,
        *,
        name: str | None = None,
        on_done: OnDone | None = None,
        urgent: bool = False,
        cover: int = 0,
    ) -> Broadcast | None:
        """Add a message.

        Args:
            data: the encoded message.
            name: the member that it is about. It replaces a queued message of the same name.
            on_done: called when the message is finished.
            urgent: whether it goes into packets before all messages that are not urgent.
            cover: the number of members that get it in its first round, in addition to the
                retransmit limit.

        Returns:
            The message; None if it was too long.
        """
        if self._prefix:
            data = self._prefix + data
        replaced = None
        if name is not None and (older := self._by_name.get(name)) is not None:
            replaced = self._remove(older)
        if len(data) > self._largest:
            _run_all([replaced, on_done])
            return None
        self._serial += 1
        key = len(data) << _SERIAL_BITS | self._serial
        priority = self._urgent if urgent else self._plain
        self._waiting[key] = broadcast = Broadcast(data, name, on_done, priority, cover)
        self._uncovered += cover > 0
        if name is not None:
            self._by_name[name] = key
        insort(priority[0], key)
        if replaced is not None:
            replaced()
        return broadcast

    @property
    def has_gossip(self) -> bool:
        """Whether a message needs packets of gossip."""
        return len(self._waiting) > self._spare_count

    @property
    def has_unsent(self) -> bool:
        """Whether a queued message was never sent."""
        return bool(self._urgent[0] or self._plain[0])

    @property
    def has_uncovered(self) -> bool:
        """Whether the first round of a queued message has not reached all that it should."""
        return self._uncovered > 0

    def has_sent_at_most(self, times: int) -> bool:
        """Return whether a queued message was sent at most `times` times."""
        return any(any(priority[: times + 1]) for priority in (self._urgent, self._plain))

    def unsent_bytes(self) -> int:
        """Return the length of all messages that were never sent."""
        return sum(key >> _SERIAL_BITS for key in chain(self._urgent[0], self._plain[0]))

    def drop_cover(self) -> None:
        """Continue with messages whose first round is not complete as with other messages."""
        if self._uncovered:
            for broadcast in self._waiting.values():
                broadcast.cover = min(broadcast.cover, broadcast.transmits)
            self._uncovered = 0

    def fill_packet(
        self, overhead: int, limit: int, target: Hashable | None = None, *, spare: bool = False
    ) -> list[bytes]:
        """Fill one packet: messages whose lengths plus `overhead` bytes each sum to ≤ `limit`.

        Args:
            overhead: bytes added for each message.
            limit: bytes of all.
            target: the member that gets it, or None for any: messages that it has are left out.
            spare: whether the packet is sent in any case.
        """
        if not self._waiting:
            return []
        messages = []
        for urgent in (True, False):
            while (
                data := self.select(limit - overhead, target, urgent=urgent, spare=spare)
            ) is not None:
                messages.append(data)
                limit -= len(data) + overhead
        _run_all(self.finish_packet(target))
        return messages

    def select(
        self,
        room: int,
        target: Hashable | None = None,
        *,
        urgent: bool,
        spare: bool = False,
    ) -> bytes | None:
        """Select the next message of at most `room` bytes that the target does not have.

        It stays out of the queue until `finish_packet`, which must follow.
        """
        bound = (room + 1) << _SERIAL_BITS
        lists = self._urgent if urgent else self._plain
        for keys in chain(lists, self._spare) if spare and not urgent else lists:
            while keys and (index := bisect_left(keys, bound)):
                key = keys.pop(index - 1)
                broadcast = self._waiting[key]
                if target not in broadcast.holders or self._restart_if_everywhere(broadcast):
                    self._selected.append(key)
                    return broadcast.data
                self._skipped.append(key)
                if len(self._skipped) >= _MAX_SKIPPED:
                    return None
        return None

    def _restart_if_everywhere(self, broadcast: Broadcast) -> bool:
        """Forget the holders of a message if all members have it; return whether they do."""
        if len(broadcast.holders) < self._others():
            return False
        broadcast.holders = _NO_HOLDERS
        return True

    def finish_packet(self, target: Hashable | None = None) -> list[OnDone]:
        """Count a transmission of each selected message, and put it back below the limit.

        Returns:
            The callbacks of the messages that are finished; the caller must call them.
        """
        done: list[OnDone] = []
        for key in self._skipped:
            broadcast = self._waiting[key]
            insort(broadcast.priority[broadcast.transmits], key)
        self._skipped.clear()
        if not self._selected:
            return done
        node_count = self._node_count()
        eager = retransmit_limit(self._mult, node_count)
        limit = max(eager, retransmit_limit(self._least_mult, node_count))
        eager = max(eager, EAGER)
        for key in self._selected:
            broadcast = self._waiting[key]
            if self.sizes is not None:
                self.sizes.append(len(broadcast.data) - len(self._prefix))
            broadcast.add_holder(target)
            broadcast.transmits += 1
            self._uncovered -= broadcast.transmits == broadcast.cover
            if broadcast.transmits >= limit + broadcast.cover:
                self._forget(key)
                if broadcast.on_done is not None:
                    done.append(broadcast.on_done)
                continue
            if (
                broadcast.transmits >= eager + broadcast.cover
                and broadcast.priority is self._plain
            ):
                broadcast.priority = self._spare
                self._spare_count += 1
            priority = broadcast.priority
            while len(priority) <= broadcast.transmits:
                priority.append([])
            insort(priority[broadcast.transmits], key)
        self._selected.clear()
        for priority in (self._urgent, self._plain, self._spare):
            while len(priority) > 1 and not priority[-1]:
                priority.pop()
        return done

    def prune(self, keep: int) -> None:
        """Drop all but `keep` messages, in the reverse order of selection.

        So the most transmitted go first, of these the shortest, of these the oldest; urgent
        messages go last.
        """
        done: list[OnDone | None] = []
        for priority in (self._spare, self._plain, self._urgent):
            for keys in reversed(priority):
                surplus = keys[: max(0, len(self._waiting) - keep)]
                del keys[: len(surplus)]
                for key in surplus:
                    done.append(self._waiting[key].on_done)
                    self._forget(key)
        # A dictionary keeps the memory of all that it ever had.
        self._waiting, self._by_name = dict(self._waiting), dict(self._by_name)
        _run_all(done)

    def _remove(self, key: int) -> OnDone | None:
        broadcast = self._waiting[key]
        keys = broadcast.priority[broadcast.transmits]
        del keys[bisect_left(keys, key)]
        self._forget(key)
        return broadcast.on_done

    def _forget(self, key: int) -> None:
        broadcast = self._waiting.pop(key)
        self._spare_count -= broadcast.priority is self._spare
        self._uncovered -= broadcast.transmits < broadcast.cover
        if broadcast.name is not None:
            del self._by_name[broadcast.name]
        # The caller of `queue` may keep it.
        broadcast.data = b""
        broadcast.holders = _NO_HOLDERS


class FairFiller:
    """Fills packets from several queues so that no queue starves another.

    memberlist empties its own queue first; during a membership storm nothing is left for the
    layers above. Here each queue counts the bytes it has sent, and the next message comes from
    the queue with the lowest count (on a tie, from the first one). So every queue gets its share
    of every few packets, and an unused share goes to the other queues. An idle queue saves at
    most one share of one packet. Urgent messages of all queues go first and are not counted.

    Receivers see no difference: the order of messages in a packet has no meaning.

    Args:
        queues: the queues, the most important first.
    """

    __slots__ = ("_queues", "_sent")

    def __init__(self, queues: Sequence[BroadcastQueue]) -> None:
        self._queues = tuple(queues)
        self._sent = [0] * len(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def __bool__(self) -> bool:
        # Called after every packet: a loop is several times faster than any() and a generator.
        for queue in self._queues:  # noqa: SIM110
            if queue:
                return True
        return False

    @property
    def has_gossip(self) -> bool:
        """Whether a message needs packets of gossip."""
        # Asked after each item of the inbox, when the queues are mostly empty.
        for queue in self._queues:  # noqa: SIM110
            if queue and queue.has_gossip:
                return True
        return False

    @property
    def has_unsent(self) -> bool:
        """Whether a queued message was never sent."""
        for queue in self._queues:  # noqa: SIM110
            if queue and queue.has_unsent:
                return True
        return False

    @property
    def has_uncovered(self) -> bool:
        """Whether the first round of a queued message has not reached all that it should."""
        for queue in self._queues:  # noqa: SIM110
            if queue and queue.has_uncovered:
                return True
        return False

    def has_sent_at_most(self, times: int) -> bool:
        """Return whether a queued message was sent at most `times` times."""
        return any(queue.has_sent_at_most(times) for queue in self._queues)

    def unsent_bytes(self) -> int:
        """Return the length of all messages that were never sent."""
        return sum(queue.unsent_bytes() for queue in self._queues)

    def drop_cover(self) -> None:
        """Continue with messages whose first round is not complete as with other messages."""
        for queue in self._queues:
            queue.drop_cover()

    def fill(
        self, overhead: int, limit: int, target: Hashable | None = None, *, spare: bool = False
    ) -> list[bytes]:
        """Fill one packet as `BroadcastQueue.fill_packet` does, from all queues."""
        waiting = [index for index, queue in enumerate(self._queues) if queue]
        if not waiting:
            return []
        if len(waiting) == 1:
            return self._queues[waiting[0]].fill_packet(overhead, limit, target, spare=spare)
        messages: list[bytes] = []
        for index in waiting:
            select = self._queues[index].select
            while (data := select(limit - overhead, target, urgent=True)) is not None:
                messages.append(data)
                limit -= len(data) + overhead
        self._fill_by_share(waiting, messages, overhead, limit, target, spare=spare)
        done = [call for index in waiting for call in self._queues[index].finish_packet(target)]
        _run_all(done)
        return messages

    def _fill_by_share(
        self,
        waiting: list[int],
        messages: list[bytes],
        overhead: int,
        limit: int,
        target: Hashable | None,
        *,
        spare: bool,
    ) -> None:
        sent = self._sent
        floor = max(sent) - limit // len(self._queues)
        for index in waiting:
            sent[index] = max(sent[index], floor)
        while waiting:
            index = min(waiting, key=sent.__getitem__)
            data = self._queues[index].select(limit - overhead, target, urgent=False, spare=spare)
            if data is None:
                waiting = [other for other in waiting if other != index]
                continue
            messages.append(data)
            limit -= len(data) + overhead
            sent[index] += len(data) + overhead


def _run_all(callbacks: Sequence[OnDone | None]) -> None:
    for callback in callbacks:
        if callback is not None:
            callback()
