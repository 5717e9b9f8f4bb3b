"""Queries that are sent again, and the acks and responses that are."""

from collections import Counter

import pytest

from tests.serf.helpers import (
    ACK,
    FINAL_ACK,
    NO_BROADCAST,
    Cluster,
    address_of,
    query,
    raw_broadcasts,
    response,
    sent,
    serf,
    start_query,
)
from trioserf.results import QueryAck, QueryAnswer, QueryDone
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import QueryReceived
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.serf import Serf
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import Query, QueryResponse

REPEATED = query(flags=ACK | NO_BROADCAST)


def repeated(state: Serf, until: float) -> dict[float, Counter[str]]:
    """Run a node up to a time; return who was sent its query again, by the time."""
    found: dict[float, Counter[str]] = {}
    while (at := state.next_deadline) is not None and at <= until:
        state.expire(at)
        for name, message in sent(state):
            assert isinstance(message, Query)
            assert message.flags == ACK | NO_BROADCAST
            found.setdefault(round(at, 4), Counter())[name] += 1
    return found


def rounds(found: dict[float, Counter[str]]) -> dict[float, Counter[str]]:
    """Add up what was sent within 10 ms."""
    sums: dict[float, Counter[str]] = {}
    for at, names in found.items():
        start = next((one for one in sums if at - one <= 0.01), at)
        sums[start] = sums.get(start, Counter()) + names
    return sums


# --- the requester ---


def test_query_is_repeated_to_members_that_have_not_acknowledged_it() -> None:
    state = serf("a", "b", "c")
    started = start_query(state, QueryParams(name="load"))
    message = started.query
    state.handle(encode(QueryResponse(message.ltime, message.id, "b", FINAL_ACK)), 0.05)
    assert rounds(repeated(state, 3.0)) == {
        0.1: Counter(c=1), 0.4: Counter(c=3), 1.6: Counter(c=3)
    }  # fmt: skip
    assert repeated(state, 10.0) == {}
    assert isinstance(started.results()[-1], QueryDone)


def test_repeated_query_is_the_same_query() -> None:
    state = serf("a", "b")
    start_query(state, QueryParams(name="load", payload=b"x", relay_factor=2))
    (raw,) = raw_broadcasts(state)
    state.expire(0.1)
    (direct,) = state.direct_messages
    assert direct.address == address_of("b")
    assert direct.data == raw.replace(b"\xa5Flags\x01", b"\xa5Flags\x03")


def test_query_that_has_finished_is_not_repeated() -> None:
    state = serf("a", "b")
    message = start_query(state, QueryParams(name="_serf_ping")).query
    repeated(state, 0.2)
    state.handle(encode(QueryResponse(message.ltime, message.id, "b", ACK)), 0.2)
    assert message.finished
    assert repeated(state, 10.0) == {}


def test_query_is_not_repeated_after_its_deadline() -> None:
    state = serf("a", "b")
    start_query(state, QueryParams(name="load", timeout=0.4))
    assert list(repeated(state, 10.0)) == [0.1]


def test_last_round_of_short_query_comes_before_its_end() -> None:
    state = serf("a", "b")
    start_query(state, QueryParams(name="load", timeout=1.6))
    assert list(rounds(repeated(state, 10.0))) == [0.1, 0.4, 1.2]


def test_rounds_of_late_owner_are_not_lost() -> None:
    state = serf("a", "b")
    start_query(state, QueryParams(name="load"))
    state.expire(1.0)
    assert len(sent(state)) == 1
    assert state.next_deadline == pytest.approx(1.001)
    assert rounds(repeated(state, 1.5)) == {1.001: Counter(b=3)}


@pytest.mark.parametrize(
    "params", [QueryParams(name="x", ack=False), QueryParams(name="x", payload=bytes(1500))]
)
def test_query_without_acks_or_on_streams_is_not_repeated(params: QueryParams) -> None:
    state = serf("a", "b", options=SerfOptions(query_size_limit=4000))
    state._gossip_queues._room = 1400
    start_query(state, params)
    assert repeated(state, 10.0) == {}


def test_members_that_left_or_failed_get_no_repeated_query() -> None:
    state = serf("a", "b", "c")
    start_query(state, QueryParams(name="load"))
    state.member_left("b", 0.0)
    assert rounds(repeated(state, 0.2)) == {0.1: Counter(c=1)}


