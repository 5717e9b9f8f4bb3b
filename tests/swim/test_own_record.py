"""Our own record: bootstrap, refutation, metadata, leaving, health score."""

import pytest

from tests.swim.helpers import ELSEWHERE, META, OTHER, PEER, US, FakeMemberlist, alive, node_state
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


def test_bootstrap_inserts_alive_record_in_incarnation_1() -> None:
    table = FakeMemberlist()
    local = table.local
    assert (local.state, local.incarnation, local.meta) == (ALIVE, 1, META)
    assert table.records == {US: local}
    assert (table.alive_count, table.estimated_size) == (1, 1)


def test_bootstrap_broadcasts_own_record() -> None:
    table = FakeMemberlist()
    table.records.clear()
    table.bootstrap(b"x", OUR_VERSIONS, 0.0)
    assert table.drain_broadcasts() == [alive(US, 1, meta=b"x")]
    assert table.drain_events() == ["Joined"]


# (message, incarnation of the refutation; None: the message is ignored)
MESSAGES = [
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


@pytest.mark.parametrize(("message", "refuted"), MESSAGES, ids=str)
def test_message_about_own_record_is_refuted_unless_old_or_equal(
    message: Alive | Suspect | Dead, refuted: int | None
) -> None:
    table = FakeMemberlist()
    table.local.incarnation = 5
    match message:
        case Alive():
            table.alive(message, 1.0)
        case Suspect():
            table.suspect(message, 1.0)
        case Dead():
            table.dead(message, 1.0)
    local = table.local
    assert (local.state, local.meta, local.versions) == (ALIVE, META, OUR_VERSIONS)
    assert local.incarnation == (refuted or 5)
    assert table.drain_broadcasts() == ([alive(US, refuted)] if refuted else [])
    assert table.awareness.score == (1 if refuted else 0)
    assert table.drain_events() == []


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_push_pull_row_about_own_record_is_refuted(state: State) -> None:
    table = FakeMemberlist()
    table.merge([node_state(US, state, 1)], 1.0)
    assert table.drain_broadcasts() == [alive(US, 2)]


def test_refutation_precedes_older_broadcasts(caplog: pytest.LogCaptureFixture) -> None:
    table = FakeMemberlist()
    table.alive(alive(PEER, 1), 1.0)
    table.suspect(Suspect(1, US, PEER), 1.0)
    assert table.drain_broadcasts() == [alive(US, 2), alive(PEER, 1)]
    assert "refuting in incarnation 2" in caplog.text
    assert "'peer'" in caplog.text


@pytest.mark.parametrize(
    ("own", "received", "refuted"),
    [
        (1, 2**31, 2**31 + 1),
        (1, 2**31 + 1, None),  # half the range: as far behind as ahead
        (1, 2**32 - 1, None),
        (2**32 - 3, 2**32 - 2, 2**32 - 1),
        (2**32 - 3, 2**32 - 1, 1),
        (2**32 - 1, 2**32 - 1, 1),
        (2**32 - 1, 4, 5),
    ],
)
def test_every_incarnation_is_refuted_or_old(own: int, received: int, refuted: int | None) -> None:
    table = FakeMemberlist()
    table.local.incarnation = own
    table.dead(Dead(received, US, US), 1.0)
    assert table.drain_broadcasts() == ([] if refuted is None else [alive(US, refuted)])
    assert table.local.state is ALIVE


def test_new_metadata_after_the_last_incarnation_is_announced_in_the_first() -> None:
    table = FakeMemberlist()
    table.local.incarnation = 2**32 - 1
    table.update_meta(b"new", 2.0)
    assert table.drain_broadcasts() == [alive(US, 1, meta=b"new")]


class TestMetadata:
    def test_new_metadata_raises_incarnation(self) -> None:
        table = FakeMemberlist()
        table.update_meta(b"new", 1.0)
        assert table.drain_broadcasts() == [alive(US, 2, meta=b"new")]
        assert table.drain_events() == ["Updated"]
        assert (table.local.meta, table.local.incarnation) == (b"new", 2)

    def test_equal_metadata_is_broadcast_without_event(self) -> None:
        table = FakeMemberlist()
        table.update_meta(META, 1.0)
        assert table.drain_broadcasts() == [alive(US, 2)]
        assert table.drain_events() == []

    def test_on_done_follows_last_transmission_or_replacement(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        done: list[str] = []
        table.update_meta(b"one", 1.0, lambda: done.append("one"))
        table.update_meta(b"two", 1.0, lambda: done.append("two"))
        assert done == ["one"]
        while table.broadcasts:
            assert done == ["one"]
            table.drain_broadcasts()
        assert done == ["one", "two"]

    def test_metadata_over_limit_is_rejected(self) -> None:
        table = FakeMemberlist()
        with pytest.raises(ValueError, match="512"):
            table.update_meta(bytes(MAX_META + 1), 1.0)
        assert (table.local.meta, table.drain_broadcasts()) == (META, [])

    def test_metadata_after_leaving_is_not_broadcast(self) -> None:
        table = FakeMemberlist()
        done: list[str] = []
        table.leave(1.0)
        table.clear()
        table.update_meta(b"new", 2.0, lambda: done.append("at once"))
        assert (done, table.drain_broadcasts(), table.local.meta) == (["at once"], [], META)


class TestLeave:
    def test_leave_broadcasts_dead_message_first(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1).with_member(OTHER, ALIVE, 1)
        done: list[str] = []
        table.alive(alive(OTHER, 2), 1.0)
        table.leave(2.0, lambda: done.append("sent"))
        assert (table.leaving, table.local.state, table.alive_count) == (True, LEFT, 2)
        assert table.drain_events() == ["Left"]
        assert table.drain_broadcasts() == [Dead(1, US, US), alive(OTHER, 2)]
        assert done == []
        while table.broadcasts:
            table.drain_broadcasts()
        assert done == ["sent"]

    @pytest.mark.parametrize("peer", [None, DEAD, LEFT])
    def test_leave_without_alive_peers_is_done_at_once(self, peer: State | None) -> None:
        table = FakeMemberlist()
        if peer is not None:
            table.with_member(PEER, peer, 1)
        done: list[str] = []
        table.leave(1.0, lambda: done.append("at once"))
        assert done == ["at once"]

    def test_second_leave_is_done_at_once(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        done: list[str] = []
        table.leave(1.0, lambda: done.append("first"))
        table.leave(2.0, lambda: done.append("second"))
        assert done == ["second"]
        assert table.drain_broadcasts() == [Dead(1, US, US)]

    def test_messages_about_own_record_are_ignored_after_leaving(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        table.leave(1.0)
        table.clear()
        table.alive(alive(US, 9, meta=b"new"), 2.0)
        table.alive(alive(US, 9, addr=ELSEWHERE), 2.0)
        table.suspect(Suspect(9, US, PEER), 2.0)
        table.dead(Dead(9, US, PEER), 2.0)
        table.merge([node_state(US, state, 9) for state in State], 2.0)
        assert (table.local.state, table.local.incarnation) == (LEFT, 1)
        assert (table.drain_broadcasts(), table.drain_events()) == ([], [])

    def test_messages_about_others_are_handled_after_leaving(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        table.leave(1.0)
        table.clear()
        table.dead(Dead(1, PEER, PEER), 2.0)
        assert table.drain_broadcasts() == [Dead(1, PEER, PEER)]


class TestAwareness:
    def test_probe_results_change_health_score(self) -> None:
        table = FakeMemberlist().with_member(PEER, ALIVE, 1)
        record = table.records[PEER]
        scores = []
        for expected, nacks in [(0, 0), (3, 3), (3, 1), (3, 0), (2, 5), (3, 0)]:
            table.probe_failed(record, 0, expected, nacks, 1.0)
            scores.append(table.awareness.score)
        assert scores == [1, 1, 3, 6, 6, 7]
        for _ in range(9):
            table.probe_succeeded(record)
        assert table.awareness.score == 0

    def test_health_score_scales_timeouts(self) -> None:
        table = FakeMemberlist()
        assert table.awareness.scale_timeout(1.5) == 1.5
        table.awareness.apply_delta(100)
        assert table.awareness.scale_timeout(1.5) == 12.0

    def test_health_score_stays_0_without_lha_probe(self) -> None:
        table = FakeMemberlist(options=SwimOptions(lha_probe=False))
        table.suspect(Suspect(1, US, PEER), 1.0)
        table.awareness.apply_delta(5)
        assert table.awareness.score == 0
        assert table.awareness.scale_timeout(1.5) == 1.5
