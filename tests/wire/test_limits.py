"""Round trips of all codecs, and limits of time and memory for hostile bytes."""

import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.helpers import feed, load
from trioserf.coordinate import Coordinate
from trioserf.wire import lzw, serf_codec, serf_payloads, swim_codec
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import MAX_NAME, pack
from trioserf.wire.packet import PacketCodec
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
from trioserf.wire.stream import StreamCodec
from trioserf.wire.stream_decoders import MAX_SEALED
from trioserf.wire.swim_messages import (
    Ack,
    Alive,
    Dead,
    ErrorMessage,
    IndirectPing,
    Message,
    Nack,
    NodeState,
    Ping,
    PushPull,
    State,
    Suspect,
    UserMessage,
    Versions,
)

# --- round trips ---

U8 = st.integers(0, 2**8 - 1)
U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
BYTES = st.binary(max_size=60)
TEXT = BYTES.map(lambda data: data.decode("utf-8", "surrogateescape"))
V6 = st.binary(min_size=16, max_size=16).filter(lambda data: data[:12] != b"\0" * 10 + b"\xff\xff")
ADDR = st.binary(min_size=4, max_size=4) | V6
VERSIONS = st.none() | st.builds(Versions, U8, U8, U8, U8, U8, U8)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=4)

SWIM: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, U32, TEXT, st.just(b"") | ADDR, U16, TEXT),
    st.builds(IndirectPing, U32, ADDR, U16, TEXT, st.booleans(), st.just(b"") | ADDR, U16, TEXT),
    st.builds(Ack, U32, BYTES),
    st.builds(Nack, U32),
    st.builds(Suspect, U32, TEXT, TEXT, st.booleans()),
    st.builds(Dead, U32, TEXT, TEXT),
    st.builds(Alive, U32, TEXT, ADDR, U16, BYTES, VERSIONS),
    st.builds(UserMessage, BYTES),
    st.builds(ErrorMessage, TEXT),
)
NODES = st.builds(NodeState, TEXT, ADDR, U16, BYTES, U32, st.sampled_from(State), VERSIONS)
SLOTS = st.none() | st.builds(
    BufferedEvents, U64, st.lists(st.tuples(TEXT, BYTES), max_size=20).map(tuple)
)
SERF: st.SearchStrategy[SerfMessage] = st.one_of(
    st.builds(Leave, U64, TEXT, st.booleans()),
    st.builds(Join, U64, TEXT),
    st.builds(
        SerfPushPull,
        U64,
        st.dictionaries(TEXT, U64, max_size=30),
        st.lists(TEXT, max_size=30).map(tuple),
        U64,
        st.lists(SLOTS, max_size=30).map(tuple),
        U64,
    ),
    st.builds(UserEvent, U64, TEXT, BYTES, st.booleans()),
    st.builds(
        Query, U64, U32, st.just(b"") | ADDR, U16, TEXT, st.lists(BYTES, max_size=30).map(tuple),
        U32, U8, st.integers(0, 2**63 - 1), TEXT, BYTES,
    ),
    st.builds(QueryResponse, U64, U32, TEXT, U32, BYTES),
    st.builds(ConflictResponse, TEXT, ADDR, U16, TEXTS, U8, U8, U8, U8, U8, U8, U8),
    st.builds(KeyRequest, BYTES),
    st.builds(KeyResponse, st.booleans(), TEXT, st.lists(TEXT, max_size=30).map(tuple), TEXT),
    st.builds(Relay, ADDR, U16, TEXT, BYTES, TEXT),
)  # fmt: skip
FILTERS = st.builds(NodeFilter, st.lists(TEXT, max_size=30).map(tuple)) | st.builds(
    TagFilter, TEXT, TEXT
)


@given(SWIM)
def test_encoded_message_decodes_to_itself(message: Message) -> None:
    assert swim_codec.decode(swim_codec.encode(message)) == message


@given(SERF)
def test_encoded_serf_message_decodes_to_itself(message: SerfMessage) -> None:
    assert serf_codec.decode(serf_codec.encode(message)) == message


@given(FILTERS, TEXTS)
def test_encoded_filters_and_tags_decode_to_themselves(
    query_filter: NodeFilter | TagFilter, tags: dict[str, str]
) -> None:
    assert serf_payloads.decode_filter(serf_payloads.encode_filter(query_filter)) == query_filter
    assert serf_payloads.decode_tags(serf_payloads.encode_tags(tags)) == tags


@given(st.booleans(), st.lists(NODES, max_size=5).map(tuple), BYTES, st.integers(1, 40))
def test_push_pull_decodes_from_pieces_of_any_size(
    join: bool, nodes: tuple[NodeState, ...], state: bytes, size: int
) -> None:
    push_pull = PushPull(join, nodes, state)
    codec = StreamCodec(keyring=None, compress=False)
    assert feed(codec.decoder(), codec.encode_push_pull(push_pull), size)[0] == push_pull


