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
from trioserf.serf.config import SerfOptions
from trioserf.serf.internal_queries import KeyAction, check_name, truncate_keys
from trioserf.serf.key_queries import KeyQueryResult, key_query
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import QueryAck, QueryAnswer, QueryDone
from trioserf.serf.serf import Serf
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import (
    ConflictResponse,
    KeyRequest,
    KeyResponse,
    QueryResponse,
    Status,
)
from trioserf.wire.swim_messages import OUR_VERSIONS

KEY = b"k" * 32


def answers(state: Serf) -> list[object]:
    """Give what was answered to b, after the acknowledgement."""
    (_, first), *rest = sent(state)
    assert isinstance(first, QueryResponse)
    assert first.flags == (ACK if rest else FINAL_ACK)
    found: list[object] = []
    for _, message in rest:
        assert isinstance(message, QueryResponse)
        found.append(decode(message.payload))
    assert state.events == []
    return found


def test_users_may_ask_the_ping_alone() -> None:
    check_name("_serf_ping", b"")
    check_name("serf_x", b"x")
    for name, payload in [("_serf_ping", b"x"), ("_serf_pong", b""), ("_serf_", b"")]:
        with pytest.raises(InvalidQuery, match="Queries cannot contain the '_serf_' prefix"):
            check_name(name, payload)


def test_a_ping_is_acknowledged_and_that_is_all() -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_ping", payload=b""), 0.0)
    assert state.events == []
    assert sent(state) == [("b", response(FINAL_ACK))]
    assert len(raw_broadcasts(state)) == 1


def test_pinging_everyone_ends_with_the_last_acknowledgement() -> None:
    cluster = Cluster("a", "b", "c")
    asked = cluster.ask("a", QueryParams(name="_serf_ping"))
    assert asked.query.finished
    *acks, done = asked.results()
    assert set(acks) == {QueryAck("a"), QueryAck("b"), QueryAck("c")}
    assert done == QueryDone(3, 0, 3, ())
    assert all(not state.events for state in cluster.states.values())


