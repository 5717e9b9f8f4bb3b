"""The rules of precedence, one row each: state × message × incarnation → outcome."""

from collections.abc import Callable

import pytest

from tests.swim.helpers import (
    ADDRESSES,
    ELSEWHERE,
    META,
    OTHER,
    PEER,
    PORT,
    US,
    FakeMemberlist,
    alive,
)
from trioserf.swim.config import SwimOptions, valid_node_name
from trioserf.swim.events import Conflicted, Left, Refused
from trioserf.swim.node_record import NO_VERSIONS
from trioserf.swim.precedence import supersedes
from trioserf.wire.swim_messages import Alive, Dead, Message, State, Suspect, Versions

ALIVE, SUSPECT, DEAD, LEFT = State
KNOWN = 5
OLDER, SAME, NEWER = KNOWN - 1, KNOWN, KNOWN + 1

MESSAGES: dict[str, Callable[[int], Message]] = {
    "alive": lambda incarnation: alive(PEER, incarnation),
    "suspect": lambda incarnation: Suspect(incarnation, PEER, US),
    "dead": lambda incarnation: Dead(incarnation, PEER, US),
    "left": lambda incarnation: Dead(incarnation, PEER, PEER),
}
CLAIMED = {"alive": ALIVE, "suspect": SUSPECT, "dead": DEAD, "left": LEFT}

# (known state, message, its incarnation, state after, incarnation after, rebroadcast?, events)
RULES: list[tuple[State, str, int, State, int, bool, list[str]]] = [
    (ALIVE, "alive", OLDER, ALIVE, SAME, False, []),
    (ALIVE, "alive", SAME, ALIVE, SAME, False, []),
    (ALIVE, "alive", NEWER, ALIVE, NEWER, True, []),
    (ALIVE, "suspect", OLDER, ALIVE, SAME, False, []),
    (ALIVE, "suspect", SAME, SUSPECT, SAME, True, ["Suspected"]),
    (ALIVE, "suspect", NEWER, SUSPECT, NEWER, True, ["Suspected"]),
    (ALIVE, "dead", OLDER, ALIVE, SAME, False, []),
    (ALIVE, "dead", SAME, DEAD, SAME, True, ["Left"]),
    (ALIVE, "dead", NEWER, DEAD, NEWER, True, ["Left"]),
    (ALIVE, "left", OLDER, ALIVE, SAME, False, []),
    (ALIVE, "left", SAME, LEFT, SAME, True, ["Left"]),
    (ALIVE, "left", NEWER, LEFT, NEWER, True, ["Left"]),
    (SUSPECT, "alive", OLDER, SUSPECT, SAME, False, []),
    (SUSPECT, "alive", SAME, SUSPECT, SAME, False, []),
    (SUSPECT, "alive", NEWER, ALIVE, NEWER, True, ["Recovered"]),
    (SUSPECT, "suspect", OLDER, SUSPECT, SAME, False, []),
    (SUSPECT, "suspect", SAME, SUSPECT, SAME, True, []),  # another source confirms
    (SUSPECT, "suspect", NEWER, SUSPECT, SAME, True, []),
    (SUSPECT, "dead", OLDER, SUSPECT, SAME, False, []),
    (SUSPECT, "dead", SAME, DEAD, SAME, True, ["Left"]),
    (SUSPECT, "dead", NEWER, DEAD, NEWER, True, ["Left"]),
    (SUSPECT, "left", OLDER, SUSPECT, SAME, False, []),
    (SUSPECT, "left", SAME, LEFT, SAME, True, ["Left"]),
    (SUSPECT, "left", NEWER, LEFT, NEWER, True, ["Left"]),
    (DEAD, "alive", OLDER, DEAD, SAME, False, []),
    (DEAD, "alive", SAME, DEAD, SAME, False, []),
    (DEAD, "alive", NEWER, ALIVE, NEWER, True, ["Joined"]),
    (LEFT, "alive", OLDER, LEFT, SAME, False, []),
    (LEFT, "alive", SAME, LEFT, SAME, False, []),
    (LEFT, "alive", NEWER, ALIVE, NEWER, True, ["Joined"]),
    # A dead or left member is not suspected or declared dead again, whatever the incarnation.
    *[
        (state, kind, incarnation, state, SAME, False, [])
        for state in (DEAD, LEFT)
        for kind in ("suspect", "dead", "left")
        for incarnation in (OLDER, SAME, NEWER)
    ],
]


