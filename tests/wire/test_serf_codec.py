"""The messages of the Serf layer: golden bytes, errors."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.helpers import load, octets
from trioserf.coordinate import Coordinate
from trioserf.wire import serf_codec, serf_payloads
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import pack
from trioserf.wire.serf_messages import (
    BufferedEvents,
    ConflictResponse,
    Join,
    KeyRequest,
    KeyResponse,
    Leave,
    NodeFilter,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfPushPull,
    TagFilter,
    UserEvent,
)

GOLDEN = {message["name"]: message for message in load("serf")["messages"]}
LOCALHOST = bytes((127, 0, 0, 1))
RESPONSE = QueryResponse(9, 77, "b", 0, b"0.1")

MESSAGES: dict[str, SerfMessage] = {
    "join": Join(3, "a"),
    "leave": Leave(300, "a"),
    "leave-prune": Leave(1 << 40, "a", prune=True),
    "user-event": UserEvent(5, "deploy", b"v1", coalesce=True),
    "user-event-no-payload": UserEvent(5, "deploy"),
    "query": Query(
        9,
        77,
        LOCALHOST,
        7946,
        "a",
        tuple(map(octets, GOLDEN["query"]["fields"]["Filters"])),
        1,
        2,
        15 * 10**9,
        "load",
        b"x",
    ),
    "query-response": RESPONSE,
    "query-ack": QueryResponse(9, 77, "b", 1),
    "push-pull": SerfPushPull(
        7, {"a": 3}, ("z",), 4, (None, BufferedEvents(1, (("deploy", b"v1"),))), 2
    ),
    "conflict-response": ConflictResponse(
        "a", LOCALHOST, 7946, {"role": "web"}, 1, 1, 5, 2, 2, 5, 5
    ),
    "key-request": KeyRequest(bytes(32)),
    "key-response": KeyResponse(True, "", ("AAAA",), "AAAA"),
    "relay": Relay(LOCALHOST, 7946, "a", serf_codec.encode(RESPONSE)),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message_equals_golden_bytes(name: str) -> None:
    wire = bytes.fromhex(GOLDEN[name]["wire"])
    assert serf_codec.decode(wire) == MESSAGES[name]
    assert serf_codec.encode(MESSAGES[name]) == wire


NEWEST = {name: bytes.fromhex(wire) for name, wire in load("serf-newest")["messages"].items()}
FORTY = "n" * 40
FROM_NEWEST: dict[str, SerfMessage] = {
    "leave": Leave(300, FORTY),
    "leaveprune": Leave(70_000, "a", prune=True),
    "join": Join(1 << 33, "v" * 300),
    "user": UserEvent(5, FORTY, b"\xff" * 200, coalesce=True),
    "usernil": UserEvent(5, "x"),
    "userempty": UserEvent(5, "x"),
    "query": Query(1, 1 << 31, LOCALHOST, 7946, "s", (b"\0\1", b"\1"), 1, 3, 3 * 10**9, "q", b"p"),
    "querynil": Query(0, 0, b"", 0, "", (), 0, 0, 0, "q"),
    "resp": QueryResponse(2, 3, "f", 1, b"\1" * 40),
    "pp": SerfPushPull(1, {"a": 1}, ("x",), 2, (None, BufferedEvents(2, (("e", b"1"),))), 3),
    "ppnil": SerfPushPull(0, {}, (), 0, (), 0),
    "keyreq": KeyRequest(b"0123456789abcdef"),
    "keyresp": KeyResponse(True, "m", ("k1",), ""),
    "conflict": ConflictResponse("m", bytes((1, 2, 3, 4)), 1, {"a": "b"}, 1, 0, 0, 2, 0, 0, 0),
    "relay": Relay(LOCALHOST, 7946, "node", serf_codec.encode(QueryResponse(2, 3, "f", 0))),
}
"""Messages of Serf 0.10.2; it writes a query's Timeout and a relay's Port as signed integers."""


@pytest.mark.parametrize("name", FROM_NEWEST)
def test_message_of_the_newest_serf_is_decoded(name: str) -> None:
    assert serf_codec.decode(NEWEST[name]) == FROM_NEWEST[name]


def test_payloads_of_the_newest_serf_are_decoded() -> None:
    assert serf_payloads.decode_filter(NEWEST["fnode"]) == NodeFilter(("a", FORTY))
    assert serf_payloads.decode_filter(NEWEST["ftag"]) == TagFilter("t", "e")
    assert serf_payloads.decode_coordinate(b"\1" + NEWEST["coord"]).error == 1.5
    assert serf_payloads.decode_tags(NEWEST["tags"]) == {"role": "web"}
    assert serf_payloads.decode_tags(NEWEST["tagslong"]) == {"k": "v" * 300}
    assert NEWEST.keys() == {*FROM_NEWEST, "fnode", "ftag", "coord", "tags", "tagslong"}


@pytest.mark.parametrize(
    "number", [b"\xd1\x1f\x0a", b"\xd2\0\0\x1f\x0a", b"\xd3" + bytes(6) + b"\x1f\x0a"]
)
def test_signed_spellings_of_numbers_are_read(number: bytes) -> None:
    for name, unsigned in (("query", b"\xcd\x1f\x0a"), ("relay", b"\xd1\x1f\x0a")):
        assert unsigned in NEWEST[name]
        other = NEWEST[name].replace(unsigned, number)
        assert serf_codec.decode(other) == FROM_NEWEST[name]


def test_all_golden_messages_are_covered() -> None:
    assert set(GOLDEN) == {*MESSAGES, "filter-node", "filter-tag", "tags"}


@pytest.mark.parametrize(
    ("name", "query_filter"),
    [("filter-node", NodeFilter(("a", "b"))), ("filter-tag", TagFilter("role", "^web"))],
)
def test_filter_equals_golden_bytes(name: str, query_filter: NodeFilter | TagFilter) -> None:
    wire = bytes.fromhex(GOLDEN[name]["wire"])
    assert serf_payloads.encode_filter(query_filter) == wire
    assert serf_payloads.decode_filter(wire) == query_filter


def test_tags_equal_golden_bytes() -> None:
    wire = bytes.fromhex(GOLDEN["tags"]["wire"])
    assert serf_payloads.encode_tags({"role": "web"}) == wire
    assert serf_payloads.decode_tags(wire) == {"role": "web"}


def test_metadata_without_magic_byte_is_the_role() -> None:
    assert serf_payloads.decode_tags(b"db") == {"role": "db"}


@pytest.mark.parametrize("meta", [b"\xff", b"\xff\x01", b"\xff\x81\xa1a\x01"])
def test_tags_without_map_of_strings_are_rejected(meta: bytes) -> None:
    with pytest.raises(WireError):
        serf_payloads.decode_tags(meta)


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)


@given(st.lists(FINITE, min_size=8, max_size=8), FINITE, FINITE, FINITE)
def test_encoded_coordinate_decodes_to_itself(
    vec: list[float], error: float, adj: float, height: float
) -> None:
    coordinate = Coordinate(tuple(vec), error, adj, height)
    assert (
        serf_payloads.decode_coordinate(serf_payloads.encode_coordinate(coordinate)) == coordinate
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02\x80",
        b"\x01" + pack({"Vec": [0.0] * 7}),
        serf_payloads.encode_coordinate(Coordinate(vec=(math.nan,) * 8)),
        serf_payloads.encode_coordinate(Coordinate(height=math.inf)),
    ],
)
def test_invalid_coordinate_is_rejected(payload: bytes) -> None:
    with pytest.raises(WireError):
        serf_payloads.decode_coordinate(payload)


INVALID = [
    (b"", "truncated"),
    (b"\x0a\x80", "unknown-type"),
    (b"\x01", "msgpack"),
    (b"\x01\x90", "msgpack"),
    (b"\x01" + pack({"LTime": -1}), "field"),
    (b"\x01" + pack({"LTime": 1.0}), "field"),
    (b"\x01" + pack({"LTime": True}), "field"),
    (b"\x04" + pack({"Timeout": 1 << 63}), "field"),
    (b"\x04" + pack({"Addr": b"abc"}), "field"),
    (b"\x09" + pack({"DestAddr": {"IP": b"abc"}}), "field"),
    (b"\x02" + pack({"Events": [3]}), "msgpack"),
    (b"\x02" + pack({"LeftMembers": b"abc"}), "field"),
]


@pytest.mark.parametrize(("data", "kind"), INVALID)
def test_invalid_message_raises_error_of_its_kind(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as caught:
        serf_codec.decode(data)
    assert caught.value.kind == kind


DECODERS = [
    serf_codec.decode,
    serf_payloads.decode_filter,
    serf_payloads.decode_tags,
    serf_payloads.decode_coordinate,
]


@given(st.integers(0, 9), st.binary(max_size=200))
def test_any_bytes_give_message_or_wire_error(kind: int, rest: bytes) -> None:
    for read in DECODERS:
        try:
            read(bytes((kind,)) + rest)
        except WireError as error:
            assert error.kind  # noqa: PT017 - no other exception is allowed


@pytest.mark.parametrize("name", MESSAGES)
def test_truncated_message_gives_message_or_wire_error(name: str) -> None:
    wire = bytes.fromhex(GOLDEN[name]["wire"])
    errors = 0
    for length in range(len(wire)):
        try:
            serf_codec.decode(wire[:length])
        except WireError:
            errors += 1
    assert errors
