from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serf.helpers import (
    broadcasts,
    drain_events,
    in_status,
    join,
    raw_broadcasts,
    serf,
    status,
)
from trioserf.serf.config import SerfOptions
from trioserf.serf.lamport import LAST_TIME
from trioserf.serf.member_table import MemberRecord
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import Join, Leave, Status
from trioserf.wire.swim_codec import USER


@pytest.mark.parametrize(
    ("before", "after", "emitted"),
    [
        (Status.ALIVE, Status.LEAVING, []),
        (Status.LEAVING, Status.LEAVING, []),
        (Status.FAILED, Status.LEFT, [("member-leave", "b")]),
        (Status.LEFT, Status.LEFT, []),
    ],
)
def test_leave_intent_changes_status(
    before: Status, after: Status, emitted: list[tuple[str, str]]
) -> None:
    state = in_status(before)
    message = Leave(9, "b")
    state.handle(encode(message), 1.0)
    assert status(state, "b") is after
    assert drain_events(state.events) == emitted
    assert state.clock.time == 10
    assert broadcasts(state) == [message]
    assert state.local_state().status_ltimes["b"] == 9


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.ALIVE, Status.ALIVE),
        (Status.LEAVING, Status.ALIVE),
        (Status.FAILED, Status.FAILED),
        (Status.LEFT, Status.LEFT),
    ],
)
def test_join_intent_changes_status(before: Status, after: Status) -> None:
    state = in_status(before)
    message = Join(9, "b")
    state.handle(encode(message), 1.0)
    assert status(state, "b") is after
    assert state.events == []
    assert broadcasts(state) == [message]
    assert state.local_state().status_ltimes["b"] == 9


@pytest.mark.parametrize("message", [Join(5, "b"), Leave(5, "b"), Join(4, "b"), Leave(4, "b")])
def test_intent_without_newer_ltime_is_ignored(message: Join | Leave) -> None:
    state = serf("a", "b")
    state.handle(encode(Join(5, "b")), 0.0)
    broadcasts(state)
    state.handle(encode(message), 1.0)
    assert status(state, "b") is Status.ALIVE
    assert broadcasts(state) == []


@given(st.permutations([Join(2, "b"), Leave(3, "b"), Join(4, "b"), Leave(5, "b")]))
def test_latest_intent_wins_in_any_order(messages: list[Join | Leave]) -> None:
    state = serf("a", "b")
    for message in messages:
        state.handle(encode(message), 0.0)
    assert status(state, "b") is Status.LEAVING
    assert state.local_state().status_ltimes["b"] == 5


def test_leave_intent_about_self_is_refuted() -> None:
    state = serf("a", "b")
    state.handle(encode(Leave(60, "a")), 0.0)
    assert status(state, "a") is Status.ALIVE
    assert broadcasts(state) == [Join(61, "a")]
    assert state.clock.time == 62
    assert state.local_state().status_ltimes["a"] == 61


def test_own_leave_is_not_refuted_while_leaving() -> None:
    state = serf("a", "b")
    state.announce_leave(0.0)
    assert status(state, "a") is Status.LEAVING
    broadcasts(state)
    state.handle(encode(Leave(60, "a")), 0.0)
    assert broadcasts(state) == [Leave(60, "a")]


def test_refutation_is_gossiped_first() -> None:
    state = serf("a", "b", "c")
    state.handle(encode(Join(50, "c")), 0.0)
    state.handle(encode(Leave(60, "a")), 0.0)
    first = bytes((USER,)) + encode(Join(61, "a"))
    assert state.queues["Intent"].fill_packet(0, len(first)) == [first]


def test_join_intent_has_current_ltime() -> None:
    state = serf("a", "b")
    state.clock.witness(7)
    state.announce_join(0.0)
    assert broadcasts(state) == [Join(8, "a")]
    assert state.clock.time == 9


def test_leave_is_done_after_last_transmit() -> None:
    state = serf("a", "b")
    done: list[str] = []
    state.announce_leave(0.0, lambda: done.append("done"))
    assert done == []
    assert broadcasts(state) == [Leave(1, "a")]
    assert done == ["done"]
    assert state.clock.time == 2


