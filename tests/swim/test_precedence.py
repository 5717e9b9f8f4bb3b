"""The rules of precedence, one line of a table each: state × message × incarnation → outcome."""

from collections.abc import Callable

import pytest

from tests.swim.kit import ADDRESSES, ELSEWHERE, META, OTHER, PEER, PORT, US, FakeMemberlist, alive
from trioserf.swim.config import SwimOptions, valid_node_name
from trioserf.swim.events import Conflicted, Left, Refused
from trioserf.swim.node_record import NO_VERSIONS
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

# (known state, message, its incarnation, state after, incarnation after, passed on?, notices)
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
    (SUSPECT, "suspect", SAME, SUSPECT, SAME, True, []),  # a new accuser confirms
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
    # Nobody who is gone is accused or buried again, whatever the incarnation.
    *[
        (state, kind, incarnation, state, SAME, False, [])
        for state in (DEAD, LEFT)
        for kind in ("suspect", "dead", "left")
        for incarnation in (OLDER, SAME, NEWER)
    ],
]


def tell(table: FakeMemberlist, message: Message, now: float = 1.0) -> None:
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
    ("known", "kind", "incarnation", "state", "after", "passed_on", "notices"),
    RULES,
    ids=[f"{rule[0].name}-{rule[1]}-{rule[2] - KNOWN:+d}" for rule in RULES],
)
def test_a_claim_about_a_known_member(
    known: State,
    kind: str,
    incarnation: int,
    state: State,
    after: int,
    passed_on: bool,
    notices: list[str],
) -> None:
    # Enough members that confirmations are wanted at all.
    table = FakeMemberlist().with_crowd(5).with_member(PEER, known, KNOWN)
    message = MESSAGES[kind](incarnation)
    tell(table, message)
    record = table.records[PEER]
    assert (record.state, record.incarnation) == (state, after)
    assert table.said() == ([message] if passed_on else [])
    assert table.happened() == notices
    assert record.state_change == (1.0 if state is not known else 0.0)
    assert (table.next_suspicion_deadline is not None) == (state is SUSPECT)


@pytest.mark.parametrize("kind", ["suspect", "dead", "left"])
def test_bad_news_about_a_stranger_is_nothing(kind: str) -> None:
    table = FakeMemberlist()
    tell(table, MESSAGES[kind](NEWER))
    assert list(table.records) == [US]
    assert (table.said(), table.happened()) == ([], [])


def test_a_stranger_that_lives_joins() -> None:
    table = FakeMemberlist()
    message = alive(PEER, 7)
    table.alive(message, 3.0)
    record = table.records[PEER]
    assert (record.state, record.incarnation, record.state_change) == (ALIVE, 7, 3.0)
    assert (record.addr, record.port, record.meta) == (ADDRESSES[PEER], PORT, META)
    assert table.said() == [message]
    assert table.happened() == ["Joined"]


def test_a_stranger_in_incarnation_0_is_nothing() -> None:
    table = FakeMemberlist()
    table.alive(alive(PEER, 0), 1.0)
    assert list(table.records) == [US]
    assert (table.said(), table.happened()) == ([], [])


# (known state, incarnation of the alive message, notices) where the message has other metadata
UPDATES = [
    (ALIVE, NEWER, ["Updated"]),
    (ALIVE, SAME, []),
    (SUSPECT, NEWER, ["Recovered", "Updated"]),
    (DEAD, NEWER, ["Joined"]),
    (LEFT, NEWER, ["Joined"]),
]


@pytest.mark.parametrize(("known", "incarnation", "notices"), UPDATES)
def test_new_metadata(known: State, incarnation: int, notices: list[str]) -> None:
    table = FakeMemberlist().with_member(PEER, known, KNOWN)
    table.alive(alive(PEER, incarnation, meta=b"new"), 1.0)
    assert table.happened() == notices
    assert table.records[PEER].meta == (b"new" if notices else META)


# (known state, seconds it has been so, reclaim time, incarnation, may it move?)
MOVES = [
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
    @pytest.mark.parametrize(("known", "age", "reclaim", "incarnation", "moves"), MOVES)
    @pytest.mark.parametrize(("addr", "port"), [(ELSEWHERE, PORT), (ADDRESSES[PEER], 1234)])
    def test_another_address(
        self,
        known: State,
        age: float,
        reclaim: float,
        incarnation: int,
        moves: bool,
        addr: bytes,
        port: int,
    ) -> None:
        options = SwimOptions(dead_node_reclaim_time=reclaim)
        table = FakeMemberlist(options=options).with_member(PEER, known, KNOWN)
        message = alive(PEER, incarnation, addr=addr, port=port)
        table.alive(message, age)
        record = table.records[PEER]
        if moves:
            assert (record.state, record.incarnation) == (ALIVE, incarnation)
            assert (record.addr, record.port) == (addr, port)
            assert str(record.address) == f"{'.'.join(map(str, addr))}:{port}"
            assert table.said() == [message]
            assert table.happened() == ["Joined"]
        else:
            assert (record.state, record.incarnation) == (known, KNOWN)
            assert (record.addr, record.port) == (ADDRESSES[PEER], PORT)
            assert table.said() == []
            assert_conflict(table, PEER, addr, port)

    def test_another_address_for_our_own_name(self, caplog: pytest.LogCaptureFixture) -> None:
        table = FakeMemberlist()
        table.alive(alive(US, 99, addr=ELSEWHERE), 1.0)
        assert_conflict(table, US, ELSEWHERE, PORT)
        assert (table.local.incarnation, table.said()) == (1, [])
        assert "two members claim the name 'us'" in caplog.text

    def test_v4_mapped_is_the_same_address(self) -> None:
        mapped = bytes(10) + b"\xff\xff" + ADDRESSES[PEER]
        table = FakeMemberlist().with_member(PEER, ALIVE, KNOWN)
        table.alive(alive(PEER, NEWER, addr=mapped), 1.0)
        assert table.records[PEER].incarnation == NEWER
        assert table.records[PEER].addr == ADDRESSES[PEER]
        assert table.happened() == []

    def test_v6(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, addr=bytes(15) + b"\1"), 1.0)
        assert str(table.records[PEER].address) == "[::1]:7946"

    @pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
    def test_other_lengths_are_no_address(self, length: int) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, addr=bytes(length)), 1.0)
        assert list(table.records) == [US]


