"""The suspicion task: one task for all deadlines, and a delay after a stall."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import LATENCY, NodeUnderTest, ScriptedPeer, node_under_test
from trioserf.event_filter import EventFilter
from trioserf.serf.events import MemberEvent
from trioserf.swim.config import LOCAL, WAN, Timing
from trioserf.wire.swim_messages import Alive, Dead, State, Suspect

QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6, "tcp_pings": False}


def bounds(timing: Timing, n: int) -> tuple[float, float]:
    """Return the shortest and longest timeout (see swim/README.md, § Suspicion)."""
    scale = math.floor(1000 * max(1.0, math.log10(max(1, n)))) / 1000
    least = timing.suspicion_mult * scale * timing.probe_interval
    return least, timing.suspicion_max_timeout_mult * least


async def members(s: NodeUnderTest, count: int) -> list[ScriptedPeer]:
    return await s.add_members(*(f"m{number}" for number in range(count)))


async def wait_until_dead(s: NodeUnderTest, peer: ScriptedPeer) -> tuple[float, Dead]:
    """Wait until a suspect is dead; return the time and the Dead message."""
    at = await s.until(lambda: s.state_of(peer.name) is State.DEAD)
    await trio.sleep(1)
    [dead, *_] = [dead for other in s.peers.values() for dead in other.messages(Dead)]
    return at, dead


@pytest.mark.parametrize("timing", [Timing(), WAN, LOCAL])
@pytest.mark.parametrize("count", [2, 12])
async def test_suspect_is_marked_dead_at_the_suspicion_timeout(
    autojump_clock: MockClock, timing: Timing, count: int
) -> None:
    async with node_under_test(**QUIET, timing=timing) as s:
        victim, *others = await members(s, count)  # it acks pings, but does not refute
        others[0].send(Suspect(1, victim.name, others[0].name))
        await trio.sleep(2 * LATENCY)
        assert s.state_of(victim.name) is State.SUSPECT
        began = s.node.memberlist.records[victim.name].state_change
        at, dead = await wait_until_dead(s, victim)
        least, most = bounds(timing, count + 1)
        # No confirmations are expected with too few members.
        can_be_confirmed = timing.suspicion_mult - 2 <= count - 1
        assert at - began == pytest.approx(most if can_be_confirmed else least, abs=0.02)
        assert dead == Dead(1, victim.name, "us")


async def test_own_probe_confirms_a_suspicion(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        victim, *others = await members(s, 12)
        victim.acks_pings = False
        others[0].send(Suspect(1, victim.name, others[0].name))
        await trio.sleep(2 * LATENCY)
        began = s.node.memberlist.records[victim.name].state_change
        at, _ = await wait_until_dead(s, victim)
        least, most = bounds(Timing(), 13)
        once = most - math.log(2) / math.log(3) * (most - least)
        assert at - began == pytest.approx(once, abs=0.02)


async def test_confirmation_shortens_the_timeout_of_the_sleeping_task(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        victim, *others = await members(s, 12)
        s.node.memberlist.awareness.apply_delta(7)  # our own probes are too slow to confirm
        others[0].send(Suspect(1, victim.name, others[0].name))
        await trio.sleep(2 * LATENCY)
        began = s.node.memberlist.records[victim.name].state_change
        least, most = bounds(Timing(), 13)
        await trio.sleep(1)
        for other in others[1:3]:  # k = 2
            other.send(Suspect(1, victim.name, other.name))
        at = await s.until(lambda: s.state_of(victim.name) is State.DEAD, most)
        assert at - began == pytest.approx(least, abs=0.02)
        assert most - least > 20


async def test_refutation_before_the_timeout_ends_the_suspicion(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        victim, other = await members(s, 2)
        with s.node.subscribe(*EventFilter.parse("*,member-suspect,member-recovered")) as events:
            other.send(Suspect(1, victim.name, other.name))
            await trio.sleep(3.5)
            victim.send(victim.alive(incarnation=2))
            await trio.sleep(60)
            assert s.state_of(victim.name) is State.ALIVE
            kinds = []
            with trio.move_on_after(0.001):
                async for event in events:
                    assert isinstance(event, MemberEvent)
                    kinds.append(event.kind)
            assert kinds == ["member-suspect", "member-recovered"]


async def test_each_suspect_has_its_own_deadline(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        a, b, c = await members(s, 3)
        _, most = bounds(Timing(), 4)
        began = trio.current_time()
        for peer in (a, b):
            c.send(Suspect(1, peer.name, c.name))
            await trio.sleep(3)
        first = await s.until(lambda: s.state_of(a.name) is State.DEAD)
        second = await s.until(lambda: s.state_of(b.name) is State.DEAD)
        assert first - began == pytest.approx(most, abs=0.02)
        assert second - first == pytest.approx(3, abs=0.05)


async def test_refutations_are_read_before_expiry_after_a_stall(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        victim, other = await members(s, 2)
        other.send(Suspect(1, victim.name, other.name))
        await trio.sleep(1)
        victim.send(victim.alive(incarnation=2))
        autojump_clock.jump(300)  # a stall; the refutation waits in the socket
        await trio.sleep(0.4)
        assert s.state_of(victim.name) is State.ALIVE
        await trio.sleep(60)
        assert set(s.statuses().values()) == {"alive"}


async def test_silent_suspects_are_marked_dead_after_a_stall(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        victim, other = await members(s, 2)
        victim.acks_pings = False
        other.send(Suspect(1, victim.name, other.name))
        await trio.sleep(1)
        autojump_clock.jump(300)
        began = trio.current_time()
        at = await s.until(lambda: s.state_of(victim.name) is State.DEAD)
        assert 0.5 <= at - began <= 0.6  # one probe timeout later


async def test_suspicion_task_sleeps_without_suspects(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        await members(s, 2)
        assert s.node._owner.suspicion.at is None
        await trio.sleep(100)
        assert s.node._owner.suspicion.at is None


async def test_node_refutes_its_dead_message_at_once(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        a, b = await members(s, 2)
        a.send(Dead(1, "us", a.name))
        await trio.sleep(0.05)
        assert s.statuses()["us"] == "alive"
        for peer in (a, b):
            assert any(m.node == "us" and m.incarnation == 2 for m in peer.messages(Alive))
