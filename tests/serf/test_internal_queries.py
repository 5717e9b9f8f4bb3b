import pytest

from tests.serf.helpers import (
    ACK,
    FINAL_ACK,
    Cluster,
    address_of,
    join,
    meta,
    query,
    raw_broadcasts,
    response,
    sent,
    serf,
)
from trioserf.address import packed
from trioserf.errors import InvalidQuery
from trioserf.results import QueryAck, QueryDone
from trioserf.serf.config import SerfOptions
from trioserf.serf.internal_queries import KeyAction, check_name, truncate_keys
from trioserf.serf.key_queries import key_query
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.serf import Serf
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import (
    ConflictResponse,
    KeyResponse,
    QueryResponse,
    Status,
)
from trioserf.wire.swim_messages import OUR_VERSIONS

KEY = b"k" * 32


def responses_of(state: Serf) -> list[object]:
    """Return the payloads of the responses to b, which follow its ack."""
    (_, first), *rest = sent(state)
    assert isinstance(first, QueryResponse)
    assert first.flags == (ACK if rest else FINAL_ACK)
    found: list[object] = []
    for _, message in rest:
        assert isinstance(message, QueryResponse)
        found.append(decode(message.payload))
    assert state.events == []
    return found


def test_users_can_send_no_internal_query_but_ping() -> None:
    check_name("_serf_ping", b"")
    check_name("serf_x", b"x")
    for name, payload in [("_serf_ping", b"x"), ("_serf_pong", b""), ("_serf_", b"")]:
        with pytest.raises(InvalidQuery, match="Queries cannot contain the '_serf_' prefix"):
            check_name(name, payload)


def test_ping_is_acknowledged_only() -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_ping", payload=b""), 0.0)
    assert state.events == []
    assert sent(state) == [("b", response(FINAL_ACK))]
    assert len(raw_broadcasts(state)) == 1


def test_ping_query_finishes_with_last_ack() -> None:
    cluster = Cluster("a", "b", "c")
    started = cluster.ask("a", QueryParams(name="_serf_ping"))
    assert started.query.finished
    *acks, done = started.results()
    assert set(acks) == {QueryAck("a"), QueryAck("b"), QueryAck("c")}
    assert done == QueryDone(3, 0, 3, ())
    assert all(not state.events for state in cluster.states.values())


def test_unknown_internal_query_is_not_delivered(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_future"), 0.0)
    assert responses_of(state) == []
    assert caplog.messages == ["Unhandled internal query '_serf_future'"]


# --- conflict query ---


def test_conflict_query_is_answered_with_member_record() -> None:
    state = serf("a", "b")
    join(state, "c", meta(role="web"))
    state.member_left("c", 0.0)
    state.events.clear()
    state.handle(query(name="_serf_conflict", payload=b"c"), 0.0)
    expected = ConflictResponse(
        "c", packed(address_of("c").host), 7946, {"role": "web"}, Status.FAILED, *OUR_VERSIONS
    )
    assert responses_of(state) == [expected]


@pytest.mark.parametrize("name", [b"a", b"unknown", b"\xff"])
def test_conflict_query_about_self_or_unknown_member_gets_no_response(name: bytes) -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_conflict", payload=name), 0.0)
    assert responses_of(state) == []


# --- keys ---


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("install", "No keyring to modify (encryption not enabled)"),
        ("use", "No keyring to modify (encryption not enabled)"),
        ("remove", "No keyring to modify (encryption not enabled)"),
        ("list", "Keyring is empty (encryption not enabled)"),
    ],
)
def test_key_query_without_keyring_fails(action: KeyAction, text: str) -> None:
    state = serf("a", "b")
    params = key_query(action, KEY)
    state.handle(query(name=params.name, payload=params.payload), 0.0)
    assert responses_of(state) == [KeyResponse(False, text)]


@pytest.mark.parametrize("action", ["install", "use", "remove", "list"])
def test_key_query_calls_handler(action: KeyAction) -> None:
    done: list[tuple[KeyAction, bytes]] = []

    def handler(requested: KeyAction, key: bytes) -> KeyResponse:
        done.append((requested, key))
        return KeyResponse(True, "", ("a2V5",), "a2V5")

    state = serf("a", "b", keys=handler)
    params = key_query(action, KEY)
    state.handle(query(name=params.name, payload=params.payload), 0.0)
    assert responses_of(state) == [KeyResponse(True, "", ("a2V5",), "a2V5")]
    assert done == [(action, b"" if action == "list" else KEY)]


@pytest.mark.parametrize("payload", [b"", b"\x07torn", encode(KeyResponse(True))])
def test_malformed_key_request_fails(payload: bytes) -> None:
    state = serf("a", "b", keys=lambda _action, _key: KeyResponse(True))
    state.handle(query(name="_serf_install-key", payload=payload), 0.0)
    (response,) = responses_of(state)
    assert isinstance(response, KeyResponse)
    assert not response.result
    assert "Failed to decode key request" in response.message


def size_of(response: KeyResponse) -> int:
    return 40 + len(response.message) + sum(len(key) + 1 for key in response.keys)


def test_short_key_list_is_not_truncated() -> None:
    response = KeyResponse(True, "", ("k" * 44,) * 3, "k" * 44)
    assert truncate_keys(response, 1024, size_of) is response


@pytest.mark.parametrize(("count", "kept"), [(30, 20), (500, 20)])
def test_long_key_list_is_truncated_with_message(count: int, kept: int) -> None:
    response = KeyResponse(True, "", tuple(f"{n:044}" for n in range(count)), "k" * 44)
    cut = truncate_keys(response, 1024, size_of)
    assert cut.keys == response.keys[:kept]
    text = f"truncated key list response, showing first {kept} of {count} keys"
    assert (cut.message, cut.result, cut.primary_key) == (text, True, "k" * 44)
    assert size_of(cut) <= 1024


def test_key_list_without_room_is_empty() -> None:
    response = KeyResponse(True, "", ("k" * 44,) * 9, "")
    assert truncate_keys(response, 10, size_of).keys == ()


def test_response_with_long_key_list_fits_packet() -> None:
    keys = tuple(f"{number:044}" for number in range(100))
    options = SerfOptions(query_size_limit=2048)
    state = serf("a", "b", options=options, keys=lambda *_: KeyResponse(True, "", keys, keys[0]))
    state.handle(query(name="_serf_list-keys", payload=b""), 0.0)
    assert all(len(send.data) <= 1024 and not send.stream for send in state.direct_messages)
    (response,) = responses_of(state)
    assert isinstance(response, KeyResponse)
    assert 0 < len(response.keys) < 100
    assert response.message.startswith("truncated key list response, showing first ")
