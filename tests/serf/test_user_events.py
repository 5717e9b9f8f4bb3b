import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serf.helpers import (
    Cluster,
    broadcasts,
    drain_events,
    merge,
    query,
    raw_broadcasts,
    serf,
)
from trioserf.errors import TooLarge
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import LargeBroadcast
from trioserf.serf.events import UserEventReceived
from trioserf.serf.lamport import LAST_TIME
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import BufferedEvents, SerfPushPull, UserEvent


def test_own_event_is_delivered_and_broadcast() -> None:
    state = serf("a", "b")
    assert state.user_event("deploy", b"v1", coalesce=True) == 1
    assert state.events == [UserEventReceived(1, "deploy", b"v1", True)]
    assert broadcasts(state) == [UserEvent(1, "deploy", b"v1", True)]
    assert state.user_event("deploy", b"v1") == 2
    assert state.latest_times().event == 2


def test_event_above_limit_before_encoding_is_rejected() -> None:
    state = serf("a", options=SerfOptions())
    with pytest.raises(TooLarge) as caught:
        state.user_event("big", b"x" * 510)
    assert str(caught.value) == "user event exceeds configured limit of 512 bytes before encoding"


def test_limit_counts_bytes_of_name() -> None:
    state = serf("a", options=SerfOptions())
    with pytest.raises(TooLarge, match="before"):
        state.user_event("é" * 257)


def test_event_above_limit_after_encoding_is_rejected() -> None:
    state = serf("a", options=SerfOptions())
    with pytest.raises(TooLarge) as caught:
        state.user_event("big", b"x" * 509)
    text = "encoded user event exceeds configured limit of 512 bytes after encoding"
    assert str(caught.value) == text
    assert state.event_clock.time == 1
    assert state.events == []


@pytest.mark.parametrize("limit", [0, 9217])
def test_invalid_event_size_limit_is_rejected(limit: int) -> None:
    with pytest.raises(ValueError, match="user_event_size_limit"):
        SerfOptions(user_event_size_limit=limit)


def test_new_event_is_delivered_and_rebroadcast_unchanged() -> None:
    state = serf("a")
    raw = encode(UserEvent(41, "deploy", b"v1", True))
    state.handle(raw, 0.0)
    assert state.events == [UserEventReceived(41, "deploy", b"v1", True)]
    assert raw_broadcasts(state) == [raw]
    assert state.event_clock.time == 42


@pytest.mark.parametrize(
    ("second", "is_new"),
    [
        (UserEvent(5, "deploy", b"v1"), False),
        (UserEvent(5, "deploy", b"v1", True), False),
        (UserEvent(5, "deploy", b"v2"), True),
        (UserEvent(5, "other", b"v1"), True),
        (UserEvent(6, "deploy", b"v1"), True),
        (UserEvent(4, "deploy", b"v1"), True),
    ],
)
def test_event_with_known_name_payload_and_ltime_is_ignored(
    second: UserEvent, is_new: bool
) -> None:
    state = serf("a")
    state.handle(encode(UserEvent(5, "deploy", b"v1")), 0.0)
    broadcasts(state)
    state.events.clear()
    state.handle(encode(second), 0.0)
    assert bool(state.events) == is_new
    assert broadcasts(state) == ([second] if is_new else [])


def test_own_event_is_ignored_when_received() -> None:
    state = serf("a")
    state.user_event("deploy", b"v1")
    (raw,) = raw_broadcasts(state)
    state.events.clear()
    state.handle(raw, 0.0)
    assert state.events == []
    assert raw_broadcasts(state) == []


def test_duplicate_event_is_detected_without_recent_message() -> None:
    state = serf("a", options=SerfOptions(event_buffer=8192, user_event_size_limit=1024))
    raw = encode(UserEvent(1, "first"))
    state.handle(raw, 0.0)
    for ltime in range(2, 5000):
        state.handle(encode(UserEvent(ltime, "x")), 0.0)
    assert not state._gossip_queues.is_duplicate(raw)
    state.events.clear()
    state.handle(raw, 0.0)
    assert state.events == []


