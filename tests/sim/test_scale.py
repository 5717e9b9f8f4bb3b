"""Measuring how news spreads."""

import pytest

from trioserf.sim.scale import Spread, measure, table


def test_spreads_are_quantiles() -> None:
    spread = Spread.of([float(number) for number in range(200, 0, -1)])
    assert (spread.half, spread.most, spread.all) == (100.0, 198.0, 200.0)


def test_a_small_cluster_is_measured() -> None:
    point = measure(8)
    assert point.joined < 5
    assert 0 <= point.event.half < 0.1
    assert point.event.all < 60  # whom gossip misses learns it by push/pull
    assert 1 < point.detection.half <= point.detection.all < 40
    # A ping and an ack a second for each member, and each other's: two of each are sent.
    assert point.idle_packets == pytest.approx(2, rel=0.2)
    head, line = table([point]).splitlines()
    assert len(head.split()) > 8
    assert line.split()[0] == "8"
