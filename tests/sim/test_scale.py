"""Measurements of dissemination by cluster size."""

from pathlib import Path

import attrs
import pytest

from trioserf.sim.scale import (
    Point,
    Spread,
    expected_detection,
    expected_event,
    measure,
    measure_forming,
    table,
)


def test_spread_has_quantiles() -> None:
    spread = Spread.of(float(number) for number in range(200, 0, -1))
    assert (spread.half, spread.most, spread.all) == (100.0, 198.0, 200.0)


@pytest.fixture(scope="module")
def point() -> Point:
    return measure(16)


def test_small_cluster_is_measured(point: Point) -> None:
    assert 0 <= point.event.half < 0.1
    assert point.event.all < 60  # a member that gossip missed learns it by push/pull
    assert 0 < point.join.half <= point.join.all < 60
    assert point.detection.half == pytest.approx(expected_detection(16), rel=0.3)
    assert point.heal > 0
    # Each member sends one ping and one ack per second on average.
    assert point.packets == pytest.approx(2, rel=0.2)
    assert point.streamed > 0


def test_table_has_a_line_for_each_size(point: Point) -> None:
    head, formed, not_formed = table([attrs.evolve(point, formed=0.5), point]).splitlines()
    assert len(head.split()) > 12
    assert formed.split()[:2] == ["16", "0.5"]
    assert not_formed.split()[:2] == ["16", "-"]


def test_mass_join_is_measured() -> None:
    assert measure_forming(8) < 5


def test_formulas_grow_with_the_logarithm_of_the_size() -> None:
    assert expected_event(32) == pytest.approx(0.2 * (3.4965 + 4.5951) / 3, rel=1e-3)
    assert expected_detection(10) == pytest.approx(1.582 + 1 + 4, rel=1e-3)
    assert expected_detection(1000) - expected_detection(100) == pytest.approx(4, rel=1e-2)


def test_curves_are_drawn(point: Point, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra `plot`")
    from trioserf.sim.plot import plot

    file = tmp_path / "scale.png"
    plot([point], file)
    assert file.read_bytes().startswith(b"\x89PNG")