def test_member_that_owes_a_response_gets_the_query_again_in_later_rounds() -> None:
    state = serf("a", "b", "c")
    message = start_query(state, QueryParams(name="load")).query
    for name, flags in (("a", FINAL_ACK), ("b", ACK), ("c", FINAL_ACK)):
        state.handle(encode(QueryResponse(message.ltime, message.id, name, flags)), 0.05)
    assert rounds(repeated(state, 1.0)) == {0.4: Counter(b=3)}
    state.handle(encode(QueryResponse(message.ltime, message.id, "b", 0, b"1")), 1.0)
    assert repeated(state, 10.0) == {}


def test_round_has_at_most_64_members_and_is_spread() -> None:
    names = [f"m{number}" for number in range(100)]
    state = serf("a", *names)
    start_query(state, QueryParams(name="load"))
    first = repeated(state, 0.2)
    assert sum(map(len, first.values())) == 64
    assert [len(sent_then) for sent_then in first.values()] == [7] * 9 + [1]
    assert max(first) - min(first) == pytest.approx(0.009)
    second = rounds(repeated(state, 1.0))[0.4]
    assert (len(second), second.total()) == (64, 192)


# --- the responder ---


def test_ack_and_response_are_sent_again_for_repeated_query() -> None:
    state = serf("a", "b")
    state.handle(query(), 0.0)
    (event,) = state.events
    assert isinstance(event, QueryReceived)
    sent(state)
    state.handle(REPEATED, 0.1)
    assert sent(state) == [("b", response(ACK))] * 2
    state.respond(event.id, b"1", 0.2)
    sent(state)
    state.handle(REPEATED, 0.4)
    assert sent(state) == [("b", response(ACK))] * 2 + [("b", response(payload=b"1"))]
    assert len(state.events) == 1


def test_last_ack_of_declined_query_is_sent_again() -> None:
    state = serf("a", "b")
    state.handle(query(), 0.0)
    (event,) = state.events
    assert isinstance(event, QueryReceived)
    state.decline(event.id, 0.0)
    sent(state)
    state.handle(REPEATED, 0.1)
    assert sent(state) == [("b", response(FINAL_ACK))] * 2


def test_duplicate_of_gossip_is_not_acknowledged_again() -> None:
    state = serf("a", "b")
    state.handle(query(), 0.0)
    sent(state)
    state.handle(query(), 0.1)
    state.handle(query(relay_factor=1), 0.1)
    assert sent(state) == []


def test_query_that_arrives_first_when_repeated_is_not_passed_on() -> None:
    state = serf("a", "b")
    state.handle(REPEATED, 0.0)
    assert sent(state) == [("b", response(ACK))]
    assert raw_broadcasts(state) == []
    state.handle(query(), 0.1)  # gossip
    assert (len(state.events), sent(state)) == (1, [])


def test_responses_are_repeated_a_limited_number_of_times() -> None:
    state = serf("a", "b")
    state.handle(query(), 0.0)
    sent(state)
    for _ in range(20):
        state.handle(REPEATED, 0.1)
    assert len(sent(state)) == 16


@pytest.mark.parametrize("raw", [query(flags=NO_BROADCAST), query(8, flags=ACK | NO_BROADCAST)])
def test_query_without_acks_or_unknown_is_not_answered_again(raw: bytes) -> None:
    state = serf("a", "b", has_responder=lambda _: False)
    state.handle(query(flags=0), 0.0)
    state.handle(query(8, timeout=0.05), 0.0)
    sent(state)
    state.handle(raw, 0.1)
    assert sent(state) == []


def test_memory_of_responses_is_bounded() -> None:
    state = serf("a", "b", options=SerfOptions(pending_queries=3))
    for number in range(10):
        state.handle(query(id=number), 0.0)
    incoming = state._incoming_queries
    assert [number for _, number in incoming._repeatable] == [7, 8, 9]
    state.reap(14.0)
    assert len(incoming._repeatable) == 3
    state.reap(16.0)
    assert incoming._repeatable == {}


def test_lost_ack_and_response_arrive_after_repetition() -> None:
    cluster = Cluster("a", "b")
    requester, responder = cluster["a"], cluster["b"]
    started = start_query(requester, QueryParams(name="load"))
    responder.handle(raw_broadcasts(requester)[0], 0.0)
    (event,) = cluster.queries("b")
    responder.respond(event.id, b"1", 0.0)
    responder.direct_messages.clear()  # both are lost
    requester.expire(0.1)
    cluster.run(0.1)
    results = started.results()
    assert QueryAck("b") in results
    assert QueryAnswer("b", b"1") in results