@pytest.mark.parametrize("other", [None, Status.FAILED, Status.LEFT, Status.LEAVING])
def test_leave_without_other_alive_members_is_done_at_once(other: Status | None) -> None:
    state = serf("a") if other is None else in_status(other)
    state.member_left("c", 0.0)
    done: list[str] = []
    state.announce_leave(0.0, lambda: done.append("done"))
    assert done == ["done"]
    assert raw_broadcasts(state) == []


# --- intents without a member ---


@pytest.mark.parametrize(
    ("message", "expected"),
    [(Join(5, "b"), Status.ALIVE), (Leave(5, "b"), Status.LEAVING)],
)
def test_intent_about_unknown_member_is_buffered(message: Join | Leave, expected: Status) -> None:
    state = serf("a")
    state.handle(encode(message), 0.0)
    assert broadcasts(state) == [message]
    join(state, "b", now=300.0)
    assert status(state, "b") is expected
    assert state.local_state().status_ltimes["b"] == 5


def test_buffered_intent_expires() -> None:
    state = serf("a")
    state.handle(encode(Leave(5, "b")), 0.0)
    join(state, "b", now=300.1)
    assert status(state, "b") is Status.ALIVE
    assert state.local_state().status_ltimes["b"] == 0


def test_expired_buffered_intents_are_reaped() -> None:
    state = serf("a")
    state.handle(encode(Leave(5, "b")), 0.0)
    state.reap(300.0)
    assert len(state._intents._buffer) == 1
    state.reap(300.1)
    assert len(state._intents._buffer) == 0


def test_latest_buffered_intent_counts_and_is_rebroadcast() -> None:
    state = serf("a")
    state.handle(encode(Join(6, "b")), 0.0)
    broadcasts(state)
    state.handle(encode(Leave(5, "b")), 0.0)
    state.handle(encode(Leave(6, "b")), 0.0)
    assert broadcasts(state) == []
    join(state, "b")
    assert status(state, "b") is Status.ALIVE


def test_buffered_intent_is_used_once() -> None:
    state = serf("a", "c")
    state.handle(encode(Leave(5, "b")), 0.0)
    join(state, "b", now=1.0)
    state.member_left("b", 2.0)
    state.force_leave("b", prune=True, now=3.0)
    join(state, "b", now=4.0)
    assert status(state, "b") is Status.ALIVE


def test_buffered_intents_are_bounded_and_latest_are_kept() -> None:
    state = serf("a", options=SerfOptions(intents_kept=16, max_queue_depth=100))
    for number in range(1000):
        state.handle(encode(Leave(number + 1, f"n{number}")), 0.0)
    assert len(state._intents._buffer) <= 16
    assert "n999" in state._intents._buffer
    assert len(state.queues["Intent"]) <= 200


@pytest.mark.parametrize("last", [LAST_TIME - 1000, LAST_TIME - 1, LAST_TIME])
def test_intent_from_end_of_range_can_be_superseded(last: int) -> None:
    state = serf("a", "b")
    state.handle(encode(Leave(last, "b")), 0.0)
    assert status(state, "b") is Status.LEAVING
    state.handle(encode(Join(6, "b")), 0.0)
    assert status(state, "b") is Status.ALIVE
    state.handle(encode(Leave(7, "b")), 0.0)
    assert status(state, "b") is Status.LEAVING


def test_wrapped_clock_is_set_behind_known_intents() -> None:
    state = serf("a", "b", "c")
    state.handle(encode(Join(40, "b")), 0.0)
    state.handle(encode(Join(LAST_TIME - 1, "x")), 0.0)
    assert state.clock.time == LAST_TIME
    state.handle(encode(Join(LAST_TIME, "x")), 0.0)
    assert state.clock.time == 41
    state.force_leave("c", now=0.0)
    assert status(state, "c") is Status.LEAVING
    state.clock.time = LAST_TIME
    state.force_leave("c", now=0.0)
    assert state.clock.time == 42  # also behind the first intent about c, which was at 41


def test_wrap_of_clock_does_not_search_the_table() -> None:
    class Records(dict[str, MemberRecord]):
        def values(self) -> NoReturn:
            raise AssertionError("the table is searched")

    state = serf("a", "b", "c")
    state.handle(encode(Join(40, "b")), 0.0)
    state._table.records = Records(state._table.records)
    for _ in range(3):
        state.handle(encode(Join(LAST_TIME - 1, "x")), 0.0)
        state.handle(encode(Join(LAST_TIME, "x")), 0.0)
        assert state.clock.time == 41