def test_unknown_ones_are_not_for_users_either(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_future"), 0.0)
    assert answers(state) == []
    assert caplog.messages == ["Unhandled internal query '_serf_future'"]


# --- whose name is it? ---


def test_everyone_says_whom_they_know() -> None:
    state = serf("a", "b")
    join(state, "c", meta(role="web"))
    state.member_left("c", 0.0)
    state.events.clear()
    state.handle(query(name="_serf_conflict", payload=b"c"), 0.0)
    expected = ConflictResponse(
        "c", packed(address_of("c").host), 7946, {"role": "web"}, Status.FAILED, *OUR_VERSIONS
    )
    assert answers(state) == [expected]


@pytest.mark.parametrize("name", [b"a", b"stranger", b"\xff"])
def test_but_not_about_themselves_or_strangers(name: bytes) -> None:
    state = serf("a", "b")
    state.handle(query(name="_serf_conflict", payload=name), 0.0)
    assert answers(state) == []


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
def test_without_a_keyring(action: KeyAction, text: str) -> None:
    state = serf("a", "b")
    question = key_query(action, KEY)
    state.handle(query(name=question.name, payload=question.payload), 0.0)
    assert answers(state) == [KeyResponse(False, text)]


@pytest.mark.parametrize("action", ["install", "use", "remove", "list"])
def test_the_handler_does_it(action: KeyAction) -> None:
    done: list[tuple[KeyAction, bytes]] = []

    def handler(asked: KeyAction, key: bytes) -> KeyResponse:
        done.append((asked, key))
        return KeyResponse(True, "", ("a2V5",), "a2V5")

    state = serf("a", "b", keys=handler)
    question = key_query(action, KEY)
    state.handle(query(name=question.name, payload=question.payload), 0.0)
    assert answers(state) == [KeyResponse(True, "", ("a2V5",), "a2V5")]
    assert done == [(action, b"" if action == "list" else KEY)]


@pytest.mark.parametrize("payload", [b"", b"\x07torn", encode(KeyResponse(True))])
def test_a_nonsensical_key_is_refused(payload: bytes) -> None:
    state = serf("a", "b", keys=lambda _action, _key: KeyResponse(True))
    state.handle(query(name="_serf_install-key", payload=payload), 0.0)
    (answer,) = answers(state)
    assert isinstance(answer, KeyResponse)
    assert not answer.result
    assert "Failed to decode key request" in answer.message


def measured(answer: KeyResponse) -> int:
    return 40 + len(answer.message) + sum(len(key) + 1 for key in answer.keys)


def test_few_keys_are_not_cut() -> None:
    answer = KeyResponse(True, "", ("k" * 44,) * 3, "k" * 44)
    assert truncate_keys(answer, 1024, measured) is answer


@pytest.mark.parametrize(("count", "kept"), [(30, 20), (500, 20)])
def test_a_long_list_is_cut_and_says_so(count: int, kept: int) -> None:
    answer = KeyResponse(True, "", tuple(f"{n:044}" for n in range(count)), "k" * 44)
    cut = truncate_keys(answer, 1024, measured)
    assert cut.keys == answer.keys[:kept]
    text = f"truncated key list response, showing first {kept} of {count} keys"
    assert (cut.message, cut.result, cut.primary_key) == (text, True, "k" * 44)
    assert measured(cut) <= 1024


def test_where_nothing_fits_nothing_is_listed() -> None:
    answer = KeyResponse(True, "", ("k" * 44,) * 9, "")
    assert truncate_keys(answer, 10, measured).keys == ()


def test_a_long_list_is_cut_on_the_wire_too() -> None:
    keys = tuple(f"{number:044}" for number in range(100))
    options = SerfOptions(query_size_limit=2048)
    state = serf("a", "b", options=options, keys=lambda *_: KeyResponse(True, "", keys, keys[0]))
    state.handle(query(name="_serf_list-keys", payload=b""), 0.0)
    assert all(len(send.data) <= 1024 and not send.stream for send in state.direct_messages)
    (answer,) = answers(state)
    assert isinstance(answer, KeyResponse)
    assert 0 < len(answer.keys) < 100
    assert answer.message.startswith("truncated key list response, showing first ")


# --- counting what came back ---


def test_a_success_everywhere() -> None:
    tally = KeyQueryResult(2)
    for name in "ab":
        answer = KeyResponse(True, "", ("k1", "k2"), "k1")
        tally.count(QueryAnswer(name, encode(answer)))
    assert tally.failure is None
    assert (tally.keys, tally.primary_keys) == ({"k1": 2, "k2": 2}, {"k1": 2})
    assert tally.messages == {}


def test_failures_are_counted_and_told() -> None:
    tally = KeyQueryResult(4)
    tally.count(QueryAnswer("a", encode(KeyResponse(False, "no"))))
    tally.count(QueryAnswer("b", b""))
    tally.count(QueryAnswer("c", encode(KeyRequest(b""))))
    tally.count(QueryAnswer("d", encode(KeyResponse(True, "cut"))))
    assert tally.failure == "3/4 nodes reported failure"
    assert tally.messages == {
        "a": "no",
        "b": "Failed to decode key query response: Serf message: empty, expected a type byte",
        "c": "Invalid key query response type",
        "d": "cut",
    }
    assert (tally.responses, tally.errors) == (4, 3)


def test_missing_answers_are_no_success() -> None:
    tally = KeyQueryResult(2)
    tally.count(QueryAnswer("a", encode(KeyResponse(True))))
    assert tally.failure == "1/2 nodes reported success"


def test_the_whole_cluster() -> None:
    cluster = Cluster("a", "b", "c", keys=lambda *_: KeyResponse(True, "", ("k1",), "k1"))
    asked = cluster.ask("a", key_query("list", b""))
    assert asked.query.finished
    tally = KeyQueryResult(3)
    for result in asked.results():
        if isinstance(result, QueryAnswer):
            tally.count(result)
    assert tally.failure is None
    assert tally.keys == {"k1": 3}
