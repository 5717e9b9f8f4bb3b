"""Network coordinates: where a member seems to be, judged by round-trip times alone.

Every member places itself in an eight-dimensional space in which the distance between two members
approximates the round-trip time between them, in seconds. Each measured round trip pulls or pushes
the coordinate a little (Dabek, Cox, Kaashoek and Morris, "Vivaldi: A Decentralized Network
Coordinate System", SIGCOMM 2004). Added to the vector are

- a *height*, the part of the distance that every path to the member shares, such as its access
  link (Vivaldi, section 5.4);
- an *adjustment*, the mean error of the last measurements, for networks that no Euclidean space
  describes, and a *median filter* of the last round trips of each peer against spikes (Ledlie,
  Gardner and Seltzer, "Network Coordinates in the Wild", NSDI 2007);
- *gravity*, a weak pull towards the origin that keeps the whole cluster from drifting away
  (ibid.).

The arithmetic follows the order of operations of Go's implementation, including its cut of every
distance to whole nanoseconds, so that both come to the same coordinates.
"""

import math
from collections.abc import Sequence
from random import Random

import attrs

DIMENSIONS = 8
ERROR_MAX = 1.5
"""The error of a coordinate that knows nothing yet, and the worst one allowed."""
HEIGHT_MIN = 10.0e-6
LATENCY_FILTER_SIZE = 3
ADJUSTMENT_WINDOW_SIZE = 20
RTT_MAX = 10.0
"""Seconds; a longer round trip says more about the peer's day than about the network."""

_ERROR_WEIGHT = 0.25  # Vivaldi's c_e: how fast the error follows the measurements
_POSITION_WEIGHT = 0.25  # Vivaldi's c_c: how fast the position does
_GRAVITY_RHO = 150.0  # the distance, in seconds, at which gravity pulls by one second
_ZERO = 1.0e-6  # anything shorter counts as no distance, or no time, at all
_NANOSECONDS = 1.0e9

Vector = tuple[float, ...]


@attrs.frozen
class Coordinate:
    """A place in the network, all lengths in seconds.

    Attributes:
        vec: the Euclidean part; eight numbers wherever it is used for anything.
        error: confidence, 0 (certain) to 1.5 (no idea), without unit.
        adjustment: what to add to a distance for the non-Euclidean part; may be negative.
        height: the distance to the point where the member's paths begin to differ.
    """

    vec: Vector = (0.0,) * DIMENSIONS
    error: float = ERROR_MAX
    adjustment: float = 0.0
    height: float = HEIGHT_MIN

    @property
    def is_valid(self) -> bool:
        """Whether all its numbers are finite."""
        # One sum instead of eleven calls: it is finite unless a term is not, or all of them are
        # absurdly large.
        return math.isfinite(sum(self.vec) + self.error + self.adjustment + self.height)

    def fault(self) -> str | None:
        """Say what makes this coordinate unusable here, or None if it is fine."""
        if len(self.vec) != DIMENSIONS:
            return f"it has {len(self.vec)} dimensions instead of {DIMENSIONS}"
        if not self.is_valid:
            return "it contains NaN or infinite numbers"
        return None


ORIGIN = Coordinate()
"""Where everybody starts."""


def distance(a: Coordinate, b: Coordinate) -> float:
    """Estimate the round-trip time between two members, in seconds (whole nanoseconds).

    The adjustments count only while they leave something over.

    Raises:
        ValueError: the coordinates have different dimensions.
    """
    if len(a.vec) != len(b.vec):
        raise ValueError(
            f"no distance between coordinates of {len(a.vec)} and {len(b.vec)} dimensions"
        )
    return _distance(a, b)