def deliver(table: FakeMemberlist, message: Message, now: float = 1.0) -> None:
    match message:
        case Alive():
            table.alive(message, now)
        case Suspect():
            table.suspect(message, now)
        case Dead():
            table.dead(message, now)
        case _:
            raise AssertionError(message)


@pytest.mark.parametrize(
    ("known", "kind", "incarnation", "state", "after", "rebroadcast", "events"),
    RULES,
    ids=[f"{rule[0].name}-{rule[1]}-{rule[2] - KNOWN:+d}" for rule in RULES],
)
def test_message_about_known_member_follows_precedence(
    known: State,
    kind: str,
    incarnation: int,
    state: State,
    after: int,
    rebroadcast: bool,
    events: list[str],
) -> None:
    # Enough members that confirmations are required.
    table = FakeMemberlist().with_members(5).with_member(PEER, known, KNOWN)
    message = MESSAGES[kind](incarnation)
    record = table.records[PEER]
    is_accepted = (state, after) != (known, KNOWN)
    assert supersedes(record, CLAIMED[kind], incarnation) == is_accepted
    deliver(table, message)
    assert (record.state, record.incarnation) == (state, after)
    assert table.drain_broadcasts() == ([message] if rebroadcast else [])
    assert table.drain_events() == events
    assert record.state_change == (1.0 if state is not known else 0.0)
    assert (table.next_suspicion_deadline is not None) == (state is SUSPECT)


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("ahead", [2**31, 2**32 - 1 - KNOWN, 2**32 - 1])
def test_incarnation_half_the_range_ahead_is_older(kind: str, ahead: int) -> None:
    table = FakeMemberlist().with_member(PEER, ALIVE, KNOWN)
    deliver(table, MESSAGES[kind]((KNOWN + ahead) % 2**32))
    assert (table.drain_broadcasts(), table.drain_events()) == ([], [])


def test_incarnation_after_the_last_is_newer() -> None:
    table = FakeMemberlist().with_member(PEER, DEAD, 2**32 - 1)
    table.alive(alive(PEER, 1), 1.0)
    assert table.records[PEER].state is ALIVE


@pytest.mark.parametrize("kind", ["suspect", "dead", "left"])
def test_suspect_or_dead_message_about_unknown_member_is_ignored(kind: str) -> None:
    table = FakeMemberlist()
    deliver(table, MESSAGES[kind](NEWER))
    assert list(table.records) == [US]
    assert (table.drain_broadcasts(), table.drain_events()) == ([], [])


def test_alive_message_about_unknown_member_adds_it() -> None:
    table = FakeMemberlist()
    message = alive(PEER, 7)
    table.alive(message, 3.0)
    record = table.records[PEER]
    assert (record.state, record.incarnation, record.state_change) == (ALIVE, 7, 3.0)
    assert (record.addr, record.port, record.meta) == (ADDRESSES[PEER], PORT, META)
    assert table.drain_broadcasts() == [message]
    assert table.drain_events() == ["Joined"]


def test_unknown_member_in_incarnation_0_is_ignored() -> None:
    table = FakeMemberlist()
    table.alive(alive(PEER, 0), 1.0)
    assert list(table.records) == [US]
    assert (table.drain_broadcasts(), table.drain_events()) == ([], [])


# (known state, incarnation of an alive message with other metadata, events)
UPDATES = [
    (ALIVE, NEWER, ["Updated"]),
    (ALIVE, SAME, []),
    (SUSPECT, NEWER, ["Recovered", "Updated"]),
    (DEAD, NEWER, ["Joined"]),
    (LEFT, NEWER, ["Joined"]),
]


