import pytest

from tests.serf.helpers import (
    broadcasts,
    drain_events,
    in_status,
    join,
    merge,
    push_pull,
    query,
    raw_broadcasts,
    serf,
    status,
)
from trioserf.serf.config import SerfOptions
from trioserf.serf.lamport import LAST_TIME
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    BufferedEvents,
    Join,
    SerfPushPull,
    Status,
    UserEvent,
)


def test_initial_local_state_has_self_only() -> None:
    assert serf("a").local_state() == SerfPushPull(1, {"a": 0}, (), 1, (), 1)


def test_local_state_has_members_events_and_clocks() -> None:
    state = in_status(Status.LEFT)
    state.user_event("deploy", b"v1")
    state.handle(query(9), 0.0)
    assert state.local_state() == SerfPushPull(
        6,
        {"a": 0, "b": 5, "c": 0},
        ("b",),
        2,
        (BufferedEvents(1, (("deploy", b"v1"),)),),
        10,
    )


@pytest.mark.parametrize(("remote", "then"), [(0, 1), (1, 1), (2, 2), (9, 9), (2**63, 2**63)])
def test_merge_sets_clocks_to_remote_clocks(remote: int, then: int) -> None:
    state = serf("a")
    merge(state, push_pull(remote, event_ltime=remote, query_ltime=remote))
    assert {state.clock.time, state.event_clock.time, state.query_clock.time} == {then}


def test_remote_clocks_at_end_of_range_hide_no_messages() -> None:
    state = serf("a")
    top = LAST_TIME
    merge(state, push_pull(top, {"b": top}, ("c",), top, (), top), join=True, ignore=True)
    assert {state.event_clock.time, state.query_clock.time} == {top}
    assert state.clock.time in {1, top}
    state.handle(encode(UserEvent(1, "x")), 0.0)
    state.handle(encode(UserEvent(top, "y")), 0.0)
    state.handle(encode(UserEvent(0, "z")), 0.0)
    assert drain_events(state.events) == [("user", "x"), ("user", "y"), ("user", "z")]
    assert [state.user_event("ours"), state.user_event("again")] == [1, 2]


@pytest.mark.parametrize(
    ("before", "ltime", "after"),
    [
        (Status.ALIVE, 3, Status.LEAVING),
        (Status.LEAVING, 5, Status.LEAVING),
        (Status.FAILED, 3, Status.LEFT),
        (Status.LEFT, 5, Status.LEFT),
    ],
)
def test_left_member_of_remote_state_leaves(before: Status, ltime: int, after: Status) -> None:
    state = in_status(before)
    state._table.records["b"].status_ltime = ltime
    merge(state, push_pull(9, {"b": ltime}, ("b",)))
    assert status(state, "b") is after
    assert state.local_state().status_ltimes["b"] == ltime + 1
    assert raw_broadcasts(state) == []


def test_later_join_intent_survives_left_member() -> None:
    state = serf("a", "b")
    state.handle(encode(Join(9, "b")), 0.0)
    merge(state, push_pull(9, {"b": 7}, ("b",)))
    assert status(state, "b") is Status.ALIVE


def test_left_member_that_is_alive_is_skipped() -> None:
    remote = push_pull(status_ltimes={"b": 9, "c": 9}, left=("b", "c"))
    state = serf("a", "b", "c")
    for step in state.merge_steps(remote, join=False, ignore_events=False, is_alive="b".__eq__):
        step(0.0)
    assert status(state, "b") is Status.ALIVE
    assert status(state, "c") is Status.LEAVING


def test_refutation_is_later_than_leave_at_next_ltime() -> None:
    state = serf("a", "b")
    merge(state, push_pull(status_ltimes={"a": 27}))
    [refutation] = [message for message in broadcasts(state) if isinstance(message, Join)]
    assert refutation.ltime > 27 + 1


