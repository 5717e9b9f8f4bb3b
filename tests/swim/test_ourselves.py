"""What is said about ourselves, and what we answer."""

import pytest

from tests.swim.kit import ELSEWHERE, META, OTHER, PEER, US, FakeMemberlist, alive, node_state
from trioserf.swim.beliefs import MAX_INCARNATION
from trioserf.swim.config import SwimOptions
from trioserf.wire.swim_messages import (
    MAX_META,
    OUR_VERSIONS,
    Alive,
    Dead,
    State,
    Suspect,
    Versions,
)

ALIVE, SUSPECT, DEAD, LEFT = State


def test_bootstrap() -> None:
    table = FakeMemberlist()
    local = table.local
    assert (local.state, local.incarnation, local.meta) == (ALIVE, 1, META)
    assert table.records == {US: local}
    assert (table.alive_count, table.estimated_size) == (1, 1)


def test_bootstrap_announces_us() -> None:
    table = FakeMemberlist()
    table.records.clear()
    table.bootstrap(b"x", OUR_VERSIONS, 0.0)
    assert table.said() == [alive(US, 1, meta=b"x")]
    assert table.happened() == ["Joined"]


# (what is said, whose incarnation is then refuted with, None: it is ignored)
CLAIMS = [
    (Suspect(4, US, PEER), None),
    (Suspect(5, US, PEER), 6),
    (Suspect(9, US, PEER), 10),
    (Dead(4, US, PEER), None),
    (Dead(5, US, PEER), 6),
    (Dead(9, US, PEER), 10),
    (Dead(9, US, US), 10),
    (alive(US, 4, meta=b"old"), None),
    (alive(US, 5), None),
    (alive(US, 5, meta=b"new"), 6),
    (alive(US, 5, versions=Versions(1, 5, 1, 2, 5, 5)), 6),
    (alive(US, 6), 7),
    (alive(US, 9, meta=b"new"), 10),
    (alive(US, 9, versions=Versions(0, 0, 0, 0, 0, 0)), None),
]


@pytest.mark.parametrize(("claim", "answer"), CLAIMS, ids=str)
def test_refuting(claim: Alive | Suspect | Dead, answer: int | None) -> None:
    table = FakeMemberlist()
    table.local.incarnation = 5
    match claim:
        case Alive():
            table.alive(claim, 1.0)
        case Suspect():
            table.suspect(claim, 1.0)
        case Dead():
            table.dead(claim, 1.0)
    local = table.local
    assert (local.state, local.meta, local.versions) == (ALIVE, META, OUR_VERSIONS)
    assert local.incarnation == (answer or 5)
    assert table.said() == ([alive(US, answer)] if answer else [])
    assert table.awareness.score == (1 if answer else 0)
    assert table.happened() == []


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_refuting_what_a_merged_table_says(state: State) -> None:
    table = FakeMemberlist()
    table.merge([node_state(US, state, 1)], 1.0)
    assert table.said() == [alive(US, 2)]


def test_a_refutation_goes_before_older_news(caplog: pytest.LogCaptureFixture) -> None:
    table = FakeMemberlist()
    table.alive(alive(PEER, 1), 1.0)
    table.suspect(Suspect(1, US, PEER), 1.0)
    assert table.said() == [alive(US, 2), alive(PEER, 1)]
    assert "refuting in incarnation 2" in caplog.text
    assert "'peer'" in caplog.text


@pytest.mark.parametrize("own", [1, MAX_INCARNATION - 1, MAX_INCARNATION])
def test_incarnations_stop_at_their_end(own: int) -> None:
    table = FakeMemberlist()
    table.local.incarnation = own
    table.dead(Dead(MAX_INCARNATION, US, PEER), 1.0)
    assert table.said() == [alive(US, MAX_INCARNATION)]
    table.update_meta(b"new", 2.0)
    assert table.said() == [alive(US, MAX_INCARNATION, meta=b"new")]
    assert table.local.state is ALIVE


