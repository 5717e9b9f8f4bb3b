"""What goes to everyone: three queues of broadcasts, and a memory of what has been seen.

User events and queries that fit no packet (their limits can be raised so far) are not gossiped:
Serf keeps them in its queue, from which they never leave. Here they go by streams. Whoever begins
one sends it to every member, since a Serf that gets it does not pass it on; whoever gets one
passes it on to a few at random, so that many have it long before the first is done with sending,
and all of them though the first may die over it. Push/pulls bring user events to those whom all
that has missed; and since a Serf's own come by push/pull alone, whoever gets one so sends it on as
if it had begun it.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import LargeBroadcast
from trioserf.swim.broadcast_queue import BroadcastQueue
from trioserf.wire.serf_codec import USER_EVENT_HARD_LIMIT

_log = logging.getLogger("trioserf.serf")

Kind = Literal["Intent", "Query", "Event"]
KINDS: Final[tuple[Kind, ...]] = ("Intent", "Query", "Event")
"""Serf's names for the queues, in the order in which they fill a packet."""

_RECENT: Final = 1024
"""Raw messages in each of two generations that are known for doubles without reading them."""


class GossipQueues:
    """The queues of the Serf layer.

    Args:
        node_count: counts the members.
        options: limits.
        spreads: takes what fits no packet.
        prefix: what stands before every broadcast in a packet.
        retransmit_mult: multiplier of the retransmit limit.
        largest: bytes of the longest broadcast that fits into a packet.

    Attributes:
        queues: the three by name.
    """

    def __init__(
        self,
        node_count: Callable[[], int],
        options: SerfOptions,
        large_broadcasts: list[LargeBroadcast],
        prefix: bytes = b"",
        *,
        retransmit_mult: int,
        largest: int,
    ) -> None:
        self.queues: dict[Kind, BroadcastQueue] = {
            kind: BroadcastQueue(retransmit_mult, node_count, largest=largest, prefix=prefix)
            for kind in KINDS
        }
        self._node_count = node_count
        self._options = options
        self._spreads = large_broadcasts
        self._room = largest - len(prefix)
        self._largest = max(USER_EVENT_HARD_LIMIT, options.query_size_limit)
        self._recent: set[bytes] = set()
        self._less_recent: set[bytes] = set()

    # --- doubles ---

    def is_duplicate(self, raw: bytes) -> bool:
        """Whether exactly these bytes were remembered not long ago."""
        return raw in self._recent or raw in self._less_recent

    def mark_seen(self, raw: bytes) -> None:
        """Remember a message of which every double is of no interest; not the large, rare ones."""
        if len(raw) > self._room:
            return
        if len(self._recent) >= _RECENT:
            self._less_recent = self._recent
            self._recent = set()
        self._recent.add(raw)

    # --- queues ---

    def send(self, kind: Kind, raw: bytes) -> None:
        """Send a message of ours to everyone."""
        if not self.fits(raw):
            self._spreads.append(LargeBroadcast(raw, to_all=True))
            return
        self.mark_seen(raw)
        self._queue(kind, raw)

    def rebroadcast(self, kind: Kind, raw: bytes, *, to_all: bool = False) -> None:
        """Send a message of somebody else's to everyone, as it came.

        Args:
            kind: its queue.
            raw: the message.
            to_all: if it fits no packet, whether we send it to everyone ourselves.
        """
        if self.fits(raw):
            self._queue(kind, raw)
        elif kind != "Intent" and len(raw) <= self._largest:
            self._spreads.append(LargeBroadcast(raw, to_all))
        else:
            _log.debug("%d bytes of no honest member's, not passed on", len(raw))

    def fits(self, raw: bytes) -> bool:
        """Whether a message can be gossiped in packets."""
        return len(raw) <= self._room

    def _queue(self, kind: Kind, raw: bytes) -> None:
        self.queues[kind].queue(raw)
        self._bound(kind)

    @property
    def limit(self) -> int:
        """Broadcasts that may wait in each queue."""
        if self._options.min_queue_depth:
            return max(self._options.min_queue_depth, 2 * self._node_count())
        return self._options.max_queue_depth

    def check(self) -> None:
        """Warn of long queues and cut those that are too long."""
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
        """Bound a queue between two checks too, rarely enough to cost nothing."""
        queue = self.queues[kind]
        if len(queue) > 2 * self.limit:
            _log.warning("%s queue depth: %d, dropping messages!", kind, len(queue))
            queue.prune(self.limit)
