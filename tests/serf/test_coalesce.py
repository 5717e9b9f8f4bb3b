"""Coalescing of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.address import Address
from trioserf.event_filter import MEMBER_EVENT_KINDS, SUSPICION_EVENT_KINDS, MemberEventKind
from trioserf.serf.coalesce import EventCoalescer, MemberCoalescer, UserCoalescer
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status


def member(name: str, **tags: str) -> Member:
    return Member(name, Address("10.0.0.1", 7946), tags, Status.ALIVE)


def event(kind: MemberEventKind, *names: str) -> MemberEvent:
    return MemberEvent(kind, tuple(map(member, names)))


def user(name: str, ltime: int, payload: bytes = b"", *, coalesce: bool = True) -> Event:
    return UserEventReceived(ltime, name, payload, coalesce)


QUERY = QueryReceived(1, 1, 1, "load", b"", "requester", 1.0)


def summaries(events: list[Event]) -> list[tuple[str, list[str]]]:
    assert all(isinstance(e, MemberEvent) for e in events)
    return [(e.kind, [m.name for m in e.members]) for e in events if isinstance(e, MemberEvent)]


# --- time ---


@pytest.mark.parametrize("coalescer", [MemberCoalescer(), EventCoalescer()])
def test_burst_ends_after_quiet_time(coalescer: MemberCoalescer | EventCoalescer) -> None:
    assert coalescer.flush(100.0) == []
    assert coalescer.feed(event("member-join", "a"), 100.0)
    assert coalescer.deadline == 101.0
    assert coalescer.feed(event("member-join", "b"), 100.5)
    assert coalescer.deadline == 101.5
    assert coalescer.flush(101.4) == []
    assert summaries(coalescer.flush(101.5)) == [("member-join", ["a", "b"])]
    assert not coalescer.deadline
    assert coalescer.flush(102.0) == []


def test_continuous_burst_ends_after_period() -> None:
    coalescer = UserCoalescer(period=3.0, quiet=1.0)
    for step in range(5):
        coalescer.feed(user("deploy", step + 1), 10.0 + step * 0.7)
    assert coalescer.deadline == 13.0
    assert coalescer.flush(13.0) == [user("deploy", 5)]
    coalescer.feed(user("deploy", 6), 13.1)  # the next burst has its own period
    assert coalescer.deadline == 14.1


def test_overdue_burst_ends_at_once() -> None:
    coalescer = MemberCoalescer()
    coalescer.feed(event("member-join", "a"), 0.0)
    coalescer.feed(event("member-join", "b"), 50.0)
    assert coalescer.deadline == 3.0
    assert summaries(coalescer.flush(50.0)) == [("member-join", ["a", "b"])]


def test_drain_ends_burst_before_its_deadline() -> None:
    coalescer = EventCoalescer()
    coalescer.feed(event("member-join", "a"), 0.0)
    coalescer.feed(user("deploy", 1), 0.0)
    assert coalescer.drain() == [event("member-join", "a"), user("deploy", 1)]
    assert coalescer.deadline is None


# --- members ---


def flushed(coalescer: MemberCoalescer, *events: MemberEvent) -> list[tuple[str, list[str]]]:
    for e in events:
        assert coalescer.feed(e, 0.0)
    return summaries(coalescer.flush(1.0))


def test_flush_returns_one_event_for_each_kind() -> None:
    assert flushed(
        MemberCoalescer(),
        event("member-join", "a", "b"),
        event("member-leave", "c"),
        event("member-join", "d"),
        event("member-failed", "e"),
        event("member-reap", "f"),
    ) == [
        ("member-join", ["a", "b", "d"]),
        ("member-leave", ["c"]),
        ("member-failed", ["e"]),
        ("member-reap", ["f"]),
    ]


def test_latest_event_of_member_counts() -> None:
    coalescer = MemberCoalescer()
    assert flushed(
        coalescer,
        event("member-join", "a"),
        event("member-failed", "a"),
        event("member-join", "b"),
    ) == [("member-failed", ["a"]), ("member-join", ["b"])]


def test_latest_tags_of_member_are_delivered() -> None:
    coalescer = MemberCoalescer()
    coalescer.feed(MemberEvent("member-update", (member("a", role="old"),)), 0.0)
    coalescer.feed(MemberEvent("member-update", (member("a", role="new"),)), 0.0)
    assert coalescer.flush(1.0) == [MemberEvent("member-update", (member("a", role="new"),))]


def test_member_that_flapped_within_burst_is_left_out() -> None:
    coalescer = MemberCoalescer()
    assert flushed(coalescer, event("member-join", "a")) == [("member-join", ["a"])]
    assert flushed(coalescer, event("member-failed", "a"), event("member-join", "a")) == []
    assert coalescer.deadline is None
    # The burst delivered no event of it, so a later failure is delivered.
    assert flushed(coalescer, event("member-failed", "a")) == [("member-failed", ["a"])]
    assert flushed(coalescer, event("member-failed", "a")) == []
    assert flushed(coalescer, event("member-join", "a")) == [("member-join", ["a"])]


def test_updates_are_always_delivered() -> None:
    coalescer = MemberCoalescer()
    for _ in range(3):
        assert flushed(coalescer, event("member-update", "a")) == [("member-update", ["a"])]
    # The update has replaced the last delivered kind.
    assert flushed(coalescer, event("member-join", "a")) == [("member-join", ["a"])]


def test_number_of_remembered_reaped_members_is_bounded() -> None:
    coalescer = MemberCoalescer()
    for i in range(3000):
        flushed(coalescer, event("member-join", f"n{i}"))
        flushed(coalescer, event("member-reap", f"n{i}"))
    assert len(coalescer._delivered) == len(coalescer._reaped) == 1024
    assert flushed(coalescer, event("member-reap", "n2999")) == []
    assert flushed(coalescer, event("member-join", "n2999")) == [("member-join", ["n2999"])]
    assert len(coalescer._reaped) == 1023


@pytest.mark.parametrize("kind", SUSPICION_EVENT_KINDS)
def test_suspicions_are_not_coalesced(kind: MemberEventKind) -> None:
    assert not MemberCoalescer().feed(event(kind, "a"), 0.0)
    assert not EventCoalescer().feed(event(kind, "a"), 0.0)


@pytest.mark.parametrize("other", [user("deploy", 1), QUERY])
def test_member_coalescer_ignores_other_events(other: Event) -> None:
    coalescer = MemberCoalescer()
    assert not coalescer.feed(other, 0.0)
    assert coalescer.deadline is None


# --- user events ---


def test_latest_user_events_of_each_name_are_kept_in_order() -> None:
    coalescer = UserCoalescer()
    for e in (
        user("deploy", 2, b"two"),
        user("other", 1),
        user("deploy", 5, b"five"),
        user("deploy", 3, b"three"),
        user("deploy", 5, b"five too"),
    ):
        assert coalescer.feed(e, 0.0)
    assert coalescer.flush(1.0) == [
        user("deploy", 5, b"five"),
        user("deploy", 5, b"five too"),
        user("other", 1),
    ]


def test_burst_does_not_depend_on_earlier_bursts() -> None:
    coalescer = UserCoalescer()
    coalescer.feed(user("deploy", 5), 0.0)
    assert coalescer.flush(1.0) == [user("deploy", 5)]
    coalescer.feed(user("deploy", 4), 2.0)
    assert coalescer.flush(3.0) == [user("deploy", 4)]


@pytest.mark.parametrize(
    "other", [user("deploy", 1, coalesce=False), QUERY, event("member-join", "a")]
)
def test_user_coalescer_ignores_other_events(other: Event) -> None:
    coalescer = UserCoalescer()
    assert not coalescer.feed(other, 0.0)
    assert coalescer.deadline is None


# --- members and user events ---


def test_members_and_user_events_have_separate_bursts() -> None:
    coalescer = EventCoalescer()
    assert coalescer.feed(event("member-join", "a"), 0.0)
    assert coalescer.feed(user("deploy", 1), 0.6)
    assert not coalescer.feed(QUERY, 0.7)
    assert not coalescer.feed(user("deploy", 2, coalesce=False), 0.7)
    assert coalescer.deadline == 1.0
    assert coalescer.flush(1.0) == [event("member-join", "a")]
    assert coalescer.deadline == 1.6
    assert coalescer.flush(1.6) == [user("deploy", 1)]
    assert coalescer.deadline is None


steps = st.lists(
    st.tuples(st.sampled_from(MEMBER_EVENT_KINDS), st.sampled_from("abc"), st.booleans())
)


@given(steps)
def test_coalesced_events_have_latest_kind_of_each_member(
    history: list[tuple[MemberEventKind, str, bool]],
) -> None:
    coalescer = MemberCoalescer()
    latest: dict[str, str] = {}
    known: dict[str, str] = {}
    for kind, name, flush in history:
        coalescer.feed(event(kind, name), 0.0)
        latest[name] = kind
        if flush:
            known |= {n: kind for kind, names in summaries(coalescer.drain()) for n in names}
            assert known == latest
