"""The judge sees what must not be: each invariant, broken on purpose."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from trioserf.serf.events import UserEventReceived
from trioserf.sim.cluster import SimCluster
from trioserf.sim.invariants import Violation
from trioserf.sim.scenario import Scenario, SimulationFailed, run
from trioserf.swim.node_record import NodeRecord
from trioserf.wire.packet import PacketCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import DEAD, SUSPECT, Alive, Dead, Suspect


def _fails(play: Callable[[SimCluster], Awaitable[None]], match: str) -> SimulationFailed:
    with pytest.raises(SimulationFailed, match=match) as caught:
        run(Scenario.of(play), seed=1)
    return caught.value


_NO_TIME = -1.0
"""A bound that has passed already: whoever disagrees now, fails."""


async def _slander(world: SimCluster, *messages: Suspect | Dead) -> None:
    """Send the first member what nobody has a right to say."""
    liar = world.network.open(("10.9.9.9", 7946))
    for message in messages:
        for packet in PacketCodec(keyring=None).pack([encode(message)], crc=False):
            liar.send_packet(packet, world.members["n1"].address)
    await trio.sleep(5)


def test_nobody_else_raises_an_incarnation() -> None:
    async def slander(world: SimCluster) -> None:
        """Somebody invents an incarnation."""
        await world.grow(4)
        await world.settle()
        await _slander(world, Suspect(99, "n2", "liar"))

    error = _fails(slander, "incarnation: n1 holds n2 in incarnation 99")
    assert "--scenario slander --seed 1 --seeds 1" in str(error)
    assert "of virtual time" in str(error)
    assert error.trace.counts["member-suspect"] == 1


def test_healthy_members_are_not_failed() -> None:
    async def slander(world: SimCluster) -> None:
        """Somebody declares a healthy member dead."""
        await world.grow(4)
        await trio.sleep(60)
        await _slander(world, Dead(1, "n2", "liar"))

    _fails(slander, "false alarm: n1 declares n2 failed, which is up")


def test_no_event_is_delivered_twice() -> None:
    async def echo(world: SimCluster) -> None:
        """An event comes again."""
        await world.grow(2)
        event = UserEventReceived(1, "deploy", b"", False)
        world.judge.on_event(world.members["n1"], event)
        world.judge.on_event(world.members["n2"], event)
        world.judge.on_event(world.members["n1"], event)

    _fails(echo, "at most once: n1 got deploy@1 twice")


def test_nobody_comes_back_in_the_incarnation_of_its_death() -> None:
    async def undead(world: SimCluster) -> None:
        """A record is brought back to life without a word of its member."""
        await world.grow(3)
        await world.settle()
        await world.crash("n3")
        await world.settle()
        who, node = world.members["n1"], world.node("n1")
        record, member = node.memberlist.records["n3"], node.member("n3")
        assert record.state is DEAD
        assert member is not None
        record.state = node.memberlist.local.state
        world.judge.on_member(who, "member-join", member, record)

    _fails(undead, "resurrection: n3 came back at n1 in incarnation 1, but died in 1")


def test_all_must_agree_in_time() -> None:
    async def hasty(world: SimCluster) -> None:
        """Nobody has the time to notice."""
        await world.grow(3)
        await world.settle()
        await world.crash("n3")
        with pytest.raises(Violation, match="n1 holds n3 for alive, it crashed"):
            await world.settle(bound=1)

    run(Scenario.of(hasty), seed=1)


def test_the_last_words_of_the_dead_are_known() -> None:
    async def last_words(world: SimCluster) -> None:
        """A member refutes an accusation, and crashes before the judge looks at it again."""
        await world.grow(3)
        await world.settle()
        await trio.sleep_until(3.1)
        liar = world.network.open(("10.9.9.9", 7946))
        for packet in PacketCodec(keyring=None).pack(
            [encode(Suspect(1, "n2", "liar"))], crc=False
        ):
            liar.send_packet(packet, world.members["n2"].address)
        await trio.sleep(0.3)
        await world.crash("n2")
        assert world.node("n1").memberlist.records["n2"].incarnation == 2
        await trio.sleep(5)

    run(Scenario.of(last_words, must_agree=False), seed=1)


def test_no_incarnation_goes_back() -> None:
    async def amnesia(world: SimCluster) -> None:
        """A member forgets what it has said of itself."""
        await world.grow(2)
        await world.node("n2").set_tags({"a": "b"})
        await trio.sleep(4)
        world.node("n2").memberlist.local.incarnation = 1
        await trio.sleep(4)

    _fails(amnesia, "incarnation: n2 went from 2 to 1")


def test_who_restores_a_snapshot_gets_no_event_again() -> None:
    async def again(world: SimCluster) -> None:
        """An event comes once more after a restart with a snapshot."""
        await world.grow(2)
        await world.settle()
        await world.event("n1", "deploy")
        await world.settle()
        event = UserEventReceived(1, "deploy", b"", False)
        await world.crash("n2")
        await world.restart("n2", snapshot=True)
        world.judge.on_event(world.members["n2"], event)

    _fails(again, "at most once: n2 got deploy@1 twice")


def test_everyone_who_was_there_must_get_an_event() -> None:
    async def deaf(world: SimCluster) -> None:
        """A member is said to have been there, and is not given the event."""
        await world.grow(3)
        await world.settle()
        world.judge.sent("deploy", b"", 1, world.judge.expected_receivers())
        for member in ("n1", "n2"):
            event = UserEventReceived(1, "deploy", b"", False)
            world.judge.on_event(world.members[member], event)
        await world.settle(bound=5)

    _fails(deaf, "convergence: after 5 s without a fault: n3 did not get the event deploy")


def _grows(kind: str) -> Callable[[SimCluster], Awaitable[None]]:
    async def grow(world: SimCluster) -> None:
        """Something in a node grows without end."""
        await world.grow(2)
        await world.settle()
        node = world.node("n1")
        depths = node.queue_depths() | {kind: 100_000}
        if kind == "health":
            node.memberlist.awareness.score = 9
            world.judge.check_all()
        node.queue_depths = lambda: depths  # type: ignore[method-assign]
        await trio.sleep(4)

    return grow


@pytest.mark.parametrize(
    "kind",
    [
        "inbox",
        "membership",
        "intent",
        "event",
        "query",
        "suspicions",
        "probes",
        "relays",
        "health",
    ],
)
def test_nothing_grows_without_bound(kind: str) -> None:
    _fails(_grows(kind), f"bounds: n1: {kind} is ")


def test_nobody_believes_in_members_that_never_were() -> None:
    async def ghosts(world: SimCluster) -> None:
        """Somebody tells of members that nobody has started."""
        await world.grow(3)
        await world.settle()
        liar = world.network.open(("10.9.9.9", 7946))
        ghost = Alive(0, "ghost", bytes((10, 0, 0, 99)), 7946)
        for message in (ghost, attrs.evolve(ghost, incarnation=1)):
            for packet in PacketCodec(keyring=None).pack([encode(message)], crc=False):
                liar.send_packet(packet, world.members["n1"].address)
        await trio.sleep(5)

    _fails(
        ghosts, "incarnation: n1 holds ghost in incarnation 1, which itself never went beyond 0"
    )


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda record: setattr(record, "incarnation", 0), "knows n3 in incarnation 0"),
        (lambda record: setattr(record, "state", SUSPECT), "holds n3 for alive, it is up"),
    ],
)
def test_tables_must_agree_in_every_respect(
    spoil: Callable[[NodeRecord], None], what: str
) -> None:
    async def differ(world: SimCluster) -> None:
        """One table differs from what its subject says."""
        await world.grow(3)
        await world.settle()
        spoil(world.node("n1").memberlist.records["n3"])
        await world.settle(bound=_NO_TIME)

    _fails(differ, f"convergence: after -1 s without a fault: n1 {what}")


def test_old_tags_are_no_agreement() -> None:
    async def differ(world: SimCluster) -> None:
        """Tags change, and nobody has had the time to hear of it."""
        await world.grow(3)
        await world.settle()
        world.partition(["n3"])
        await world.node("n3").set_tags({"role": "db"})
        world.node("n3").memberlist.local.incarnation -= 1
        await world.settle(bound=_NO_TIME)

    _fails(differ, "convergence: after -1 s without a fault: n1 knows old tags of n3")


def test_a_tame_run_fails() -> None:
    async def tame(world: SimCluster) -> None:
        """Faults are promised and do not come."""
        await world.grow(3)

    with pytest.raises(SimulationFailed, match="tameness: this run has shown no drop and no susp"):
        run(Scenario.of(tame, must_observe={"drop", "suspicion"}), seed=1)


def test_what_breaks_a_node_is_reported() -> None:
    async def broken(world: SimCluster) -> None:
        """A scenario that cannot go on."""
        await world.grow(1)
        world.node("n9")

    error = _fails(broken, "KeyError: 'n9'")
    assert isinstance(error.__cause__, BaseException)


async def _spin(world: SimCluster) -> None:
    """Never comes to an end, and never gives way."""
    while True:
        pass


async def _busy(world: SimCluster) -> None:
    """Never comes to an end; no time passes."""
    while True:
        await trio.lowlevel.checkpoint()


async def _wait(world: SimCluster) -> None:
    """Waits for what never comes; time flies."""
    await world.grow(2)
    await trio.sleep_forever()


@pytest.mark.parametrize("on_interrupt", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("play", [_spin, _busy, _wait])
def test_a_run_that_does_not_end_is_cut_off(
    play: Callable[[SimCluster], Awaitable[None]], on_interrupt: Any
) -> None:
    before = signal.signal(signal.SIGINT, on_interrupt)  # ignored in a shell's background
    try:
        _is_cut_off(play)
        assert signal.getsignal(signal.SIGINT) is on_interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _is_cut_off(play: Callable[[SimCluster], Awaitable[None]]) -> None:
    with pytest.raises(
        SimulationFailed, match=r"SimulationTimeout: still running after 0\.3 s"
    ) as caught:
        run(Scenario.of(play), seed=4, limit=0.3)
    assert f"--scenario {play.__name__} --seed 4 --seeds 1" in str(caught.value)
    assert "of virtual time" in str(caught.value)
    too_long = caught.value.__cause__
    assert too_long is not None
    # An interruption may strike within Trio: only who does not give way is interrupted.
    assert (too_long.__cause__ is not None) == (play is _spin)
