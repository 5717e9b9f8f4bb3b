"""What goes to everyone: three queues of broadcasts, and a memory of what has been seen."""

import logging
from collections.abc import Callable
from typing import Final, Literal

from trioserf.serf.options import USER_EVENT_HARD_LIMIT, SerfOptions
from trioserf.swim.queue import BroadcastQueue

_log = logging.getLogger("trioserf.serf")

Kind = Literal["Intent", "Query", "Event"]
KINDS: Final[tuple[Kind, ...]] = ("Intent", "Query", "Event")
"""Serf's names for the queues, in the order in which they fill a packet."""

_RECENT: Final = 1024
"""Raw messages in each of two generations that are known for doubles without reading them."""
_LONGEST: Final = USER_EVENT_HARD_LIMIT
"""Bytes of a raw message that is remembered; longer ones are recognised when they are read."""


class Outbox:
    """The queues of the Serf layer.

    Args:
        node_count: counts the members.
        options: limits.
        prefix: what stands before every broadcast in a packet.

    Attributes:
        queues: the three by name.
    """

    def __init__(
        self, node_count: Callable[[], int], options: SerfOptions, prefix: bytes = b""
    ) -> None:
        self.queues: dict[Kind, BroadcastQueue] = {
            kind: BroadcastQueue(
                options.retransmit_mult, node_count, largest=options.packet_size, prefix=prefix
            )
            for kind in KINDS
        }
        self._node_count = node_count
        self._options = options
        self._recent: set[bytes] = set()
        self._less_recent: set[bytes] = set()

    # --- doubles ---

    def has_seen(self, raw: bytes) -> bool:
        """Whether exactly these bytes were remembered not long ago."""
        return raw in self._recent or raw in self._less_recent

    def remember(self, raw: bytes) -> None:
        """Remember a message of which every double is of no interest."""
        if len(raw) > _LONGEST:
            return
        if len(self._recent) >= _RECENT:
            self._less_recent = self._recent
            self._recent = set()
        self._recent.add(raw)

    # --- queues ---

    def pass_on(self, kind: Kind, raw: bytes) -> None:
        """Queue a message for everyone, as it came or was made."""
        self.queues[kind].queue(raw)
        self.bound(kind)

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

    def bound(self, kind: Kind) -> None:
        """Bound a queue between two checks too, rarely enough to cost nothing."""
        queue = self.queues[kind]
        if len(queue) > 2 * self.limit:
            _log.warning("%s queue depth: %d, dropping messages!", kind, len(queue))
            queue.prune(self.limit)
