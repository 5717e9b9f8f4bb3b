"""Pace of gossip: how many packets may be sent before their interval."""

import pytest

from trioserf.swim.config import LAN, Timing
from trioserf.swim.gossip_pace import GossipPace
from trioserf.swim.members import MAX_COVER


def early_packets(pace: GossipPace, now: float, packets: int) -> int:
    """Send rounds of this many packets while early ones are allowed; return their packets."""
    sent = 0
    while pace.allows_early(now):
        pace.add(packets, now)
        sent += packets
    return sent


@pytest.mark.parametrize("timing", [LAN, Timing(gossip_interval=0.5, gossip_nodes=4)])
def test_four_rounds_may_be_sent_before_their_interval(timing: Timing) -> None:
    pace = GossipPace(timing)
    assert early_packets(pace, 5.0, timing.gossip_nodes) == 4 * timing.gossip_nodes
    just_paid = 5.0 + timing.gossip_interval / 2
    assert not pace.allows_early(just_paid - 0.001)
    assert early_packets(pace, just_paid + 0.001, timing.gossip_nodes) == timing.gossip_nodes


def test_full_packets_are_free() -> None:
    pace = GossipPace(LAN)
    for _ in range(1000):
        pace.add(0, 1.0)
    assert early_packets(pace, 1.0, 3) == 12


def test_idle_time_is_not_saved() -> None:
    pace = GossipPace(LAN)
    assert early_packets(pace, 1.0, 3) == early_packets(pace, 1000.0, 3) == 12


def test_regular_rounds_leave_no_room_for_early_ones() -> None:
    pace = GossipPace(LAN)
    early_packets(pace, 0.0, 3)
    for tick in range(1, 100):
        pace.add(LAN.gossip_nodes, tick * LAN.gossip_interval - 0.001)
        assert not pace.allows_early(tick * LAN.gossip_interval)


def test_two_first_rounds_to_many_members_may_follow_each_other() -> None:
    pace = GossipPace(LAN)
    allowed = []
    for _ in range(4):
        allowed.append(pace.allows_cover(1.0))
        pace.add(MAX_COVER, 1.0)
    assert allowed == [True, True, False, False]  # as there was no debt before
    assert not pace.allows_early(1.0)
