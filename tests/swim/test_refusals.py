"""Refused connections: which members connect, what counts, when a suspect is declared dead."""

import pytest

from tests.swim.helpers import OTHER, PEER, US, FakeMemberlist, alive
from trioserf.swim.config import SwimOptions
from trioserf.swim.events import Cause, Left
from trioserf.swim.refusals import MAX_CHECKERS, is_checker, required_refusals
from trioserf.wire.swim_messages import Dead, State, Suspect


@pytest.mark.parametrize(("n", "required"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (99, 3)])
def test_three_refusals_are_required_or_fewer_in_a_small_cluster(n: int, required: int) -> None:
    assert required_refusals(n) == required


class TestCheckers:
    def test_eight_members_connect_to_a_suspect(self) -> None:
        table = FakeMemberlist().with_members(40)
        chosen = set()
        for incarnation in range(1, 60):
            suspect = table.records["m0"]
            suspect.incarnation = incarnation
            checkers = {
                name
                for name in table.records
                if name != "m0" and is_checker(name, suspect, table.records.values())
            }
            assert len(checkers) == MAX_CHECKERS
            chosen |= checkers
        assert len(chosen) > 30  # each suspicion has other ones

    def test_all_members_of_a_small_cluster_connect(self) -> None:
        table = FakeMemberlist().with_members(8)
        suspect = table.records["m0"]
        others = [name for name in table.records if name != "m0"]
        assert len(others) == 8
        assert all(is_checker(name, suspect, table.records.values()) for name in others)

    def test_dead_members_are_not_counted(self) -> None:
        table = FakeMemberlist().with_members(40)
        for number in range(1, 35):
            table.dead(Dead(1, f"m{number}", OTHER), 0.0)
        assert is_checker(US, table.records["m0"], table.records.values())

    def test_member_that_suspects_without_a_refusal_does_not_connect(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        record = table.records[PEER]
        table.probe_failed(record, 1, 0, 0, 0.0, "unreachable")
        assert not table.must_connect(record)
        table.alive(alive(PEER, 2), 0.0)
        table.probe_failed(record, 2, 0, 0, 0.0, "refused")
        assert table.must_connect(record)


def suspected(*, refused: bool = False, options: SwimOptions | None = None) -> FakeMemberlist:
    """Return a table of ten members, one of which OTHER suspects."""
    table = FakeMemberlist(options=options).with_members(7).with_member(OTHER, State.ALIVE, 1)
    table.with_member(PEER, State.ALIVE, 1)
    table.suspect(Suspect(1, PEER, OTHER, refused), 0.0)
    table.clear()
    return table


def claim(table: FakeMemberlist, *sources: str, now: float = 0.1) -> None:
    for source in sources:
        table.suspect(Suspect(1, PEER, source, refused=True), now)


class TestDeclaringDead:
    def test_own_refusal_confirms_the_suspicion(self) -> None:
        table = suspected()
        assert table.connection_refused(PEER, 1, 0.1) == 2.1
        assert table.drain_broadcasts() == [Suspect(1, PEER, US, refused=True)]
        assert table.next_suspicion_deadline == pytest.approx(11.381)
        table.clear()
        assert table.connection_refused(PEER, 1, 0.5) == 2.1
        assert table.drain_broadcasts() == []

    def test_three_refusals_and_two_seconds_declare_it_dead(self) -> None:
        table = suspected(refused=True)
        claim(table, "m0")
        at = table.connection_refused(PEER, 1, 0.1)
        assert at == 2.1
        assert table.records[PEER].state is State.SUSPECT
        table.clear()
        assert table.connection_refused(PEER, 1, at) is None
        assert table.records[PEER].state is State.DEAD
        assert table.drain_broadcasts() == [Dead(1, PEER, US)]
        [left] = table.events
        assert isinstance(left, Left)
        assert left.cause == Cause(OTHER, "refused", US)

    def test_two_refusals_are_too_few(self) -> None:
        table = suspected(refused=True)
        assert table.connection_refused(PEER, 1, 0.1) == 2.1
        assert table.connection_refused(PEER, 1, 2.1) == 2.6
        claim(table, "m0", now=2.2)
        assert table.connection_refused(PEER, 1, 2.6) is None
        assert table.records[PEER].state is State.DEAD

    def test_suspicions_for_other_reasons_are_no_refusals(self) -> None:
        table = suspected(refused=True)
        for source in ("m0", "m1"):
            table.suspect(Suspect(1, PEER, source), 0.1)
        table.connection_refused(PEER, 1, 0.2)
        assert table.connection_refused(PEER, 1, 2.2) is not None
        assert table.records[PEER].state is State.SUSPECT

    def test_claims_of_others_alone_declare_nothing(self) -> None:
        table = suspected(refused=True)
        claim(table, "m0", "m1", "m2", "forged")
        least = 4.0
        table.expire_suspicions(least - 0.001)
        assert table.records[PEER].state is State.SUSPECT
        assert table.next_suspicion_deadline == least

    def test_refuted_suspicion_ends_the_connections(self) -> None:
        table = suspected(refused=True)
        claim(table, "m0")
        table.connection_refused(PEER, 1, 0.1)
        table.alive(alive(PEER, 2), 1.0)
        assert table.connection_refused(PEER, 1, 2.1) is None
        table.suspect(Suspect(2, PEER, OTHER), 2.0)  # another suspicion
        assert table.connection_refused(PEER, 1, 2.1) is None
        assert table.records[PEER].state is State.SUSPECT

    def test_refusal_of_an_unknown_or_dead_member_is_ignored(self) -> None:
        table = suspected()
        table.dead(Dead(1, PEER, OTHER), 0.0)
        assert table.connection_refused(PEER, 1, 0.1) is None
        assert table.connection_refused("unknown", 1, 0.1) is None

    def test_late_refusals_are_rebroadcast_until_enough_are_known(self) -> None:
        table = suspected()
        for source in ("m0", "m1"):  # Lifeguard needs no more
            table.suspect(Suspect(1, PEER, source), 0.1)
        rebroadcast = []
        for source in ("m0", "m2", "m2", "m3", "m4"):
            table.clear()
            claim(table, source)
            rebroadcast.append(len(table.drain_broadcasts()))
        assert rebroadcast == [1, 1, 0, 1, 0]

    def test_nothing_is_early_without_refusal_timeout(self) -> None:
        table = suspected(refused=True, options=SwimOptions(refusal_timeout=0))
        claim(table, "m0", "m1")
        table.connection_refused(PEER, 1, 0.1)
        table.connection_refused(PEER, 1, 3.9)
        assert table.records[PEER].state is State.SUSPECT

    def test_refused_probe_does_not_worsen_our_health(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.probe_failed(table.records[PEER], 1, 3, 0, 1.0, "refused")
        assert table.awareness.score == 0
        assert table.drain_broadcasts() == [Suspect(1, PEER, US, refused=True)]


class TestCause:
    @pytest.mark.parametrize(
        ("cause", "text"),
        [
            (
                Cause("a", "refused", "b"),
                "suspected first by 'a' (connection refused), declared failed by 'b'",
            ),
            (Cause("", None, "b"), "declared failed by 'b'"),
        ],
    )
    def test_text_names_members_and_reason(self, cause: Cause, text: str) -> None:
        assert cause.text == text

    def test_failure_is_logged_with_its_cause(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "trioserf.memberlist")
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.probe_failed(table.records[PEER], 1, 0, 0, 0.0, "unreachable")
        table.dead(Dead(1, PEER, OTHER), 1.0)
        assert caplog.messages[-1] == (
            "'peer' has failed: suspected first by 'us' (unreachable by both TCP and UDP),"
            " declared failed by 'other'"
        )

    def test_failure_without_a_known_suspicion_names_who_declared_it(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.dead(Dead(1, PEER, OTHER), 1.0)
        [left] = table.events
        assert isinstance(left, Left)
        assert left.cause == Cause("", None, OTHER)

    def test_reason_that_a_member_of_serf_has_lost_is_taken_from_a_later_copy(self) -> None:
        table = suspected()  # by OTHER, without a reason
        claim(table, "m0", "m1", "m2", "m3", OTHER)
        table.dead(Dead(1, PEER, "m0"), 1.0)
        left = table.events[-1]
        assert isinstance(left, Left)
        assert left.cause == Cause(OTHER, "refused", "m0")

    def test_reason_of_another_member_does_not_count_for_the_first(self) -> None:
        table = suspected()
        claim(table, "m0")
        table.dead(Dead(1, PEER, "m0"), 1.0)
        left = table.events[-1]
        assert isinstance(left, Left)
        assert left.cause == Cause(OTHER, "reported", "m0")

    def test_leave_has_no_cause(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.dead(Dead(1, PEER, PEER), 1.0)
        [left] = table.events
        assert isinstance(left, Left)
        assert left.cause is None
