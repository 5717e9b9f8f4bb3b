"""Lifeguard's local health score (LHA-Probe: Dadgar, Phillips, Currey, "Lifeguard", §IV-A).

A node that lacks CPU time or network handles messages late and would suspect healthy members. It
has signs of that: its probes fail, peers send no nacks, others suspect it. Each sign raises the
score, each acknowledged probe lowers it, and the score scales the probe timeouts and intervals.
"""


class Awareness:
    """The health score, from 0 (healthy) to `max_multiplier` − 1.

    Args:
        max_multiplier: one more than the highest score, at least 1.
        enabled: if false, the score stays 0, as in plain SWIM.
    """

    __slots__ = ("_highest", "score")

    def __init__(self, max_multiplier: int, enabled: bool = True) -> None:
        self.score = 0
        self._highest = max_multiplier - 1 if enabled else 0

    def apply_delta(self, delta: int) -> None:
        """Add to the score, within its bounds; a negative `delta` means better health."""
        self.score = min(max(self.score + delta, 0), self._highest)

    def scale_timeout(self, seconds: float) -> float:
        """Return a timeout or interval scaled by the score, × 1 to × `max_multiplier`."""
        return seconds * (self.score + 1)
