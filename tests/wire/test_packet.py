"""Messages of memberlist and packets: golden bytes, captures, errors."""

from collections import Counter
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.helpers import load, octets, take
from trioserf.serf.keyring import Keyring
from trioserf.wire import lzw, serf_codec, serf_payloads, swim_codec
from trioserf.wire.encryption import Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.msgpack import pack, unpack_fields
from trioserf.wire.packet import PacketCodec, compress_message, make_compound, split_compound
from trioserf.wire.stream import StreamCodec
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

MEMBERLIST = load("memberlist")
PACKETS = load("packets")
KEYS = Keyring([bytes.fromhex(PACKETS["key_hex"])])
GOLDEN = {message["name"]: message for message in MEMBERLIST["memberlist_messages"]}


def versions(fields: dict[str, Any]) -> Versions:
    return Versions(*octets(fields["Vsn"]))


def expected(name: str, fields: dict[str, Any]) -> Message:
    """Return the message that a vector describes."""
    match name.split("-")[0]:
        case "ping":
            return Ping(fields["SeqNo"], fields["Node"])
        case "indirect":
            target = octets(fields["Target"])
            return IndirectPing(
                fields["SeqNo"], target, fields["Port"], fields["Node"], fields["Nack"]
            )
        case "ack":
            return Ack(fields["SeqNo"], octets(fields["Payload"]))
        case "nack":
            return Nack(fields["SeqNo"])
        case "suspect":
            return Suspect(fields["Incarnation"], fields["Node"], fields["From"])
        case "dead":
            return Dead(fields["Incarnation"], fields["Node"], fields["From"])
        case "alive":
            addr, meta = octets(fields["Addr"]), octets(fields["Meta"])
            return Alive(
                fields["Incarnation"],
                fields["Node"],
                addr,
                fields["Port"],
                meta,
                versions(fields),
            )
    assert name == "error"
    return ErrorMessage(fields["Error"])


PARTS_OF_STREAMS = {"pushpull-header", "pushpull-node", "user-header", "compress"}


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - PARTS_OF_STREAMS))
def test_message_equals_golden_bytes(name: str) -> None:
    wire = bytes.fromhex(GOLDEN[name]["wire"])
    message = expected(name, GOLDEN[name]["fields"])
    assert swim_codec.decode(wire) == message
    assert swim_codec.encode(message) == wire


@pytest.mark.parametrize("message", [
    Ping(7, "a", bytes((10, 0, 0, 1)), 7946, "b", b"digest"), Ack(7, b"\1\2", b"digest"),
])  # fmt: skip
def test_digest_is_a_field_of_its_own(message: Ping | Ack) -> None:
    data = swim_codec.encode(message)
    assert swim_codec.decode(data) == message
    plain = swim_codec.encode(attrs.evolve(message, digest=b""))
    # One entry more, the first by its name; all others are as in Go.
    assert data == bytes((plain[0], plain[1] + 1)) + pack({"Ev": b"digest"})[1:] + plain[2:]


@pytest.mark.parametrize("value", [7, "", True, [], {"a": 1}, 1.5])
def test_digest_of_another_type_does_not_refuse_the_message(value: object) -> None:
    ping = b"\x00" + pack({"Ev": value, "Node": "a", "SeqNo": 7})
    ack = b"\x02" + pack({"Ev": value, "Payload": None, "SeqNo": 7})
    assert swim_codec.decode(ping) == Ping(7, "a", digest=b"\0")
    assert swim_codec.decode(ack) == Ack(7, digest=b"\0")


def test_release_is_a_field_of_its_own() -> None:
    ack = Ack(7, b"\1\2", b"digest", "0.1.0")
    assert swim_codec.decode(swim_codec.encode(ack)) == ack
    fields = {"Payload": b"\1\2", "Rel": "0.1.0", "SeqNo": 7}
    data = swim_codec.encode(attrs.evolve(ack, digest=b""))
    assert data == b"\x02" + pack(fields)


@pytest.mark.parametrize(
    "value", [7, True, [], {"a": 1}, "x" * (swim_codec.MAX_RELEASE + 1), "0.1\n", "0.1é", b"\xff"]
)
def test_unexpected_release_does_not_refuse_the_ack(value: object) -> None:
    ack = b"\x02" + pack({"Payload": None, "Rel": value, "SeqNo": 7})
    assert swim_codec.decode(ack) == Ack(7)


def test_node_of_push_pull_equals_golden_bytes() -> None:
    fields = GOLDEN["pushpull-node"]["fields"]
    wire = bytes.fromhex(GOLDEN["pushpull-node"]["wire"])
    node = NodeState("a", octets(fields["Addr"]), 7946, b"", 4, State.LEFT, versions(fields))
    assert pack(swim_codec.node_state_fields(node)) in wire
    assert (
        swim_codec.decode_node_state(unpack_fields(pack(swim_codec.node_state_fields(node)), "n"))
        == node
    )