class CoordinateClient:
    """Our own coordinate, moved by every measured round trip.

    Args:
        rng: gives a direction to be pushed in when two members stand on the same spot.
        start: where to begin.

    Attributes:
        coordinate: where we are now.
        resets: how often a measurement led to an invalid coordinate and we began anew.
    """

    def __init__(self, rng: Random, start: Coordinate = ORIGIN) -> None:
        self.coordinate = start
        self.resets = 0
        self._rng = rng
        self._latencies: dict[str, tuple[float, ...]] = {}
        self._adjustments = [0.0] * ADJUSTMENT_WINDOW_SIZE
        self._next_adjustment = 0

    def update(self, node: str, other: Coordinate, rtt: float) -> Coordinate:
        """Take in one measured round trip and return the new coordinate.

        Args:
            node: the peer that was probed.
            other: the coordinate it reported.
            rtt: the round-trip time, 0 to 10 seconds.

        Raises:
            ValueError: the coordinate or the time cannot be used; nothing has changed then.
        """
        if fault := other.fault():
            raise ValueError(f"coordinate of {node!r} refused: {fault}")
        if not 0.0 <= rtt <= RTT_MAX:
            raise ValueError(
                f"round-trip time to {node!r} refused: {rtt} s is not within 0 to {RTT_MAX:g} s"
            )
        rtt = self._filtered(node, rtt)
        error, vec, height = self._vivaldi(other, rtt)
        adjustment = self._adjusted(vec, height, other, rtt)
        vec, height = self._pulled_by_gravity(vec, height, adjustment)
        moved = Coordinate(vec, error, adjustment, height)
        if not moved.is_valid:
            # The window may hold what spoilt the coordinate and would spoil the next ones too.
            self.resets += 1
            self._adjustments = [0.0] * ADJUSTMENT_WINDOW_SIZE
            moved = ORIGIN
        self.coordinate = moved
        return moved

    def forget_node(self, name: str) -> None:
        """Drop what is remembered of a peer that no longer exists."""
        self._latencies.pop(name, None)

    def _filtered(self, node: str, rtt: float) -> float:
        """Give the median of the last round trips to this peer."""
        recent = (*self._latencies.get(node, ())[1 - LATENCY_FILTER_SIZE :], rtt)
        self._latencies[node] = recent
        return sorted(recent)[len(recent) // 2]

    def _vivaldi(self, other: Coordinate, rtt: float) -> tuple[float, Vector, float]:
        """Move towards or away from the peer (Vivaldi, figure 3); give error, vector, height."""
        here = self.coordinate
        away = _difference(here.vec, other.vec)
        magnitude = _magnitude(away)
        raw = magnitude + here.height + other.height
        expected = _whole(raw, here.adjustment, other.adjustment)
        rtt = max(rtt, _ZERO)
        wrongness = abs(expected - rtt) / rtt
        weight = here.error / max(here.error + other.error, _ZERO)
        error = _ERROR_WEIGHT * weight * wrongness + here.error * (1.0 - _ERROR_WEIGHT * weight)
        force = _POSITION_WEIGHT * weight * (rtt - expected)
        vec, height = self._pushed(here.vec, here.height, force, away, magnitude, other.height)
        return min(error, ERROR_MAX), vec, height

    def _adjusted(self, vec: Vector, height: float, other: Coordinate, rtt: float) -> float:
        """Renew the adjustment: half the mean error of the last measurements, ours and theirs."""
        samples = self._adjustments
        raw = _magnitude(_difference(vec, other.vec)) + height + other.height
        samples[self._next_adjustment] = rtt - raw
        self._next_adjustment = (self._next_adjustment + 1) % ADJUSTMENT_WINDOW_SIZE
        total = 0.0
        for sample in samples:  # not sum(), which is more exact than Go from Python 3.12 on
            total += sample
        return total / (2.0 * ADJUSTMENT_WINDOW_SIZE)

    def _pulled_by_gravity(
        self, vec: Vector, height: float, adjustment: float
    ) -> tuple[Vector, float]:
        magnitude = _magnitude(vec)
        ratio = (
            _whole(magnitude + ORIGIN.height + height, ORIGIN.adjustment, adjustment)
            / _GRAVITY_RHO
        )
        return self._pushed(vec, height, -(ratio * ratio), vec, magnitude, ORIGIN.height)

    def _pushed(
        self,
        vec: Vector,
        height: float,
        force: float,
        away: Sequence[float],
        magnitude: float,
        other_height: float,
    ) -> tuple[Vector, float]:
        """Push a place away from another one by `force` seconds; give vector and height."""
        if magnitude > _ZERO:
            factor = 1.0 / magnitude
            height = (height + other_height) * force / magnitude + height
            if height < HEIGHT_MIN:
                height = HEIGHT_MIN
        else:
            away, factor = self._random_direction(), 1.0
        return tuple([a + d * factor * force for a, d in zip(vec, away, strict=True)]), height

    def _random_direction(self) -> list[float]:
        """Give a random unit vector."""
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
    return _whole(raw, a.adjustment, b.adjustment)


def _whole(raw: float, adjustment: float, other: float) -> float:
    """Give a distance in whole nanoseconds, adjusted on both sides if that leaves a rest."""
    adjusted = raw + adjustment + other
    nanoseconds = (adjusted if adjusted > 0.0 else raw) * _NANOSECONDS
    # What is not finite comes out as it is, and makes the resulting coordinate invalid.
    return int(nanoseconds) / _NANOSECONDS if math.isfinite(nanoseconds) else nanoseconds
