"""Counts of messages that were dropped because they are malformed or not allowed."""

import logging
from collections import Counter
from typing import Final

from trioserf.address import Address
from trioserf.wire.errors import WireError

_log = logging.getLogger("trioserf.memberlist")

_MAX_PEERS: Final = 1024
"""Addresses with a count of their own; a sender can forge more."""
_LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines about one peer."""
_WARN_INTERVAL: Final = 60.0
"""Seconds between two warnings about one peer."""
_KEY_ERRORS: Final = {
    "decrypt": "messages that our keys do not decrypt",
    "plaintext-refused": "messages without encryption",
}
"""Kinds of errors of a peer with another key, or none, and what it sends."""


class DropCounts:
    """Counts of dropped packets, messages and streams; the log is rate-limited for each peer.

    Attributes:
        by_kind: counts by the kind of the error (see `WireError`), and `not-allowed`.
        by_peer: counts by the sender's address, for the first 1,024 addresses.
    """

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()
        self.by_peer: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._warned_at: dict[str, float] = {}

    def add(self, error: WireError, source: Address, now: float) -> None:
        """Count one dropped packet, message or stream."""
        self.by_kind[error.kind] += 1
        host = source.host
        if host not in self.by_peer and len(self.by_peer) >= _MAX_PEERS:
            host = "others"
        self.by_peer[host] += 1
        what = _KEY_ERRORS.get(error.kind)
        if what and now - self._warned_at.get(host, -_WARN_INTERVAL) >= _WARN_INTERVAL:
            self._warned_at[host] = now
            named = {"address": source, "reason": what}
            _log.warning("%(address)s sends %(reason)s; check its encryption key", named)
        if now - self._logged_at.get(host, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            self._logged_at[host] = now
            _log.debug("dropped a message from %s: %s (%s)", source, error, error.kind)
