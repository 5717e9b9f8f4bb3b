"""Streams: in pieces, compressed, encrypted, labelled, and invalid."""

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.helpers import feed, load, octets
from trioserf.serf.keyring import Keyring
from trioserf.wire import serf_codec, swim_codec
from trioserf.wire.errors import WireError
from trioserf.wire.label import label_header
from trioserf.wire.msgpack import pack
from trioserf.wire.stream import StreamCodec
from trioserf.wire.stream_decoders import MAX_NODES
from trioserf.wire.swim_messages import (
    Ack,
    ErrorMessage,
    Message,
    NodeState,
    Ping,
    PushPull,
    State,
    UserMessage,
)

STREAMS = load("streams")
LABELLED = load("labelled-streams")
KEYS = Keyring([bytes.fromhex(STREAMS["key_hex"])])
NODES = tuple(
    NodeState(f"n{number}", bytes((10, 0, number >> 8, number & 255)), 7946, b"meta", 3, state)
    for number, state in zip(range(400), list(State) * 100, strict=True)
)
STATE = PushPull(True, NODES, b"the other layer's state")


def read(
    codec: StreamCodec, data: bytes, size: int = 1 << 20, *, is_answer: bool = False
) -> Message | None:
    return feed(codec.decoder(is_answer=is_answer), data, size)[0]


CODECS = {
    "plain": lambda: StreamCodec(keyring=None, compress=False),
    "compressed": lambda: StreamCodec(keyring=None),
    "encrypted": lambda: StreamCodec(keyring=KEYS),
    "labelled": lambda: StreamCodec(keyring=None, label=b"blue", compress=False),
    "labelled and encrypted": lambda: StreamCodec(keyring=KEYS, label=b"blue"),
}


@pytest.mark.parametrize("stream", STREAMS["streams"], ids=lambda stream: str(stream["title"]))
def test_captured_stream_is_decoded(stream: dict[str, str]) -> None:
    keyring = KEYS if "-encrypt" in stream["args"] else None
    codec = StreamCodec(keyring=keyring)
    message = read(codec, bytes.fromhex(stream["hex"]), 7)
    assert isinstance(message, PushPull)
    assert message.join
    (node,) = message.nodes
    assert node.state is State.ALIVE
    state = serf_codec.decode(message.user_state)
    assert serf_codec.encode(state) == message.user_state
    if "-disable-compression" in stream["args"] and keyring is None:
        plain = StreamCodec(keyring=None, compress=False)
        assert plain.encode_push_pull(message).hex() == stream["hex"]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("size", [1, 13, 65_536])
@pytest.mark.parametrize("is_answer", [False, True])
def test_push_pull_decodes_from_pieces(kind: str, size: int, is_answer: bool) -> None:
    codec = CODECS[kind]()
    data = codec.encode_push_pull(STATE, is_answer=is_answer)
    assert read(codec, data, size, is_answer=is_answer) == STATE


@pytest.mark.parametrize("kind", CODECS)
@given(payload=st.binary(max_size=2000), seq=st.integers(0, 2**32 - 1))
def test_encoded_message_decodes_to_itself(kind: str, payload: bytes, seq: int) -> None:
    codec = CODECS[kind]()
    assert read(codec, codec.encode_user_message(payload)) == UserMessage(payload)
    for message in (Ping(seq, "a"), Ack(seq, payload[:99]), ErrorMessage("boom")):
        plain = swim_codec.encode(message)
        assert read(codec, codec.encode(plain), 5) == message
        answer = codec.encode(plain, is_answer=True)
        assert read(codec, answer, 5, is_answer=True) == message


def both_directions(exchange: dict[str, str]) -> Iterator[tuple[bool, bytes]]:
    """Return whether it is the answer, and its bytes, for both sides of a recorded stream."""
    for side in ("dialer", "answer"):
        yield side == "answer", bytes.fromhex(exchange[side])


def recorded_codec(stream: Any, *, compress: bool, nonce: bytes = b"") -> StreamCodec:
    keyring = Keyring([octets(stream["key"])]) if stream["key"] else None
    label = stream["label"].encode()
    return StreamCodec(keyring=keyring, label=label, compress=compress, nonce=lambda _: nonce)


EXCHANGES: dict[str, tuple[type[Message], type[Message]]] = {
    "push_pull": (PushPull, PushPull),
    "stream_ping": (Ping, Ack),
    "error": (PushPull, PushPull),  # the answer to a push/pull with an empty header
}


@pytest.mark.parametrize("stream", LABELLED["streams"], ids=lambda stream: str(stream["title"]))
def test_streams_of_labelled_memberlist_are_decoded(stream: Any) -> None:
    codec = recorded_codec(stream, compress=True)
    for name in EXCHANGES.keys() & stream.keys():
        for is_answer, data in both_directions(stream[name]):
            message = read(codec, data, 7, is_answer=is_answer)
            assert type(message) is EXCHANGES[name][is_answer]
            if stream["label"]:
                with pytest.raises(WireError, match="label"):
                    read(codec, data, is_answer=not is_answer)


