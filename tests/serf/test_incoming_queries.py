from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serf.helpers import (
    ACK,
    FINAL_ACK,
    NO_BROADCAST,
    Cluster,
    address_of,
    join,
    meta,
    query,
    raw_broadcasts,
    response,
    sent,
    serf,
    start_query,
)
from trioserf.address import Address, packed
from trioserf.errors import AlreadyAnswered, NoSuchQuery, TooLarge
from trioserf.results import QueryAnswer
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import DirectMessage
from trioserf.serf.events import QueryReceived
from trioserf.serf.lamport import LAST_TIME
from trioserf.serf.member import Member
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.serf import Serf
from trioserf.wire.errors import WireError
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import (
    NodeFilter,
    QueryResponse,
    Relay,
    TagFilter,
    UserEvent,
)
from trioserf.wire.swim_messages import OUR_VERSIONS


def ask(state: Serf, now: float = 0.0, raw: bytes | None = None) -> QueryReceived:
    """Receive a query of b and return its event."""
    state.handle(query() if raw is None else raw, now)
    (event,) = state.events
    assert isinstance(event, QueryReceived)
    state.events.clear()
    return event


# --- receiving ---


def test_query_is_acknowledged_delivered_and_rebroadcast() -> None:
    state = serf("a", "b")
    state.handle(query(), 100.0)
    assert state.events == [QueryReceived(1, 9, 77, "load", b"x", "b", 115.0)]
    assert sent(state) == [("b", response(ACK))]
    assert raw_broadcasts(state) == [query()]
    assert state.query_clock.time == 10
    assert state.latest_times().query == 9


def test_ack_is_sent_only_if_requested() -> None:
    state = serf("a", "b", has_responder=lambda _: False)
    state.handle(query(flags=0), 0.0)
    assert len(state.events) == 1
    assert sent(state) == []


def test_ack_without_responder_is_final() -> None:
    calls: list[QueryReceived] = []

    def no_responder(event: QueryReceived) -> bool:
        calls.append(event)
        return False

    state = serf("a", "b", has_responder=no_responder)
    event = ask(state)
    assert sent(state) == [("b", response(FINAL_ACK))]
    assert calls == [event]


def test_query_with_no_broadcast_flag_is_not_rebroadcast() -> None:
    state = serf("a", "b")
    state.handle(query(flags=ACK | NO_BROADCAST), 0.0)
    assert len(state.events) == 1
    assert raw_broadcasts(state) == []


@pytest.mark.parametrize(
    ("second", "is_new"),
    [
        (query(9, 77, name="other", payload=b""), False),
        (query(9, 78), True),
        (query(8, 77), True),
        (query(10, 77), True),
    ],
)
def test_query_with_known_id_and_ltime_is_ignored(second: bytes, is_new: bool) -> None:
    state = serf("a", "b")
    ask(state)
    sent(state)
    raw_broadcasts(state)
    state.handle(second, 0.0)
    assert len(state.events) == len(sent(state)) == len(raw_broadcasts(state)) == int(is_new)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3))))
def test_each_query_is_delivered_once(keys_sent: list[tuple[int, int]]) -> None:
    state = serf("a", "b")
    for ltime, number in keys_sent:
        state.handle(query(ltime, number, name=f"{len(state.events)}"), 0.0)
    keys = [(e.ltime, e.query_id) for e in state.events if isinstance(e, QueryReceived)]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(keys_sent)


