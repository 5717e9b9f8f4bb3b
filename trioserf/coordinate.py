"""Network coordinates, estimated from round-trip times alone.

Each member has a position in an eight-dimensional space in which the distance between two members
approximates their round-trip time in seconds. Each measured round trip moves the position a little
(Dabek, Cox, Kaashoek and Morris, "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM
2004). Added to the vector are

- a *height*, the part of the distance that every path to the member shares, such as its access
  link (Vivaldi, section 5.4);
- an *adjustment*, the mean error of the last measurements, for networks that no Euclidean space
  describes, and a *median filter* of the last round trips of each peer against spikes (Ledlie,
  Gardner and Seltzer, "Network Coordinates in the Wild", NSDI 2007);
- *gravity*, a weak pull towards the origin that keeps the whole cluster from drifting (ibid.).

The arithmetic follows the order of operations of Go's implementation, which truncates every
distance to whole nanoseconds, so that both compute the same coordinates.
"""

import math
from collections.abc import Sequence
from random import Random

import attrs

from trioserf.value_objects import ValueObject

DIMENSIONS = 8
ERROR_MAX = 1.5
"""The error of a coordinate without measurements, which is the maximum."""
HEIGHT_MIN = 10.0e-6
LATENCY_FILTER_SIZE = 3
ADJUSTMENT_WINDOW_SIZE = 20
RTT_MAX = 10.0
"""Seconds; a longer round trip measures the load of the peer, not the network."""

_ERROR_WEIGHT = 0.25  # Vivaldi's c_e: weight of a measurement in the error
_POSITION_WEIGHT = 0.25  # Vivaldi's c_c: weight of a measurement in the position
_GRAVITY_RHO = 150.0  # distance in seconds at which gravity pulls by one second
_ZERO = 1.0e-6  # shorter distances and times count as 0
_NANOSECONDS = 1.0e9

Vector = tuple[float, ...]


@attrs.frozen(eq=False, repr=False)
class Coordinate(ValueObject):
    """A network coordinate; all lengths are in seconds.

    Attributes:
        vec: the Euclidean part, eight numbers in a valid coordinate.
        error: the estimated relative error, 0 (exact) to 1.5 (unknown).
        adjustment: the non-Euclidean part, added to a distance; may be negative.
        height: the part that all paths to the member share.
    """

    vec: Vector = (0.0,) * DIMENSIONS
    error: float = ERROR_MAX
    adjustment: float = 0.0
    height: float = HEIGHT_MIN

    @property
    def is_valid(self) -> bool:
        """Whether all numbers are finite."""
        # One call instead of eleven: the sum is finite unless a term is not, or it overflows.
        return math.isfinite(sum(self.vec) + self.error + self.adjustment + self.height)

    def find_defect(self) -> str | None:
        """Return why this coordinate is invalid, or None if it is valid."""
        if len(self.vec) != DIMENSIONS:
            return f"it has {len(self.vec)} dimensions instead of {DIMENSIONS}"
        if not self.is_valid:
            return "it contains NaN or infinite numbers"
        return None

    def distance(self, other: "Coordinate") -> float:
        """Estimate the round-trip time to a member at another coordinate, in seconds."""
        return distance(self, other)


ORIGIN = Coordinate()
"""The initial coordinate."""


def distance(a: Coordinate, b: Coordinate) -> float:
    """Estimate the round-trip time between two members, in seconds (whole nanoseconds).

    The adjustments count only if the sum stays positive.

    Raises:
        ValueError: the coordinates have different dimensions.
    """
    if len(a.vec) != len(b.vec):
        raise ValueError(
            f"no distance between coordinates of {len(a.vec)} and {len(b.vec)} dimensions"
        )
    return _distance(a, b)


