"""Messages that need a stream of their own: a line for each member, with one stream at a time.

Two kinds come here: answers too large for a packet, and user events and queries too large for
gossip, which go to many. A member that is stopped, or gone without anybody having noticed, takes
each of its streams to the deadline; so only its own line waits for it. A first attempt gets little
time. After a failure the line rests, and only a few such lines are tried at once, with patience,
while those of all others move on. Answers, which have a deadline, go before events.

Nothing here grows without bound: lines are as long as the memory of user events, beyond which a
message would be too old for its receiver, and the bytes of all messages together have a limit.
What finds no room is dropped and counted; user events then come with a push/pull.
"""

from collections import Counter, deque
from heapq import heappop, heappush
from typing import Final

import attrs
import trio

from trioserf.address import Address
from trioserf.serf.effects import DirectMessage

MAX_PER_MEMBER: Final = 512
"""Messages that wait for one member; as many times as user events are remembered for."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all messages that wait, each counted once however many members it is for."""
RETRY_DELAYS: Final = (0.5, 2.0)
"""Seconds for which a line rests after each failed attempt; then it is given up."""
MAX_RETRYING: Final = 4
"""Lines tried at once whose last attempt has failed."""

Place = tuple[str, Address]
"""A member's name and where it is."""


@attrs.define(slots=True, eq=False)
class _MemberQueue:
    """What waits for one member."""

    messages: deque[bytes]
    failures: int = 0


class StreamSendQueue:
    """What waits for streams, and whose turn it is. Not waited for by whoever puts something in.

    Attributes:
        bytes_waiting: of distinct messages.
    """

    def __init__(self) -> None:
        self.bytes_waiting = 0
        self._lines: dict[Place, _MemberQueue] = {}
        self._ready: deque[Place] = deque()
        self._troubled: deque[Place] = deque()
        self._tried = 0
        self._resting: list[tuple[float, int, Place]] = []
        self._rests = 0
        self._copies: Counter[bytes] = Counter()
        self._readers = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return sum(len(line.messages) for line in self._lines.values())

    def put(self, direct: DirectMessage, *, first: bool = False) -> bool:
        """Put a message into its member's line.

        Args:
            direct: the message.
            first: it goes before what waits there.

        Returns:
            Whether there was room.
        """
        place = direct.node, direct.address
        line = self._lines.get(place)
        fresh = 0 if direct.data in self._copies else len(direct.data)
        if self.bytes_waiting + fresh > MAX_BYTES:
            return False
        if line is None:
            line = self._lines[place] = _MemberQueue(deque())
            (self._ready.appendleft if first else self._ready.append)(place)
            self._readers.unpark()
        elif len(line.messages) >= MAX_PER_MEMBER:
            return False
        # The message at the head may be on its way just now.
        line.messages.insert(
            min(1, len(line.messages)) if first else len(line.messages), direct.data
        )
        self._copies[direct.data] += 1
        self.bytes_waiting += fresh
        return True

    async def next(self) -> DirectMessage:
        """Wait for a message whose turn it is; `sent`, `failed` or `abandon` has to follow."""
        await trio.lowlevel.checkpoint()
        while True:
            now = trio.current_time()
            while self._resting and self._resting[0][0] <= now:
                self._troubled.append(heappop(self._resting)[2])
            if self._ready:
                return self._head(self._ready.popleft())
            if self._troubled and self._tried < MAX_RETRYING:
                self._tried += 1
                return self._head(self._troubled.popleft())
            with trio.move_on_at(self._resting[0][0] if self._resting else float("inf")):
                await self._readers.park()

    def is_first_attempt(self, direct: DirectMessage) -> bool:
        """Whether the member has taken its last message, or this is the first for it."""
        return self._lines[direct.node, direct.address].failures == 0

    def sent(self, direct: DirectMessage) -> None:
        """Note that a message has arrived."""
        place = direct.node, direct.address
        line = self._lines[place]
        self._end_attempt(line)
        line.failures = 0
        self._release(line.messages.popleft())
        if line.messages:
            self._ready.append(place)
            self._readers.unpark()
        else:
            del self._lines[place]

    def failed(self, direct: DirectMessage) -> int:
        """Note that a message did not get through.

        Returns:
            How many messages are given up: all of the line if it was too often, else none.
        """
        place = direct.node, direct.address
        line = self._lines[place]
        if line.failures >= len(RETRY_DELAYS):
            return self.drop_all(direct)
        self._end_attempt(line)
        self._rests += 1  # tells equal instants apart
        heappush(
            self._resting, (trio.current_time() + RETRY_DELAYS[line.failures], self._rests, place)
        )
        line.failures += 1
        self._readers.unpark()  # whoever waits has to wait for less
        return 0

    def drop_all(self, direct: DirectMessage) -> int:
        """Drop a message and all behind it, as the member has gone; give their number."""
        line = self._lines.pop((direct.node, direct.address))
        self._end_attempt(line)
        for data in line.messages:
            self._release(data)
        return len(line.messages)

    def _head(self, place: Place) -> DirectMessage:
        name, address = place
        return DirectMessage(address, name, self._lines[place].messages[0], stream=True)

    def _end_attempt(self, line: _MemberQueue) -> None:
        if line.failures:
            self._tried -= 1
            self._readers.unpark()  # for the next line in trouble

    def _release(self, data: bytes) -> None:
        self._copies[data] -= 1
        if not self._copies[data]:
            del self._copies[data]
            self.bytes_waiting -= len(data)
