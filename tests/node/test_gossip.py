"""Gossip: times, number and targets of transmits."""

import itertools
import math
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from tests.node.helpers import LATENCY, NodeUnderTest, ScriptedPeer, node_under_test
from trioserf.node.gossip import gossip
from trioserf.node.state import ClusterState
from trioserf.swim.config import Timing
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import UserEvent
from trioserf.wire.swim_messages import Alive, Dead, Ping, State, Suspect, UserMessage

QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6, "tcp_pings": False}
SLOW_PROBES = Timing(probe_interval=1e6, push_pull_interval=1e6)


async def add_quiet_members(s: NodeUnderTest, count: int) -> list[ScriptedPeer]:
    """Add members and wait until gossip about them has ended."""
    peers = await s.add_members(*(f"m{number}" for number in range(count)))
    await trio.sleep(10)
    assert not s.node._state.filler
    for peer in peers:
        peer.received.clear()
    return peers


def events(peers: list[ScriptedPeer]) -> list[tuple[float, str, str]]:
    """Return the time, receiver and name of each received user event."""
    found = []
    for peer in peers:
        for received in peer.received_of(UserMessage):
            assert isinstance(received.message, UserMessage)
            message = serf_codec.decode(received.message.payload)
            assert isinstance(message, UserEvent)
            found.append((received.at, peer.name, message.name))
    return sorted(found)


async def test_message_is_sent_at_once_after_a_pause_and_at_every_interval(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES, gossip_pause=0.015) as s:
        peers = await add_quiet_members(s, 9)
        await trio.sleep(0.123)
        began = trio.current_time()
        await s.node.user_event("hello")
        await trio.sleep(10)
        received = events(peers)
        # 10 members: all of them at once, then 4 x ceil(log10(11)) = 8 times, three a round.
        assert len(received) == 9 + 4 * math.ceil(math.log10(11)) == 17
        rounds: dict[float, list[str]] = {}
        for at, who, _ in received:
            rounds.setdefault(round(at - began - LATENCY, 3), []).append(who)
        assert {at: len(targets) for at, targets in rounds.items()} == {
            0.0: 9, 0.2: 3, 0.4: 3, 0.6: 2
        }  # fmt: skip
        assert len(set(rounds.pop(0.0))) == 9
        later = [who for targets in rounds.values() for who in targets]
        assert len(set(later)) == 8


async def test_message_of_another_member_is_sent_at_once_and_after_a_pause(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES, gossip_pause=0.015) as s:
        peers = await add_quiet_members(s, 9)
        await trio.sleep(0.123)
        began = trio.current_time() + LATENCY
        peers[0].send(UserMessage(serf_codec.encode(UserEvent(1, "hello"))))
        await trio.sleep(10)
        received = events(peers)
        rounds = [round(at - began - LATENCY, 3) for at, _, _ in received]
        assert rounds == 3 * [0.0] + 3 * [0.015] + 2 * [0.215]
        # All other members but the one that has sent it, each once.
        assert {who for _, who, _ in received} == {peer.name for peer in peers[1:]}


