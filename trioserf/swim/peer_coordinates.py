"""Network coordinates of this node and of those it has probed (spec: network coordinates)."""

import logging
import random
from collections.abc import Callable

from trioserf.coordinate import ORIGIN, Coordinate, CoordinateClient, distance
from trioserf.counters import Counters
from trioserf.wire import swim_codec
from trioserf.wire.errors import WireError
from trioserf.wire.serf_payloads import decode_coordinate, encode_coordinate
from trioserf.wire.swim_messages import Ack

_log = logging.getLogger("trioserf.serf")


class PeerCoordinates:
    """Where members are.

    Args:
        name: our own name.
        rng: randomness.
        enabled: whether coordinates are kept, and given away in acks.
        tally: counts for metrics.
    """

    def __init__(
        self, name: str, rng: random.Random, *, enabled: bool, tally: Counters | None = None
    ) -> None:
        self._name = name
        self._enabled = enabled
        self._client = CoordinateClient(rng)
        tally = tally or Counters()
        self._rejected = tally.counter("serf.coordinate.rejected")
        self._moves = tally.values("serf.coordinate.adjustment-ms")
        self._others: dict[str, Coordinate] = {}
        self._payload = encode_coordinate(ORIGIN) if enabled else b""

    def ack(self, seq_no: int) -> bytes:
        """Give the ack to a ping, with our coordinate as its payload."""
        return swim_codec.encode(Ack(seq_no, self._payload))

    @property
    def resets(self) -> int:
        """How often we had to begin anew."""
        return self._client.resets

    def on_rtt(self, name: str, payload: bytes, rtt: float) -> None:
        """Take in the payload of a direct ack and its round trip in seconds; faults are logged."""
        if not self._enabled or not payload:
            return
        try:
            other = decode_coordinate(payload)
            before = self._client.coordinate
            moved = self._client.update(name, other, rtt)
        except (WireError, ValueError) as error:
            self._rejected.add()
            _log.debug("coordinate of %r: %s", name, error)
            return
        self._moves.append(distance(before, moved) * 1000)
        self._others[name] = other
        self._payload = encode_coordinate(self._client.coordinate)

    def get(self, name: str | None) -> Coordinate | None:
        """Give a member's coordinate as last heard, or our own (None or our name)."""
        if not self._enabled:
            return None
        if name is None or name == self._name:
            return self._client.coordinate
        return self._others.get(name)

    def forget_missing(self, knows: Callable[[str], object | None]) -> None:
        """Drop what is remembered of those who are members no more."""
        for name in [name for name in self._others if knows(name) is None]:
            self._client.forget_node(name)
            del self._others[name]
