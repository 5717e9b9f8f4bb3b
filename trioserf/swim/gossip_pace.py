"""How often gossip may be sent before its interval has passed (see README.md, § Pace)."""

from typing import Final

from trioserf.swim.config import Timing
from trioserf.swim.members import MAX_COVER

_EARLY_ROUNDS: Final = 4
"""Rounds that may be sent ahead of their interval: two messages, of two rounds each."""


class GossipPace:
    """Counts packets of gossip, so that early rounds do not add to their number.

    memberlist sends at most `gossip_nodes` packets in each `gossip_interval`. A round before the
    interval has passed takes packets from later intervals: they are its debt. While that is too
    high, all rounds keep to the interval, so that messages share packets as they do there. A full
    packet costs nothing, since its messages could not have shared another one.

    Args:
        timing: the interval of gossip, and the packets of one round.
    """

    __slots__ = ("_most_early", "_paid_until", "_per_packet")

    def __init__(self, timing: Timing) -> None:
        # Half a round less than the debt after the last early round, for rounding.
        self._most_early = (_EARLY_ROUNDS - 0.5) * timing.gossip_interval
        self._per_packet = timing.gossip_interval / timing.gossip_nodes
        self._paid_until = 0.0

    def add(self, packets: int, now: float) -> None:
        """Count packets that were sent and not full."""
        self._paid_until = max(self._paid_until, now) + packets * self._per_packet

    def allows_early(self, now: float) -> bool:
        """Return whether a round may be sent before its interval."""
        return self._paid_until - now < self._most_early

    def allows_cover(self, now: float) -> bool:
        """Return whether the first round of a message may go to up to `MAX_COVER` members."""
        return self._paid_until - now < self._most_early + MAX_COVER * self._per_packet