@pytest.mark.parametrize(("known", "incarnation", "events"), UPDATES)
def test_new_metadata_emits_update_unless_member_joined(
    known: State, incarnation: int, events: list[str]
) -> None:
    table = FakeMemberlist().with_member(PEER, known, KNOWN)
    table.alive(alive(PEER, incarnation, meta=b"new"), 1.0)
    assert table.drain_events() == events
    assert table.records[PEER].meta == (b"new" if events else META)


# (known state, its age in seconds, reclaim time, incarnation, accepted?)
TAKEOVERS = [
    (ALIVE, 100.0, 0.0, NEWER, False),
    (ALIVE, 100.0, 10.0, NEWER, False),
    (SUSPECT, 100.0, 10.0, NEWER, False),
    (DEAD, 100.0, 0.0, NEWER, False),
    (DEAD, 10.0, 10.0, NEWER, False),
    (DEAD, 10.5, 10.0, NEWER, True),
    (DEAD, 10.5, 10.0, OLDER, True),
    (LEFT, 0.5, 0.0, NEWER, True),
    (LEFT, 0.5, 0.0, SAME, True),
    (LEFT, 0.5, 0.0, OLDER, True),
]


class TestAddresses:
    @pytest.mark.parametrize(("known", "age", "reclaim", "incarnation", "accepted"), TAKEOVERS)
    @pytest.mark.parametrize(("addr", "port"), [(ELSEWHERE, PORT), (ADDRESSES[PEER], 1234)])
    def test_other_address_takes_over_only_a_free_name(
        self,
        known: State,
        age: float,
        reclaim: float,
        incarnation: int,
        accepted: bool,
        addr: bytes,
        port: int,
    ) -> None:
        options = SwimOptions(dead_node_reclaim_time=reclaim)
        table = FakeMemberlist(options=options).with_member(PEER, known, KNOWN)
        message = alive(PEER, incarnation, addr=addr, port=port)
        table.alive(message, age)
        record = table.records[PEER]
        if accepted:
            assert (record.state, record.incarnation) == (ALIVE, incarnation)
            assert (record.addr, record.port) == (addr, port)
            assert str(record.address) == f"{'.'.join(map(str, addr))}:{port}"
            assert table.drain_broadcasts() == [message]
            assert table.drain_events() == ["Joined"]
        else:
            assert (record.state, record.incarnation) == (known, KNOWN)
            assert (record.addr, record.port) == (ADDRESSES[PEER], PORT)
            assert table.drain_broadcasts() == []
            assert_conflict(table, PEER, addr, port)

    def test_other_address_with_own_name_is_a_conflict(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = FakeMemberlist()
        table.alive(alive(US, 99, addr=ELSEWHERE), 1.0)
        assert_conflict(table, US, ELSEWHERE, PORT)
        assert (table.local.incarnation, table.drain_broadcasts()) == (1, [])
        assert "two members claim the name 'us'" in caplog.text

    def test_v4_mapped_address_equals_its_4_byte_form(self) -> None:
        mapped = bytes(10) + b"\xff\xff" + ADDRESSES[PEER]
        table = FakeMemberlist().with_member(PEER, ALIVE, KNOWN)
        table.alive(alive(PEER, NEWER, addr=mapped), 1.0)
        assert table.records[PEER].incarnation == NEWER
        assert table.records[PEER].addr == ADDRESSES[PEER]
        assert table.drain_events() == []

    def test_v6_address_is_accepted(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, addr=bytes(15) + b"\1"), 1.0)
        assert str(table.records[PEER].address) == "[::1]:7946"

    @pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
    def test_address_of_other_length_is_ignored(self, length: int) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, addr=bytes(length)), 1.0)
        assert list(table.records) == [US]


def assert_conflict(table: FakeMemberlist, name: str, addr: bytes, port: int) -> None:
    (event,) = table.events
    assert isinstance(event, Conflicted)
    assert (event.record, event.addr, event.port) == (table.records[name], addr, port)


