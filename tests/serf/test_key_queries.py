from tests.serf.helpers import (
    Cluster,
)
from trioserf.results import QueryAnswer
from trioserf.serf.key_queries import KeyQueryResult, key_query
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    KeyRequest,
    KeyResponse,
)


def test_failure_is_none_after_success_on_all_members() -> None:
    key_result = KeyQueryResult(2)
    for name in "ab":
        response = KeyResponse(True, "", ("k1", "k2"), "k1")
        key_result.count(QueryAnswer(name, encode(response)))
    assert key_result.failure is None
    assert (key_result.keys, key_result.primary_keys) == ({"k1": 2, "k2": 2}, {"k1": 2})
    assert key_result.messages == {}


def test_failed_and_malformed_responses_are_counted() -> None:
    key_result = KeyQueryResult(4)
    key_result.count(QueryAnswer("a", encode(KeyResponse(False, "no"))))
    key_result.count(QueryAnswer("b", b""))
    key_result.count(QueryAnswer("c", encode(KeyRequest(b""))))
    key_result.count(QueryAnswer("d", encode(KeyResponse(True, "cut"))))
    assert key_result.failure == "3/4 nodes reported failure"
    assert key_result.messages == {
        "a": "no",
        "b": "Failed to decode key query response: Serf message: empty, expected a type byte",
        "c": "Invalid key query response type",
        "d": "cut",
    }
    assert (key_result.responses, key_result.errors) == (4, 3)


def test_missing_responses_are_a_failure() -> None:
    key_result = KeyQueryResult(2)
    key_result.count(QueryAnswer("a", encode(KeyResponse(True))))
    assert key_result.failure == "1/2 nodes reported success"


def test_key_list_of_cluster_is_counted() -> None:
    cluster = Cluster("a", "b", "c", keys=lambda *_: KeyResponse(True, "", ("k1",), "k1"))
    started = cluster.ask("a", key_query("list", b""))
    assert started.query.finished
    key_result = KeyQueryResult(3)
    for result in started.results():
        if isinstance(result, QueryAnswer):
            key_result.count(result)
    assert key_result.failure is None
    assert key_result.keys == {"k1": 3}
