"""Storms of messages: packets are filled as in memberlist, nothing is lost, queues drain."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from trioserf.sim.cluster import SimCluster
from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Trace
from trioserf.swim.config import LAN
from trioserf.swim.members import MAX_COVER

MEMBERS = 12
SECONDS = 5
"""The length of a storm."""
RATE = 100
"""Messages a second."""
PACKET = 1400
SETTLE = 8.0

Storm = Callable[[SimCluster], Awaitable[object]]


@attrs.frozen
class Sent:
    """Packets and bytes of a storm, without those of an idle cluster, for each member."""

    packets: float
    bytes: float


def storm(messages: Storm, check: Callable[[SimCluster], None]) -> Sent:
    """Run a storm in a cluster of 12, wait until it is over, and count its packets."""
    sent: list[Sent] = []
    trace = Trace("storm", 1)
    trace.kinds = frozenset()

    async def scenario(cluster: SimCluster) -> None:
        # A member that joins a seed ignores older events, so all have joined before.
        await cluster.grow(MEMBERS)
        await cluster.settle()
        await trio.sleep(SETTLE)
        idle = await counted(cluster, trio.sleep, SETTLE)
        began = trio.current_time()
        both = await counted(cluster, messages, cluster)
        share = (trio.current_time() - began) / SETTLE
        rest = await counted(cluster, trio.sleep, SETTLE)
        share += 1
        sent.append(
            Sent(
                (both[0] + rest[0] - share * idle[0]) / MEMBERS,
                (both[1] + rest[1] - share * idle[1]) / MEMBERS,
            )
        )
        for member in cluster.up:
            assert not cluster.node(member.id)._state.filler
        check(cluster)

    run(Scenario(scenario), seed=1, trace=trace)
    return sent[0]


async def counted(
    cluster: SimCluster, act: Callable[..., Awaitable[object]], *args: object
) -> tuple[int, int]:
    """Return the packets and bytes that are sent meanwhile."""
    before = cluster.network.counts.copy()
    await act(*args)
    counts = cluster.network.counts
    return counts["packets"] - before["packets"], counts["bytes"] - before["bytes"]


def most_packets(seconds: float, cover: int) -> float:
    """Return memberlist's packets in these seconds, and those that we may send early."""
    rounds = seconds / LAN.gossip_interval + 1
    return LAN.gossip_nodes * (rounds + 4) + cover


def accepted(cluster: SimCluster) -> set[int]:
    return {cluster.node(member.id)._state.serf._user_events.accepted for member in cluster.up}


def test_changes_of_tags_make_no_more_packets_than_intervals_have() -> None:
    async def change(cluster: SimCluster) -> None:
        for number in range(RATE * SECONDS):
            await cluster.node("n2").set_tags({"k": f"{number}"})
            await trio.sleep(1 / RATE)

    def check(cluster: SimCluster) -> None:
        for member in cluster.up:
            [changed] = [m for m in cluster.node(member.id).members() if m.name == "n2"]
            assert changed.tags == {"k": f"{RATE * SECONDS - 1}"}

    # The messages replace each other, so that no packet is full.
    sent = storm(change, check)
    assert sent.packets <= most_packets(SECONDS + 1, cover=0)


@pytest.mark.parametrize("rate", [RATE, 10])
def test_events_at_a_steady_rate_share_packets(rate: int) -> None:
    async def send(cluster: SimCluster) -> None:
        for number in range(rate * SECONDS):
            await cluster.node(f"n{1 + number % 4}").user_event(f"e{number}", bytes(40))
            await trio.sleep(1 / rate)

    sent = storm(send, lambda cluster: _all_have(cluster, rate * SECONDS))
    # Beyond that only full packets, which memberlist sends, too.
    full = sent.bytes / (0.9 * PACKET)
    senders = 4 / MEMBERS
    assert sent.packets <= most_packets(SECONDS + 1, cover=int(senders * 2 * MAX_COVER)) + full


def test_burst_of_events_fills_packets() -> None:
    async def send(cluster: SimCluster) -> None:
        for number in range(300):
            await cluster.node(f"n{1 + number % 3}").user_event(f"e{number}", bytes(40))

    sent = storm(send, lambda cluster: _all_have(cluster, 300))
    assert sent.bytes / sent.packets > 0.75 * PACKET


def _all_have(cluster: SimCluster, events: int) -> None:
    assert accepted(cluster) == {events}
