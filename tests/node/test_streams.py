"""Streams: deadlines, limits, malformed input, exchanges, outgoing messages."""

import logging
from typing import Any

import pytest
import trio
import trio.testing
from trio.abc import HalfCloseableStream
from trio.testing import MockClock

from tests.node.helpers import (
    LATENCY,
    OURS,
    ScriptedPeer,
    logged,
    node_under_test,
    push_pull,
    read_response,
)
from tests.wire.helpers import take
from trioserf.address import Address, packed
from trioserf.node.event_hub import Subscription
from trioserf.serf.events import QueryReceived, UserEventReceived
from trioserf.swim.config import LOCAL
from trioserf.wire import serf_codec
from trioserf.wire.msgpack import pack
from trioserf.wire.serf_messages import Query, QueryResponse, SerfPushPull, UserEvent
from trioserf.wire.stream import StreamCodec
from trioserf.wire.stream_decoders import MAX_NODES
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    Ack,
    ErrorMessage,
    NodeState,
    Ping,
    PushPull,
    State,
    UserMessage,
    Versions,
)

NEVER: dict[str, Any] = {"seed_interval": 1e6}
CODEC = StreamCodec(keyring=None)


async def ends(stream: HalfCloseableStream, within: float) -> bool:
    """Return whether the peer ends a stream within some seconds."""
    with trio.move_on_after(within) as timeout:
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
    return not timeout.cancelled_caught


# --- half-open ---


