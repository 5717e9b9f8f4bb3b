"""Streams of a labelled cluster, against those that memberlist 0.5.4 sent."""

from typing import Any

import pytest
import trio
from trio.abc import HalfCloseableStream
from trio.testing import MockClock

from tests.node.helpers import OURS, ScriptedPeer, node_under_test, open_nodes
from tests.wire.helpers import load, octets, take
from trioserf.event_filter import EventFilter
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import UserEventReceived
from trioserf.serf.keyring import Keyring
from trioserf.wire import serf_codec
from trioserf.wire.label import label_header
from trioserf.wire.serf_messages import UserEvent
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Ack, ErrorMessage, Ping, PushPull, UserMessage

STREAMS = [one for one in load("labelled-streams")["streams"] if one["label"]]
PLAIN = StreamCodec(compress=False)
each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda one: str(one["title"]))


def options(stream: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the program that was recorded."""
    return {
        "label": stream["label"],
        "keyring": Keyring([octets(stream["key"])]) if stream["key"] else None,
        "compression": "compressed" in stream["title"],
        "seed_interval": 1e6,
    }


async def read_all(stream: HalfCloseableStream) -> bytes:
    """Return what comes until the end of the stream."""
    data = b""
    with trio.fail_after(5):
        while some := await stream.receive_some(65_536):
            data += bytes(some)
    return data


async def request(peer: ScriptedPeer, data: bytes) -> bytes:
    """Send bytes on a stream and return the answer."""
    async with await peer.transport.dial(OURS) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return await read_all(stream)


async def answer_one(peer: ScriptedPeer, data: bytes, received: list[bytes]) -> None:
    """Accept a stream, record its first bytes, and answer."""
    stream, _ = await peer.transport.accept()
    async with stream:
        received.append(bytes(await stream.receive_some(65_536)))
        await stream.send_all(data)
        await stream.send_eof()
        await read_all(stream)


@each_stream
async def test_push_pull_of_memberlist_is_answered_without_a_header(
    autojump_clock: MockClock, stream: dict[str, Any]
) -> None:
    async with node_under_test(**options(stream)) as s:
        answer = await request(s.peer("p"), bytes.fromhex(stream["push_pull"]["dialer"]))
        assert answer[0] in (6, 10)  # a push/pull or encrypted: no header
        decoder = s.node._joiner._streams.codec.decoder(is_answer=True)
        message, _ = take(decoder, answer)
        assert isinstance(message, PushPull)
        assert message.join
        assert s.statuses() == {"us": "alive", "b": "alive"}
        assert s.node.dropped() == {}


@each_stream
async def test_join_takes_the_answer_of_memberlist(
    autojump_clock: MockClock, stream: dict[str, Any]
) -> None:
    async with node_under_test(**options(stream)) as s:
        peer, received = s.peer("p"), list[bytes]()
        answer = bytes.fromhex(stream["push_pull"]["answer"])
        # The first stream is a look at the names; the recorded answer can be decrypted once only.
        s.nursery.start_soon(answer_one, peer, b"", [])

        async def answer_second() -> None:
            await s.until(lambda: s.network.counts["streams"] > 1)
            await answer_one(peer, answer, received)

        s.nursery.start_soon(answer_second)
        assert await s.node.join([str(peer.address)]) == 1
        assert received[0].startswith(label_header(stream["label"].encode()))
        assert s.statuses() == {"us": "alive", "a": "alive"}


async def test_stream_ping_is_answered_as_memberlist_does(autojump_clock: MockClock) -> None:
    stream = STREAMS[0]
    async with node_under_test(**{**options(stream), "name": "a"}) as s:
        ping = stream["stream_ping"]
        assert (await request(s.peer("p"), bytes.fromhex(ping["dialer"]))).hex() == ping["answer"]


@pytest.mark.parametrize("index", [0, 3])  # plain and compressed
async def test_ack_of_memberlist_is_taken(autojump_clock: MockClock, index: int) -> None:
    stream = STREAMS[index]
    async with node_under_test(**options(stream)) as s:
        peer, received, streams = s.peer("a"), list[bytes](), s.node._joiner._streams
        ping = stream["stream_ping"]
        s.nursery.start_soon(answer_one, peer, bytes.fromhex(ping["answer"]), received)
        data = streams.codec.encode(encode(Ping(42, "a")))
        assert await streams.exchange(peer.address, data) == Ack(42)
        assert [one.hex() for one in received] == [ping["dialer"]]


@each_stream
async def test_user_message_is_received_and_sent_with_a_header(
    autojump_clock: MockClock, stream: dict[str, Any]
) -> None:
    limits = SerfOptions(user_event_size_limit=9216)
    async with node_under_test(**options(stream), serf=limits) as s:
        codec, peer = s.node._joiner._streams.codec, s.peer("p", run=False)
        header = label_header(stream["label"].encode())
        event = codec.encode_user_message(serf_codec.encode(UserEvent(5, "deploy", b"v1")))
        assert event.startswith(header)
        with s.node.subscribe(*EventFilter.parse("user")) as events:
            assert await request(peer, event) == b""
            assert await events.receive() == UserEventReceived(5, "deploy", b"v1", False)
        await request(peer, codec.encode_push_pull(PushPull(False, (peer.node_state(),))))
        await s.node.user_event("large", bytes(9000))
        received: list[bytes] = []
        await answer_one(peer, b"", received)
        assert received[0].startswith(header)
        message, _ = take(codec.decoder(), received[0])
        assert isinstance(message, UserMessage)


async def test_error_is_answered_without_a_header(autojump_clock: MockClock) -> None:
    async with node_under_test(**options(STREAMS[0])) as s:
        answer = await request(s.peer("p"), label_header(b"blue") + b"\x63")
        message, _ = take(PLAIN.decoder(), answer)
        assert isinstance(message, ErrorMessage)


@pytest.mark.parametrize("keyring", [None, Keyring([bytes(16)])])
async def test_nodes_with_one_label_join_each_other(
    autojump_clock: MockClock, keyring: Keyring | None
) -> None:
    both = {"a": {"label": "blue"}, "b": {"label": "blue"}}
    async with open_nodes("a", "b", options=both, keyring=keyring) as nodes:
        assert {len(node.members()) for node in nodes.values()} == {2}
        assert {str(node.dropped()) for node in nodes.values()} == {"{}"}