def assert_conflict(table: FakeMemberlist, name: str, addr: bytes, port: int) -> None:
    (notice,) = table.events
    assert isinstance(notice, Conflicted)
    assert (notice.record, notice.addr, notice.port) == (table.records[name], addr, port)


class TestVersions:
    @pytest.mark.parametrize(
        "versions",
        [Versions(0, 5, 2, 2, 5, 5), Versions(1, 0, 2, 2, 5, 5), Versions(3, 2, 2, 2, 5, 5)],
    )
    def test_impossible_ranges_are_ignored(self, versions: Versions) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, KNOWN)
        table.alive(alive(PEER, NEWER, versions=versions), 1.0)
        table.alive(alive(OTHER, 1, versions=versions), 1.0)
        assert table.records[PEER].incarnation == KNOWN
        assert OTHER not in table.records

    def test_a_member_without_versions_keeps_zeros(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=None), 1.0)
        assert table.records[PEER].versions == NO_VERSIONS
        assert table.node_states()[-1].versions is None

    def test_silence_about_versions_changes_none(self) -> None:
        versions = Versions(1, 4, 3, 2, 4, 4)
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=versions), 1.0)
        table.alive(alive(PEER, 2, versions=None), 2.0)
        assert table.records[PEER].versions == versions

    def test_equal_versions_are_one_object(self) -> None:
        table = FakeMemberlist()
        table.alive(alive(PEER, 1, versions=Versions(1, 4, 3, 2, 4, 4)), 1.0)
        table.alive(alive(OTHER, 1, versions=Versions(1, 4, 3, 2, 4, 4)), 1.0)
        assert table.records[PEER].versions is table.records[OTHER].versions


class TestAdmission:
    def test_addresses_that_are_not_allowed(self, caplog: pytest.LogCaptureFixture) -> None:
        table = FakeMemberlist(options=SwimOptions(allowed=lambda addr: addr != ELSEWHERE))
        for _ in range(3):
            table.alive(alive(PEER, 1, addr=ELSEWHERE), 1.0)
        assert PEER not in table.records
        assert table.said() == []
        assert all(isinstance(notice, Refused) for notice in table.events)
        assert len(table.events) == 3
        assert caplog.text.count("refusing the member 'peer' at 127.0.9.9:7946") == 1

    def test_nobody_moves_to_an_address_that_is_not_allowed(self) -> None:
        table = FakeMemberlist(options=SwimOptions(allowed=lambda addr: addr != ELSEWHERE))
        table.with_member(PEER, LEFT, KNOWN)
        table.alive(alive(PEER, NEWER, addr=ELSEWHERE), 1.0)
        assert table.records[PEER].state is LEFT
        assert table.happened() == ["Refused"]

    @pytest.mark.parametrize("name", ["two words", "", "a" * 129, "ümlaut", "a/b", "a\n"])
    def test_names_that_are_not_valid(self, name: str) -> None:
        strict = FakeMemberlist(options=SwimOptions(validate_name=valid_node_name))
        strict.alive(alive(name, 1, addr=ELSEWHERE), 1.0)
        assert name not in strict.records
        assert strict.happened() == ["Refused"]
        lenient = FakeMemberlist()
        lenient.alive(alive(name, 1, addr=ELSEWHERE), 1.0)
        assert name in lenient.records

    @pytest.mark.parametrize("name", ["a", "a" * 128, "Web-1.example", "0"])
    def test_names_that_are_valid(self, name: str) -> None:
        assert valid_node_name(name)


def test_who_left_by_itself_and_who_did_not() -> None:
    table = FakeMemberlist().with_member(PEER, ALIVE, 1).with_member(OTHER, ALIVE, 1)
    table.dead(Dead(1, PEER, PEER), 1.0)
    table.dead(Dead(1, OTHER, PEER), 1.0)
    left = [(n.record.name, n.by_itself) for n in table.events if isinstance(n, Left)]
    assert left == [(PEER, True), (OTHER, False)]


def test_a_newer_claim_replaces_the_older_in_the_queue() -> None:
    table = FakeMemberlist().with_member(PEER, ALIVE, 1)
    table.suspect(Suspect(1, PEER, OTHER), 1.0)
    table.dead(Dead(1, PEER, OTHER), 2.0)
    assert table.said() == [Dead(1, PEER, OTHER)]


def test_a_refutation_we_pass_on_is_urgent() -> None:
    table = FakeMemberlist().with_member(PEER, SUSPECT, 1)
    table.alive(alive(OTHER, 1), 1.0)
    table.alive(alive(PEER, 2), 1.0)
    assert table.said() == [alive(PEER, 2), alive(OTHER, 1)]