class TestVersions:
    @pytest.mark.parametrize(
        "versions",
        [Versions(0, 5, 2, 2, 5, 5), Versions(1, 0, 2, 2, 5, 5), Versions(3, 2, 2, 2, 5, 5)],
    )
    def test_alive_message_with_invalid_version_range_is_ignored(self, versions: Versions) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, KNOWN)
        table.alive(alive(PEER, NEWER, versions=versions), 1.0)
        table.alive(alive(OTHER, 1, versions=versions), 1.0)
        assert table.records[PEER].incarnation == KNOWN
        assert OTHER not in table.records

    def test_member_without_versions_is_recorded_with_none(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=None), 1.0)
        assert table.records[PEER].versions == NO_VERSIONS
        assert table.records[PEER].node_state().versions is None

    def test_alive_message_without_versions_keeps_known_versions(self) -> None:
        versions = Versions(1, 4, 3, 2, 4, 4)
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=versions), 1.0)
        table.alive(alive(PEER, 2, versions=None), 2.0)
        assert table.records[PEER].versions == versions

    def test_equal_versions_share_one_object(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=Versions(1, 4, 3, 2, 4, 4)), 1.0)
        table.alive(alive(OTHER, 1, versions=Versions(1, 4, 3, 2, 4, 4)), 1.0)
        assert table.records[PEER].versions is table.records[OTHER].versions


class TestAdmission:
    def test_member_from_disallowed_address_is_refused_and_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = FakeMemberlist(options=SwimOptions(allowed=lambda addr: addr != ELSEWHERE))
        for _ in range(3):
            table.alive(alive(PEER, 1, addr=ELSEWHERE), 1.0)
        assert PEER not in table.records
        assert table.drain_broadcasts() == []
        assert all(isinstance(event, Refused) for event in table.events)
        assert len(table.events) == 3
        assert caplog.text.count("refusing the member 'peer' at 127.0.9.9:7946") == 1

    def test_known_member_cannot_move_to_disallowed_address(self) -> None:
        table = FakeMemberlist(options=SwimOptions(allowed=lambda addr: addr != ELSEWHERE))
        table.with_member(PEER, LEFT, KNOWN)
        table.alive(alive(PEER, NEWER, addr=ELSEWHERE), 1.0)
        assert table.records[PEER].state is LEFT
        assert table.drain_events() == ["Refused"]

    @pytest.mark.parametrize("name", ["two words", "", "a" * 129, "ümlaut", "a/b", "a\n"])
    def test_invalid_name_is_refused_if_names_are_validated(self, name: str) -> None:
        strict = FakeMemberlist(options=SwimOptions(validate_name=valid_node_name))
        strict.alive(alive(name, 1, addr=ELSEWHERE), 1.0)
        assert name not in strict.records
        assert strict.drain_events() == ["Refused"]
        lenient = FakeMemberlist()
        lenient.alive(alive(name, 1, addr=ELSEWHERE), 1.0)
        assert name in lenient.records

    @pytest.mark.parametrize("name", ["a", "a" * 128, "Web-1.example", "0"])
    def test_valid_name_is_accepted(self, name: str) -> None:
        assert valid_node_name(name)


def test_dead_message_from_member_itself_means_left() -> None:
    table = FakeMemberlist().with_member(PEER, ALIVE, 1).with_member(OTHER, ALIVE, 1)
    table.dead(Dead(1, PEER, PEER), 1.0)
    table.dead(Dead(1, OTHER, PEER), 1.0)
    left = [(n.record.name, n.by_itself) for n in table.events if isinstance(n, Left)]
    assert left == [(PEER, True), (OTHER, False)]


def test_newer_message_replaces_queued_one_about_same_member() -> None:
    table = FakeMemberlist().with_member(PEER, ALIVE, 1)
    table.suspect(Suspect(1, PEER, OTHER), 1.0)
    table.dead(Dead(1, PEER, OTHER), 2.0)
    assert table.drain_broadcasts() == [Dead(1, PEER, OTHER)]


def test_refutation_of_other_member_is_rebroadcast_first() -> None:
    table = FakeMemberlist().with_member(PEER, SUSPECT, 1)
    table.alive(alive(OTHER, 1), 1.0)
    table.alive(alive(PEER, 2), 1.0)
    assert table.drain_broadcasts() == [alive(PEER, 2), alive(OTHER, 1)]
