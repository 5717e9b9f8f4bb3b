"""Digests of user events, and the push/pulls that they cause."""

import random
from itertools import pairwise

import pytest

from tests.serf.helpers import serf
from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.serf import Serf
from trioserf.wire.errors import WireError
from trioserf.wire.event_digest import MAX_DIGEST, EventDigest, decode_digest, encode_digest
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import UserEvent

P1, P2, P3 = (Address(f"10.0.0.{number}", 7946) for number in (1, 2, 3))
_JITTER = 0.2


def receive(state: Serf, *ltimes: int, name: str = "x") -> None:
    """Receive an event at each of these times."""
    for ltime in ltimes:
        state.handle(encode(UserEvent(ltime, name)), 0.0)


def digest(state: Serf, now: float) -> EventDigest:
    return decode_digest(state.repair.digest(now))


def settled(state: Serf, now: float = 10.0) -> bytes:
    """Return a member's digest with all its events settled."""
    state.repair.digest(now - 2)
    return state.repair.digest(now)


def is_exchange_due(state: Serf) -> bool:
    """Return whether a push/pull is due at the next deadline."""
    at = state.repair.next_deadline
    return at is not None and state.repair.next_exchange(at) is not None


# --- our own digest ---


def test_digest_is_empty_before_the_first_event() -> None:
    assert serf("a").repair.digest(0.0) == b""


def test_digest_has_the_clock_at_once_and_events_after_a_second() -> None:
    state = serf("a")
    state.user_event("x")
    assert digest(state, 5.0) == EventDigest(2, 0, 0, 0)
    state.user_event("y")
    assert digest(state, 5.9) == EventDigest(3, 0, 0, 0)
    first = digest(state, 6.0)
    assert (first.clock, first.first, first.last) == (3, 0, 1)
    assert first.hash != 0
    second = digest(state, 6.9)
    assert (second.first, second.last) == (0, 2)
    assert second.hash not in {0, first.hash}


def test_digest_does_not_depend_on_the_order_of_arrival_or_coalescing() -> None:
    one, other = serf("a"), serf("b")
    receive(one, 1, 2, 3)
    receive(one, 2, name="y")
    receive(other, 2, name="y")
    for ltime in (3, 2, 1):
        other.handle(encode(UserEvent(ltime, "x", b"", True)), 0.0)
    assert settled(one) == settled(other)


@pytest.mark.parametrize(
    "event", [UserEvent(2, "y"), UserEvent(3, "x"), UserEvent(2, "x", b"1"), UserEvent(2, "x\0")]
)
def test_digest_depends_on_time_name_and_payload(event: UserEvent) -> None:
    one, other = serf("a"), serf("b")
    for state in (one, other):
        receive(state, 1, 4)
    receive(one, 2)
    other.handle(encode(event), 0.0)
    assert settled(one) != settled(other)


def test_digest_covers_the_last_256_times_since_the_start() -> None:
    state = serf("a")
    state._user_events.window.start_at(1)
    receive(state, *range(1, 400))
    covered = decode_digest(settled(state))
    assert (covered.first, covered.last) == (143, 399)
    late = serf("b")
    late._user_events.window.witness(390)
    late._user_events.window.start_at(391)
    receive(late, 391, 392)
    covered = decode_digest(settled(late))
    assert (covered.first, covered.last) == (390, 392)


def test_digest_covers_no_forgotten_event() -> None:
    state = serf("a", options=SerfOptions(event_buffer=10))
    receive(state, *range(1, 101))
    covered = decode_digest(settled(state))
    assert (covered.first, covered.last) == (90, 100)


def test_digest_works_after_a_jump_and_a_wrap_of_the_clock() -> None:
    state = serf("a")
    receive(state, 5, 2**63)
    assert decode_digest(settled(state)).clock == 2**63 + 1
    receive(state, 2**64 - 2, 2**64 - 1)
    assert settled(state, 20.0) == b""  # the clock is 0 again
    receive(state, 0, 1)
    assert decode_digest(settled(state, 30.0)).last == 1