def test_intent_about_earlier_run_is_refuted() -> None:
    state = serf("a", "b")
    merge(state, push_pull(12, {"a": 9, "b": 3}))
    later = state.local_state().status_ltimes["a"]
    assert later > 9
    assert raw_broadcasts(state) == [encode(Join(later, "a"))]


def test_other_members_of_remote_state_are_join_intents() -> None:
    state = in_status(Status.LEAVING)
    merge(state, push_pull(9, {"b": 7, "c": 4, "x": 3}))
    assert status(state, "b") is Status.ALIVE
    assert state.clock.time == 9
    assert state.local_state().status_ltimes == {"a": 0, "b": 7, "c": 4}
    join(state, "x")
    assert state.local_state().status_ltimes["x"] == 3


def test_unknown_left_member_is_not_buffered() -> None:
    """Its join intent may have the same time as the leave intent of the entry."""
    state = serf("a")
    merge(state, push_pull(9, {"x": 3}, ("x", "y")))
    join(state, "x")
    join(state, "y")
    assert status(state, "x") is status(state, "y") is Status.ALIVE
    assert state.local_state().status_ltimes == {"a": 0, "x": 0, "y": 0}


def test_left_member_entry_about_self_is_refuted() -> None:
    state = serf("a", "b")
    merge(state, push_pull(9, {"a": 12}, ("a",)))
    assert broadcasts(state) == [Join(14, "a")]
    assert status(state, "a") is Status.ALIVE


REPLAYED = (
    BufferedEvents(5, (("late", b""), ("later", b""))),
    None,
    BufferedEvents(3, (("early", b""),)),
)


def test_events_are_replayed_in_order_without_rebroadcast() -> None:
    state = serf("a")
    merge(state, push_pull(event_ltime=6, events=REPLAYED), join=True)
    assert [name for _, name in drain_events(state.events)] == ["early", "late", "later"]
    assert raw_broadcasts(state) == []
    merge(state, push_pull(event_ltime=6, events=REPLAYED), join=True)
    assert state.events == []


@pytest.mark.parametrize(
    ("join_flag", "ignore", "count"),
    [(True, True, 0), (True, False, 3), (False, True, 3), (False, False, 3)],
)
def test_events_before_join_can_be_ignored(join_flag: bool, ignore: bool, count: int) -> None:
    state = serf("a")
    merge(state, push_pull(event_ltime=6, events=REPLAYED), join=join_flag, ignore=ignore)
    assert len(state.events) == count
    state.events.clear()
    state.handle(encode(UserEvent(6, "new")), 0.0)
    assert drain_events(state.events) == [("user", "new")]


def test_push_pull_transfers_intents_and_events() -> None:
    a, b = serf("a", "b", "c"), serf("b", "a", "c")
    a.member_left("c", 0.0)
    b.member_left("c", 0.0)
    a.force_leave("c", now=1.0)
    a.user_event("deploy", b"v1")
    b.events.clear()
    merge(b, a.local_state())
    assert drain_events(b.events) == [("member-leave", "c"), ("user", "deploy")]
    assert b.member("c") == a.member("c")


@pytest.mark.parametrize("count", [511, 512, 513, 3000])
def test_large_state_is_merged_in_steps(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    state = serf("a", *names, options=SerfOptions(event_buffer=8192))
    for name in names:
        state.member_left(name, 0.0)
    state.events.clear()
    events = tuple(BufferedEvents(ltime, (("e", b""),)) for ltime in range(1, count + 1))
    ltimes = dict.fromkeys(names, 3) | {f"m{number}": 5 for number in range(count)}
    remote = push_pull(9, ltimes, (*names, *names), count + 1, events, 9)
    steps = state.merge_steps(remote, join=False, ignore_events=False, is_alive=lambda _: False)
    assert sum(1 for step in steps if step(0.0) is None) == -(-2 * count // 512)
    assert state.stats()["left"] == count
    assert drain_events(state.events).count(("user", "e")) == count
    join(state, f"m{count - 1}")
    assert state.local_state().status_ltimes[f"m{count - 1}"] == 5