def test_wrapped_clock_is_behind_buffered_intent_of_new_member() -> None:
    state = serf("a", "b")
    state.handle(encode(Leave(50, "c")), 0.0)
    join(state, "c")
    state.clock.time = LAST_TIME
    state.handle(encode(Join(LAST_TIME, "x")), 0.0)
    assert state.clock.time == 51


def test_jump_to_last_time_is_not_followed() -> None:
    state = serf("a", "b")
    state.handle(encode(Join(LAST_TIME, "b")), 0.0)
    assert state.clock.time == 1


def test_leave_intent_after_far_jump_is_refuted() -> None:
    state = serf("a", "b")
    state.handle(encode(Leave(2**63, "a")), 0.0)
    assert broadcasts(state) == [Join(2**63 + 1, "a")]
    state.handle(encode(Join(6, "b")), 0.0)
    assert broadcasts(state) == [Join(6, "b")]


# --- forced leaves ---


def test_force_leave_marks_failed_member_as_left() -> None:
    state = in_status(Status.FAILED)
    done: list[str] = []
    now = 1.0
    assert state.force_leave("b", now=now, on_done=lambda: done.append("done"))
    assert status(state, "b") is Status.LEFT
    assert drain_events(state.events) == [("member-leave", "b")]
    assert state.local_state().left_members == ("b",)
    assert broadcasts(state) == [Leave(1, "b")]
    assert done == ["done"]


def test_force_leave_of_unknown_member_is_broadcast() -> None:
    state = serf("a", "c")
    assert not state.force_leave("b", now=0.0)
    assert broadcasts(state) == [Leave(1, "b")]


@pytest.mark.parametrize("before", [Status.FAILED, Status.LEFT])
def test_prune_erases_dead_member_at_once(before: Status) -> None:
    state = in_status(before)
    state.handle(encode(Leave(9, "b", prune=True)), 1.0)
    assert state.member("b") is None
    leave = [("member-leave", "b")] if before is Status.FAILED else []
    assert drain_events(state.events) == [*leave, ("member-reap", "b")]
    assert (state.stats()["failed"], state.stats()["left"]) == (0, 0)


@pytest.mark.parametrize("before", [Status.ALIVE, Status.LEAVING])
def test_prune_erases_leaving_member_after_delay(before: Status) -> None:
    state = in_status(before)
    state.handle(encode(Leave(9, "b", prune=True)), 1.0)
    assert status(state, "b") is Status.LEAVING
    assert state.next_deadline == 7.0
    state.member_left("b", 2.0)
    state.expire(6.9)
    assert status(state, "b") is Status.LEFT
    state.expire(7.0)
    assert state.member("b") is None
    assert drain_events(state.events) == [("member-leave", "b"), ("member-reap", "b")]
    assert state.next_deadline is None


def test_prune_is_cancelled_by_later_join_intent() -> None:
    state = in_status(Status.ALIVE)
    state.handle(encode(Leave(9, "b", prune=True)), 1.0)
    state.handle(encode(Join(10, "b")), 2.0)
    assert state.next_deadline is None
    state.expire(7.0)
    assert status(state, "b") is Status.ALIVE


def test_rejoined_member_is_not_pruned() -> None:
    state = in_status(Status.ALIVE)
    state.handle(encode(Leave(9, "b", prune=True)), 1.0)
    state.member_left("b", 2.0)
    join(state, "b", now=3.0)
    state.expire(7.0)
    assert status(state, "b") is Status.ALIVE


def test_repeated_prune_keeps_first_deadline() -> None:
    state = in_status(Status.ALIVE)
    for ltime in range(9, 50):
        state.handle(encode(Leave(ltime, "b", prune=True)), float(ltime))
    assert state.next_deadline == 15.0
    state.expire(15.0)
    assert drain_events(state.events) == [("member-reap", "b")]
    assert state.next_deadline is None


def test_prune_of_self_is_ignored() -> None:
    state = serf("a", "b")
    state.announce_leave(0.0)
    state.handle(encode(Leave(9, "a", prune=True)), 1.0)
    assert state.next_deadline is None
