"""The format of snapshots, with files of Serf and malformed files."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.address import Address
from trioserf.event_filter import MEMBER_EVENT_KINDS, SUSPICION_EVENT_KINDS, MemberEventKind
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.serf.snapshot import (
    EMPTY,
    LamportTimes,
    SnapshotContents,
    SnapshotState,
    parse,
)
from trioserf.wire.serf_messages import Status

# Written by `serf agent -snapshot` (0.8.2): b joined, three events and a query followed, b was
# killed, rejoined and left, c joined, then a left.
SERF_FILE = b"""\
alive: a 127.13.0.1:7946
alive: b 127.13.0.2:7946
clock: 1
event-clock: 1
event-clock: 2
event-clock: 3
query-clock: 1
not-alive: b
alive: b 127.13.0.2:7946
clock: 2
not-alive: b
clock: 3
alive: c 127.13.0.3:7946
clock: 4
leave
clock: 5
"""
BEFORE_LEAVE = SERF_FILE.partition(b"leave")[0]
A, B, C = "127.13.0.1:7946", "127.13.0.2:7946", "127.13.0.3:7946"


def member(name: str, host: str = "10.0.0.1", port: int = 7946) -> Member:
    return Member(name, Address(host, port), {}, Status.ALIVE)


def event(kind: MemberEventKind, *members: Member) -> MemberEvent:
    return MemberEvent(kind, members)


def user(ltime: int) -> UserEventReceived:
    return UserEventReceived(ltime, "deploy", b"", coalesce=False)


def query(ltime: int) -> QueryReceived:
    return QueryReceived(1, ltime, 1, "load", b"", "requester", 1.0)


# --- reading ---


def test_snapshot_of_serf_is_parsed() -> None:
    assert parse(BEFORE_LEAVE) == SnapshotContents({"a": A, "c": C}, LamportTimes(4, 3, 1))


def test_leave_erases_earlier_lines() -> None:
    assert parse(SERF_FILE) == SnapshotContents({}, LamportTimes(5, 0, 0), left=True)


def test_leave_is_ignored_when_rejoining() -> None:
    # If lines were appended, the next start without rejoin would drop those before `leave`.
    assert parse(SERF_FILE, rejoin=True) == SnapshotContents(
        {"a": A, "c": C}, LamportTimes(5, 3, 1), left=True, clean=False
    )


def test_members_after_leave_are_kept() -> None:
    again = SERF_FILE + b"alive: a 127.13.0.1:7946\nevent-clock: 9\n"
    assert parse(again) == SnapshotContents({"a": A}, LamportTimes(5, 9, 0))
    assert parse(again, rejoin=True) == SnapshotContents({"c": C, "a": A}, LamportTimes(5, 9, 1))


def test_empty_file_is_empty_snapshot() -> None:
    assert parse(b"") == EMPTY


@pytest.mark.parametrize(
    ("line", "alive"),
    [
        (b"alive: x y z 127.0.0.9:7946", {"x y z": "127.0.0.9:7946"}),
        (b"alive: six [::1]:7946", {"six": "[::1]:7946"}),
        (b"alive: zone [fe80::1%eth0]:1", {"zone": "[fe80::1%eth0]:1"}),
        (b"alive: named host.example:65535", {"named": "host.example:65535"}),
        (b"alive: \xc3\xa9\xff 127.0.0.9:7946", {"é\udcff": "127.0.0.9:7946"}),
        (b"alive: dos 127.0.0.9:7946\r", {"dos": "127.0.0.9:7946"}),
        (b"alive:  lead 127.0.0.9:7946", {" lead": "127.0.0.9:7946"}),
        (b"coordinate: {1 2 3}", {}),
        (b"coordinate:", {}),
        (b"# comment", {}),
        (b"#", {}),
        (b"", {}),
        (b"\r", {}),
        (b"not-alive: never seen", {}),
    ],
)
def test_valid_lines_are_parsed(line: bytes, alive: dict[str, str]) -> None:
    assert parse(line + b"\n") == SnapshotContents(alive, LamportTimes())


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"garbage line here", "unknown line 'garbage line here'"),
        (b"leave now", "unknown line"),
        (b"clock:5", "unknown line"),
        (b"Alive: a 127.0.0.1:7946", "unknown line"),
        (b"clock: abc", "expected a 64-bit number after clock: 'abc'"),
        (b"event-clock: -4", "expected a 64-bit number after event-clock: '-4'"),
        (b"query-clock: 18446744073709551616", "expected a 64-bit number after query-clock"),
        (b"clock: " + b"9" * 5000, "expected a 64-bit number after clock: '9{60}'\\.\\.\\.$"),
        (b"clock: ", "expected a 64-bit number"),
        (b"clock: 1_0", "expected a 64-bit number"),
        ("clock: ٣".encode(), "expected a 64-bit number"),
        (b"alive: noaddr", "expected NAME ADDRESS:PORT after alive: 'noaddr'"),
        (b"alive:  127.0.0.1:7946", "expected NAME ADDRESS:PORT"),
        (b"alive: a 127.0.0.1", "expected NAME ADDRESS:PORT"),
        (b"alive: a 127.0.0.1:0", "expected NAME ADDRESS:PORT"),
        (b"alive: a 127.0.0.1:65536", "expected NAME ADDRESS:PORT"),
        (b"alive: a ::1:7946", "expected NAME ADDRESS:PORT"),
        (b"alive: a [::1]", "expected NAME ADDRESS:PORT"),
        (b"alive: a \xff:7946", "expected NAME ADDRESS:PORT"),
        (b"alive: a :7946", "expected NAME ADDRESS:PORT"),
        (b"alive: q\0z 127.0.0.1:7946", "NULs in 'alive: q"),
        (b"\0\0\0\0", "a hole of NULs"),
    ],
)
def test_malformed_line_is_reported_and_skipped(line: bytes, error: str) -> None:
    contents = parse(b"alive: a 127.13.0.1:7946\n" + line + b"\nclock: 7\n")
    assert contents.alive == {"a": A}
    assert contents.clocks == LamportTimes(7, 0, 0)
    assert not contents.clean
    assert len(contents.errors) == 1
    assert re.match(f"line 2: {error}", contents.errors[0])


def test_line_after_hole_is_parsed() -> None:
    contents = parse(b"clock: 1\n\0\0\0\0alive: a 127.13.0.1:7946\n")
    assert contents.alive == {"a": A}
    assert contents.errors == ("line 2: a hole of NULs",)


@pytest.mark.parametrize("end", [b"alive: b 127.13.0.2:79", b"query-clock: 5", b"leave", b"\0\0"])
def test_truncated_last_line_is_ignored(end: bytes) -> None:
    contents = parse(BEFORE_LEAVE + end)
    assert contents.alive == {"a": A, "c": C}
    assert contents.clocks == LamportTimes(4, 3, 1)
    assert not contents.left
    assert not contents.clean
    assert contents.errors[0].startswith("line 15: cut short: ")


def test_last_clock_line_counts_even_if_lower() -> None:
    assert parse(b"event-clock: 500\nleave\nevent-clock: 3\n", rejoin=True).clocks.event == 3


def test_number_of_reported_errors_is_bounded() -> None:
    errors = parse(b"what\n" * 1000).errors
    assert len(errors) == 21
    assert errors[-1] == "and 980 more errors"


@given(st.binary(), st.booleans())
def test_any_bytes_are_parsed(data: bytes, rejoin: bool) -> None:
    parse(data, rejoin=rejoin)


words = [b"alive: ", b"not-alive: ", b"clock: ", b"event-clock: ", b"leave", b"#", b"coordinate: "]
values = [b"a", b"b c", b" ", b":", b"127.0.0.1:7946", b"[::1]:1", b"12", b"\r", b"\0", b"\xff"]
pieces = st.sampled_from([*words, *values, b"\n"])


@given(st.lists(pieces).map(b"".join), st.booleans())
def test_parsed_snapshot_round_trips(data: bytes, rejoin: bool) -> None:
    contents = parse(data, rejoin=rejoin)
    again = parse(SnapshotState(contents).compacted())
    assert again == SnapshotContents(contents.alive, contents.clocks)


# --- writing ---


def test_lines_equal_those_of_serf() -> None:
    state = SnapshotState()
    a, b, c = (member(name, f"127.13.0.{i}") for i, name in enumerate("abc", start=1))
    written = state.record(event("member-join", a)) + state.record(event("member-join", b))
    for next_event in (user(1), user(2), user(3), query(1)):
        written += state.record(next_event)
    written += state.clock_lines(1)
    written += state.record(event("member-failed", b)) + state.record(event("member-join", b))
    written += state.clock_lines(2)
    written += state.record(event("member-leave", b)) + state.clock_lines(3)
    written += state.record(event("member-join", c)) + state.clock_lines(4)
    # Serf writes a line for every event time; only the last one is needed.
    expected = BEFORE_LEAVE.replace(b"event-clock: 1\nevent-clock: 2\n", b"")
    assert written == expected
    written += state.leave(5, keep=False)
    assert written == expected + b"clock: 5\nleave\n"
    assert parse(written) == SnapshotContents({}, LamportTimes(), left=True)


def test_clock_lines_are_written_only_for_advanced_clocks() -> None:
    state = SnapshotState()
    assert state.clock_lines(0) == b""
    assert state.clock_lines(1) == b"clock: 1\n"
    state.record(user(7))
    assert state.clock_lines(2) == b"clock: 2\nevent-clock: 7\n"
    assert state.clock_lines(2) == b""
    state.record(query(3))
    assert state.clock_lines(1) == b"query-clock: 3\n"


def test_old_events_do_not_decrease_clocks() -> None:
    state = SnapshotState(SnapshotContents({}, LamportTimes(5, 6, 7)))
    state.record(user(2))
    state.record(query(2))
    assert state.clock_lines(2) == b""
    assert parse(state.compacted()).clocks == LamportTimes(5, 6, 7)


def test_member_lines_are_written_only_for_changes() -> None:
    state = SnapshotState()
    a = member("a")
    assert state.record(event("member-join", a, member("six", "::1", 1))) == (
        b"alive: a 10.0.0.1:7946\nalive: six [::1]:1\n"
    )
    assert state.record(event("member-join", a)) == b""
    assert state.record(event("member-update", a)) == b""
    assert state.record(event("member-update", member("a", "10.0.0.2"))) == (
        b"alive: a 10.0.0.2:7946\n"
    )
    assert state.record(event("member-failed", a)) == b"not-alive: a\n"
    assert state.record(event("member-reap", a)) == b""
    assert state.record(event("member-suspect", member("six", "::1", 1))) == b""
    assert state.alive == {"six": "[::1]:1"}


def test_invalid_utf8_in_name_is_kept() -> None:
    state = SnapshotState()
    state.record(event("member-join", member("x y é\udcff")))
    assert state.compacted() == b"alive: x y \xc3\xa9\xff 10.0.0.1:7946\n"


@pytest.mark.parametrize("name", ["", "a\nleave", "a\r", "\0a"])
def test_member_with_line_break_in_name_is_not_recorded(name: str) -> None:
    state = SnapshotState()
    assert state.record(event("member-join", member(name), member("b"))) == (
        b"alive: b 10.0.0.1:7946\n"
    )
    assert state.record(event("member-leave", member(name))) == b""


def test_no_event_is_recorded_after_leave() -> None:
    state = SnapshotState(parse(BEFORE_LEAVE))
    assert state.leave(5, keep=True) == b"clock: 5\nleave\n"
    assert state.record(event("member-leave", member("a"))) == b""
    assert state.record(user(100)) == b""
    assert state.clock_lines(9) == b""
    state.resume([member("z")], LamportTimes(9, 9, 9))
    assert state.leave(9, keep=False) == b""
    # As it is, and as it would be rewritten after a full disk.
    assert parse(state.compacted(), rejoin=True).alive == {"a": A, "c": C}
    assert parse(state.compacted()) == SnapshotContents({}, LamportTimes(), left=True)


def test_leave_without_rejoin_keeps_no_members() -> None:
    state = SnapshotState(parse(BEFORE_LEAVE))
    state.leave(5, keep=False)
    assert state.compacted() == b"clock: 5\nevent-clock: 3\nquery-clock: 1\nleave\n"


def test_resume_replaces_members_after_dropped_events() -> None:
    state = SnapshotState(parse(BEFORE_LEAVE))
    state.clock_lines(8)
    state.resume([member("a"), member("d")], LamportTimes(8, 2, 9))
    assert parse(state.compacted()) == SnapshotContents(
        {"a": "10.0.0.1:7946", "d": "10.0.0.1:7946"}, LamportTimes(8, 3, 9)
    )


@pytest.mark.parametrize(
    ("members", "size", "due"),
    [
        (0, 128 * 1024, False),
        (0, 128 * 1024 + 1, True),
        (512, 128 * 1024 + 1, True),
        (513, 128 * 1024 + 256, False),
        (513, 128 * 1024 + 257, True),
        (10_000, 2_560_000, False),
        (10_000, 2_560_001, True),
    ],
)
def test_compaction_is_due_above_size_limit(members: int, size: int, due: bool) -> None:
    state = SnapshotState(SnapshotContents({f"n{i}": A for i in range(members)}, LamportTimes()))
    assert state.compaction_due(size) is due


names = st.sampled_from(["a", "b", "b c", "é\udcff", "bad\nname"])
members = st.builds(member, names, st.sampled_from(["10.0.0.1", "::1"]), st.integers(1, 65535))
kinds = st.sampled_from(MEMBER_EVENT_KINDS + SUSPICION_EVENT_KINDS)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda kind, changed: event(kind, *changed), kinds, st.lists(members, max_size=3)),
    st.integers(1, 1000).map(user),
    st.integers(1, 1000).map(query),
)


@given(st.lists(st.tuples(events, st.booleans())), st.data())
def test_file_equals_state_after_any_history(
    history: list[tuple[Event, bool]], data: st.DataObject
) -> None:
    """Also after any compaction, and for a file that was cut at any byte."""
    state = SnapshotState()
    content = b""
    for step, (next_event, compact) in enumerate(history):
        content += state.record(next_event)
        content += state.clock_lines(step)
        if compact:
            content = state.compacted()
        contents = parse(content)
        assert contents.clean
        assert contents.alive == state.alive
    cut = data.draw(st.integers(0, len(content)))
    whole = content[: content.rfind(b"\n", 0, cut) + 1]
    assert parse(content[:cut]).alive == parse(whole).alive
    assert parse(content[:cut]).clocks == parse(whole).clocks


def test_event_clock_lines_increase() -> None:
    state = SnapshotState()
    content = b""
    for ltime in itertools.chain(range(1, 50), range(20, 60)):
        state.record(user(ltime))
        content += state.clock_lines(0)
    times = [int(line.split()[1]) for line in content.splitlines()]
    assert times == sorted(set(times))
    assert times[-1] == 59
