"""Network coordinates against golden vectors of Go's implementation, and at their limits."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.coordinate import (
    DIMENSIONS,
    ERROR_MAX,
    HEIGHT_MIN,
    ORIGIN,
    RTT_MAX,
    Coordinate,
    CoordinateClient,
    distance,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "coordinates.json").read_text())


def coordinate_of(record: dict[str, Any]) -> Coordinate:
    return Coordinate(
        tuple(record["Vec"]), record["Error"], record["Adjustment"], record["Height"]
    )


def close(a: Coordinate, b: Coordinate) -> bool:
    def flat(c: Coordinate) -> tuple[float, ...]:
        return (*c.vec, c.error, c.adjustment, c.height)

    return all(math.isclose(x, y, rel_tol=1e-12) for x, y in zip(flat(a), flat(b), strict=True))


def at(x: float, *, height: float = HEIGHT_MIN, **others: float) -> Coordinate:
    return Coordinate((x,) + (0.0,) * (DIMENSIONS - 1), height=height, **others)


def test_coordinates_equal_those_of_go_after_each_update() -> None:
    client = CoordinateClient(Random(1), coordinate_of(VECTORS["start"]))
    assert len(VECTORS["updates"]) == 60
    for update in VECTORS["updates"]:
        other = coordinate_of(update["other"])
        assert round(distance(client.coordinate, other) * 1e9) == update["distance_before_ns"]
        assert distance(other, client.coordinate) == distance(client.coordinate, other)
        moved = client.update(update["node"], other, update["rtt_ns"] / 1e9)
        assert close(moved, coordinate_of(update["after"])), update
        assert client.coordinate is moved
    assert client.resets == 0


def test_initial_coordinate_is_origin() -> None:
    assert CoordinateClient(Random(1)).coordinate == ORIGIN
    assert Coordinate((0.0,) * 8, 1.5, 0.0, 1e-5) == ORIGIN


# --- distance ---


def test_distance_is_euclidean_plus_heights() -> None:
    assert distance(at(0.01, height=0.002), at(0.04, height=0.003)) == pytest.approx(0.035)


@pytest.mark.parametrize(
    ("adjustments", "expected"),
    [
        ((0.0, 0.0), 0.0302),
        ((0.01, 0.002), 0.0422),
        ((-0.02, -0.01), 0.0002),
        ((-0.02, -0.02), 0.0302),  # nothing would be left, so they do not count
    ],
)
def test_adjustments_count_while_distance_stays_positive(
    adjustments: tuple[float, float], expected: float
) -> None:
    a = at(0.0, height=0.0001, adjustment=adjustments[0])
    b = at(0.03, height=0.0001, adjustment=adjustments[1])
    assert distance(a, b) == pytest.approx(expected, abs=2e-9)


def test_distance_is_truncated_to_nanoseconds() -> None:
    assert distance(at(0.0, height=0.0), at(1.9e-9, height=0.0)) == 1e-9


def test_distance_between_different_dimensions_is_rejected() -> None:
    with pytest.raises(ValueError, match="of 8 and 2 dimensions"):
        distance(ORIGIN, Coordinate((0.0, 0.0)))


# --- the latency filter ---


def test_latency_spike_does_not_move_coordinate() -> None:
    spiked, calm = CoordinateClient(Random(1)), CoordinateClient(Random(1))
    other = at(0.05, error=0.5)
    for client in (spiked, calm):
        client.update("a", other, 0.05)
        client.update("a", other, 0.05)
    assert spiked.update("a", other, 9.0) == calm.update("a", other, 0.05)


def test_each_peer_has_its_own_latency_filter() -> None:
    client = CoordinateClient(Random(1))
    other = at(0.05, error=0.5)
    for _ in range(3):
        client.update("a", other, 0.05)
    before = client.coordinate
    assert distance(client.update("b", other, 9.0), other) > distance(before, other) + 0.1


def test_forgotten_peer_has_empty_latency_filter() -> None:
    client, fresh = CoordinateClient(Random(1)), CoordinateClient(Random(1))
    other = at(0.05, error=0.5)
    for _ in range(3):
        client.update("a", other, 0.05)
        fresh.update("b", other, 0.05)
    client.forget_node("a")
    client.forget_node("never seen")
    assert client.update("a", other, 2.0) == fresh.update("a", other, 2.0)


def test_latency_filter_keeps_three_samples() -> None:
    client = CoordinateClient(Random(1))
    for i in range(50):
        client.update("a", at(0.05), 0.01 + i / 1000)
    assert list(client._latencies) == ["a"]
    assert len(client._latencies["a"]) == 3


# --- rejected values ---


@pytest.mark.parametrize("rtt", [-1e-9, 10.000001, math.nan, math.inf, -math.inf])
def test_round_trip_time_out_of_range_is_rejected(rtt: float) -> None:
    client = CoordinateClient(Random(1))
    with pytest.raises(ValueError, match=r"round-trip time to 'a' refused.*not within 0 to 10 s"):
        client.update("a", at(0.05), rtt)
    assert client.coordinate == ORIGIN
    assert client._latencies == {}


@pytest.mark.parametrize("rtt", [0.0, RTT_MAX])
def test_round_trip_time_at_limit_is_accepted(rtt: float) -> None:
    client = CoordinateClient(Random(1))
    assert client.update("a", at(0.05), rtt).is_valid
    assert client.resets == 0


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Coordinate((0.0,) * 7), "7 dimensions instead of 8"),
        (Coordinate(()), "0 dimensions"),
        (at(math.nan), "NaN or infinite"),
        (at(math.inf), "NaN or infinite"),
        (at(0.0, error=math.nan), "NaN or infinite"),
        (at(0.0, adjustment=-math.inf), "NaN or infinite"),
        (at(0.0, height=math.inf), "NaN or infinite"),
        (Coordinate((math.inf, -math.inf) + (0.0,) * 6), "NaN or infinite"),
    ],
)
def test_invalid_coordinate_is_rejected(other: Coordinate, reason: str) -> None:
    client = CoordinateClient(Random(1))
    with pytest.raises(ValueError, match=f"coordinate of 'a' refused: .*{reason}"):
        client.update("a", other, 0.05)
    assert client.coordinate == ORIGIN


# --- the edges of the arithmetic ---


def test_coincident_points_move_apart_in_random_direction() -> None:
    first = CoordinateClient(Random(1)).update("a", ORIGIN, 0.1)
    second = CoordinateClient(Random(2)).update("a", ORIGIN, 0.1)
    assert first.vec != second.vec
    for moved in (first, second):
        # Force: 0.25 × weight ½ × (0.1 − 2 heights), then next to no gravity.
        assert math.hypot(*moved.vec) == pytest.approx(0.125 * 0.09998, rel=1e-4)
        assert moved.height == HEIGHT_MIN


def test_random_direction_of_length_zero_is_replaced() -> None:
    class Centred(Random):
        def random(self) -> float:
            return 0.5

    moved = CoordinateClient(Centred()).update("a", ORIGIN, 0.1)
    assert moved.vec[0] > 0.01
    assert moved.vec[1:] == (0.0,) * 7


def test_overflow_resets_coordinate_and_is_counted() -> None:
    client = CoordinateClient(Random(1))
    assert client.update("a", at(1e300), 0.05) == ORIGIN
    assert client.resets == 1
    # Later updates are not affected.
    assert client.update("b", at(0.05), 0.05) != ORIGIN
    assert client.resets == 1


def test_gravity_pulls_distant_coordinate_to_origin() -> None:
    client = CoordinateClient(Random(1), at(500.0, error=0.0))
    before = client.coordinate.vec[0]
    assert before - client.update("a", at(500.0), 0.0).vec[0] == pytest.approx(
        (500.0 / 150.0) ** 2, rel=1e-3
    )


def test_coordinates_of_cluster_converge_to_distances() -> None:
    """Twelve members on a line, 10 ms apart, estimate their distances."""
    rng = Random(7)
    clients = [CoordinateClient(rng) for _ in range(12)]
    for _ in range(4000):
        a, b = rng.sample(range(12), 2)
        clients[a].update(f"n{b}", clients[b].coordinate, abs(a - b) * 0.010)
    errors = [
        abs(distance(clients[a].coordinate, clients[b].coordinate) / (abs(a - b) * 0.010) - 1)
        for a in range(12)
        for b in range(12)
        if a != b
    ]
    assert sorted(errors)[len(errors) // 2] < 0.1


finite = st.floats(allow_nan=False, allow_infinity=False)
coordinates = st.builds(
    Coordinate, st.tuples(*[finite] * DIMENSIONS), error=finite, adjustment=finite, height=finite
)


@given(st.lists(st.tuples(coordinates, st.floats(0.0, RTT_MAX)), max_size=30))
def test_coordinate_stays_valid_for_any_update(updates: list[tuple[Coordinate, float]]) -> None:
    client = CoordinateClient(Random(1))
    for other, rtt in updates:
        if other.is_valid:
            moved = client.update("a", other, rtt)
            assert moved.find_defect() is None
            assert moved.error <= ERROR_MAX
            assert moved.height >= HEIGHT_MIN