def test_parts_of_streams_equal_golden_bytes() -> None:
    wire = {name: bytes.fromhex(GOLDEN[name]["wire"]) for name in PARTS_OF_STREAMS}
    codec = StreamCodec(keyring=None, compress=False)
    node = NodeState("a", bytes((10, 0, 0, 1)), 7946, b"", 4, State.LEFT)
    exchange = PushPull(True, (node, node), bytes(300))
    data = wire["pushpull-header"] + 2 * wire["pushpull-node"][1:] + bytes(300)
    assert codec.encode_push_pull(exchange) == data
    assert codec.encode_user_message(b"hello") == wire["user-header"] + b"hello"
    assert b"\x09" + pack({"Algo": 0, "Buf": b"\1\2\3"}) == wire["compress"]
    for stream, message in (
        (data, exchange),
        (wire["user-header"] + b"hello", UserMessage(b"hello")),
    ):
        assert take(codec.decoder(), stream)[0] == message


@pytest.mark.parametrize("vector", MEMBERLIST["lzw"], ids=lambda vector: str(vector["name"]))
def test_lzw_equals_golden_bytes(vector: dict[str, str]) -> None:
    plain, compressed = bytes.fromhex(vector["plain"]), bytes.fromhex(vector["compressed"])
    assert lzw.decompress(compressed, len(plain)) == plain
    assert lzw.compress(plain) == compressed
    if plain:
        with pytest.raises(WireError) as caught:
            lzw.decompress(compressed, len(plain) - 1)
        assert caught.value.kind == "limit"


@given(st.binary(max_size=3000))
def test_compressed_bytes_expand_to_themselves(plain: bytes) -> None:
    assert lzw.decompress(lzw.compress(plain), len(plain)) == plain


@pytest.mark.parametrize("vector", MEMBERLIST["aes_gcm"])
def test_golden_sealed_payload_is_decrypted(vector: dict[str, str]) -> None:
    data = {name: bytes.fromhex(vector[name]) for name in ("key", "sealed", "aad", "plain")}
    sealer = Sealer(Keyring([data["key"]]), bytes)
    assert sealer.open(data["sealed"], data["aad"]) == data["plain"]


@pytest.mark.parametrize("padding", [0, 17])
def test_decrypted_payload_with_invalid_padding_is_rejected(padding: int) -> None:
    key, nonce = bytes(16), bytes(12)
    padded = b"\0" + nonce + AESGCM(key).encrypt(nonce, bytes(15) + bytes([padding]), b"")
    with pytest.raises(WireError) as caught:
        Sealer(Keyring([key]), bytes).open(padded, b"")
    assert caught.value.kind == "decrypt"


def test_compound_equals_golden_bytes() -> None:
    parts = [bytes.fromhex(part) for part in MEMBERLIST["compound"]["parts"]]
    wire = bytes.fromhex(MEMBERLIST["compound"]["wire"])
    assert make_compound(parts) == wire
    assert split_compound(wire) == (parts, None)
    complete, error = split_compound(wire[:-1])
    assert complete == parts[:-1]
    assert error is not None


@pytest.mark.parametrize("kind", ["plain", "lzw", "enc"])
def test_captured_packets_are_decoded(kind: str) -> None:
    codec = PacketCodec(keyring=KEYS if kind == "enc" else None)
    seen: Counter[str] = Counter()
    for packet in PACKETS[kind]:
        messages, error = codec.decode(bytes.fromhex(packet["hex"]))
        assert error is None
        assert messages
        seen.update(type(message).__name__ for message in messages)
        for message in messages:
            if isinstance(message, UserMessage):
                seen[type(serf_codec.decode(message.payload)).__name__] += 1
            if isinstance(message, Ack) and message.payload:
                assert serf_payloads.decode_coordinate(message.payload).is_valid
    assert seen["Ping"]
    assert seen["Alive"]
    assert seen["UserEvent"]


@pytest.mark.parametrize("crc", [False, True])
@pytest.mark.parametrize("keyring", [None, KEYS])
@pytest.mark.parametrize("label", [b"", b"blue"])
@pytest.mark.parametrize("compress", [False, True])
def test_packed_messages_decode_to_themselves(
    crc: bool, keyring: Keyring | None, label: bytes, compress: bool
) -> None:
    codec = PacketCodec(keyring=keyring, label=label)
    for count in (1, 2, 255, 256):
        messages = [Ping(number, "a") for number in range(count)]
        encoded = [swim_codec.encode(message) for message in messages]
        if compress:  # as a peer does; we never compress packets
            encoded = [compress_message(make_compound(encoded[at : at + 255])) for at in (0, 255)]
            packets = [packet for part in encoded for packet in codec.pack([part], crc=crc)]
        else:
            packets = codec.pack(encoded, crc=crc)
        decoded: list[Message] = []
        for packet in packets:
            found, error = codec.decode(packet)
            assert error is None
            decoded += found
        assert decoded == messages


