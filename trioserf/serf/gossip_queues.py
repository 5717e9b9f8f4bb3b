"""Broadcasts of the Serf layer: three queues, and a cache of recent messages.

User events and queries that are too large for a packet are sent on streams; a Go agent leaves them
in its queue for ever. The first sender sends such a message to every member, since Go agents do
not rebroadcast it; a member that receives it sends it to a few random members, so that it spreads
quickly, and completely even if the first sender dies. Push/pulls bring user events to members that
missed these streams. Large events of a Go agent spread only by push/pull, so a member that
receives one there sends it like its own (see serf/README.md, § User events).
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import LargeBroadcast
from trioserf.swim.broadcast_queue import Broadcast, BroadcastQueue
from trioserf.swim.members import MAX_COVER
from trioserf.wire.serf_codec import USER_EVENT_HARD_LIMIT
from trioserf.wire.swim_codec import USER

_log = logging.getLogger("trioserf.serf")

Kind = Literal["Intent", "Query", "Event"]
KINDS: Final[tuple[Kind, ...]] = ("Intent", "Query", "Event")
"""Serf's names for the queues, in the order in which they fill a packet."""

_USER_MESSAGE: Final = bytes((USER,))
"""The type byte of memberlist before each message in a packet."""
_MIN_RETRANSMIT_MULT: Final = 4
"""Serf's messages are sent at least 4 · ⌈log10(n + 1)⌉ times, as in the profile lan."""
_MAX_RECENT: Final = 1024
"""Messages in each of two generations, whose duplicates are dropped without being decoded."""


class GossipQueues:
    """The broadcast queues of the Serf layer.

    Args:
        node_count: returns the number of members.
        others: returns the number of other members that have neither failed nor left.
        options: limits.
        large_broadcasts: receives broadcasts too large for a packet.
        retransmit_mult: multiplier of the retransmit limit; at least 4 counts.
        largest: bytes of the longest broadcast that fits a packet.

    Attributes:
        queues: the three queues by name.
    """

    def __init__(
        self,
        node_count: Callable[[], int],
        others: Callable[[], int],
        options: SerfOptions,
        large_broadcasts: list[LargeBroadcast],
        *,
        retransmit_mult: int,
        largest: int,
    ) -> None:
        self.queues: dict[Kind, BroadcastQueue] = {
            kind: BroadcastQueue(
                retransmit_mult,
                node_count,
                least_mult=_MIN_RETRANSMIT_MULT,
                others=others,
                largest=largest,
                prefix=_USER_MESSAGE,
            )
            for kind in KINDS
        }
        self._node_count = node_count
        self._others = others
        self._options = options
        self._large_broadcasts = large_broadcasts
        self._room = largest - len(_USER_MESSAGE)
        self._max_rebroadcast = max(USER_EVENT_HARD_LIMIT, options.query_size_limit)
        # Recent messages, with their broadcasts if there are any.
        self._recent: dict[bytes, Broadcast | None] = {}
        self._previous: dict[bytes, Broadcast | None] = {}

    # --- duplicates ---

    def is_duplicate(self, raw: bytes, sender: Address | None = None) -> bool:
        """Return whether a message with these bytes was seen recently.

        Its sender has the message, so that it need not get it from us.
        """
        for seen in (self._recent, self._previous):
            if raw in seen:
                broadcast = seen[raw]
                if broadcast is not None:
                    broadcast.add_holder(sender)
                return True
        return False

    def mark_seen(self, raw: bytes) -> None:
        """Remember a message, to drop its duplicates; large ones are rare and not remembered."""
        if len(raw) > self._room:
            return
        if len(self._recent) >= _MAX_RECENT:
            self._previous = self._recent
            self._recent = {}
        self._recent[raw] = None

    # --- queues ---

    def send(self, kind: Kind, raw: bytes) -> None:
        """Broadcast a message of our own, to many members at once."""
        if not self.fits(raw):
            self._large_broadcasts.append(LargeBroadcast(raw, to_all=True))
            return
        self.mark_seen(raw)
        self._queue(kind, raw, cover=min(self._others(), MAX_COVER))

    def rebroadcast(
        self, kind: Kind, raw: bytes, sender: Address | None = None, *, to_all: bool = False
    ) -> None:
        """Broadcast the message of another member, unchanged.

        Args:
            kind: its queue.
            raw: the message.
            sender: the address that it came from.
            to_all: whether we send it to all members if it is too large for a packet.
        """
        if self.fits(raw):
            broadcast = self._queue(kind, raw)
            if broadcast is not None:
                broadcast.add_holder(sender)
        elif kind != "Intent" and len(raw) <= self._max_rebroadcast:
            self._large_broadcasts.append(LargeBroadcast(raw, to_all))
        else:
            _log.debug("Dropped a broadcast of %d bytes, which exceeds every limit", len(raw))

    def fits(self, raw: bytes) -> bool:
        """Return whether a message can be gossiped in packets."""
        return len(raw) <= self._room

    def _queue(self, kind: Kind, raw: bytes, *, cover: int = 0) -> Broadcast | None:
        broadcast = self.queues[kind].queue(raw, cover=cover)
        if raw in self._recent:
            self._recent[raw] = broadcast
        self._bound(kind)
        return broadcast

    @property
    def limit(self) -> int:
        """The maximum number of broadcasts in each queue."""
        if self._options.min_queue_depth:
            return max(self._options.min_queue_depth, 2 * self._node_count())
        return self._options.max_queue_depth

    def check(self) -> None:
        """Log long queues, and prune those above the limit."""
        limit = self.limit
        for kind, queue in self.queues.items():
            depth = len(queue)
            if depth >= self._options.queue_depth_warning:
                _log.warning("%s queue depth: %d", kind, depth)
            if depth > limit:
                text = "%s queue depth (%d) exceeds limit (%d), dropping messages!"
                _log.warning(text, kind, depth, limit)
                queue.prune(limit)

    def _bound(self, kind: Kind) -> None:
        """Prune a queue between two checks too, at twice the limit, so that it costs little."""
        queue = self.queues[kind]
        if len(queue) > 2 * self.limit:
            _log.warning("%s queue depth: %d, dropping messages!", kind, len(queue))
            queue.prune(self.limit)
