import pytest

from tests.serf.helpers import (
    Cluster,
    drain_events,
    in_status,
    merge,
    push_pull,
    query,
    raw_broadcasts,
    serf,
    status,
)
from trioserf.serf.lamport import LAST_TIME
from trioserf.serf.snapshot import LamportTimes
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    KeyRequest,
    Leave,
    SerfPushPull,
    Status,
    UserEvent,
)

# --- snapshots ---


def test_events_before_snapshot_clocks_are_ignored() -> None:
    state = serf("a", "b")
    state.restore(LamportTimes(member=10, event=20, query=30))
    assert (state.clock.time, state.event_clock.time, state.query_clock.time) == (11, 21, 31)
    for ltime in (20, 21):
        state.handle(encode(UserEvent(ltime, f"{ltime}")), 0.0)
    for ltime in (30, 31):
        state.handle(query(ltime, name=f"{ltime}"), 0.0)
    assert drain_events(state.events) == [("user", "21"), ("query", "31")]


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
    assert drain_events(state.events) == [("user", "40"), ("query", "load")]


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
    assert state._table.records["a"].status_ltime == 1


def test_all_members_record_leave() -> None:
    cluster = Cluster("a", "b", "c")
    cluster["c"].announce_leave(0.0)
    cluster.run(0.0)
    for name in "ab":
        cluster[name].member_left("c", 1.0)
        assert drain_events(cluster[name].events) == [("member-leave", "c")]


def test_all_members_record_forced_leave() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].member_left("c", 1.0)
    cluster["a"].force_leave("c", prune=True, now=2.0)
    cluster.run(2.0)
    for name in "ab":
        events = drain_events(cluster[name].events)
        assert [kind for kind, _ in events] == ["member-failed", "member-leave", "member-reap"]
        assert cluster[name].member("c") is None


def test_refuted_leave_does_not_hide_failure() -> None:
    cluster = Cluster("a", "b")
    cluster["a"].handle(encode(Leave(5, "b")), 0.0)
    cluster.run(0.0)
    assert status(cluster["a"], "b") is Status.ALIVE
    cluster["a"].member_left("b", 1.0)
    assert status(cluster["a"], "b") is Status.FAILED