@pytest.mark.parametrize(
    "response", [b"", push_pull()[:2], b"\x08" + pack({"UserMsgLen": 99}) + b"x"]
)
async def test_silent_stream_is_closed_at_deadline(
    autojump_clock: MockClock, response: bytes
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        stream = await peer.transport.dial(OURS)
        began = trio.current_time()
        if response:
            await stream.send_all(response)
        assert not await ends(stream, 9.9)
        assert await ends(stream, 0.2)
        assert trio.current_time() - began == pytest.approx(10, abs=0.02)


async def test_deadline_covers_the_whole_stream_of_a_busy_peer(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        stream = await s.peer("p").transport.dial(OURS)
        data = push_pull(*nodes(100))
        began = trio.current_time()

        async def drip() -> None:
            for byte in data:
                await stream.send_all(bytes((byte,)))
                await trio.sleep(1)

        with pytest.raises(trio.BrokenResourceError):
            await drip()
        assert trio.current_time() - began < 13
        assert s.node.dropped() == {}


async def test_stream_of_peer_that_does_not_read_is_closed(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, compression=False) as s:
        [peer] = await s.add_members("p")
        codec = StreamCodec(keyring=None, compress=False)
        many = codec.encode_push_pull(PushPull(True, nodes(5000)))
        async with await peer.transport.dial(OURS) as stream:
            await stream.send_all(many)
            assert await read_response(stream) is not None
        stream = await peer.transport.dial(OURS)
        await stream.send_all(push_pull())
        began = trio.current_time()
        await trio.sleep(10.5)  # without reading
        assert await ends(stream, 0.1)
        assert trio.current_time() - began < 11


def nodes(count: int) -> tuple[NodeState, ...]:
    return tuple(
        NodeState(f"n{i}", bytes((10, 9, i >> 8, i & 255)), 7946, b"m" * 100, 1, State.ALIVE)
        for i in range(count)
    )


# --- limits ---


async def test_streams_beyond_max_streams_are_refused(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, max_streams=4) as s:
        peer = s.peer("p")
        idle = [await peer.transport.dial(OURS) for _ in range(4)]
        await trio.sleep(2 * LATENCY)
        refused = await peer.transport.dial(OURS)
        assert await ends(refused, 0.1)
        assert s.node.dropped() == {"streams in": 1}
        await idle[0].aclose()
        await trio.sleep(4 * LATENCY)
        assert isinstance(await peer.exchange(push_pull()), PushPull)
        await trio.sleep(10)  # the others have reached their deadline
        for _ in range(4):
            assert isinstance(await peer.exchange(push_pull()), PushPull)


async def test_default_limit_is_128_streams(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        for _ in range(130):
            await peer.transport.dial(OURS)
            await trio.sleep(LATENCY)
        await trio.sleep(2 * LATENCY)
        assert s.node.dropped() == {"streams in": 2}


# --- malformed input ---


MALFORMED = {
    "negative nodes": (b"\x06" + pack({"Nodes": -1}), "push/pull nodes", "field"),
    "too many nodes": (b"\x06" + pack({"Nodes": MAX_NODES + 1}), "push/pull nodes", "limit"),
    "too much state": (b"\x06" + pack({"UserStateLen": 1 << 31}), "user state", "limit"),
    "too long a message": (b"\x08" + pack({"UserMsgLen": 1 << 31}), "user message", "limit"),
    "not a map": (b"\x06\x90", "push/pull header", "msgpack"),
    "no such type": (b"\x63", "message of type 99", "unknown-type"),
    "torn compression": (b"\x09" + pack({"Algo": 0, "Buf": b"\0"}), "LZW", "truncated"),
    "encrypted": (b"\x0a\0\0\0\x20" + bytes(32), "encryption is not configured", "encrypted"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_stream_is_counted_and_answered_with_an_error(
    autojump_clock: MockClock, case: str
) -> None:
    data, text, kind = MALFORMED[case]
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        response = await peer.exchange(data)
        if kind == "truncated":  # like a broken connection: there is no peer to notify
            assert response is None
        else:
            assert isinstance(response, ErrorMessage)
            assert text in response.error
        assert s.node.dropped() == {kind: 1}
        assert s.statuses() == {"us": "alive"}


async def test_truncated_stream_is_counted(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        async with await s.peer("p").transport.dial(OURS) as stream:
            await stream.send_all(push_pull(*nodes(3))[:-9])
            await stream.send_eof()
            assert await ends(stream, 1)
        assert s.node.dropped() == {"truncated": 1}
        assert s.statuses() == {"us": "alive"}


async def test_header_with_large_counts_allocates_no_memory(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        head = b"\x06" + pack({"Nodes": MAX_NODES, "UserStateLen": 20 * 1024 * 1024})
        streams = [await peer.transport.dial(OURS) for _ in range(100)]
        for stream in streams:
            await stream.send_all(head)
        await trio.sleep(1)
        for stream in streams:
            await stream.aclose()
        await trio.sleep(1)
        assert s.node.dropped() == {"truncated": 100}


# --- exchanges ---


async def test_push_pull_response_has_our_state_and_echoes_join(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        for join in (True, False):
            response = await peer.exchange(push_pull(peer.node_state(), join=join))
            assert isinstance(response, PushPull)
            assert response.join is join
            assert response.nodes[0].name == "us"
        assert s.statuses() == {"us": "alive", "p": "alive"}


async def test_large_state_is_encoded_in_turns(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        await s.peer("p").exchange(push_pull(*nodes(2000)))
        await trio.testing.wait_all_tasks_blocked()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await trio.lowlevel.checkpoint()
            before = turns
            data = await s.node._joiner._streams._local_state(join=True, is_answer=False)
            assert turns - before >= 2000 // 512
            nursery.cancel_scope.cancel()
        message, _ = take(CODEC.decoder(), data)
        assert isinstance(message, PushPull)
        assert [row.name for row in message.nodes] == ["us", *(f"n{i}" for i in range(2000))]
        state = serf_codec.decode(message.user_state)
        assert isinstance(state, SerfPushPull)
        assert len(state.status_ltimes) == 2001


@pytest.mark.parametrize("compression", [True, False])
async def test_compression_switch_affects_sending_only(
    autojump_clock: MockClock, compression: bool
) -> None:
    async with node_under_test(**NEVER, compression=compression) as s:
        peer = s.peer("p")
        await peer.exchange(push_pull(*nodes(2)))  # so that our state is large enough to shrink
        await trio.sleep(LATENCY)
        for codec in (CODEC, StreamCodec(keyring=None, compress=False)):
            async with await peer.transport.dial(OURS) as stream:
                await stream.send_all(codec.encode_push_pull(PushPull(True, nodes(3))))
                first = await stream.receive_some(1)
                assert first == (b"\x09" if compression else b"\x06")
                assert await ends(stream, 1)
        await trio.sleep(LATENCY)
        assert set(s.statuses()) == {"us", "n0", "n1", "n2"}
        peer.send(peer.alive())
        await s.node.user_event("x", bytes(400))
        await trio.sleep(0.1)
        assert peer.messages(UserMessage)  # readable for every member, compressed or not


async def test_dead_row_of_push_pull_makes_a_suspect(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        a, b, c, _ = await s.add_members("a", "b", "c", "d")
        for silent in (b, c):
            silent.acks_pings = False
        await a.exchange(
            push_pull(
                a.node_state(),
                b.node_state(State.DEAD),
                c.node_state(State.LEFT),
                s.peers["d"].node_state(State.SUSPECT),
                s.peer("unknown").node_state(State.DEAD),
            )
        )
        await trio.sleep(2 * LATENCY)
        assert s.state_of("b") is State.SUSPECT
        assert s.state_of("c") is State.LEFT
        assert s.state_of("d") is State.SUSPECT
        assert "unknown" not in s.statuses()


async def test_push_pull_with_incompatible_versions_is_refused(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        ancient = s.peer("ancient", versions=Versions(1, 1, 1, 2, 5, 5))
        response = await peer.exchange(push_pull(peer.node_state(), ancient.node_state()))
        assert isinstance(response, PushPull)  # our half is sent before theirs is checked
        await trio.sleep(LATENCY)
        assert s.statuses() == {"us": "alive"}
        [text] = logged(caplog, logging.ERROR)
        assert text.startswith("push/pull from 10.0.1.1:")
        assert "speaks protocol version 2" in text
        assert "[1, 1]" in text


async def test_malformed_state_is_refused(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        for state in (b"\x63", serf_codec.encode(UserEvent(1, "x")), b"\x02\x90"):
            await peer.exchange(push_pull(peer.node_state(), user_state=state))
        await trio.sleep(LATENCY)
        assert len(logged(caplog, logging.ERROR)) == 3
        assert s.statuses() == {"us": "alive"}


# --- other messages ---


async def test_stream_ping_is_answered_for_our_name_only(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        assert await peer.exchange(CODEC.encode(encode(Ping(7, "us")))) == Ack(7)
        assert await peer.exchange(CODEC.encode(encode(Ping(7, "them")))) is None
        assert "stream ping for 'them'" in caplog.text


async def test_user_message_on_stream_equals_one_in_packet(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        with s.node.subscribe() as events:
            event = serf_codec.encode(UserEvent(3, "deploy", b"v1"))
            assert await s.peer("p").exchange(CODEC.encode_user_message(event)) is None
            with trio.fail_after(1):
                async for got in events:
                    if got.kind == "user":
                        break
            assert got == UserEventReceived(3, "deploy", b"v1", coalesce=False)
        assert await s.peers["p"].exchange(CODEC.encode_user_message(b"\x63")) is None
        assert s.node.dropped() == {"unknown-type": 1}


async def test_unexpected_stream_messages_are_ignored(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p")
        for message in (Ack(1), ErrorMessage("boo")):
            assert await peer.exchange(CODEC.encode(encode(message))) is None
        assert s.statuses() == {"us": "alive"}


async def test_peers_outside_allowed_networks_are_ignored(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, allowed_networks=("10.0.0.0/24",)) as s:
        peer = s.peer("p")
        stream = await peer.transport.dial(OURS)
        assert await ends(stream, 0.1)
        assert s.node.dropped() == {"not-allowed": 1}
        peer.send(peer.alive())
        await trio.sleep(1)
        assert s.node.dropped() == {"not-allowed": 2}
        assert s.statuses() == {"us": "alive"}


# --- outgoing messages ---


def query_from(peer: ScriptedPeer, number: int) -> UserMessage:
    return UserMessage(
        serf_codec.encode(
            Query(
                number, number, packed(peer.address.host), peer.address.port, peer.name, (), 0,
                0, 60_000_000_000, "big",
            )
        )
    )  # fmt: skip


async def next_query(queries: Subscription) -> QueryReceived:
    """Wait for a query."""
    with trio.fail_after(1):
        while not isinstance(event := await queries.receive(), QueryReceived):
            pass
    return event


async def test_large_response_is_sent_on_a_stream(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        [peer] = await s.add_members("p")
        payload = bytes(range(256)) * 80
        with s.node.subscribe(answers=True) as queries:
            peer.send(query_from(peer, 1))
            await s.node.respond((await next_query(queries)).id, payload)
        with trio.fail_after(1):
            stream, (source, _) = await peer.transport.accept()
        assert source == OURS.host
        async with stream:
            message = await read_response(stream)
            assert isinstance(message, UserMessage)
            response = serf_codec.decode(message.payload)
            assert isinstance(response, QueryResponse)
            assert (response.source, response.payload) == ("us", payload)


async def test_undeliverable_response_is_dropped_with_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**NEVER) as s:
        [peer] = await s.add_members("p")
        with s.node.subscribe(answers=True) as queries:
            peer.send(query_from(peer, 1))
            await trio.sleep(2 * LATENCY)
            s.network.cut(OURS, peer.address)
            query = await next_query(queries)
            await s.node.respond(query.id, bytes(20_000))
            with trio.fail_after(25):  # after three attempts, or when it is marked dead
                while "could not send a message to 'p'" not in caplog.text:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            assert s.node.dropped()["streams"] == 1


async def test_refused_stream_message_logs_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("p", run=False)
        peer.send(peer.alive())
        with s.node.subscribe(answers=True) as queries:
            peer.send(query_from(peer, 1))
            query = await next_query(queries)
            peer.transport.kill()
            await s.node.respond(query.id, bytes(20_000))
            await trio.sleep(2)
            assert "could not send" not in caplog.text
            await trio.sleep(1)
            assert "could not send a message to 'p': [Errno 111]" in caplog.text


async def test_response_is_retried_after_a_short_absence(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        [peer] = await s.add_members("p")
        with s.node.subscribe(answers=True) as queries:
            peer.send(query_from(peer, 1))
            query = await next_query(queries)
            s.network.cut(OURS, peer.address)
            began = trio.current_time()
            await s.node.respond(query.id, bytes(20_000))
            await trio.sleep(0.6)
            s.network.mend(OURS, peer.address)
        with trio.fail_after(2):
            message: object = None
            while not isinstance(message, UserMessage):  # pings may come in between
                stream, _ = await peer.transport.accept()
                message = await read_response(stream)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)


async def test_exchange_has_the_timeout_of_the_profile(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, timing=LOCAL) as s:
        silent = s.peer("silent")
        began = trio.current_time()
        with pytest.raises(TimeoutError, match="no response within 1 s"):
            await s.node._joiner._streams.push_pull(Address(*silent.address), join=False)
        assert trio.current_time() - began == pytest.approx(1)
