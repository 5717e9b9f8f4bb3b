import math
from collections.abc import Mapping
from typing import Any

import pytest

from tests.serf.helpers import (
    Cluster,
    address_of,
    broadcasts,
    drain_events,
    join,
    meta,
    serf,
    start_query,
)
from trioserf.address import packed
from trioserf.errors import InvalidFilter, InvalidQuery, TooLarge
from trioserf.results import QueryAck, QueryAnswer, QueryDone
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import QueryReceived
from trioserf.serf.outgoing_queries import QueryParams, default_query_timeout
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import NodeFilter, Query, QueryResponse, TagFilter
from trioserf.wire.serf_payloads import encode_filter


def no_responder(_: QueryReceived) -> bool:
    return False


def test_query_message_has_all_fields() -> None:
    state = serf("a", "b")
    join(state, "c", meta(role="web"))
    state.query_clock.witness(8)
    params = QueryParams(
        name="load", payload=b"x", nodes=["c"], tags={"role": "^w"}, timeout=15, relay_factor=2
    )
    started = start_query(state, params, 100.0)
    (message,) = broadcasts(state)
    assert isinstance(message, Query)
    assert message.id < 2**31
    assert message == Query(
        ltime=9,
        id=message.id,
        addr=packed(address_of("a").host),
        port=7946,
        source_node="a",
        filters=(
            encode_filter(NodeFilter(("c",))),
            encode_filter(TagFilter("role", "^w")),
        ),
        flags=1,
        relay_factor=2,
        timeout=15_000_000_000,
        name="load",
        payload=b"x",
    )
    assert state.query_clock.time == 10
    assert (started.query.deadline, started.query.expected) == (115.0, ("c",))
    assert state.next_deadline == pytest.approx(100.1)  # the query is repeated


@pytest.mark.parametrize(
    ("members", "seconds"),
    [(1, 3.2), (2, 3.2), (9, 3.2), (10, 6.4), (20, 6.4), (99, 6.4), (100, 9.6), (1000, 12.8)],
)
def test_default_timeout_grows_with_logarithm_of_members(members: int, seconds: float) -> None:
    assert default_query_timeout(0.2, members) == pytest.approx(seconds)
    assert seconds == pytest.approx(0.2 * 16 * math.ceil(math.log10(members + 1)))


@pytest.mark.parametrize("timeout", [None, 0, 0.0])
def test_default_timeout_applies_to_query_without_timeout(timeout: float | None) -> None:
    state = serf("a", *(chr(ord("b") + number) for number in range(9)))
    params = QueryParams(name="x", timeout=timeout)
    assert start_query(state, params, 1.0).query.deadline == pytest.approx(7.4)
    state.member_left("b", 0.0)
    assert start_query(state, params, 1.0).query.deadline == pytest.approx(4.2)