# --- damaged input ---


def golden() -> list[bytes]:
    packets = load("packets")
    captured = [*packets["plain"], *packets["lzw"]]
    messages = load("serf")["messages"] + load("memberlist")["memberlist_messages"]
    texts = [packet["hex"] for packet in captured] + [message["wire"] for message in messages]
    return list(map(bytes.fromhex, texts))


GOLDEN = golden()
STREAMS = [bytes.fromhex(stream["hex"]) for stream in load("streams")["streams"]]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat"]),
        st.integers(0, 2**16),
        st.binary(max_size=9),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def damage(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    out = bytearray(data)
    for edit, where, what in edits:
        at = where % (len(out) + 1)
        if edit == "set":
            out[at : at + len(what)] = what
        elif edit == "insert":
            out[at:at] = what
        elif edit == "delete":
            del out[at : at + len(what)]
        else:
            out[at:at] = out[at : at + 40] * len(what)
    return bytes(out)


@settings(max_examples=400)
@given(st.sampled_from(GOLDEN), EDITS)
def test_damaged_message_gives_message_or_wire_error(
    data: bytes, edits: list[tuple[str, int, bytes]]
) -> None:
    damaged = damage(data, edits)
    PacketCodec(keyring=None).decode(damaged)
    for read in (
        swim_codec.decode,
        serf_codec.decode,
        serf_payloads.decode_filter,
        serf_payloads.decode_tags,
    ):
        try:
            read(damaged)
        except WireError as error:
            assert error.kind  # noqa: PT017 - no other exception is allowed


@given(st.sampled_from(STREAMS), EDITS, st.integers(1, 2000))
def test_damaged_stream_gives_message_or_wire_error(
    data: bytes, edits: list[tuple[str, int, bytes]], size: int
) -> None:
    codec = StreamCodec(keyring=None)
    try:
        feed(codec.decoder(), damage(data, edits), size)
    except WireError as error:
        assert error.kind  # noqa: PT017 - no other exception is allowed


# --- hostile input ---


def cost(act: Callable[[], object]) -> tuple[float, float]:
    """Return the duration of a call in seconds and its peak memory in megabytes."""
    began = time.perf_counter()
    with suppress(WireError):
        act()
    took = time.perf_counter() - began
    tracemalloc.start()
    try:
        act()
    except WireError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return took, peak / 1e6


def lists(count: int, depth: int) -> bytes:
    return (b"\xdd" + struct.pack(">I", count)) * depth


ZEROS = lzw.compress(bytes(1 << 19))
HOSTILE_INPUT: dict[str, Callable[[], object]] = {
    "lists in a push/pull": lambda: serf_codec.decode(
        b"\x02\x81\xa6Events" + lists(1 << 20, 1000)
    ),
    "lists in its events": lambda: serf_codec.decode(
        b"\x02\x81\xa6Events\x91\x81\xa6Events" + lists(4096, 1000)
    ),
    "names of a push/pull": lambda: serf_codec.decode(
        b"\x02\x81\xabLeftMembers" + lists(1 << 20, 1) + b"\xa0" * 60_000
    ),
    "lists in a query": lambda: serf_codec.decode(b"\x04\x81\xa7Filters" + lists(65_536, 1000)),
    "lists in a filter": lambda: serf_payloads.decode_filter(b"\x00" + lists(65_536, 1000)),
    "lists in keys": lambda: serf_codec.decode(b"\x08\x81\xa4Keys" + lists(65_536, 1000)),
    "maps in maps": lambda: serf_codec.decode(b"\x01" + b"\x81\xa1a" * 20_000),
    "lists in a ping": lambda: swim_codec.decode(b"\x00" + b"\x9f" * 1000 + b"\x90" * 64_000),
    "a long text": lambda: swim_codec.decode(b"\x00\x81\xa4Node\xdb\x7f\xff\xff\xff"),
    "a compressed packet": lambda: PacketCodec(keyring=None).decode(
        b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(bytes(65_536))})
    ),
    "zeros": lambda: lzw.decompress(ZEROS, 65_536),
    "announced lengths of a push/pull": lambda: feed(
        StreamCodec(keyring=None).decoder(),
        b"\x06" + pack({"Nodes": 1 << 20, "UserStateLen": MAX_SEALED}),
    ),
    "announced length of an encrypted stream": lambda: feed(
        StreamCodec(keyring=None).decoder(), b"\x0a" + struct.pack(">I", MAX_SEALED)
    ),
    "a row without its end": lambda: feed(
        StreamCodec(keyring=None).decoder(),
        b"\x06" + pack({"Nodes": 1}) + b"\x81\xa4Name\xdb\x01\x00\x00\x00" + bytes(1 << 20),
    ),
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE_INPUT)
def test_hostile_input_costs_little_time_and_memory(hostile: str) -> None:
    took, megabytes = cost(HOSTILE_INPUT[hostile])
    assert megabytes < 5
    assert took < 2  # milliseconds on an idle machine