class CoordinateClient:
    """Our own coordinate, updated by every measured round trip.

    Args:
        rng: source of a direction if two members have the same position.
        start: the initial coordinate.

    Attributes:
        coordinate: the current coordinate.
        resets: number of resets after a measurement led to an invalid coordinate.
    """

    def __init__(self, rng: Random, start: Coordinate = ORIGIN) -> None:
        self.coordinate = start
        self.resets = 0
        self._rng = rng
        self._latencies: dict[str, tuple[float, ...]] = {}
        self._adjustments = [0.0] * ADJUSTMENT_WINDOW_SIZE
        self._next_adjustment = 0

    def update(self, node: str, other: Coordinate, rtt: float) -> Coordinate:
        """Apply one measured round trip and return the new coordinate.

        Args:
            node: the probed member.
            other: its coordinate.
            rtt: the round-trip time, 0 to 10 seconds.

        Raises:
            ValueError: an invalid coordinate or time; nothing has changed.
        """
        if defect := other.find_defect():
            raise ValueError(f"coordinate of {node!r} refused: {defect}")
        if not 0.0 <= rtt <= RTT_MAX:
            raise ValueError(
                f"round-trip time to {node!r} refused: {rtt} s is not within 0 to {RTT_MAX:g} s"
            )
        rtt = self._median(node, rtt)
        error, vec, height = self._apply_vivaldi(other, rtt)
        adjustment = self._new_adjustment(vec, height, other, rtt)
        vec, height = self._apply_gravity(vec, height, adjustment)
        updated = Coordinate(vec, error, adjustment, height)
        if not updated.is_valid:
            # A sample in the window may have caused this, and would invalidate the next ones.
            self.resets += 1
            self._adjustments = [0.0] * ADJUSTMENT_WINDOW_SIZE
            updated = ORIGIN
        self.coordinate = updated
        return updated

    def forget_node(self, name: str) -> None:
        """Forget the latencies of a former member."""
        self._latencies.pop(name, None)

    def _median(self, node: str, rtt: float) -> float:
        """Return the median of the last round trips to this peer."""
        recent = (*self._latencies.get(node, ())[1 - LATENCY_FILTER_SIZE :], rtt)
        self._latencies[node] = recent
        return sorted(recent)[len(recent) // 2]

    def _apply_vivaldi(self, other: Coordinate, rtt: float) -> tuple[float, Vector, float]:
        """Move towards or away from the peer (Vivaldi, figure 3); return error, vector, height."""
        here = self.coordinate
        away = _difference(here.vec, other.vec)
        magnitude = _magnitude(away)
        raw = magnitude + here.height + other.height
        expected = _in_whole_nanoseconds(raw, here.adjustment, other.adjustment)
        rtt = max(rtt, _ZERO)
        relative_error = abs(expected - rtt) / rtt
        weight = here.error / max(here.error + other.error, _ZERO)
        error = _ERROR_WEIGHT * weight * relative_error + here.error * (
            1.0 - _ERROR_WEIGHT * weight
        )
        force = _POSITION_WEIGHT * weight * (rtt - expected)
        vec, height = self._push(here.vec, here.height, force, away, magnitude, other.height)
        return min(error, ERROR_MAX), vec, height

    def _new_adjustment(self, vec: Vector, height: float, other: Coordinate, rtt: float) -> float:
        """Return the new adjustment: half the mean error of the last measurements."""
        samples = self._adjustments
        raw = _magnitude(_difference(vec, other.vec)) + height + other.height
        samples[self._next_adjustment] = rtt - raw
        self._next_adjustment = (self._next_adjustment + 1) % ADJUSTMENT_WINDOW_SIZE
        total = 0.0
        for sample in samples:  # not sum(), which is more exact than Go from Python 3.12 on
            total += sample
        return total / (2.0 * ADJUSTMENT_WINDOW_SIZE)

    def _apply_gravity(
        self, vec: Vector, height: float, adjustment: float
    ) -> tuple[Vector, float]:
        magnitude = _magnitude(vec)
        ratio = (
            _in_whole_nanoseconds(
                magnitude + ORIGIN.height + height, ORIGIN.adjustment, adjustment
            )
            / _GRAVITY_RHO
        )
        return self._push(vec, height, -(ratio * ratio), vec, magnitude, ORIGIN.height)

    def _push(
        self,
        vec: Vector,
        height: float,
        force: float,
        away: Sequence[float],
        magnitude: float,
        other_height: float,
    ) -> tuple[Vector, float]:
        """Move a position away from another by `force` seconds; return vector and height."""
        if magnitude > _ZERO:
            factor = 1.0 / magnitude
            height = (height + other_height) * force / magnitude + height
            if height < HEIGHT_MIN:
                height = HEIGHT_MIN
        else:
            away, factor = self._random_direction(), 1.0
        return tuple([a + d * factor * force for a, d in zip(vec, away, strict=True)]), height

    def _random_direction(self) -> list[float]:
        """Return a random unit vector."""
        away = [self._rng.random() - 0.5 for _ in range(DIMENSIONS)]
        magnitude = _magnitude(away)
        if magnitude > _ZERO:
            return [a * (1.0 / magnitude) for a in away]
        return [1.0] + [0.0] * (DIMENSIONS - 1)


def _magnitude(vec: Sequence[float]) -> float:
    total = 0.0
    for x in vec:
        total += x * x
    return math.sqrt(total)


def _difference(a: Vector, b: Vector) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _distance(a: Coordinate, b: Coordinate) -> float:
    raw = _magnitude(_difference(a.vec, b.vec)) + a.height + b.height
    return _in_whole_nanoseconds(raw, a.adjustment, b.adjustment)


def _in_whole_nanoseconds(raw: float, adjustment: float, other: float) -> float:
    """Return a distance in whole nanoseconds, with adjustments if it stays positive."""
    adjusted = raw + adjustment + other
    nanoseconds = (adjusted if adjusted > 0.0 else raw) * _NANOSECONDS
    # A value that is not finite is returned as it is, and makes the new coordinate invalid.
    return int(nanoseconds) / _NANOSECONDS if math.isfinite(nanoseconds) else nanoseconds
