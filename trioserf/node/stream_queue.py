"""Messages that need a stream of their own: a queue for each member, one stream at a time.

These are responses too large for a packet, and user events and queries too large for gossip, which
go to many members. A member that is stopped, or dead but not yet detected, holds each of its
streams until the deadline; so only its own queue waits for it. A first attempt has a short
timeout. After a failure the member's queue waits before the next attempt, which has the full
timeout, and only a few such queues retry at once, while all others proceed. Responses, which have
a deadline, go before events.

All of it is bounded: a queue has as many messages as Serf remembers user events, beyond which its
receiver would drop them as old, and the bytes of all messages together have a limit. A message
without room is dropped and counted; a later push/pull still carries user events.
"""

from collections import Counter, deque
from heapq import heappop, heappush
from typing import Final

import attrs
import trio

from trioserf.address import Address
from trioserf.serf.effects import DirectMessage

MAX_PER_MEMBER: Final = 512
"""Messages that wait for one member: as many as Serf remembers user events."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all messages that wait; equal messages to several members count once."""
RETRY_DELAYS: Final = (0.5, 2.0)
"""Seconds before each retry; after the last one the member's queue is dropped."""
MAX_RETRYING: Final = 4
"""Queues that retry at once."""

Target = tuple[str, Address]
"""A member's name and address."""


@attrs.define(eq=False, repr=False)
class _MemberQueue:
    """The messages that wait for one member."""

    messages: deque[bytes]
    failures: int = 0


class StreamSendQueue:
    """All messages that wait for streams, in the order of their turns. `put` never waits.

    Attributes:
        bytes_waiting: bytes of the distinct messages.
    """

    def __init__(self) -> None:
        self.bytes_waiting = 0
        self._queues: dict[Target, _MemberQueue] = {}
        self._ready: deque[Target] = deque()
        self._to_retry: deque[Target] = deque()
        self._retrying = 0
        self._delayed: list[tuple[float, int, Target]] = []
        self._delays = 0
        self._copies: Counter[bytes] = Counter()
        self._readers = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return sum(len(queue.messages) for queue in self._queues.values())

    def put(self, direct: DirectMessage, *, first: bool = False) -> bool:
        """Append a message to its member's queue.

        Args:
            direct: the message.
            first: put it before the messages that wait there.

        Returns:
            Whether there was room.
        """
        target = direct.node, direct.address
        queue = self._queues.get(target)
        new_bytes = 0 if direct.data in self._copies else len(direct.data)
        if self.bytes_waiting + new_bytes > MAX_BYTES:
            return False
        if queue is None:
            queue = self._queues[target] = _MemberQueue(deque())
            (self._ready.appendleft if first else self._ready.append)(target)
            self._readers.unpark()
        elif len(queue.messages) >= MAX_PER_MEMBER:
            return False
        # The message at the head may be in transit.
        queue.messages.insert(
            min(1, len(queue.messages)) if first else len(queue.messages), direct.data
        )
        self._copies[direct.data] += 1
        self.bytes_waiting += new_bytes
        return True

    async def next(self) -> DirectMessage:
        """Wait for the next message; `sent`, `failed` or `drop_all` must follow."""
        await trio.lowlevel.checkpoint()
        while True:
            now = trio.current_time()
            while self._delayed and self._delayed[0][0] <= now:
                self._to_retry.append(heappop(self._delayed)[2])
            if self._ready:
                return self._head(self._ready.popleft())
            if self._to_retry and self._retrying < MAX_RETRYING:
                self._retrying += 1
                return self._head(self._to_retry.popleft())
            with trio.move_on_at(self._delayed[0][0] if self._delayed else float("inf")):
                await self._readers.park()

    def is_first_attempt(self, direct: DirectMessage) -> bool:
        """Return whether the last message to the member, if any, was delivered."""
        return self._queues[direct.node, direct.address].failures == 0

    def sent(self, direct: DirectMessage) -> None:
        """Record that a message was delivered."""
        target = direct.node, direct.address
        queue = self._queues[target]
        self._end_attempt(queue)
        queue.failures = 0
        self._release(queue.messages.popleft())
        if queue.messages:
            self._ready.append(target)
            self._readers.unpark()
        else:
            del self._queues[target]

    def failed(self, direct: DirectMessage) -> int:
        """Record that a message was not delivered.

        Returns:
            How many messages were dropped: the member's whole queue after the last retry, or 0.
        """
        target = direct.node, direct.address
        queue = self._queues[target]
        if queue.failures >= len(RETRY_DELAYS):
            return self.drop_all(direct)
        self._end_attempt(queue)
        self._delays += 1  # orders entries with equal times
        retry_at = trio.current_time() + RETRY_DELAYS[queue.failures]
        heappush(self._delayed, (retry_at, self._delays, target))
        queue.failures += 1
        self._readers.unpark()  # a waiting sender may have to wake up earlier
        return 0

    def drop_all(self, direct: DirectMessage) -> int:
        """Drop a message and all others for its member; return their number."""
        queue = self._queues.pop((direct.node, direct.address))
        self._end_attempt(queue)
        for data in queue.messages:
            self._release(data)
        return len(queue.messages)

    def _head(self, target: Target) -> DirectMessage:
        name, address = target
        return DirectMessage(address, name, self._queues[target].messages[0], stream=True)

    def _end_attempt(self, queue: _MemberQueue) -> None:
        if queue.failures:
            self._retrying -= 1
            self._readers.unpark()  # for the next queue to retry

    def _release(self, data: bytes) -> None:
        self._copies[data] -= 1
        if not self._copies[data]:
            del self._copies[data]
            self.bytes_waiting -= len(data)
