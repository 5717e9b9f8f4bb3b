import logging

import pytest

from tests.serf.helpers import (
    address_of,
    drain_events,
    in_status,
    join,
    meta,
    serf,
    status,
)
from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import MemberEvent
from trioserf.wire.serf_messages import Leave, Status
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions


def test_new_member_is_alive_and_emits_join() -> None:
    state = serf("a")
    join(state, "b", meta(role="web", dc="east"))
    (event,) = state.events
    assert isinstance(event, MemberEvent)
    assert event.kind == "member-join"
    assert event.members == (state.member("b"),)
    member = event.members[0]
    assert (member.name, member.address, member.status) == ("b", address_of("b"), "alive")
    assert member.tags == {"role": "web", "dc": "east"}
    assert member.versions == OUR_VERSIONS


@pytest.mark.parametrize(
    ("before", "after", "emitted"),
    [
        (Status.ALIVE, Status.FAILED, [("member-failed", "b")]),
        (Status.LEAVING, Status.LEFT, [("member-leave", "b")]),
        (Status.LEFT, Status.LEFT, []),
        (Status.FAILED, Status.FAILED, []),
    ],
)
def test_dead_member_has_left_or_failed(
    before: Status, after: Status, emitted: list[tuple[str, str]]
) -> None:
    state = in_status(before)
    state.member_left("b", 1.0)
    assert status(state, "b") is after
    assert drain_events(state.events) == emitted


@pytest.mark.parametrize("before", [Status.ALIVE, Status.LEAVING, Status.LEFT, Status.FAILED])
def test_rejoined_member_is_alive_with_new_tags(before: Status) -> None:
    state = in_status(before)
    versions = Versions(1, 5, 3, 2, 5, 4)
    state.member_joined("b", Address("10.9.9.9", 1), meta(x="y"), versions, 1.0)
    member = state.member("b")
    assert member is not None
    assert (member.status_code, member.tags) == (Status.ALIVE, {"x": "y"})
    assert (member.address, member.versions) == (Address("10.9.9.9", 1), versions)
    assert drain_events(state.events) == [("member-join", "b")]
    assert (state.stats()["failed"], state.stats()["left"]) == (0, 0)


@pytest.mark.parametrize(("after", "flaps"), [(59.9, 1), (60.0, 0)])
def test_rejoin_soon_after_failure_is_flap(after: float, flaps: int) -> None:
    state = in_status(Status.FAILED)
    join(state, "b", now=after)
    assert state.stats()["flaps"] == flaps


def test_rejoin_after_leave_is_not_flap() -> None:
    state = in_status(Status.LEFT)
    join(state, "b", now=1.0)
    assert state.stats()["flaps"] == 0


@pytest.mark.parametrize("before", [Status.ALIVE, Status.LEAVING, Status.FAILED])
def test_update_keeps_status(before: Status) -> None:
    state = in_status(before)
    state.member_updated("b", address_of("b"), meta(role="db"), OUR_VERSIONS)
    member = state.member("b")
    assert member is not None
    assert (member.tags, member.status_code) == ({"role": "db"}, before)
    assert drain_events(state.events) == [("member-update", "b")]


def test_events_about_unknown_member_are_ignored() -> None:
    state = serf("a")
    version = state.members_version
    state.member_left("x", 1.0)
    state.member_updated("x", address_of("x"), b"", OUR_VERSIONS)
    state.member_suspected("x")
    assert state.events == []
    assert state.members_version == version


def test_malformed_tags_are_empty(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a")
    join(state, "b", b"\xffnonsense")
    member = state.member("b")
    assert member is not None
    assert member.tags == {}
    assert "Failed to decode tags" in caplog.text


def test_suspicion_events_are_emitted_for_present_members() -> None:
    state = serf("a", "b")
    state.member_suspected("b")
    state.member_recovered("b")
    assert drain_events(state.events) == [("member-suspect", "b"), ("member-recovered", "b")]
    state.member_left("b", 1.0)
    state.events.clear()
    state.member_recovered("b")
    assert state.events == []


def test_member_snapshot_is_one_object_until_change() -> None:
    state = serf("a", "b")
    before, version = state.members(), state.members_version
    assert [member.name for member in before] == ["a", "b"]
    state.member_suspected("b")
    assert state.members() is before
    assert state.members_version == version
    state.member_left("b", 1.0)
    assert state.members() is not before
    assert state.members_version > version
    assert [member.status for member in before] == ["alive", "alive"]


def test_log_lines_equal_those_of_serf(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trioserf.serf")
    state = serf("a", "b", "c")
    state.member_updated("b", address_of("b"), b"", OUR_VERSIONS)
    state.member_left("b", 1.0)
    state.force_leave("b", now=2.0)
    state._intents.on_leave(Leave(9, "c"), 2.0)
    state.member_left("c", 2.0)
    state.force_leave("b", prune=True, now=3.0)
    state.reap(100_000.0)
    assert caplog.messages == [
        "EventMemberJoin: a 10.0.0.97",
        "EventMemberJoin: b 10.0.0.98",
        "EventMemberJoin: c 10.0.0.99",
        "EventMemberUpdate: b",
        "EventMemberFailed: b 10.0.0.98",
        "EventMemberLeave (forced): b 10.0.0.98",
        "EventMemberLeave: c 10.0.0.99",
        "EventMemberReap (forced): b 10.0.0.98",
        "EventMemberReap: c",
    ]
    assert {(r.name, r.levelname) for r in caplog.records} == {("trioserf.serf", "INFO")}


@pytest.mark.parametrize(
    ("before", "now", "reaped"),
    [
        (Status.FAILED, 100.0, False),
        (Status.FAILED, 100.1, True),
        (Status.LEFT, 50.0, False),
        (Status.LEFT, 50.1, True),
    ],
)
def test_members_are_reaped_after_timeout(before: Status, now: float, reaped: bool) -> None:
    options = SerfOptions(reconnect_timeout=100.0, tombstone_timeout=50.0)
    state = serf("a", "b", options=options)
    if before is Status.LEFT:
        state._intents.on_leave(Leave(5, "b"), 0.0)
    state.member_left("b", 0.0)
    state.events.clear()
    state.reap(now)
    assert (state.member("b") is None) == reaped
    assert drain_events(state.events) == ([("member-reap", "b")] if reaped else [])


def test_no_reconnect_without_failed_members() -> None:
    assert serf("a", "b").reconnect_candidate() is None


def test_last_alive_member_always_reconnects() -> None:
    state = serf("a", "b", "c")
    state.member_left("b", 0.0)
    state.member_left("c", 0.0)
    called = [state.reconnect_candidate() for _ in range(50)]
    assert {member.name for member in called if member is not None} == {"b", "c"}
    assert None not in called


def test_reconnect_probability_is_failed_by_alive() -> None:
    state = serf("a", "b", "c", "d", "e")
    state.member_left("b", 0.0)
    calls = sum(state.reconnect_candidate() is not None for _ in range(1000))
    assert 200 < calls < 300


def test_left_member_is_not_reconnected() -> None:
    state = in_status(Status.LEFT)
    assert state.reconnect_candidate() is None
