"""Refused packets and connections: when a member is suspected, and declared failed early."""

import errno
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    LATENCY,
    OURS,
    NodeUnderTest,
    ScriptedPeer,
    node_under_test,
)
from trioserf.serf.events import MemberEvent
from trioserf.swim.config import SwimOptions
from trioserf.swim.events import Cause
from trioserf.wire.swim_messages import Ack, Dead, IndirectPing, Ping, State, Suspect

QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6}


async def crashed(s: NodeUnderTest, *helpers: str) -> tuple[ScriptedPeer, list[ScriptedPeer]]:
    """Add a member without a process, and others."""
    others = await s.add_members(*helpers)
    victim = s.peer("victim", run=False)
    victim.send(victim.alive())
    await trio.sleep(2 * LATENCY)
    victim.transport.kill()
    return victim, others


async def first_suspicion(s: NodeUnderTest, victim: ScriptedPeer) -> float:
    return await s.until(lambda: s.state_of(victim.name) is not State.ALIVE)


async def test_refused_member_is_suspected_at_once(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        victim, [a] = await crashed(s, "a")
        at = await first_suspicion(s, victim)
        [request] = a.received_of(IndirectPing)
        # The refused packet starts the second stage, which gives other members 0.1 s.
        assert at - request.at == pytest.approx(0.1, abs=0.005)
        await trio.sleep(0.5)
        assert a.messages(Suspect)[0] == Suspect(1, "victim", "us", refused=True)
        assert s.node.memberlist.awareness.score == 0


async def test_silent_member_is_suspected_at_the_end_of_the_probe(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        victim, [a] = await crashed(s, "a")
        s.network.cut(OURS, victim.address)
        at = await first_suspicion(s, victim)
        [request] = a.received_of(IndirectPing)
        assert at - request.at == pytest.approx(0.5, abs=0.005)
        await trio.sleep(0.5)
        assert a.messages(Suspect)[0] == Suspect(1, "victim", "us")


async def test_member_behind_a_rejecting_firewall_is_not_suspected(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        victim, helper = await s.add_members("victim", "helper")
        s.network.cut(OURS, victim.address, reject=True)

        async def help_probes() -> None:
            answered = 0
            while True:
                request = await helper.wait_for(IndirectPing, skip=answered)
                answered += 1
                # As if the helper had pinged the victim, a millisecond away.
                await trio.sleep(2 * LATENCY)
                helper.send(Ack(request.seq_no))

        s.nursery.start_soon(help_probes)
        await helper.wait_for(IndirectPing, skip=5)
        await trio.sleep(1)
        assert not victim.messages(Ping)
        assert set(s.statuses().values()) == {"alive"}
        assert not helper.messages(Suspect)


async def test_refused_member_is_declared_failed_after_three_refusals(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioserf.memberlist")
    async with node_under_test(**QUIET) as s:
        victim, others = await crashed(s, "a", "b", "c", "d")
        with s.node.subscribe() as events:
            began = await first_suspicion(s, victim)
            for other in others[:2]:
                other.send(Suspect(1, "victim", other.name, refused=True))
            at = await s.until(lambda: s.state_of("victim") is State.DEAD)
            assert 2 <= at - began <= 2.2
            await trio.sleep(0.5)
            assert others[2].messages(Dead)[0] == Dead(1, "victim", "us")
            with trio.fail_after(1):
                while (event := await events.receive()).kind != "member-failed":
                    pass
        assert isinstance(event, MemberEvent)
        assert event.cause == Cause("us", "refused", "us")
    assert "'victim' has failed: suspected first by 'us' (connection refused)" in caplog.text


async def test_member_that_gets_a_suspicion_connects_and_confirms(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        s.node.memberlist.awareness.apply_delta(7)  # our own probes come later
        await trio.sleep(1)
        _, [a, *_] = await crashed(s, "a", "b", "c", "d")
        a.send(Suspect(1, "victim", "a"))
        suspects = [await a.wait_for(Suspect, 1, skip=number) for number in (0, 1)]
        assert Suspect(1, "victim", "us", refused=True) in suspects


async def test_restarted_member_is_not_declared_failed_early(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        victim, others = await crashed(s, "a", "b", "c", "d")
        began = await first_suspicion(s, victim)
        for other in others[:3]:
            other.send(Suspect(1, "victim", other.name, refused=True))
        await trio.sleep(1.8)
        s.network.open(victim.transport.address)  # a process that has not refuted yet
        at = await s.until(lambda: s.state_of("victim") is State.DEAD)
        assert at - began == pytest.approx(4, abs=0.02)


async def test_stalled_member_does_not_declare_others_failed_early(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        victim, others = await crashed(s, "a", "b", "c", "d")
        await first_suspicion(s, victim)
        for other in others[:3]:
            other.send(Suspect(1, "victim", other.name, refused=True))
        await trio.sleep(1)
        autojump_clock.jump(1.5)
        await trio.sleep(0.4)
        assert s.state_of("victim") is State.SUSPECT
        await s.until(lambda: s.state_of("victim") is State.DEAD, 4)


@pytest.mark.parametrize(
    "options", [{"swim": SwimOptions(refusal_timeout=0)}, {"tcp_pings": False}]
)
async def test_refusals_can_be_switched_off(
    autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    async with node_under_test(**QUIET, **options) as s:
        victim, others = await crashed(s, "a", "b", "c", "d")
        at = await first_suspicion(s, victim)
        request = min(r.at for other in others for r in other.received_of(IndirectPing))
        assert at - request == pytest.approx(0.5, abs=0.005)
        for other in others[:3]:
            other.send(Suspect(1, "victim", other.name, refused=True))
        dead = await s.until(lambda: s.state_of("victim") is State.DEAD)
        assert dead - at == pytest.approx(4, abs=0.02)
        suspicions = [m for other in others for m in other.messages(Suspect)]
        assert Suspect(1, "victim", "us") in suspicions
        assert Suspect(1, "victim", "us", refused=True) not in suspicions


async def test_dials_of_a_rejecting_firewall_are_refused(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [a] = await s.add_members("a")
        s.network.cut(a.address, OURS, reject=True)
        with pytest.raises(ConnectionRefusedError) as caught:
            await a.transport.dial(OURS)
        assert caught.value.errno == errno.ECONNREFUSED
        s.network.mend(a.address, OURS)
        await (await a.transport.dial(OURS)).aclose()