def test_full_packet_keeps_its_size() -> None:
    codec = PacketCodec(keyring=KEYS, label=b"blue")
    room = codec.budget(0) - 2
    (packet,) = codec.pack([bytes(room)], crc=True)
    assert len(packet) <= 1400
    first = swim_codec.encode(Ping(1, "a"))
    (packet,) = codec.pack([first, bytes(codec.budget(len(first)) - 2)], crc=True)
    assert len(packet) == 1400


PING = swim_codec.encode(Ping(1, "a"))
INVALID = [
    (b"", "truncated"),
    (b"\x06\x80", "unknown-type"),
    (b"\x0d\x80", "unknown-type"),
    (b"\x0c\0\0\0\0" + PING, "crc"),
    (b"\x0c\0\0", "truncated"),
    (b"\x07", "truncated"),
    (b"\x07\x01\0\xff" + PING, "truncated"),
    (b"\x07\x01\0\0", "truncated"),
    (b"\x09" + pack({"Algo": 0, "Buf": b"\0\x03\x02"}), "truncated"),
    (b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(bytes(70_000))}), "limit"),
    (b"\x09" + pack({"Algo": 3, "Buf": b""}), "compression"),
    (b"\x00\x90", "msgpack"),
    (b"\x00" + b"\x81" * 2000, "msgpack"),
    (b"\x00\xdf\xff\xff\xff\xff", "msgpack"),
    (b"\x04" + pack({"Addr": b"abc", "Node": "a"}), "field"),
    (b"\x04" + pack({"Addr": bytes(4), "Meta": bytes(513)}), "limit"),
    (b"\x02" + pack({"SeqNo": 1 << 32}), "field"),
    (b"\xf4\x01a" + PING, "label"),
    (b"\xf4", "label"),
]


@pytest.mark.parametrize(("data", "kind"), INVALID)
def test_invalid_packet_gives_error_of_its_kind(data: bytes, kind: str) -> None:
    messages, error = PacketCodec(keyring=None).decode(data)
    assert messages == []
    assert error is not None
    assert error.kind in {kind, "truncated"} if data == b"\xf4" else error.kind == kind


def test_invalid_part_of_compound_does_not_affect_others() -> None:
    packet = make_compound([PING, b"\x63", PING])
    messages, error = PacketCodec(keyring=None).decode(packet)
    assert messages == [Ping(1, "a")] * 2
    assert error is not None
    assert error.kind == "unknown-type"


def test_short_versions_count_as_absent() -> None:
    data = b"\x04" + pack({"Addr": bytes(4), "Incarnation": 1, "Node": "a", "Vsn": b"\1\2"})
    alive = swim_codec.decode(data)
    assert isinstance(alive, Alive)
    assert alive.versions is None


@pytest.mark.parametrize(
    ("codec", "kind"),
    [
        (PacketCodec(keyring=None), "plaintext-refused"),
        (PacketCodec(keyring=Keyring([bytes(16)])), "decrypt"),
    ],
)
def test_plaintext_and_other_keys_are_refused_with_keyring(codec: PacketCodec, kind: str) -> None:
    (packet,) = codec.pack([swim_codec.encode(Suspect(1, "a", "b"))], crc=False)
    messages, error = PacketCodec(keyring=KEYS).decode(packet)
    assert messages == []
    assert error is not None
    assert error.kind == kind


def test_plaintext_is_accepted_without_verify_incoming() -> None:
    codec = PacketCodec(keyring=KEYS, verify_incoming=False, verify_outgoing=False)
    (packet,) = codec.pack([PING], crc=False)
    assert packet == PING
    assert codec.decode(packet) == ([Ping(1, "a")], None)


@given(st.binary(max_size=400))
def test_any_bytes_give_messages_or_an_error(data: bytes) -> None:
    for keyring in (None, KEYS):
        messages, error = PacketCodec(keyring=keyring).decode(data)
        assert messages or error is not None or data[:2] == b"\x07\0"


def test_refused_suspicion_has_one_more_field() -> None:
    plain = swim_codec.encode(Suspect(4, "b", "a"))
    assert plain == b"\x03\x83\xa4From\xa1a\xabIncarnation\x04\xa4Node\xa1b"
    refused = swim_codec.encode(Suspect(4, "b", "a", refused=True))
    assert refused == b"\x03\x84" + plain[2:] + b"\xa7Refused\xc3"
    assert swim_codec.decode(refused) == Suspect(4, "b", "a", refused=True)
    assert swim_codec.decode(plain) == Suspect(4, "b", "a")