@pytest.mark.parametrize(("ltime", "is_new"), [(487, False), (488, True), (489, True)])
def test_old_event_is_dropped_with_warning(
    ltime: int, is_new: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state = serf("a")
    state.handle(encode(UserEvent(999, "new")), 0.0)
    state.events.clear()
    state.handle(encode(UserEvent(ltime, "old")), 0.0)
    assert bool(state.events) == is_new
    expected = [] if is_new else [f"received old event old from time {ltime} (current: 1000)"]
    assert caplog.messages == expected
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_far_jump_of_clock_does_not_hide_events() -> None:
    state = serf("a")
    state.handle(encode(UserEvent(7, "before")), 0.0)
    state.handle(encode(UserEvent(2**63, "jump")), 0.0)
    state.handle(encode(UserEvent(LAST_TIME, "overflow")), 0.0)
    state.handle(encode(UserEvent(8, "behind")), 0.0)
    state.handle(encode(UserEvent(7, "before", b"", True)), 0.0)
    state.handle(encode(UserEvent(2**63 + 1, "ahead")), 0.0)
    state.handle(encode(UserEvent(LAST_TIME, "overflow", b"", True)), 0.0)
    names = ["before", "jump", "overflow", "behind", "ahead"]
    assert [name for _, name in drain_events(state.events)] == names
    assert state.user_event("ours") == 2**63 + 2


@pytest.mark.parametrize("later", [8, 512])  # Serf delivers time 0 twice after 512, not after 8
@pytest.mark.parametrize("in_push_pull", [False, True])
def test_event_of_time_zero_is_delivered_once_after_a_wrap(later: int, in_push_pull: bool) -> None:
    state = serf("a")
    times = [0, later, LAST_TIME - 1, LAST_TIME]
    for ltime in times:
        state.handle(encode(UserEvent(ltime, "x")), 0.0)
    if in_push_pull:
        merge(state, SerfPushPull(1, {}, (), 0, (BufferedEvents(0, (("x", b""),)),), 0))
    else:
        state.handle(encode(UserEvent(0, "x")), 0.0)
    assert [event.ltime for event in state.events] == times  # type: ignore[union-attr]


def test_local_state_has_events_in_order_of_time() -> None:
    state = serf("a")
    for ltime, name in [(5, "x"), (3, "y"), (5, "z")]:
        state.handle(encode(UserEvent(ltime, name, b"p")), 0.0)
    assert state.local_state().events == (
        BufferedEvents(3, (("y", b"p"),)),
        BufferedEvents(5, (("x", b"p"), ("z", b"p"))),
    )


def test_events_of_one_time_are_bounded() -> None:
    options = SerfOptions(event_buffer_bytes=10_000, user_event_size_limit=1024)
    state = serf("a", options=options)
    for number in range(1000):
        state.handle(encode(UserEvent(5, f"n{number}")), 0.0)
    assert len(state.events) < 50


def test_events_of_many_times_are_bounded_and_all_delivered() -> None:
    options = SerfOptions(event_buffer_bytes=10_000, user_event_size_limit=1024)
    state = serf("a", options=options)
    for ltime in range(1, 400):
        state.handle(encode(UserEvent(ltime, "x")), 0.0)
    assert len(state.events) == 399
    assert len(state.local_state().events) < 50


def test_own_large_event_is_sent_on_streams_to_all() -> None:
    state = serf("a", "b", options=SerfOptions(user_event_size_limit=9216))
    ltime = state.user_event("huge", b"x" * 9000)
    [broadcast] = state.large_broadcasts
    assert broadcast.to_all
    assert decode(broadcast.data) == UserEvent(ltime, "huge", b"x" * 9000)
    assert len(state.queues["Event"]) == 0
    state.large_broadcasts.clear()
    state.handle(broadcast.data, 0.0)
    assert (len(state.events), state.large_broadcasts) == (1, [])


def test_large_event_is_rebroadcast_once() -> None:
    state = serf("a", "b")
    raw = encode(UserEvent(5, "huge", b"x" * 2000))
    state.handle(raw, 0.0)
    state.handle(raw, 0.0)
    assert len(state.events) == 1
    assert raw_broadcasts(state) == []
    assert state.large_broadcasts == [LargeBroadcast(raw, to_all=False)]


@pytest.mark.parametrize(("size", "streams"), [(1390, 0), (1405, 1), (9000, 1)])
def test_event_above_packet_size_is_rebroadcast_on_streams(size: int, streams: int) -> None:
    state = serf("a", "b")
    raw = encode(UserEvent(5, "x", b"x"))
    raw = encode(UserEvent(5, "x", b"x" * (size - len(raw))))
    state.handle(raw, 0.0)
    assert len(state.large_broadcasts) == streams
    assert len(raw_broadcasts(state)) == (size < 1400 and not streams)


def test_query_above_every_limit_is_not_rebroadcast() -> None:
    state = serf("a", "b")
    state.handle(query(payload=b"x" * 20_000), 0.0)
    assert len(state.events) == 1
    assert state.large_broadcasts == []
    assert raw_broadcasts(state) == []


def test_large_replayed_event_is_rebroadcast_unless_joining() -> None:
    sender = serf("a", "b")
    for size in (10, 2000):
        sender.handle(encode(UserEvent(5, "x", b"x" * size)), 0.0)
    for join, rebroadcasts in ((True, 0), (False, 1)):
        receiver = serf("b", "a")
        for _ in range(2):
            merge(receiver, sender.local_state(), join=join)
        assert len(receiver.events) == 2
        assert [len(broadcast.data) > 2000 for broadcast in receiver.large_broadcasts] == [
            True
        ] * rebroadcasts
        assert all(broadcast.to_all for broadcast in receiver.large_broadcasts)
        assert raw_broadcasts(receiver) == []


def test_only_first_large_replayed_events_go_to_all_members() -> None:
    sender, receiver = serf("a", "b"), serf("b", "a")
    for number in range(10):
        sender.handle(encode(UserEvent(5, "x", b"%d" % number * 2000)), 0.0)
    merge(receiver, sender.local_state())
    assert [broadcast.to_all for broadcast in receiver.large_broadcasts] == [True] * 8 + [
        False
    ] * 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y"]), st.booleans()), max_size=12
    )
)
def test_each_member_delivers_each_event_once(sent: list[tuple[str, str, bool]]) -> None:
    cluster = Cluster("a", "b", "c")
    expected = set()
    for sender, name, at_once in sent:
        expected.add((cluster[sender].user_event(name, sender.encode()), name, sender.encode()))
        if at_once:
            cluster.run(0.0)
    cluster.run(0.0)
    for state in cluster.states.values():
        delivered = [(e.ltime, e.name, e.payload) for e in state.events if e.kind == "user"]
        assert len(delivered) == len(set(delivered))
        assert set(delivered) == expected
