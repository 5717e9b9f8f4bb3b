"""Broadcasts waiting to be gossiped, and how packets are filled with them.

Gossip has no receipts. Each message is sent to random members a fixed number of times, enough to
reach everyone with a high probability: a multiple of the logarithm of the cluster's size (SWIM
§4.1). What has been sent least goes first, so news overtakes what most have heard by now.

A queue is asked for every packet that leaves, mostly while it is empty, sometimes while it holds
ten thousand messages. Hence its shape: one sorted list of plain integers per number of
transmissions, each integer a message's length and serial number in one. The message to pick, the
longest that fits and of these the newest, is one bisection away.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from trioserf.counters import Samples

_SERIAL_BITS = 48
_LARGEST = 65_507
"""No UDP packet has room for more, whatever its configured size."""

OnDone = Callable[[], None]


def retransmit_limit(mult: int, n: int) -> int:
    """Give how often a broadcast is sent in a cluster of n members (spec: broadcast queue)."""
    return mult * math.ceil(math.log10(n + 1))


class _Broadcast:
    __slots__ = ("data", "name", "on_done", "priority", "transmits")

    def __init__(
        self, data: bytes, name: str | None, on_done: OnDone | None, lane: list[list[int]]
    ) -> None:
        self.data = data
        self.name = name
        self.on_done = on_done
        self.priority = lane
        self.transmits = 0


class BroadcastQueue:
    """Messages of one kind on their way into packets.

    Args:
        retransmit_mult: multiplier of the retransmit limit, at least 1.
        node_count: gives the cluster's size at the moment.
        largest: the longest message that can ever fit a packet, in bytes. Longer ones are
            dropped, and done, as they are queued: otherwise they would stay for ever.
        prefix: what every message of this queue begins with in a packet; counts towards its
            length.

    Attributes:
        bytes_queued: lengths of all that waits.
        sizes: takes the length of every message that goes into a packet, unless it is None.

    A callback given as `on_done` is called once: when its message was sent as often as the limit
    says, when a newer one of the same name took its place, or when it was pruned. It is called
    with the queue in order, so it may queue further messages.
    """

    __slots__ = (
        "_by_name",
        "_largest",
        "_mult",
        "_node_count",
        "_picked",
        "_plain",
        "_prefix",
        "_serial",
        "_urgent",
        "_waiting",
        "bytes_queued",
        "sizes",
    )

    def __init__(
        self,
        retransmit_mult: int,
        node_count: Callable[[], int],
        *,
        largest: int = _LARGEST,
        prefix: bytes = b"",
    ) -> None:
        self._mult = retransmit_mult
        self._prefix = prefix
        self._node_count = node_count
        self._largest = largest
        self._waiting: dict[int, _Broadcast] = {}
        self._by_name: dict[str, int] = {}
        # Two lanes, each a list of tiers: lane[t] holds, sorted, the keys of those sent t times.
        self._urgent: list[list[int]] = [[]]
        self._plain: list[list[int]] = [[]]
        self._picked: list[int] = []
        self._serial = 0
        self.bytes_queued = 0
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
    ) -> None:
        """Add a message.

        Args:
            data: the encoded message.
            name: whom it is about. It takes the place of a waiting message of the same name,
                which is done with that.
            on_done: called when the message needs sending no more.
            urgent: goes into packets before everything that is not.
        """
        if self._prefix:
            data = self._prefix + data
        replaced = None
        if name is not None and (older := self._by_name.get(name)) is not None:
            replaced = self._remove(older)
        if len(data) > self._largest:
            _call([replaced, on_done])
            return
        self._serial += 1
        key = len(data) << _SERIAL_BITS | self._serial
        lane = self._urgent if urgent else self._plain
        self._waiting[key] = _Broadcast(data, name, on_done, lane)
        if name is not None:
            self._by_name[name] = key
        insort(lane[0], key)
        self.bytes_queued += len(data)
        if replaced is not None:
            replaced()

    @property
    def has_unsent(self) -> bool:
        """Whether a message waits that was never sent."""
        return bool(self._urgent[0] or self._plain[0])

    def has_sent_at_most(self, times: int) -> bool:
        """Whether a message waits that was sent so many times at most."""
        return any(any(lane[: times + 1]) for lane in (self._urgent, self._plain))

    def fill_packet(self, overhead: int, limit: int) -> list[bytes]:
        """Fill one packet: messages whose lengths plus `overhead` bytes each sum to ≤ `limit`."""
        if not self._waiting:
            return []
        taken = []
        for urgent in (True, False):
            while (data := self.select(limit - overhead, urgent=urgent)) is not None:
                taken.append(data)
                limit -= len(data) + overhead
        _call(self.finish_packet())
        return taken

    def select(self, room: int, *, urgent: bool) -> bytes | None:
        """Take the best message of at most `room` bytes out of one lane, for the packet at hand.

        It is not seen again before `settle`, which must follow when the packet is full.
        """
        bound = (room + 1) << _SERIAL_BITS
        for tier in self._urgent if urgent else self._plain:
            if tier and (place := bisect_left(tier, bound)):
                key = tier.pop(place - 1)
                self._picked.append(key)
                return self._waiting[key].data
        return None

    def finish_packet(self) -> list[OnDone]:
        """Put back what was picked for a packet, one tier on, unless it has now been sent enough.

        Returns:
            The callbacks of those that are done; the caller must call them.
        """
        done: list[OnDone] = []
        if not self._picked:
            return done
        limit = retransmit_limit(self._mult, self._node_count())
        for key in self._picked:
            broadcast = self._waiting[key]
            if self.sizes is not None:
                self.sizes.append(len(broadcast.data) - len(self._prefix))
            broadcast.transmits += 1
            if broadcast.transmits >= limit:
                self._forget(key)
                if broadcast.on_done is not None:
                    done.append(broadcast.on_done)
                continue
            lane = broadcast.priority
            if len(lane) == broadcast.transmits:
                lane.append([])
            insort(lane[broadcast.transmits], key)
        self._picked.clear()
        return done

    def prune(self, keep: int) -> None:
        """Drop all but `keep` messages: the most sent go first, and the urgent after the others.

        Of those sent equally often the shortest go first, and of these the oldest: the reverse of
        the order in which they would have been picked.
        """
        done: list[OnDone | None] = []
        for lane in (self._plain, self._urgent):
            for tier in reversed(lane):
                surplus = tier[: max(0, len(self._waiting) - keep)]
                del tier[: len(surplus)]
                for key in surplus:
                    done.append(self._waiting[key].on_done)
                    self._forget(key)
        _call(done)

    def _remove(self, key: int) -> OnDone | None:
        broadcast = self._waiting[key]
        tier = broadcast.priority[broadcast.transmits]
        del tier[bisect_left(tier, key)]
        self._forget(key)
        return broadcast.on_done

    def _forget(self, key: int) -> None:
        broadcast = self._waiting.pop(key)
        self.bytes_queued -= len(broadcast.data)
        if broadcast.name is not None:
            del self._by_name[broadcast.name]


class FairFiller:
    """Fills packets from several queues so that none of them can starve another.

    memberlist empties its own queue first and gives the layers above what is left; while many
    members come and go that is nothing. Here every queue keeps an account of the bytes it has
    sent, and each next message comes from the queue that has sent the least (the order of the
    queues decides between equals). So each that has messages gets its share of every few packets,
    whatever their sizes, and what one does not need flows to the others. Savings are bounded: a
    queue that had nothing to say for long may be ahead of the others by one share of one packet,
    not for as long as it was silent. Urgent messages of all queues go before the rest and are on
    nobody's account.

    Receivers cannot tell the difference: the order of messages in a packet means nothing.

    Args:
        queues: in the order of their importance.
    """

    __slots__ = ("_queues", "_sent")

    def __init__(self, queues: Sequence[BroadcastQueue]) -> None:
        self._queues = tuple(queues)
        self._sent = [0] * len(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def __bool__(self) -> bool:
        # Asked after every packet: a loop is several times as quick as any() and a generator.
        for queue in self._queues:  # noqa: SIM110
            if queue:
                return True
        return False

    @property
    def has_unsent(self) -> bool:
        """Whether a message waits that was never sent."""
        return any(queue.has_unsent for queue in self._queues)

    def has_sent_at_most(self, times: int) -> bool:
        """Whether a message waits that was sent so many times at most."""
        return any(queue.has_sent_at_most(times) for queue in self._queues)

    def fill(self, overhead: int, limit: int) -> list[bytes]:
        """Fill one packet: messages whose lengths plus `overhead` bytes each sum to ≤ `limit`."""
        waiting = [place for place, queue in enumerate(self._queues) if queue]
        if not waiting:
            return []
        if len(waiting) == 1:
            return self._queues[waiting[0]].fill_packet(overhead, limit)
        taken: list[bytes] = []
        for place in waiting:
            while (data := self._queues[place].select(limit - overhead, urgent=True)) is not None:
                taken.append(data)
                limit -= len(data) + overhead
        self._share(waiting, taken, overhead, limit)
        done = [call for place in waiting for call in self._queues[place].finish_packet()]
        _call(done)
        return taken

    def _share(self, waiting: list[int], taken: list[bytes], overhead: int, limit: int) -> None:
        sent = self._sent
        poorest = max(sent) - limit // len(self._queues)
        for place in waiting:
            sent[place] = max(sent[place], poorest)
        while waiting:
            place = min(waiting, key=sent.__getitem__)
            data = self._queues[place].select(limit - overhead, urgent=False)
            if data is None:
                waiting = [other for other in waiting if other != place]
                continue
            taken.append(data)
            limit -= len(data) + overhead
            sent[place] += len(data) + overhead


def _call(callbacks: Sequence[OnDone | None]) -> None:
    for callback in callbacks:
        if callback is not None:
            callback()