class TestMetadata:
    def test_new_metadata_is_a_new_incarnation(self) -> None:
        table = FakeMemberlist()
        table.update_meta(b"new", 1.0)
        assert table.said() == [alive(US, 2, meta=b"new")]
        assert table.happened() == ["Updated"]
        assert (table.local.meta, table.local.incarnation) == (b"new", 2)

    def test_equal_metadata_is_announced_but_no_update(self) -> None:
        table = FakeMemberlist()
        table.update_meta(META, 1.0)
        assert table.said() == [alive(US, 2)]
        assert table.happened() == []

    def test_the_waiter_hears_when_it_has_gone_out(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        told: list[str] = []
        table.update_meta(b"one", 1.0, lambda: told.append("one"))
        table.update_meta(b"two", 1.0, lambda: told.append("two"))
        assert told == ["one"]
        while table.broadcasts:
            assert told == ["one"]
            table.said()
        assert told == ["one", "two"]

    def test_too_much(self) -> None:
        table = FakeMemberlist()
        with pytest.raises(ValueError, match="512"):
            table.update_meta(bytes(MAX_META + 1), 1.0)
        assert (table.local.meta, table.said()) == (META, [])

    def test_too_late(self) -> None:
        table = FakeMemberlist()
        told: list[str] = []
        table.leave(1.0)
        table.forget()
        table.update_meta(b"new", 2.0, lambda: told.append("at once"))
        assert (told, table.said(), table.local.meta) == (["at once"], [], META)


class TestLeaving:
    def test_the_goodbye(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1).with_member(OTHER, ALIVE, 1)
        told: list[str] = []
        table.alive(alive(OTHER, 2), 1.0)
        table.leave(2.0, lambda: told.append("gone out"))
        assert (table.leaving, table.local.state, table.alive_count) == (True, LEFT, 2)
        assert table.happened() == ["Left"]
        assert table.said() == [Dead(1, US, US), alive(OTHER, 2)]
        assert told == []
        while table.broadcasts:
            table.said()
        assert told == ["gone out"]

    @pytest.mark.parametrize("peer", [None, DEAD, LEFT])
    def test_nobody_to_hear_it(self, peer: State | None) -> None:
        table = FakeMemberlist()
        if peer is not None:
            table.with_member(PEER, peer, 1)
        told: list[str] = []
        table.leave(1.0, lambda: told.append("at once"))
        assert told == ["at once"]

    def test_leaving_twice(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        told: list[str] = []
        table.leave(1.0, lambda: told.append("first"))
        table.leave(2.0, lambda: told.append("second"))
        assert told == ["second"]
        assert table.said() == [Dead(1, US, US)]

    def test_nothing_about_us_counts_any_more(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        table.leave(1.0)
        table.forget()
        table.alive(alive(US, 9, meta=b"new"), 2.0)
        table.alive(alive(US, 9, addr=ELSEWHERE), 2.0)
        table.suspect(Suspect(9, US, PEER), 2.0)
        table.dead(Dead(9, US, PEER), 2.0)
        table.merge([node_state(US, state, 9) for state in State], 2.0)
        assert (table.local.state, table.local.incarnation) == (LEFT, 1)
        assert (table.said(), table.happened()) == ([], [])

    def test_others_still_count(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        table.leave(1.0)
        table.forget()
        table.dead(Dead(1, PEER, PEER), 2.0)
        assert table.said() == [Dead(1, PEER, PEER)]


class TestHealth:
    def test_probes_move_it(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        record = table.records[PEER]
        scores = []
        for expected, nacks in [(0, 0), (3, 3), (3, 1), (3, 0), (2, 5), (3, 0)]:
            table.probe_failed(record, 0, expected, nacks, 1.0)
            scores.append(table.awareness.score)
        assert scores == [1, 1, 3, 6, 6, 7]
        for _ in range(9):
            table.probe_succeeded()
        assert table.awareness.score == 0

    def test_it_stretches_time(self) -> None:
        table = FakeMemberlist()
        assert table.awareness.scale_timeout(1.5) == 1.5
        table.awareness.apply_delta(100)
        assert table.awareness.scale_timeout(1.5) == 12.0

    def test_without_lifeguard_it_stays(self) -> None:
        table = FakeMemberlist(options=SwimOptions(lha_probe=False))
        table.suspect(Suspect(1, US, PEER), 1.0)
        table.awareness.apply_delta(5)
        assert table.awareness.score == 0
        assert table.awareness.scale_timeout(1.5) == 1.5
