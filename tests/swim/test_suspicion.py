"""How long a suspect has, in formulas and in a table."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.swim.kit import OTHER, PEER, US, FakeMemberlist, alive
from trioserf.swim.broadcast_queue import retransmit_limit
from trioserf.swim.config import LAN, LOCAL, WAN, SwimOptions, Timing, push_pull_scale
from trioserf.swim.suspicion import (
    Suspicion,
    Suspicions,
    remaining_suspicion_time,
    required_confirmations,
    suspicion_timeout,
    total_suspicion_time,
)
from trioserf.wire.swim_messages import Dead, State, Suspect

VECTORS = Path(__file__).parent.parent / "vectors" / "memberlist.json"
FORMULAS: dict[str, list[dict[str, Any]]] = json.loads(VECTORS.read_text())["formulas"]


@pytest.mark.parametrize("row", FORMULAS["suspicion_timeout"])
def test_suspicion_timeout(row: dict[str, Any]) -> None:
    timeout = suspicion_timeout(row["suspicion_mult"], row["n"], row["probe_interval_ms"] / 1000)
    assert timeout == pytest.approx(row["timeout_ms"] / 1000, abs=1e-9)


@pytest.mark.parametrize("row", FORMULAS["remaining_suspicion_time"])
def test_remaining_suspicion_time(row: dict[str, Any]) -> None:
    remaining = remaining_suspicion_time(
        row["confirmations"], row["k"], row["elapsed_s"], row["min_s"], row["max_s"]
    )
    assert remaining == pytest.approx(row["remaining_s"], abs=1e-9)


@pytest.mark.parametrize("row", FORMULAS["retransmit_limit"])
def test_retransmit_limit(row: dict[str, Any]) -> None:
    assert retransmit_limit(row["retransmit_mult"], row["n"]) == row["limit"]


@pytest.mark.parametrize("row", FORMULAS["push_pull_scale"])
def test_push_pull_scale(row: dict[str, Any]) -> None:
    assert push_pull_scale(row["interval_s"], row["n"]) == row["scaled_s"]


# (multiplier, members, wanted)
WANTED = [
    (4, 3, 0),
    (4, 4, 2),
    (4, 1000, 2),
    (6, 5, 0),
    (6, 6, 4),
    (3, 3, 1),
    (2, 9, 0),
    (1, 9, 0),
]


@pytest.mark.parametrize(("mult", "n", "wanted"), WANTED)
def test_wanted_confirmations(mult: int, n: int, wanted: int) -> None:
    assert required_confirmations(mult, n) == wanted


@given(
    k=st.integers(0, 10),
    minimum=st.floats(0.001, 100),
    factor=st.integers(1, 10),
)
def test_each_confirmation_shortens_and_k_of_them_reach_the_minimum(
    k: int, minimum: float, factor: int
) -> None:
    maximum = minimum * factor
    times = [total_suspicion_time(c, k, minimum, maximum) for c in range(k + 3)]
    assert times == sorted(times, reverse=True)
    assert times[k] == pytest.approx(minimum)  # the sum is rounded, the floor is not
    assert times[0] == pytest.approx(maximum if k else minimum, abs=0.001)


class TestOneSuspicion:
    def test_each_accuser_counts_once_and_the_first_not_at_all(self) -> None:
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

    def test_where_none_are_wanted_none_count(self) -> None:
        suspicion = Suspicion("n", 1, 0, 2.0, 30.0, 100.0, "first")
        assert not suspicion.confirm("second")
        assert suspicion.deadline == 102.0


class TestAllSuspicions:
    def test_the_earliest_deadline(self) -> None:
        suspicions = Suspicions(LAN)
        nothing = suspicions.next_deadline
        assert nothing is None
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

    def test_cancelled_ones_do_not_pile_up(self) -> None:
        suspicions = Suspicions(LAN)
        suspicions.start(Suspect(1, "stays", "us"), 10, 0.0)
        for number in range(10_000):
            suspicions.start(Suspect(1, "n", "us"), 10, float(number))
            suspicions.cancel("n")
        assert len(suspicions._heap) < 200
        assert suspicions.next_deadline == 24.0


class TestInATable:
    def test_expiry(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.suspect(Suspect(4, PEER, OTHER), 10.0)
        table.forget()
        assert table.next_suspicion_deadline == 14.0
        table.expire_suspicions(13.999)
        assert table.records[PEER].state is State.SUSPECT
        table.expire_suspicions(14.0)
        assert table.records[PEER].state is State.DEAD
        assert table.said() == [Dead(4, PEER, US)]
        assert table.happened() == ["Left"]
        assert table.next_suspicion_deadline is None

    def test_the_refuted_do_not_expire(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.SUSPECT, 1)
        table.alive(alive(PEER, 2), 1.0)
        assert table.next_suspicion_deadline is None
        table.suspect(Suspect(2, PEER, OTHER), 3.0)
        table.expire_suspicions(4.0)
        assert table.records[PEER].state is State.SUSPECT
        table.expire_suspicions(7.0)
        assert table.records[PEER].state is State.DEAD

    @pytest.mark.parametrize(("by", "told"), [("us", 1), (OTHER, 0)])
    def test_the_log_says_how_our_own_suspicion_ended(
        self, caplog: pytest.LogCaptureFixture, by: str, told: int
    ) -> None:
        caplog.set_level("INFO", "trioserf.memberlist")
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, table.name if by == "us" else by), 0.0)
        table.alive(alive(PEER, 2), 1.0)
        assert caplog.messages.count(f"{PEER!r} has refuted the suspicion") == told

    def test_confirmations_are_passed_on_while_they_are_news(self) -> None:
        table = FakeMemberlist().with_crowd(8).with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, "m0"), 0.0)
        table.forget()
        deadlines = [table.next_suspicion_deadline]
        passed_on = []
        for accuser in ["m0", "m1", "m1", "m2", "m3"]:
            table.suspect(Suspect(1, PEER, accuser), 1.0)
            passed_on.append(len(table.said()))
            table.forget()
            deadlines.append(table.next_suspicion_deadline)
        assert passed_on == [0, 1, 0, 1, 0]
        assert deadlines == pytest.approx([24.0, 24.0, 11.381, 11.381, 4.0, 4.0])

    def test_without_lifeguard_the_minimum_is_all_there_is(self) -> None:
        table = FakeMemberlist(options=SwimOptions(lha_suspicion=False)).with_crowd(8)
        table.with_member(PEER, State.ALIVE, 1)
        table.suspect(Suspect(1, PEER, "m0"), 0.0)
        table.forget()
        table.suspect(Suspect(1, PEER, "m1"), 0.0)
        assert (table.next_suspicion_deadline, table.said()) == (4.0, [])

    @pytest.mark.parametrize(("timing", "seconds"), [(LAN, 24.0), (WAN, 180.0), (LOCAL, 18.0)])
    def test_the_profiles(self, timing: Timing, seconds: float) -> None:
        table = FakeMemberlist(timing=timing).with_crowd(7).with_member(PEER, State.SUSPECT, 1)
        assert table.next_suspicion_deadline == seconds

    def test_a_failed_probe_suspects(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "trioserf.memberlist")
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.probe_failed(table.records[PEER], 3, 0, 0, 1.0)
        assert table.said() == [Suspect(3, PEER, US)]
        assert "'peer' (127.0.0.2:7946) does not answer" in caplog.text

    def test_a_failed_probe_of_an_older_incarnation_does_not(self) -> None:
        table = FakeMemberlist().with_member(PEER, State.ALIVE, 3)
        table.probe_failed(table.records[PEER], 2, 0, 0, 1.0)
        assert table.records[PEER].state is State.ALIVE
        assert table.said() == []