def test_large_compressed_stream_is_decoded_in_many_steps() -> None:
    noise = bytes(range(256)) * 2000
    data = b"\x09" + pack(
        {"Algo": 0, "Buf": lzw.compress(b"\x08" + pack({"UserMsgLen": len(noise)}) + noise)}
    )
    message, steps = feed(StreamCodec(keyring=None).decoder(), data)  # fmt: skip
    assert message == UserMessage(noise)
    assert steps > len(noise) / 16_384


def test_decoder_reports_its_memory() -> None:
    codec = StreamCodec(keyring=None, compress=False)
    rows = tuple(
        NodeState(f"n{number}", bytes(4), 1, bytes(100), 1, State.ALIVE) for number in range(5000)
    )
    decoder = codec.decoder()
    feed(decoder, codec.encode_push_pull(PushPull(False, rows, bytes(300_000)))[:-1])
    assert decoder.held > 5000 * 640 + 299_000
    compressed = b"\x09\x82\xa4Algo\x00\xa3Buf\xdb" + struct.pack(">I", 500_000)
    decoder = codec.decoder()
    feed(decoder, compressed + bytes(400_000))
    assert decoder.held > 400_000


def test_expansion_of_compressed_stream_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioserf.wire.stream.MAX_EXPANDED", 300_000)
    for length, fits in ((299_000, True), (301_000, False)):
        text = b"\x08" + pack({"UserMsgLen": length}) + bytes(length)
        data = b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(text)})
        assert len(data) < 3000
        if fits:
            # Each step expands little, though the compressed bytes are few.
            assert feed(StreamCodec(keyring=None).decoder(), data)[1] > 15
        else:
            with pytest.raises(WireError, match="expands"):
                feed(StreamCodec(keyring=None).decoder(), data)


# --- odd values ---


def test_invalid_rows_of_push_pull_are_skipped() -> None:
    good = {"Addr": bytes(4), "Name": "a", "Incarnation": 1, "Port": 1}
    odd: list[dict[str, object]] = [
        {**good, "Addr": b"abc"},
        {**good, "Meta": bytes(513)},
        {**good, "Name": "x" * (MAX_NAME + 1)},
        {**good, "State": 7},
        {**good, "Port": 65_536},
        {**good, "Incarnation": 2**32},
        {**good, "Vsn": 3},
    ]
    rows = b"".join(map(pack, [good, *odd, good]))
    decoder = StreamCodec(keyring=None).decoder()
    message, _ = feed(decoder, b"\x06" + pack({"Nodes": 9}) + rows)
    assert isinstance(message, PushPull)
    assert [node.name for node in message.nodes] == ["a", "a"]
    assert decoder.first_error is not None
    assert decoder.first_error.kind == "field"


def test_too_long_names_in_serf_state_are_skipped() -> None:
    long = "x" * (MAX_NAME + 1)
    state = serf_codec.decode(
        serf_codec.encode(SerfPushPull(1, {long: 1, "a": 2}, (long, "b"), 1, (), 1))
    )
    assert isinstance(state, SerfPushPull)
    assert state.status_ltimes == {"a": 2}
    assert state.left_members == ("b",)


@pytest.mark.parametrize(
    "message",
    [
        UserEvent(1, "x", bytes(9300)),
        Join(1, "x" * (MAX_NAME + 1)),
        Query(1, 1, b"", 0, "x" * (MAX_NAME + 1), (), 0, 0, 1, "q", b""),
        Query(1, 1, b"", 0, "a", (), 0, 0, 1, "q", bytes(65_507)),
        Relay(bytes(4), 1, "a", bytes(65_507)),
        SerfPushPull(1, {}, (), 1, (BufferedEvents(1, (("x", b""),) * 4096),) * 17, 1),
        SerfPushPull(1, {}, (), 1, (None,) * 65_537, 1),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_serf_message_over_limit_is_rejected(message: SerfMessage) -> None:
    with pytest.raises(WireError) as caught:
        serf_codec.decode(serf_codec.encode(message))
    assert caught.value.kind in {"limit", "msgpack"}


@pytest.mark.parametrize("ltime", [0, 2**63, 2**64 - 1])
def test_any_lamport_time_and_timeout_is_decoded(ltime: int) -> None:
    query = Query(ltime, 1, b"", 0, "a", (), 0, 0, 2**63 - 1, "q", b"")
    assert serf_codec.decode(serf_codec.encode(query)) == query


def test_extreme_coordinate_is_decoded_or_raises_wire_error() -> None:
    for value in (1e308, -1e308, 1.8e308, 5e-324, float("nan"), float("-inf"), 2**64 - 1):
        payload = serf_payloads.encode_coordinate(Coordinate((value,) * 8, value, value, value))
        try:
            serf_payloads.decode_coordinate(payload)
        except WireError as error:
            assert error.kind == "field"  # noqa: PT017 - no other exception is allowed