def test_digest_ends_at_the_clock_if_it_wraps_before_times_settle() -> None:
    state = serf("a")
    receive(state, 2**64 - 2)
    state.repair.digest(10.0)
    receive(state, 2**64 - 1, 1)
    assert digest(state, 12.0) == EventDigest(2, 0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_settled_times_lag_one_second_behind_the_clock(seed: int) -> None:
    state, rng = serf("a"), random.Random(seed)
    now, history = 0.0, [(-2.0, 0)]
    for _ in range(300):
        now += rng.expovariate(10)
        if rng.random() < 0.3:
            state.user_event("x", b"%d" % len(history))
        history.append((now, state.event_clock.time - 1))
        if state.event_clock.time > 1:
            last = digest(state, now).last
            assert last <= max(time for at, time in history if at <= now - 1)
            assert len(state.repair._settling) <= 11
    assert last > 0


# --- comparing ---


def test_missed_last_event_causes_a_push_pull_after_half_a_second() -> None:
    state, peer = serf("a"), serf("b")
    receive(state, 1)
    receive(peer, 1, 2)
    state.repair.observe(P1, peer.repair.digest(10.0), 10.0)
    at = state.repair.next_deadline
    assert at is not None
    assert 10.5 <= at <= 10.5 + _JITTER
    assert state.repair.next_exchange(at - 0.01) is None
    assert state.repair.next_exchange(at) == P1
    assert not is_exchange_due(state)


def test_event_that_arrives_within_half_a_second_needs_no_push_pull() -> None:
    state, peer = serf("a"), serf("b")
    receive(peer, 1)
    state.repair.observe(P1, peer.repair.digest(10.0), 10.0)
    receive(state, 1)
    assert not is_exchange_due(state)


def test_missed_earlier_event_causes_a_push_pull_at_the_second_difference() -> None:
    state, peer = serf("a"), serf("b")
    receive(state, 1, 3)
    receive(peer, 1, 2, 3)
    state.repair.observe(P1, settled(peer), 10.0)
    assert not is_exchange_due(state)
    state.repair.observe(P2, settled(peer), 10.5)
    at = state.repair.next_deadline
    assert at is not None
    assert 10.5 <= at <= 10.5 + _JITTER
    assert state.repair.next_exchange(at) == P2


def test_equal_digest_between_two_different_ones_begins_the_count_again() -> None:
    state, peer, same = serf("a"), serf("b"), serf("c")
    receive(peer, 1, 2, 3)
    receive(state, 1, 3)
    receive(same, 1, 3)
    for number, other in enumerate((peer, same, peer)):
        state.repair.observe(P1, settled(other), 10.0 + number)
    assert state.repair.next_deadline is None


def test_push_pull_is_not_made_if_the_event_arrives_before() -> None:
    state, peer = serf("a"), serf("b")
    receive(state, 1, 3)
    receive(peer, 1, 2, 3)
    for now in (10.0, 10.5):
        state.repair.observe(P1, settled(peer), now)
    receive(state, 2)
    assert not is_exchange_due(state)


def test_members_with_equal_events_make_no_push_pull() -> None:
    states = [serf(name) for name in "abc"]
    for number in range(1, 600):
        for state in states:
            receive(state, number)
        now = number / 7
        for state in states:
            for peer in states:
                state.repair.observe(P1, peer.repair.digest(now), now)
            while (at := state.repair.next_deadline) is not None and at <= now:
                assert state.repair.next_exchange(at) is None


def test_new_member_is_compared_from_its_start_only() -> None:
    new, old = serf("a"), serf("b")
    receive(old, *range(1, 11))
    new._user_events.window.witness(10)
    new._user_events.window.start_at(11)
    for state in (new, old):
        receive(state, 11)
    for now in (10.0, 10.5, 11.0):
        new.repair.observe(P1, settled(old), now)
        old.repair.observe(P2, settled(new), now)
    assert (new.repair.next_deadline, old.repair.next_deadline) == (None, None)
    receive(new, 12, 13)
    receive(old, 13)
    for now in (20.0, 20.5):
        old.repair.observe(P2, settled(new, now), now)
    assert old.repair.next_deadline is not None


# --- limits ---


def forged(state: Serf, number: int) -> bytes:
    return encode_digest(EventDigest(state.event_clock.time + 10 + number, 0, 5, number))


def test_lying_members_cause_one_push_pull_a_second_and_one_each_in_ten_seconds() -> None:
    state = serf("a")
    receive(state, *range(1, 10))
    asked: list[tuple[float, Address]] = []
    for tick in range(3000):
        now = 100 + tick / 100
        liar = Address(f"10.0.0.{tick % 5}", 7946)
        state.repair.observe(liar, forged(state, tick), now)
        at = state.repair.next_deadline
        if at is not None and at <= now:
            peer = state.repair.next_exchange(now)
            assert peer is not None
            asked.append((now, peer))
    times = [at for at, _ in asked]
    assert min(b - a for a, b in pairwise(times)) >= 1.0
    for liar in {peer for _, peer in asked}:
        by_liar = [at for at, peer in asked if peer == liar]
        assert all(b - a >= 10 for a, b in pairwise(by_liar))
    assert 4 <= len(asked) <= 7  # 1, 2, 4, 8 and 16 seconds
    assert len(state.repair._asked) <= 10


def test_event_that_no_push_pull_brings_causes_one_a_minute() -> None:
    state, peer = serf("a"), serf("b")
    receive(state, 1, 3)
    receive(peer, 1, 2, 3)
    asked: list[float] = []
    for tick in range(10_000):
        now = tick / 10
        state.repair.observe(Address(f"10.0.0.{tick % 200}", 7946), settled(peer, now), now)
        if state.repair.next_exchange(now) is not None:
            asked.append(now)
    assert [round(b - a) for a, b in pairwise(asked)][-3:] == [60, 60, 60]
    receive(state, 2)
    receive(peer, 4, 6)
    receive(state, 6)
    for now in (1100.0, 1101.0, 1102.0, 1103.0):
        state.repair.observe(P1, settled(peer, now), now)
        if state.repair.next_exchange(now) is not None:
            asked.append(now)
    assert asked[-1] in {1102.0, 1103.0}
    assert state.repair._interval == 1.0


def test_digests_in_quick_succession_are_not_compared() -> None:
    state, peer = serf("a"), serf("b")
    receive(state, 1, 3)
    receive(peer, 1, 2, 3)
    for now in (10.0, 10.001, 10.019):
        state.repair.observe(P1, settled(peer), now)
    assert state.repair.next_deadline is None


def test_members_ask_at_different_times_the_more_the_later() -> None:
    peer = serf("p")
    receive(peer, 1)
    spread = []
    for count in (5, 1000):
        names = [f"m{number}" for number in range(count)]
        ats = []
        for seed in range(20):
            state = serf("a", *names, seed=seed)
            state.repair.observe(P1, peer.repair.digest(10.0), 10.0)
            at = state.repair.next_deadline
            assert at is not None
            ats.append(at - 10.5)
        spread.append(max(ats))
    assert spread[0] <= 0.2 < 0.5 < spread[1] <= 1.0


# --- bytes ---


@pytest.mark.parametrize(
    "value",
    [
        EventDigest(2, 0, 0, 0),
        EventDigest(2, 0, 1, 0xFFFFFFFF),
        EventDigest(300, 43, 299, 7),
        EventDigest(2**64 - 1, 2**64 - 300, 2**64 - 50, 1),
    ],
)
def test_digest_is_decoded_as_encoded(value: EventDigest) -> None:
    data = encode_digest(value)
    assert len(data) <= MAX_DIGEST
    assert decode_digest(data) == value


def test_usual_digest_is_short() -> None:
    assert len(encode_digest(EventDigest(5000, 4743, 4999, 1))) == 9


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "truncated"),
        (b"\0", "truncated"),
        (b"\x80\x80", "truncated"),
        (b"\x05\0\0abc", "truncated"),
        (b"\x05\0\0abcde", "truncated"),
        (bytes(21), "limit"),
        (b"\x80" * 20, "truncated"),
        (b"\0\0\0abcd", "field"),
        (b"\x05\x05\0abcd", "field"),
        (b"\x05\0\x05abcd", "field"),
        (b"\xff\x7f\0\x81\x02abcd", "field"),
        (b"\xff" * 10 + b"\x7f\0\0abcd", "field"),
    ],
)
def test_malformed_digest_is_rejected(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_digest(data)
    assert caught.value.kind == kind