def test_infinite_timeout_is_capped() -> None:
    state = serf("a", "b")
    start_query(state, QueryParams(name="x", timeout=math.inf))
    (message,) = broadcasts(state)
    assert isinstance(message, Query)
    assert message.timeout == 2**63 - 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "_serf_ping", "payload": b"x"}, "Queries cannot contain the '_serf_' prefix"),
        ({"name": "_serf_conflict"}, "Queries cannot contain the '_serf_' prefix"),
        ({"name": "_serf_"}, "Queries cannot contain the '_serf_' prefix"),
        ({"name": "x", "relay_factor": 256}, "Relay factor must be between 0 and 255"),
        ({"name": "x", "relay_factor": -1}, "Relay factor must be between 0 and 255"),
        ({"name": "x", "timeout": -1.0}, "The timeout of a query cannot be negative"),
        ({"name": "x", "timeout": math.nan}, "timeout: expected a number, not nan"),
        ({"name": "x", "first": 0}, "A query must wait for at least one response"),
    ],
)
def test_invalid_query_params_are_rejected(fields: Mapping[str, Any], text: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        QueryParams(**fields)
    assert str(caught.value) == text


def test_malformed_tag_expression_is_rejected() -> None:
    with pytest.raises(InvalidFilter):
        start_query(serf("a"), QueryParams(name="x", tags={"role": "("}))


def test_query_above_size_limit_is_rejected() -> None:
    state = serf("a", options=SerfOptions())
    with pytest.raises(TooLarge) as caught:
        start_query(state, QueryParams(name="x", payload=b"x" * 1024))
    assert str(caught.value) == "query exceeds limit of 1024 bytes"
    assert state.next_deadline is None


def test_query_above_running_limit_is_rejected() -> None:
    state = serf("a", "b", options=SerfOptions(running_queries=2))
    start_query(state, QueryParams(name="x"))
    start_query(state, QueryParams(name="y"))
    with pytest.raises(InvalidQuery, match="2 queries are running already"):
        start_query(state, QueryParams(name="z"))
    state.expire(100.0)
    start_query(state, QueryParams(name="z"), 100.0)


# --- from start to end ---


def test_query_finishes_with_last_response() -> None:
    cluster = Cluster("a", "b", "c")
    started = cluster.ask("a", QueryParams(name="load"))
    assert set(started.results()) == {QueryAck("a"), QueryAck("b"), QueryAck("c")}
    for name in "abc":
        (query,) = cluster.queries(name)
        assert (query.name, query.source) == ("load", "a")
        assert query.deadline == pytest.approx(3.2)
        cluster[name].respond(query.id, name.encode(), 1.0)
    assert started.results() == [QueryAnswer("a", b"a")]
    cluster.run(1.0)
    assert started.results() == [
        QueryAnswer("b", b"b"),
        QueryAnswer("c", b"c"),
        QueryDone(3, 3, 3, ()),
    ]
    assert cluster["a"].next_deadline is None


def test_query_finishes_with_last_final_ack() -> None:
    cluster = Cluster("a", "b", "c", has_responder=no_responder)
    started = cluster.ask("a", QueryParams(name="load"))
    assert started.query.finished
    assert started.results()[-1] == QueryDone(3, 0, 3, ())
    assert len(cluster.queries("b")) == 1


def test_query_finishes_when_all_members_decline() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load"))
    for name in "ab":
        (query,) = cluster.queries(name)
        cluster[name].decline(query.id, 1.0)
        cluster[name].decline(query.id, 1.0)
    cluster.run(1.0)
    assert started.query.finished
    assert started.results()[-1] == QueryDone(2, 0, 2, ())


def test_query_waits_for_silent_member_until_deadline() -> None:
    cluster = Cluster("a", "b", "c", has_responder=no_responder)
    cluster.lost = {"c"}
    started = cluster.ask("a", QueryParams(name="load", timeout=2.0))
    cluster["a"].expire(1.9)
    assert not started.query.finished
    cluster["a"].expire(2.0)
    assert started.results()[-1] == QueryDone(2, 0, 3, ("c",))


def test_response_after_deadline_is_ignored() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load", timeout=2.0))
    started.results()
    response = QueryResponse(started.query.ltime, started.query.id, "b", 0, b"late")
    cluster["a"].handle(encode(response), 2.1)
    assert started.results() == []


@pytest.mark.parametrize(("ltime", "number"), [(1, 0), (0, 1)])
def test_response_to_other_query_is_ignored(ltime: int, number: int) -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load"))
    started.results()
    response = QueryResponse(started.query.ltime + ltime, started.query.id + number, "b", 0, b"?")
    cluster["a"].handle(encode(response), 0.0)
    assert started.results() == []


def test_queries_of_one_ltime_are_distinguished_by_id() -> None:
    state = serf("a", "b")
    first = start_query(state, QueryParams(name="x"))
    second = start_query(state, QueryParams(name="x"))
    first.results()
    second.results()
    state.handle(encode(QueryResponse(second.query.ltime, second.query.id, "b", 0, b"1")), 0.0)
    assert first.results() == []
    assert second.results() == [QueryAnswer("b", b"1")]
    assert first.query.key != second.query.key


def test_query_without_acks_finishes_with_last_response() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load", ack=False))
    assert started.results() == []
    for name in "ab":
        cluster[name].respond(cluster.queries(name)[0].id, b"", 1.0)
    cluster.run(1.0)
    assert started.results()[-1] == QueryDone(0, 2, 2, ())


def test_query_without_acks_does_not_wait_for_self_without_responder() -> None:
    state = serf("a", has_responder=no_responder)
    started = start_query(state, QueryParams(name="load", ack=False))
    assert started.query.finished
    assert started.results() == [QueryDone(0, 0, 1, ())]


def test_only_matching_members_are_expected() -> None:
    cluster = Cluster("a", "b", "c")
    for state in cluster.states.values():
        state.member_updated("b", address_of("b"), meta(role="web"), state.members()[0].versions)
        state.member_updated("c", address_of("c"), meta(role="db"), state.members()[0].versions)
    started = cluster.ask("a", QueryParams(name="load", tags={"role": "we"}))
    assert started.query.expected == ("b",)
    assert [len(cluster.queries(name)) for name in "abc"] == [0, 1, 0]
    cluster["b"].respond(cluster.queries("b")[0].id, b"1", 0.0)
    cluster.run(0.0)
    done = QueryDone(1, 1, 1, ())
    assert started.results() == [QueryAck("b"), QueryAnswer("b", b"1"), done]


def test_query_without_matching_members_finishes_at_once() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load", nodes=["x"]))
    assert started.query.finished
    assert started.results() == [QueryDone(0, 0, 0, ())]


def test_query_stops_waiting_for_dead_member() -> None:
    cluster = Cluster("a", "b", has_responder=no_responder)
    cluster.lost = {"b"}
    started = cluster.ask("a", QueryParams(name="load", timeout=60.0))
    cluster["a"].member_left("b", 5.0)
    assert started.query.finished
    assert started.results()[-1] == QueryDone(1, 0, 2, ("b",))


def test_dead_and_leaving_members_are_not_expected() -> None:
    state = serf("a", "b", "c")
    state.member_left("b", 0.0)
    state.force_leave("c", now=0.0)
    assert start_query(state, QueryParams(name="x")).query.expected == ("a",)


def test_query_finishes_after_first_response_if_requested() -> None:
    cluster = Cluster("a", "b", "c")
    started = cluster.ask("a", QueryParams(name="load", first=1))
    cluster["c"].respond(cluster.queries("c")[0].id, b"1", 0.0)
    cluster.run(0.0)
    assert started.query.finished
    cluster["b"].respond(cluster.queries("b")[0].id, b"2", 0.0)
    cluster.run(0.0)
    done = [result for result in started.results() if isinstance(result, QueryDone)]
    assert done == [QueryDone(3, 1, 3, ())]


def test_cancelled_query_delivers_done_once() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load"))
    started.results()
    cluster["a"].cancel(started.query)
    cluster["a"].cancel(started.query)
    assert started.results() == [QueryDone(2, 0, 2, ())]
    assert cluster["a"].next_deadline is None


def test_next_deadline_is_earliest_of_all_queries() -> None:
    state = serf("a", "b")
    for timeout in (9, 4, 7):
        start_query(state, QueryParams(name="x", timeout=timeout, ack=False))
    assert state.next_deadline == 4.0
    state.expire(4.0)
    assert state.next_deadline == 7.0


def test_own_query_is_delivered_locally() -> None:
    state = serf("a")
    start_query(state, QueryParams(name="load"))
    assert drain_events(state.events) == [("query", "load")]
    assert state.latest_times().query == 1
