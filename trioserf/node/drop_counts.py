"""Counting what peers send that makes no sense, and saying so without flooding the log."""

import logging
from collections import Counter
from typing import Final

from trioserf.address import Address
from trioserf.wire.errors import WireError

_log = logging.getLogger("trioserf.memberlist")

_PEERS: Final = 1024
"""Addresses counted one by one; anybody can invent more."""
_QUIET: Final = 10.0
"""Seconds between two lines about one peer."""


class DropCounts:
    """What was dropped, by kind and by peer.

    Attributes:
        by_kind: counts by the kind of the error (see `WireError`), and `not-allowed`.
        by_peer: counts by the sender's address, for the first 1,024 of them.
    """

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()
        self.by_peer: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def add(self, error: WireError, source: Address, now: float) -> None:
        """Count one dropped packet, message or stream."""
        self.by_kind[error.kind] += 1
        host = source.host
        if host not in self.by_peer and len(self.by_peer) >= _PEERS:
            host = "others"
        self.by_peer[host] += 1
        if now - self._said.get(host, -_QUIET) >= _QUIET:
            self._said[host] = now
            _log.debug("dropped what came from %s: %s (%s)", source, error, error.kind)
