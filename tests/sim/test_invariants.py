"""The checker reports each violation of an invariant that a test causes."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from tests.sim.helpers import inject
from trioserf.serf.events import UserEventReceived
from trioserf.sim.cluster import SimCluster
from trioserf.sim.invariants import Violation
from trioserf.sim.network import LinkConditions
from trioserf.sim.scenario import Scenario, SimulationFailed, run
from trioserf.swim.node_record import NodeRecord
from trioserf.wire.swim_messages import DEAD, SUSPECT, Alive, Dead, Suspect


def _fails(scenario: Callable[[SimCluster], Awaitable[None]], match: str) -> SimulationFailed:
    with pytest.raises(SimulationFailed, match=match) as caught:
        run(Scenario(scenario), seed=1)
    return caught.value


_NO_TIME = -1.0
"""A bound in the past: any disagreement is a violation at once."""


def test_incarnation_raised_by_another_member_is_reported() -> None:
    async def suspect(cluster: SimCluster) -> None:
        """A suspicion has an incarnation that the member never had."""
        await cluster.grow(4)
        await cluster.settle()
        inject(cluster, Suspect(99, "n2", "unknown"))
        await trio.sleep(5)

    error = _fails(suspect, "incarnation: n1 recorded n2 in incarnation 99")
    assert "--scenario suspect --seed 1 --seeds 1" in str(error)
    assert "of virtual time" in str(error)
    assert error.trace.counts["member-suspect"] == 1


def test_failure_of_healthy_member_is_reported() -> None:
    async def dead(cluster: SimCluster) -> None:
        """A healthy member is declared dead."""
        await cluster.grow(4)
        await trio.sleep(60)
        inject(cluster, Dead(1, "n2", "unknown"))
        await trio.sleep(5)

    _fails(dead, "false alarm: n1 declared n2 failed, but it is up")


def test_duplicate_delivery_is_reported() -> None:
    async def duplicate(cluster: SimCluster) -> None:
        """An event is delivered twice."""
        await cluster.grow(2)
        event = UserEventReceived(1, "deploy", b"", False)
        cluster.checker.on_event(cluster.members["n1"], event)
        cluster.checker.on_event(cluster.members["n2"], event)
        cluster.checker.on_event(cluster.members["n1"], event)

    _fails(duplicate, "at most once: n1 received deploy@1 twice")


def test_dead_member_accepted_in_same_incarnation_is_reported() -> None:
    async def resurrect(cluster: SimCluster) -> None:
        """A dead record becomes alive without a message of its member."""
        await cluster.grow(3)
        await cluster.settle()
        await cluster.crash("n3")
        await cluster.settle()
        observer, node = cluster.members["n1"], cluster.node("n1")
        record, member = node.memberlist.records["n3"], node.member("n3")
        assert record.state is DEAD
        assert member is not None
        record.state = node.memberlist.local.state
        cluster.checker.on_member(observer, "member-join", member, record)

    _fails(resurrect, "resurrection: n1 accepted n3 in incarnation 1, but it died in 1")


def test_late_agreement_is_reported() -> None:
    async def hasty(cluster: SimCluster) -> None:
        """The bound is too short to detect a crash."""
        await cluster.grow(3)
        await cluster.settle()
        await cluster.crash("n3")
        with pytest.raises(Violation, match="n1 has n3 as alive, but it has crashed"):
            await cluster.settle(bound=1)

    run(Scenario(hasty), seed=1)


def test_refutation_just_before_a_crash_is_known() -> None:
    async def refute_and_crash(cluster: SimCluster) -> None:
        """A member refutes a suspicion and crashes before the next periodic check."""
        await cluster.grow(3)
        await cluster.settle()
        await trio.sleep_until(3.1)
        inject(cluster, Suspect(1, "n2", "unknown"), to="n2")
        await trio.sleep(0.3)
        await cluster.crash("n2")
        assert cluster.node("n1").memberlist.records["n2"].incarnation == 2
        await trio.sleep(5)

    run(Scenario(refute_and_crash, must_agree=False), seed=1)


def test_own_incarnation_that_decreases_is_reported() -> None:
    async def decrease(cluster: SimCluster) -> None:
        """A member returns to an earlier incarnation."""
        await cluster.grow(2)
        await cluster.node("n2").set_tags({"a": "b"})
        await trio.sleep(4)
        cluster.node("n2").memberlist.local.incarnation = 1
        await trio.sleep(4)

    _fails(decrease, "incarnation: n2 went from 2 to 1")


def test_duplicate_delivery_after_snapshot_restart_is_reported() -> None:
    async def restart(cluster: SimCluster) -> None:
        """An event is delivered again after a restart with a snapshot."""
        await cluster.grow(2)
        await cluster.settle()
        await cluster.event("n1", "deploy")
        await cluster.settle()
        event = UserEventReceived(1, "deploy", b"", False)
        await cluster.crash("n2")
        await cluster.restart("n2", snapshot=True)
        cluster.checker.on_event(cluster.members["n2"], event)

    _fails(restart, "at most once: n2 received deploy@1 twice")


def test_event_missing_at_an_expected_receiver_is_reported() -> None:
    async def miss(cluster: SimCluster) -> None:
        """An expected receiver does not receive an event."""
        await cluster.grow(3)
        await cluster.settle()
        cluster.checker.on_sent("deploy", b"", 1, cluster.checker.expected_receivers())
        for member in ("n1", "n2"):
            event = UserEventReceived(1, "deploy", b"", False)
            cluster.checker.on_event(cluster.members[member], event)
        await cluster.settle(bound=1)

    _fails(miss, "convergence: after 1 s without a fault: n3 did not receive the event deploy")


def _exceed(kind: str) -> Callable[[SimCluster], Awaitable[None]]:
    async def exceed(cluster: SimCluster) -> None:
        """A size in a node exceeds its bound."""
        await cluster.grow(2)
        await cluster.settle()
        node = cluster.node("n1")
        depths = node.queue_depths() | {kind: 100_000}
        if kind == "health":
            node.memberlist.awareness.score = 9
            cluster.checker.check_all()
        node.queue_depths = lambda: depths  # type: ignore[method-assign]
        await trio.sleep(4)

    return exceed


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
def test_size_beyond_its_bound_is_reported(kind: str) -> None:
    _fails(_exceed(kind), f"bounds: n1: {kind} is ")


def test_record_of_a_member_that_never_ran_is_reported() -> None:
    async def ghost(cluster: SimCluster) -> None:
        """A message announces a member that was never started."""
        await cluster.grow(3)
        await cluster.settle()
        alive = Alive(0, "ghost", bytes((10, 0, 0, 99)), 7946)
        inject(cluster, alive, attrs.evolve(alive, incarnation=1))
        await trio.sleep(5)

    _fails(ghost, "incarnation: n1 recorded ghost in incarnation 1, but its highest own is 0")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda record: setattr(record, "incarnation", 0), "has n3 in incarnation 0"),
        (lambda record: setattr(record, "state", SUSPECT), "has n3 as alive, but it is up"),
    ],
)
def test_difference_in_a_record_is_reported(
    change: Callable[[NodeRecord], None], difference: str
) -> None:
    async def differ(cluster: SimCluster) -> None:
        """One table differs from the state of the member."""
        await cluster.grow(3)
        await cluster.settle()
        change(cluster.node("n1").memberlist.records["n3"])
        await cluster.settle(bound=_NO_TIME)

    _fails(differ, f"convergence: after -1 s without a fault: n1 {difference}")


def test_old_tags_are_reported() -> None:
    async def differ(cluster: SimCluster) -> None:
        """Tags change behind a partition."""
        await cluster.grow(3)
        await cluster.settle()
        cluster.partition(["n3"])
        await cluster.node("n3").set_tags({"role": "db"})
        cluster.node("n3").memberlist.local.incarnation -= 1
        await cluster.settle(bound=_NO_TIME)

    _fails(differ, "convergence: after -1 s without a fault: n1 has old tags of n3")


def test_vacuous_run_fails() -> None:
    async def vacuous(cluster: SimCluster) -> None:
        """Required faults do not occur."""
        await cluster.grow(3)

    with pytest.raises(SimulationFailed, match="vacuous: this run had no drop and no suspicion"):
        run(Scenario(vacuous, must_observe={"drop", "suspicion"}), seed=1)


def test_exception_in_a_scenario_is_reported() -> None:
    async def broken(cluster: SimCluster) -> None:
        """A scenario with an error."""
        await cluster.grow(1)
        cluster.node("n9")

    error = _fails(broken, "KeyError: 'n9'")
    assert isinstance(error.__cause__, BaseException)


async def _spin(cluster: SimCluster) -> None:
    """Run for ever without a checkpoint."""
    while True:
        pass


async def _busy(cluster: SimCluster) -> None:
    """Run for ever; no time passes."""
    while True:
        await trio.lowlevel.checkpoint()


async def _wait(cluster: SimCluster) -> None:
    """Wait for ever; time passes quickly."""
    await cluster.grow(2)
    await trio.sleep_forever()


@pytest.mark.parametrize("on_interrupt", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("scenario", [_spin, _busy, _wait])
def test_endless_run_is_cut_off(
    scenario: Callable[[SimCluster], Awaitable[None]], on_interrupt: Any
) -> None:
    before = signal.signal(signal.SIGINT, on_interrupt)  # ignored in background jobs of a shell
    try:
        _check_cut_off(scenario)
        assert signal.getsignal(signal.SIGINT) is on_interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _check_cut_off(scenario: Callable[[SimCluster], Awaitable[None]]) -> None:
    with pytest.raises(
        SimulationFailed, match=r"SimulationTimeout: still running after 0\.3 s"
    ) as caught:
        run(Scenario(scenario), seed=4, limit=0.3)
    assert f"--scenario {scenario.__name__} --seed 4 --seeds 1" in str(caught.value)
    assert "of virtual time" in str(caught.value)
    timeout = caught.value.__cause__
    assert timeout is not None
    # An interruption can break Trio, so only a task without checkpoints is interrupted.
    assert (timeout.__cause__ is not None) == (scenario is _spin)


async def _lose_an_event(cluster: SimCluster) -> None:
    """No packet arrives after an event was sent."""
    cluster.network.link = LinkConditions(loss=1.0)
    await cluster.event("n1", "lost")
    await cluster.event("n2", "lost-too")
    await trio.sleep(10)


def test_late_event_without_a_partition_is_reported() -> None:
    async def late(cluster: SimCluster) -> None:
        """Events are lost."""
        await cluster.grow(3)
        await cluster.settle()
        await _lose_an_event(cluster)

    error = _fails(late, "delivery: n[23] did not receive lost within 3 s of calm")
    assert error.trace.seconds < 20


def test_event_may_be_late_after_a_partition() -> None:
    async def partitioned(cluster: SimCluster) -> None:
        """The same, after a partition."""
        await cluster.grow(3)
        await cluster.settle()
        cluster.partition(["n1"])
        cluster.heal()
        await _lose_an_event(cluster)

    run(Scenario(partitioned, must_agree=False, count_false_alarms=True), seed=1)
