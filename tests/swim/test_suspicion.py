"""Suspicion times: formulas, running suspicions, and the member table."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.swim.helpers import OTHER, PEER, US, FakeMemberlist, alive
from trioserf.swim.broadcast_queue import retransmit_limit
from trioserf.swim.config import LAN, LOCAL, WAN, SwimOptions, Timing, push_pull_scale
from trioserf.swim.suspicion import (
    Suspicion,
    Suspicions,
    required_confirmations,
    suspicion_timeout,
    total_suspicion_time,
)
from trioserf.wire.swim_messages import Dead, State, Suspect

VECTORS = Path(__file__).parent.parent / "vectors" / "memberlist.json"
FORMULAS: dict[str, list[dict[str, Any]]] = json.loads(VECTORS.read_text())["formulas"]


@pytest.mark.parametrize("row", FORMULAS["suspicion_timeout"])
def test_suspicion_timeout_matches_vectors(row: dict[str, Any]) -> None:
    timeout = suspicion_timeout(row["suspicion_mult"], row["n"], row["probe_interval_ms"] / 1000)
    assert timeout == pytest.approx(row["timeout_ms"] / 1000, abs=1e-9)


@pytest.mark.parametrize("row", FORMULAS["remaining_suspicion_time"])
def test_total_suspicion_time_matches_vectors(row: dict[str, Any]) -> None:
    total = total_suspicion_time(row["confirmations"], row["k"], row["min_s"], row["max_s"])
    assert total - row["elapsed_s"] == pytest.approx(row["remaining_s"], abs=1e-9)


@pytest.mark.parametrize("row", FORMULAS["retransmit_limit"])
def test_retransmit_limit_matches_vectors(row: dict[str, Any]) -> None:
    assert retransmit_limit(row["retransmit_mult"], row["n"]) == row["limit"]


@pytest.mark.parametrize("row", FORMULAS["push_pull_scale"])
def test_push_pull_scale_matches_vectors(row: dict[str, Any]) -> None:
    assert push_pull_scale(row["interval_s"], row["n"]) == row["scaled_s"]


# (multiplier, members, required confirmations)
REQUIRED = [
    (4, 3, 0),
    (4, 4, 2),
    (4, 1000, 2),
    (6, 5, 0),
    (6, 6, 4),
    (3, 3, 1),
    (2, 9, 0),
    (1, 9, 0),
]


@pytest.mark.parametrize(("mult", "n", "required"), REQUIRED)
def test_required_confirmations_depend_on_multiplier_and_size(
    mult: int, n: int, required: int
) -> None:
    assert required_confirmations(mult, n) == required


@given(
    k=st.integers(0, 10),
    minimum=st.floats(0.001, 100),
    factor=st.integers(1, 10),
)
def test_each_confirmation_shortens_the_time_and_k_reach_the_minimum(
    k: int, minimum: float, factor: int
) -> None:
    maximum = minimum * factor
    times = [total_suspicion_time(c, k, minimum, maximum) for c in range(k + 3)]
    assert times == sorted(times, reverse=True)
    assert times[k] == pytest.approx(minimum)  # the sum is rounded, the minimum is not
    assert times[0] == pytest.approx(maximum if k else minimum, abs=0.001)


class TestSuspicion:
    def test_each_source_counts_once_except_the_first(self) -> None:
        suspicion = Suspicion("n", 1, 3, 2.0, 30.0, 100.0, "first")
        assert suspicion.deadline == 130.0
        assert not suspicion.confirm("first")
        assert suspicion.confirm("second")
        assert not suspicion.confirm("second")
        assert suspicion.deadline == 116.0
        assert suspicion.confirm("third")
        assert suspicion.deadline == pytest.approx(107.81)
        assert suspicion.confirm("fourth")
        assert suspicion.deadline == 102.0
        assert not suspicion.confirm("fifth")
        assert suspicion.confirmations == 3

    def test_confirmations_are_not_counted_if_none_is_required(self) -> None:
        suspicion = Suspicion("n", 1, 0, 2.0, 30.0, 100.0, "first")
        assert not suspicion.confirm("second")
        assert suspicion.deadline == 102.0


class TestSuspicions:
    def test_next_deadline_is_the_earliest(self) -> None:
        suspicions = Suspicions(LAN)
        initial = suspicions.next_deadline
        assert initial is None
        for number in range(5):
            suspicions.start(Suspect(1, f"n{number}", "us"), 10, float(number))
        assert suspicions.next_deadline == 24.0
        second = suspicions.get("n1")
        assert second is not None
        assert suspicions.confirm(second, "a")
        assert suspicions.confirm(second, "b")
        assert suspicions.next_deadline == 5.0
        suspicions.cancel("n1")
        assert suspicions.next_deadline == 24.0
        assert [s.node for s in suspicions.pop_expired(26.0)] == ["n0", "n2"]
        assert suspicions.next_deadline == 27.0
        assert len(suspicions) == 2

    def test_heap_of_cancelled_suspicions_stays_small(self) -> None:
        suspicions = Suspicions(LAN)
        suspicions.start(Suspect(1, "stays", "us"), 10, 0.0)
        for number in range(10_000):
            suspicions.start(Suspect(1, "n", "us"), 10, float(number))
            suspicions.cancel("n")
        assert len(suspicions._heap) < 200
        assert suspicions.next_deadline == 24.0


class TestMemberlist:
    def test_expired_suspect_is_declared_dead(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.suspect(Suspect(4, PEER, OTHER), 10.0)
        table.clear()
        assert table.next_suspicion_deadline == 14.0
        table.expire_suspicions(13.999)
        assert table.records[PEER].state is State.SUSPECT
        table.expire_suspicions(14.0)
        assert table.records[PEER].state is State.DEAD
        assert table.drain_broadcasts() == [Dead(4, PEER, US)]
        assert table.drain_events() == ["Left"]
        assert table.next_suspicion_deadline is None

    def test_refuted_suspicion_does_not_expire(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.SUSPECT, 1)
        table.alive(alive(PEER, 2), 1.0)
        assert table.next_suspicion_deadline is None
        table.suspect(Suspect(2, PEER, OTHER), 3.0)
        table.expire_suspicions(4.0)
        assert table.records[PEER].state is State.SUSPECT
        table.expire_suspicions(7.0)
        assert table.records[PEER].state is State.DEAD

    @pytest.mark.parametrize(("source", "logged"), [("us", 1), (OTHER, 0)])
    def test_refutation_of_own_suspicion_is_logged(
        self, caplog: pytest.LogCaptureFixture, source: str, logged: int
    ) -> None:
        caplog.set_level("INFO", "trioserf.memberlist")
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, table.name if source == "us" else source), 0.0)
        table.alive(alive(PEER, 2), 1.0)
        assert caplog.messages.count(f"{PEER!r} has refuted the suspicion") == logged

    def test_new_confirmations_are_rebroadcast_until_k(self) -> None:
        table = FakeMemberlist().with_members(8).with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, "m0"), 0.0)
        table.clear()
        deadlines = [table.next_suspicion_deadline]
        rebroadcast = []
        for source in ["m0", "m1", "m1", "m2", "m3"]:
            table.suspect(Suspect(1, PEER, source), 1.0)
            rebroadcast.append(len(table.drain_broadcasts()))
            table.clear()
            deadlines.append(table.next_suspicion_deadline)
        assert rebroadcast == [0, 1, 0, 1, 0]
        assert deadlines == pytest.approx([24.0, 24.0, 11.381, 11.381, 4.0, 4.0])

    def test_suspicion_lasts_the_minimum_without_lha_suspicion(self) -> None:
        table = FakeMemberlist(options=SwimOptions(lha_suspicion=False)).with_members(8)
        table.with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, "m0"), 0.0)
        table.clear()
        table.suspect(Suspect(1, PEER, "m1"), 0.0)
        assert (table.next_suspicion_deadline, table.drain_broadcasts()) == (4.0, [])

    @pytest.mark.parametrize(("timing", "seconds"), [(LAN, 24.0), (WAN, 180.0), (LOCAL, 18.0)])
    def test_profile_sets_suspicion_time(self, timing: Timing, seconds: float) -> None:
        table = FakeMemberlist(timing=timing).with_members(7).with_member(PEER, State.SUSPECT, 1)
        assert table.next_suspicion_deadline == seconds

    def test_failed_probe_makes_member_suspect(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "trioserf.memberlist")
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.probe_failed(table.records[PEER], 3, 0, 0, 1.0)
        assert table.drain_broadcasts() == [Suspect(3, PEER, US)]
        assert "'peer' (127.0.0.2:7946) does not answer" in caplog.text

    def test_failed_probe_of_older_incarnation_is_ignored(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.probe_failed(table.records[PEER], 2, 0, 0, 1.0)
        assert table.records[PEER].state is State.ALIVE
        assert table.drain_broadcasts() == []
