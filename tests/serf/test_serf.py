import logging

import pytest

from tests.serf.helpers import (
    Cluster,
    broadcasts,
    in_status,
    join,
    kinds,
    query,
    raw_broadcasts,
    serf,
    status,
)
from trioserf.serf.config import SerfOptions
from trioserf.serf.lamport import LAST_TIME
from trioserf.serf.serf import Serf
from trioserf.serf.snapshot import LamportTimes
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    BufferedEvents,
    Join,
    KeyRequest,
    Leave,
    SerfPushPull,
    Status,
    UserEvent,
)


def push_pull(
    ltime: int = 0,
    status_ltimes: dict[str, int] | None = None,
    left: tuple[str, ...] = (),
    event_ltime: int = 0,
    events: tuple[BufferedEvents | None, ...] = (),
    query_ltime: int = 0,
) -> SerfPushPull:
    return SerfPushPull(ltime, status_ltimes or {}, left, event_ltime, events, query_ltime)


def merge(state: Serf, remote: SerfPushPull, *, join: bool = False, ignore: bool = False) -> None:
    state.merge_remote_state(remote, join=join, ignore_events=ignore, now=0.0)


# --- push/pull ---


def test_initial_local_state() -> None:
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
    assert kinds(state.events) == [("user", "x"), ("user", "y"), ("user", "z")]
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
    [answer] = [one for one in broadcasts(state) if isinstance(one, Join)]
    assert answer.ltime > 27 + 1


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
    """Its join may bear the very time that a leave made of this would have."""
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
    assert [name for _, name in kinds(state.events)] == ["early", "late", "later"]
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
    assert kinds(state.events) == [("user", "new")]


def test_push_pull_transfers_intents_and_events() -> None:
    a, b = serf("a", "b", "c"), serf("b", "a", "c")
    a.member_left("c", 0.0)
    b.member_left("c", 0.0)
    a.force_leave("c", now=1.0)
    a.user_event("deploy", b"v1")
    b.events.clear()
    merge(b, a.local_state())
    assert kinds(b.events) == [("member-leave", "c"), ("user", "deploy")]
    assert b.member("c") == a.member("c")


# --- after a restart ---


def test_events_before_snapshot_clocks_are_ignored() -> None:
    state = serf("a", "b")
    state.restore(LamportTimes(member=10, event=20, query=30))
    assert (state.clock.time, state.event_clock.time, state.query_clock.time) == (11, 21, 31)
    for ltime in (20, 21):
        state.handle(encode(UserEvent(ltime, f"{ltime}")), 0.0)
    for ltime in (30, 31):
        state.handle(query(ltime, name=f"{ltime}"), 0.0)
    assert kinds(state.events) == [("user", "21"), ("query", "31")]


def test_empty_snapshot_has_no_effect() -> None:
    state = serf("a")
    state.restore(LamportTimes())
    assert state.local_state() == serf("a").local_state()
    assert state.latest_times() == LamportTimes()


def test_far_clocks_of_snapshot_hide_no_messages() -> None:
    state = serf("a", "b")
    state.restore(LamportTimes(2**63, 2**63, LAST_TIME))
    merge(state, push_pull(40, {}, (), 40, (), 40), join=True, ignore=True)
    for ltime in (39, 40):
        state.handle(encode(UserEvent(ltime, f"{ltime}")), 0.0)
    state.handle(query(40), 0.0)
    assert kinds(state.events) == [("user", "40"), ("query", "load")]


# --- messages ---


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x03", b"\x04torn", b"\x09"])
def test_malformed_message_raises_wire_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(Serf message|user event|query|relay header)"):
        serf("a").handle(raw, 0.0)


@pytest.mark.parametrize(
    "message", [push_pull(9, {"a": 9}, ("a",)), KeyRequest(b"k" * 16)], ids=["push/pull", "key"]
)
def test_unexpected_message_type_is_ignored(message: SerfPushPull | KeyRequest) -> None:
    state = serf("a", "b")
    state.handle(encode(message), 0.0)
    assert not state.events
    assert not state.direct_messages
    assert not raw_broadcasts(state)
    assert state.clock.time == 1


def test_recent_message_is_known_as_duplicate() -> None:
    state = serf("a")
    raw = encode(UserEvent(3, "x"))
    state.handle(raw, 0.0)
    assert state._gossip_queues.is_duplicate(raw)
    assert not state._gossip_queues.is_duplicate(encode(Join(3, "b")))


# --- queues ---


def test_queues_are_in_packet_order() -> None:
    state = serf("a", "b")
    state.announce_join(0.0)
    state.user_event("x")
    assert list(state.queues) == ["Intent", "Query", "Event"]
    assert [len(queue) for queue in state.queues.values()] == [1, 0, 1]


def test_queue_depth_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    options = SerfOptions(max_queue_depth=50)
    state = serf("a", options=options)
    for ltime in range(1, 500):
        state.handle(encode(UserEvent(ltime, "x")), 0.0)
        state.handle(query(ltime), 0.0)
    assert len(state.queues["Event"]) <= 100
    assert len(state.queues["Query"]) <= 100
    state.check_queues()
    assert len(state.queues["Event"]) <= 50
    assert any("exceeds limit (50), dropping messages!" in text for text in caplog.messages)


@pytest.mark.parametrize(("least", "limit"), [(0, 4096), (3, 4), (300, 300)])
def test_queue_limit_follows_options(least: int, limit: int) -> None:
    state = serf("a", "b", options=SerfOptions(min_queue_depth=least))
    assert state._gossip_queues.limit == limit


def test_long_queue_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", options=SerfOptions(queue_depth_warning=2))
    state.user_event("x")
    state.check_queues()
    assert caplog.messages == []
    state.user_event("y")
    state.check_queues()
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "Event queue depth: 2")
    ]


# --- reading ---


def test_stats_count_members_clocks_and_queues() -> None:
    state = in_status(Status.FAILED)
    state.user_event("x")
    state.announce_join(0.0)
    assert state.stats() == {
        "members": 3,
        "failed": 1,
        "left": 0,
        "member_time": 2,
        "event_time": 2,
        "query_time": 1,
        "intent_queue": 1,
        "event_queue": 1,
        "query_queue": 0,
        "flaps": 0,
    }
    assert state.alive_count == 2
    record = state.record("a")
    assert record is not None
    assert record.status_ltime == 1
    assert state.record("x") is None


def test_all_members_record_leave() -> None:
    cluster = Cluster("a", "b", "c")
    cluster["c"].announce_leave(0.0)
    cluster.run(0.0)
    for name in "ab":
        cluster[name].member_left("c", 1.0)
        assert kinds(cluster[name].events) == [("member-leave", "c")]


def test_all_members_record_forced_leave() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].member_left("c", 1.0)
    cluster["a"].force_leave("c", prune=True, now=2.0)
    cluster.run(2.0)
    for name in "ab":
        events = kinds(cluster[name].events)
        assert [kind for kind, _ in events] == ["member-failed", "member-leave", "member-reap"]
        assert cluster[name].member("c") is None


def test_refuted_leave_does_not_hide_failure() -> None:
    cluster = Cluster("a", "b")
    cluster["a"].handle(encode(Leave(5, "b")), 0.0)
    cluster.run(0.0)
    assert status(cluster["a"], "b") is Status.ALIVE
    cluster["a"].member_left("b", 1.0)
    assert status(cluster["a"], "b") is Status.FAILED