async def test_first_round_reaches_32_different_members(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        peers = await add_quiet_members(s, 40)
        began = trio.current_time()
        await s.node.user_event("hello")
        await trio.sleep(2 * LATENCY)
        assert len({who for _, who, _ in events(peers)}) == len(events(peers)) == 32
        await trio.sleep(10)
        received = events(peers)
        assert len(received) == 32 + 8
        assert len({who for _, who, _ in received}) == 40  # those that had it were left out
        assert began < received[-1][0] < began + 1


async def test_member_that_has_sent_a_duplicate_gets_no_copy(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES, gossip_pause=0.1) as s:
        peers = await add_quiet_members(s, 9)
        event = UserMessage(serf_codec.encode(UserEvent(1, "hello")))
        peers[0].send(event)
        await trio.sleep(0.05)
        had = {who for _, who, _ in events(peers)}
        assert len(had) == 3
        rest = [peer for peer in peers[1:] if peer.name not in had]
        for peer in rest[3:]:
            peer.send(event)
        await trio.sleep(0.1)
        assert {who for _, who, _ in events(peers)} == had | {peer.name for peer in rest[:3]}


async def test_serfs_messages_have_a_least_number_of_transmissions(
    autojump_clock: MockClock,
) -> None:
    timing = Timing(probe_interval=1e6, push_pull_interval=1e6, retransmit_mult=1)
    async with node_under_test(**QUIET, timing=timing) as s:
        peers = await add_quiet_members(s, 12)
        peers[0].send(UserMessage(serf_codec.encode(UserEvent(1, "hello"))))
        peers[0].send(peers[0].alive(incarnation=2))
        await trio.sleep(10)
        assert len(events(peers)) == 4 * math.ceil(math.log10(14)) == 8
        assert sum(len(peer.messages(Alive)) for peer in peers) == math.ceil(math.log10(14)) == 2


async def test_burst_of_messages_shares_packets_within_the_pause(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES, gossip_pause=0.015) as s:
        peers = await add_quiet_members(s, 9)
        began = trio.current_time()
        for number in range(200):
            await s.node.user_event(f"e{number}", bytes(100))
        await s.until(lambda: len({name for _, _, name in events(peers)}) == 200, 5)
        took = trio.current_time() - began
        # A packet has room for ten of them; rounds are one pause apart.
        assert took < 200 / 10 * 0.015 + 0.1
        instants = sorted({round(at, 3) for at, _, _ in events(peers)})
        gaps = [b - a for a, b in itertools.pairwise(instants)]
        assert min(gaps) >= 0.014
        await trio.sleep(30)
        counts = [name for _, _, name in events(peers)]
        assert {counts.count(f"e{number}") for number in range(200)} == {9 + 8}


async def test_new_message_does_not_wait_for_the_tick_of_old_ones(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        peers = await add_quiet_members(s, 9)
        await s.node.user_event("first")
        await trio.sleep(0.1)  # half-way to the tick
        began = trio.current_time()
        await s.node.user_event("second")
        await s.until(lambda: any(name == "second" for _, _, name in events(peers)), 1)
        assert trio.current_time() - began <= 0.015 + 0.01 + LATENCY


async def test_node_without_broadcasts_sends_no_gossip(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        peers = await add_quiet_members(s, 5)
        await trio.sleep(1000)
        assert [received.message for peer in peers for received in peer.received] == []


class Steps(trio.abc.Instrument):
    """Counts the steps of the gossip task."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("gossip.gossip")


async def test_gossip_task_sleeps_without_other_members(autojump_clock: MockClock) -> None:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    async with node_under_test(**QUIET) as s:
        await trio.sleep(1)
        assert steps.count
        began = steps.count
        await s.node.user_event("no receiver")
        await trio.sleep(1000)
        assert steps.count == began
        assert s.node._state.filler
        [a] = await s.add_members("a")  # and sends it to the first member
        await trio.sleep(0.1)
        assert [name for _, _, name in events([a])] == ["no receiver"] * 2  # at once and once more
        a.send(Dead(1, a.name, a.name))
        await s.node.user_event("no receiver again")
        await trio.sleep(40)
        began = steps.count
        await trio.sleep(1000)
        assert steps.count == began


async def test_gossip_skips_left_members_and_includes_recently_dead_ones(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        left, dead, alive = await add_quiet_members(s, 3)
        left.send(Dead(1, left.name, left.name))
        dead.send(Dead(1, dead.name, "another"))
        await trio.sleep(2)
        assert s.state_of(left.name) is State.LEFT
        assert s.state_of(dead.name) is State.DEAD
        for peer in (left, dead, alive):
            peer.received.clear()
        await s.node.user_event("now")
        await trio.sleep(2)
        assert {who for _, who, _ in events([left, dead, alive])} == {dead.name, alive.name}
        await trio.sleep(30)  # gossip_to_the_dead_time
        for peer in (left, dead, alive):
            peer.received.clear()
        await s.node.user_event("later")
        await trio.sleep(2)
        assert {who for _, who, _ in events([left, dead, alive])} == {alive.name}


async def test_uncovered_event_goes_to_recently_dead_members_if_no_other_is_alive(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        [dead] = await add_quiet_members(s, 1)

        def send_and_lose(state: ClusterState, now: float) -> None:
            state.serf.user_event("now")
            state.membership.dead(Dead(1, dead.name, "another"), now)

        await s.node._owner.ask(send_and_lose)
        await trio.sleep(2)
        assert {who for _, who, _ in events([dead])} == {dead.name}
        assert dead.received_of(Dead)
        assert not s.node._state.filler.has_uncovered


async def test_broadcasts_are_piggybacked_on_pings_and_acks(autojump_clock: MockClock) -> None:
    timing = Timing(gossip_interval=1e6, push_pull_interval=1e6, gossip_nodes=1)
    async with node_under_test(**QUIET, timing=timing, gossip_pause=1e6) as s:
        [peer] = await s.add_members("p")
        await s.node.user_event("x")
        peer.send(Ping(1, "us", source_node="p"))
        await trio.sleep(4 * LATENCY)
        assert len(events([peer])) >= 1
        beside = peer.received_of(UserMessage)[-1].same_packet
        assert type(beside[0]).__name__ in {"Ack", "Ping", "Alive"}


async def test_newer_broadcast_about_a_member_replaces_the_older(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET, timing=SLOW_PROBES) as s:
        a, b, c = await add_quiet_members(s, 3)
        b.acks_pings = False
        a.send(Suspect(1, b.name, a.name))
        a.send(b.alive(incarnation=2), Suspect(2, b.name, a.name), b.alive(incarnation=3))
        await trio.sleep(5)
        last = [message for message in c.messages(Alive) if message.node == b.name]
        assert last[-1].incarnation == 3
        assert not [message for message in c.messages(Suspect) if message.incarnation == 2]


async def test_gossip_task_ends_only_when_cancelled(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        with trio.move_on_after(100) as timeout:
            await gossip(s.node._owner)
        assert timeout.cancelled_caught