@pytest.mark.parametrize(("ltime", "is_new"), [(487, False), (488, True)])
def test_old_query_is_dropped_with_warning(
    ltime: int, is_new: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state = serf("a", "b")
    ask(state, raw=query(999))
    state.handle(query(ltime), 0.0)
    assert bool(state.events) == is_new
    text = f"received old query load from time {ltime} (current: 1000)"
    assert caplog.messages == ([] if is_new else [text])


def test_far_jump_of_clock_does_not_hide_queries() -> None:
    state = serf("a", "b")
    for ltime, is_new in [
        (7, 1),
        (2**63, 1),
        (LAST_TIME, 1),
        (8, 1),
        (2**63 + 1, 1),
        (LAST_TIME, 0),
    ]:
        state.handle(query(ltime), 0.0)
        assert len(state.events) == is_new
        state.events.clear()


@pytest.mark.parametrize(
    ("filters", "is_delivered"),
    [
        ((NodeFilter(("a", "x")),), True),
        ((NodeFilter(("x",)),), False),
        ((NodeFilter(()),), False),
        ((TagFilter("role", "^we"),), True),
        ((TagFilter("role", "eb$"),), True),
        ((TagFilter("role", "^b"),), False),
        ((TagFilter("missing", "^$"),), True),
        ((TagFilter("missing", "."),), False),
        ((TagFilter("role", "("),), False),
        ((TagFilter("role", "web"), NodeFilter(("x",))), False),
        ((TagFilter("role", "web"), NodeFilter(("a",))), True),
        ((b"?",), False),
    ],
)
def test_query_is_delivered_if_filters_match(
    filters: tuple[NodeFilter | TagFilter | bytes, ...], is_delivered: bool
) -> None:
    state = serf("a", "b")
    state.member_updated("a", address_of("a"), meta(role="web"), OUR_VERSIONS)
    state.events.clear()
    raw = query(filters=filters)
    state.handle(raw, 0.0)
    assert len(state.events) == len(sent(state)) == int(is_delivered)
    assert raw_broadcasts(state) == [raw]


@pytest.mark.parametrize("to", [Address("10.0.0.98", 0), Address("::1", 0)])
def test_query_without_usable_address_is_dropped(to: Address) -> None:
    state = serf("a", "b")
    state.handle(query(to=to), 0.0)
    assert state.events == []
    assert raw_broadcasts(state) == []


# --- responding ---


def test_response_is_sent_to_requester_once() -> None:
    state = serf("a", "b")
    event = ask(state, 100.0)
    sent(state)
    state.respond(event.id, b"42", 115.0)
    assert sent(state) == [("b", response(0, b"42"))]
    with pytest.raises(AlreadyAnswered, match="response already sent"):
        state.respond(event.id, b"43", event.deadline)
    with pytest.raises(AlreadyAnswered):
        state.decline(event.id, 115.0)
    with pytest.raises(AlreadyAnswered):
        state.query_name(event.id)
    with pytest.raises(NoSuchQuery, match="No pending queries matching ID"):
        state.respond(event.id, b"44", event.deadline + 0.1)
    assert state._incoming_queries._answered
    state.reap(event.deadline + 0.1)
    assert not state._incoming_queries._answered


def test_name_of_query_is_known_until_it_is_answered() -> None:
    state = serf("a", "b")
    event = ask(state, 100.0)
    assert state.query_name(event.id) == event.name
    state.respond(event.id, b"42", 115.0)
    with pytest.raises(NoSuchQuery):
        state.query_name(event.id)


def test_response_after_deadline_is_rejected() -> None:
    state = serf("a", "b")
    event = ask(state, 100.0)
    sent(state)
    with pytest.raises(NoSuchQuery):
        state.respond(event.id, b"42", 115.1)
    state.reap(115.1)
    with pytest.raises(NoSuchQuery):
        state.decline(event.id, 115.1)
    assert state.direct_messages == []


def test_query_with_negative_timeout_is_malformed() -> None:
    state = serf("a", "b")
    with pytest.raises(WireError, match="query Timeout"):
        state.handle(query(timeout=-1.0), 0.0)
    assert state.events == []


def test_decline_sends_final_ack_once() -> None:
    state = serf("a", "b")
    event = ask(state)
    sent(state)
    state.decline(event.id, 1.0)
    state.decline(event.id, 1.0)
    assert sent(state) == [("b", response(FINAL_ACK))]
    state.respond(event.id, b"42", 1.0)
    assert sent(state) == [("b", response(0, b"42"))]


def test_decline_without_requested_acks_sends_nothing() -> None:
    state = serf("a", "b")
    event = ask(state, raw=query(flags=0))
    state.decline(event.id, 1.0)
    assert state.direct_messages == []


def test_ids_of_received_queries_are_consecutive() -> None:
    state = serf("a", "b")
    assert [ask(state, raw=query(ltime)).id for ltime in (5, 5000, 4999)] == [1, 2, 3]


def test_oldest_pending_queries_are_dropped_above_limit() -> None:
    state = serf("a", "b", options=SerfOptions(pending_queries=3))
    numbers = [ask(state, raw=query(ltime)).id for ltime in range(1, 6)]
    for number in numbers[:2]:
        with pytest.raises(NoSuchQuery):
            state.respond(number, b"", 0.0)
    for number in numbers[2:]:
        state.respond(number, b"", 0.0)


def test_query_ids_of_one_time_are_bounded() -> None:
    state = serf("a", "b", options=SerfOptions(query_buffer_bytes=1000))
    for number in range(100):
        state.handle(query(9, number), 0.0)
    assert len(state.events) == 10


def limited(packet: int, cap: int) -> Serf:
    return serf("a", "b", options=SerfOptions(query_response_size_limit=packet, answer_cap=cap))


SMALL = len(encode(response(0, b"x" * 300)))
"""The size of a response with a payload of 300 bytes."""


@pytest.mark.parametrize(
    ("size", "stream"), [(300, False), (301, True), (600, True)], ids=["fits", "over", "cap"]
)
def test_large_response_is_sent_on_stream(size: int, stream: bool) -> None:
    state = limited(SMALL, SMALL + 300)
    event = ask(state)
    state.direct_messages.clear()
    state.respond(event.id, b"x" * size, 0.0)
    data = encode(response(0, b"x" * size))
    assert state.direct_messages == [DirectMessage(address_of("b"), "b", data, stream)]


@pytest.mark.parametrize(("cap", "named"), [(SMALL + 300, SMALL + 300), (0, SMALL)])
def test_response_above_cap_is_rejected(cap: int, named: int) -> None:
    state = limited(SMALL, cap)
    event = ask(state)
    state.direct_messages.clear()
    with pytest.raises(TooLarge) as caught:
        state.respond(event.id, b"x" * 650, 0.0)
    assert str(caught.value) == f"response exceeds limit of {named} bytes"
    assert state.direct_messages == []
    state.respond(event.id, b"smaller", 0.0)
    assert len(state.direct_messages) == 1


@pytest.mark.parametrize(
    ("source", "to"), [("x", Address("10.0.0.1", 25)), ("b", Address("10.0.0.1", 25))]
)
def test_large_response_to_unknown_address_is_rejected(source: str, to: Address) -> None:
    state = limited(SMALL, 10 * SMALL)
    event = ask(state, raw=query(source=source, to=to))
    state.direct_messages.clear()
    with pytest.raises(TooLarge, match=f"response exceeds limit of {SMALL} bytes"):
        state.respond(event.id, b"x" * 400, 0.0)
    state.respond(event.id, b"42", 0.0)
    assert state.direct_messages == [DirectMessage(to, source, encode(response(0, b"42")))]


@pytest.mark.parametrize(("size", "fits"), [(60_000, True), (70_000, False)])
def test_cap_applies_to_response_to_own_query(size: int, fits: bool) -> None:
    state = serf("a", "b")
    started = start_query(state, QueryParams(name="load"))
    started.results()
    if fits:
        state.respond(1, b"x" * size, 0.0)
        assert started.results() == [QueryAnswer("a", b"x" * size)]
    else:
        with pytest.raises(TooLarge):
            state.respond(1, b"x" * size, 0.0)


def test_large_response_reaches_requester() -> None:
    cluster = Cluster("a", "b")
    started = cluster.ask("a", QueryParams(name="load"))
    cluster["b"].respond(cluster.queries("b")[0].id, b"x" * 5000, 0.0)
    cluster.run(0.0)
    assert QueryAnswer("b", b"x" * 5000) in started.results()
    assert cluster.streams == 1


# --- relays ---


def relayed(state: Serf) -> list[str]:
    """Return the relays of a response to b, and check the relayed messages."""
    peers = []
    for node, message in sent(state):
        if isinstance(message, Relay):
            peers.append(node)
            assert (message.addr, message.port) == (packed(address_of("b").host), 7946)
            assert message.name == "b"
            assert isinstance(decode(message.inner), QueryResponse)
        else:
            assert node == "b"
    return peers


@pytest.mark.parametrize(
    ("others", "factor", "relays"),
    [("b", 1, 0), ("bc", 1, 1), ("bc", 2, 1), ("bc", 3, 0), ("bcdef", 2, 2), ("bcdef", 0, 0)],
)
def test_response_is_relayed_by_requested_number_of_members(
    others: str, factor: int, relays: int
) -> None:
    state = serf("a", *others)
    event = ask(state, raw=query(relay_factor=factor))
    ack_relays = relayed(state)
    state.respond(event.id, b"42", 0.0)
    response_relays = relayed(state)
    for peers in (ack_relays, response_relays):
        assert len(peers) == len(set(peers)) == relays
        assert not {"a", "b"} & set(peers)


def test_relays_are_alive_and_support_relaying() -> None:
    state = serf("a", "b", "c", "d")
    join(state, "e", versions=OUR_VERSIONS._replace(protocol_max=4))
    state.member_left("c", 0.0)
    state.events.clear()
    ask(state, raw=query(relay_factor=3))
    assert relayed(state) == ["d"]


def large_cluster(members: int) -> Serf:
    state = serf("a", "b")
    for number in range(members):
        join(state, f"m{number}")
    state.events.clear()
    return state


def test_relays_are_limited() -> None:
    state = large_cluster(300)

    def ask_often(now: float) -> int:
        for number in range(250):
            state.handle(query(ltime=int(now) + 1, id=number, relay_factor=255), now)
        direct = [node for node, message in sent(state)]
        assert direct.count("b") == 250
        return len(direct) - 250

    assert 0 < ask_often(1.0) <= 512
    assert state.drops[0].kind == "budget"
    assert 0 < ask_often(2.0) <= 512


def test_relays_are_chosen_without_a_scan_of_the_table() -> None:
    read = 0

    class Counted(tuple[Member, ...]):
        def __getitem__(self, index: Any) -> Any:
            nonlocal read
            read += 1
            return super().__getitem__(index)

        def __iter__(self) -> Iterator[Member]:
            for member in super().__iter__():
                nonlocal read
                read += 1
                yield member

    state = large_cluster(3000)
    state._table._snapshot = Counted(state._table.snapshot())
    ask(state, raw=query(relay_factor=5))
    assert len(relayed(state)) == 5
    assert read <= 20


def test_response_too_large_for_packet_is_not_relayed() -> None:
    state = serf("a", "b", "c", "d")
    event = ask(state, raw=query(relay_factor=1))
    assert len(relayed(state)) == 1
    state.respond(event.id, b"x" * 950, 0.0)
    state.respond(ask(state, raw=query(ltime=10, relay_factor=1)).id, b"x" * 1200, 0.0)
    assert len(relayed(state)) == 1  # the second ack


def test_relay_forwards_inner_message() -> None:
    state = serf("c")
    inner = encode(response(0, b"42"))
    state.handle(encode(Relay(packed("10.0.0.98"), 7946, "b", inner)), 0.0)
    assert state.direct_messages == [DirectMessage(address_of("b"), "b", inner)]


def test_relay_without_port_is_dropped() -> None:
    state = serf("c")
    state.handle(encode(Relay(packed("10.0.0.1"), 0, "b", encode(UserEvent(1, "x")))), 0.0)
    assert state.direct_messages == []


@pytest.mark.parametrize("addr", [b"", b"\0\0\0"])
def test_relay_with_malformed_address_is_dropped(addr: bytes) -> None:
    state = serf("c")
    with pytest.raises(WireError, match="relay IP"):
        state.handle(encode(Relay(addr, 7946, "b", encode(UserEvent(1, "x")))), 0.0)
    assert state.direct_messages == []


def test_relayed_response_survives_loss_of_packet() -> None:
    cluster = Cluster("a", "b", "c")
    started = cluster.ask("a", QueryParams(name="load", relay_factor=1))
    state = cluster["b"]
    state.respond(cluster.queries("b")[0].id, b"42", 0.0)
    del state.direct_messages[0]
    cluster.run(0.0)
    assert QueryAnswer("b", b"42") in started.results()