@pytest.mark.parametrize("stream", LABELLED["streams"], ids=lambda stream: str(stream["title"]))
def test_streams_are_encoded_as_labelled_memberlist_does(stream: Any) -> None:
    label = stream["label"].encode()
    for is_answer, data in both_directions(stream["push_pull"]):
        plain = data[0 if is_answer else len(label_header(label)) :]
        nonce = b""
        if stream["key"]:  # the associated data has the label in both directions
            head, nonce, sealed = plain[:5], plain[6:18], plain[18:]
            plain = AESGCM(octets(stream["key"])).decrypt(nonce, sealed, head + label)
        codec = recorded_codec(stream, compress=False, nonce=nonce)
        assert codec.encode(plain, is_answer=is_answer) == data


def test_ack_is_that_of_labelled_memberlist() -> None:
    stream = LABELLED["streams"][0]
    ping, ack = both_directions(stream["stream_ping"])
    codec = recorded_codec(stream, compress=False)
    assert codec.encode(swim_codec.encode(Ping(42, "a"))) == ping[1]
    assert codec.encode(swim_codec.encode(Ack(42)), is_answer=True) == ack[1]


def test_message_is_incomplete_before_its_last_byte() -> None:
    codec = CODECS["plain"]()
    data = codec.encode_push_pull(PushPull(False, NODES[:2], b"xyz"))
    decoder = codec.decoder()
    assert decoder.feed(data[:-1]) is None
    assert decoder.end().kind == "truncated"
    assert decoder.feed(data[-1:]) is not None


def header(**fields: object) -> bytes:
    return pack(fields)


INVALID = [
    (b"\x63", "unknown-type"),
    (b"\x06\x90", "msgpack"),
    (b"\x06" + header(Nodes=-1), "field"),
    (b"\x06" + header(Nodes=MAX_NODES + 1), "limit"),
    (b"\x06" + header(UserStateLen=1 << 31), "limit"),
    (b"\x06" + header(Nodes=1) + b"\xc1", "msgpack"),
    (b"\x08" + header(UserMsgLen=1 << 31), "limit"),
    (b"\x09" + header(Algo=1, Buf=b""), "compression"),
    (b"\x09" + header(Algo=0, Buf=b"\0\x03\x02"), "truncated"),
    (b"\x0a\0\0\0\0", "encrypted"),
    (b"\xf4\x01a", "label"),
]


@pytest.mark.parametrize(("data", "kind"), INVALID)
def test_invalid_stream_raises_error_of_its_kind(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as caught:
        read(CODECS["plain"](), data)
    assert caught.value.kind == kind


def test_plaintext_wrong_keys_and_lengths_are_refused_with_keyring() -> None:
    ours = StreamCodec(keyring=KEYS)
    others = StreamCodec(keyring=Keyring([bytes(32)]))
    for data, kind in (
        (CODECS["plain"]().encode_user_message(b"x"), "plaintext-refused"),
        (others.encode_user_message(b"x"), "decrypt"),
        (b"\x0a\xff\xff\xff\xff", "limit"),
        (b"\x0a\0\0\0\x05\x01aaaa", "truncated"),
    ):
        with pytest.raises(WireError) as caught:
            read(ours, data)
        assert caught.value.kind == kind


def test_plaintext_and_encrypted_streams_are_accepted_without_verification() -> None:
    lenient = StreamCodec(keyring=KEYS, verify_incoming=False, verify_outgoing=False)
    plain = lenient.encode_user_message(b"x")
    assert plain == CODECS["plain"]().encode_user_message(b"x")
    assert read(lenient, plain) == UserMessage(b"x")
    assert read(lenient, StreamCodec(keyring=KEYS).encode_user_message(b"y")) == UserMessage(b"y")


def test_missing_or_other_label_is_rejected() -> None:
    blue = CODECS["labelled"]()
    for codec in (CODECS["plain"](), StreamCodec(keyring=None, label=b"red")):
        with pytest.raises(WireError, match="label"):
            read(blue, codec.encode_user_message(b"x"))


def test_header_in_an_answer_is_rejected() -> None:
    for name in ("labelled", "labelled and encrypted"):
        blue = CODECS[name]()
        with pytest.raises(WireError, match="label 'blue', expected none"):
            read(blue, blue.encode(swim_codec.encode(Ack(1))), is_answer=True)


def test_label_of_more_than_255_bytes_cannot_be_encoded() -> None:
    assert label_header(bytes(255)) == b"\xf4\xff" + bytes(255)
    with pytest.raises(ValueError, match="at most 255 bytes, this one has 256"):
        label_header(bytes(256))


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_give_message_none_or_wire_error(data: bytes, size: int) -> None:
    for kind in CODECS:
        try:
            read(CODECS[kind](), data, size)
        except WireError as error:
            assert error.kind  # noqa: PT017 - no other exception is allowed
