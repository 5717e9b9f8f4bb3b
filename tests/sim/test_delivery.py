"""Measurements of how events and queries are delivered."""

from trioserf.sim.delivery import HEAD, Delivery, count_pairs, measure
from trioserf.sim.trace import Trace


def test_cluster_without_loss_delivers_all_events_in_time() -> None:
    result = measure(4, profile="lan", loss=0.0, pairs=10, seed=1)
    packets = result.packets
    # Four events for three members each, and as many queries.
    assert result == Delivery(pairs=12, expected=12, acked=12, events=4, packets=packets)
    assert packets > result.pairs


def test_cluster_without_packets_delivers_no_event() -> None:
    result = measure(2, profile="lan", loss=1.0, pairs=2, seed=1)
    assert (result.pairs, result.late, result.never) == (2, [2, 2], 2)
    assert result.acked == 0


def test_pairs_are_late_lost_or_doubled() -> None:
    trace = Trace("delivery", 0)
    for at, member, kind, detail in (
        (10.0, "a", "send", "e0"),
        (10.0, "a", "user", "e0@1"),
        (10.9, "b", "user", "e0@1"),
        (11.1, "c", "user", "e0@1"),
        (13.1, "d", "user", "e0@1"),
        (14.0, "b", "user", "e0@1"),
        (20.0, "b", "send", "e1"),
        (20.0, "b", "user", "e1@2"),
        (20.5, "c", "user", "e1@2"),
    ):
        trace.add(at, member, kind, detail)
    result = Delivery(events=2)
    count_pairs(trace, 4, result)
    assert result == Delivery(events=2, pairs=6, late=[4, 3], never=2, doubled=1)


def test_row_has_the_columns_of_the_head() -> None:
    result = Delivery(pairs=6, late=[4, 3], never=2, doubled=1, expected=9, acked=8, events=2)
    result.packets = 31.0
    row = result.row("lan 4 20 %")
    assert row.split() == ["lan", "4", "20", "%", "6", "4", "3", "2", "1", "8/9", "15.5"]
    assert len(row) == len(HEAD)
