"""Network coordinates of this node and of the members it has probed (see `coordinate`)."""

import logging
import random
from collections.abc import Callable

from trioserf.coordinate import ORIGIN, Coordinate, CoordinateClient, distance
from trioserf.counters import Counters
from trioserf.printable import short_name
from trioserf.wire import swim_codec
from trioserf.wire.errors import WireError
from trioserf.wire.serf_payloads import decode_coordinate, encode_coordinate
from trioserf.wire.swim_messages import Ack

_log = logging.getLogger("trioserf.serf")


class PeerCoordinates:
    """Our own coordinate and those of probed members.

    Args:
        name: our name.
        rng: source of randomness.
        enabled: whether coordinates are kept, and sent in acks.
        counters: counters for metrics.
    """

    def __init__(
        self, name: str, rng: random.Random, *, enabled: bool, counters: Counters | None = None
    ) -> None:
        self._name = name
        self._enabled = enabled
        self._client = CoordinateClient(rng)
        counters = counters or Counters()
        self._rejected = counters.counter("serf.coordinate.rejected")
        self._adjustments = counters.values("serf.coordinate.adjustment-ms")
        self._peers: dict[str, Coordinate] = {}
        self._payload = encode_coordinate(ORIGIN) if enabled else b""

    def ack(self, seq_no: int, digest: bytes = b"", release: str = "") -> bytes:
        """Return the encoded ack of a ping, with our coordinate as its payload."""
        return swim_codec.encode(Ack(seq_no, self._payload, digest, release))

    @property
    def resets(self) -> int:
        """How often our coordinate was reset."""
        return self._client.resets

    def on_rtt(self, name: str, payload: bytes, rtt: float) -> None:
        """Update our coordinate from a direct ack and its round-trip time; log errors."""
        if not self._enabled or not payload:
            return
        try:
            other = decode_coordinate(payload)
            before = self._client.coordinate
            moved = self._client.update(name, other, rtt)
        except (WireError, ValueError) as error:
            self._rejected.add()
            _log.debug("coordinate of '%s': %s", short_name(name), error)
            return
        self._adjustments.append(distance(before, moved) * 1000)
        self._peers[name] = other
        self._payload = encode_coordinate(self._client.coordinate)

    def get(self, name: str | None) -> Coordinate | None:
        """Return a member's last coordinate, or our own for None or our name."""
        if not self._enabled:
            return None
        if name is None or name == self._name:
            return self._client.coordinate
        return self._peers.get(name)

    def forget_missing(self, find_member: Callable[[str], object | None]) -> None:
        """Forget coordinates of names for which `find_member` returns None."""
        for name in [name for name in self._peers if find_member(name) is None]:
            self._client.forget_node(name)
            del self._peers[name]
