"""How well this node itself is doing: Lifeguard's local health score.

A node that is short of processor time or of network hears late, and would accuse healthy members.
It can notice: its probes fail, those whom it asked for help send no nack either, others accuse it.
Each of these raises the score, each success lowers it, and timeouts and intervals of its probes
are stretched by it (LHA-Probe: Dadgar, Phillips, Currey, "Lifeguard", §IV-A).
"""


class Awareness:
    """The health score: 0 is well, `max_multiplier` − 1 the worst.

    Args:
        max_multiplier: one more than the highest score, at least 1.
        enabled: without it the score is 0 for ever, which is plain SWIM.
    """

    __slots__ = ("_highest", "score")

    def __init__(self, max_multiplier: int, enabled: bool = True) -> None:
        self.score = 0
        self._highest = max_multiplier - 1 if enabled else 0

    def apply_delta(self, delta: int) -> None:
        """Add to the score, within its bounds; a negative `delta` is good news."""
        self.score = min(max(self.score + delta, 0), self._highest)

    def scale_timeout(self, seconds: float) -> float:
        """Stretch a timeout or an interval by the score: × 1 while well, up to × the maximum."""
        return seconds * (self.score + 1)
