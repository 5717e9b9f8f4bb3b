"""Fuzz targets: functions of any bytes that return, or raise if a guarantee is broken.

`scripts/fuzz` runs them guided by coverage, `test_replay` replays its inputs. The docstring of a
target states its guarantees. A `WireError` is a valid outcome; any other exception is a finding.
"""

import json
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgpack
import trio
import trio.testing

from tests.control.helpers import FakeAgent, wall
from tests.wire import helpers
from trioserf.address import Address
from trioserf.agent.mdns import Instance, MdnsError, parse_answer, service_name
from trioserf.control.server import json_records
from trioserf.control.server.admission import Limits
from trioserf.control.server.connection import ServerContext
from trioserf.control.server.json_lines import encode as encode_json
from trioserf.control.server.listener import Server
from trioserf.control.server.msgpack_fields import pack as pack_rpc
from trioserf.control.server.msgpack_handlers import event_record
from trioserf.errors import TrioserfError
from trioserf.node.config import NodeConfig
from trioserf.node.state import ClusterState
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import Event
from trioserf.serf.keyring import Keyring
from trioserf.serf.snapshot import SnapshotState, parse
from trioserf.wire import serf_codec, serf_payloads, swim_codec
from trioserf.wire.encryption import Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_messages import Query, Relay, SerfMessage
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Ack, Alive, Message, PushPull, UserMessage

KEYS: Final = Keyring([bytes(range(16)), bytes(32)])
LABEL: Final = b"blue"
NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)


def nonce(size: int) -> bytes:
    return bytes(size)


# ------------------------------------------------------------------------------------------- wire


def packet(data: bytes) -> None:
    """Any datagram decodes to messages and perhaps an error; messages survive a round trip.

    The first byte selects keys and label, and whether the rest is first encrypted or labelled
    correctly, so that it is decoded further.
    """
    mode, data = data[0] if data else 0, data[1:]
    label = LABEL if mode & 1 else b""
    keyring = KEYS if mode & 2 else None
    if mode & 4 and keyring is not None:
        data = Sealer(keyring, nonce).seal(data, label)
    if mode & 8:
        data = bytes((swim_codec.LABEL, len(LABEL))) + LABEL + data
    codec = PacketCodec(keyring=keyring, label=label, verify_incoming=not mode & 16, nonce=nonce)
    messages, error = codec.decode(data)
    assert error is None or error.kind
    for message in messages:
        check_message(message)


def check_message(message: Message) -> None:
    """Check the round trip of a message, and decode its payload."""
    if isinstance(message, PushPull):
        codec = StreamCodec(keyring=None, compress=False)
        assert feed(codec, codec.encode_push_pull(message)) == message
        with suppress(WireError):
            check_serf_message(serf_codec.decode(message.user_state))
        return
    assert swim_codec.decode(swim_codec.encode(message)) == message
    with suppress(WireError):
        if isinstance(message, Ack):
            at = serf_payloads.decode_coordinate(message.payload)
            assert serf_payloads.decode_coordinate(serf_payloads.encode_coordinate(at)) == at
        elif isinstance(message, Alive):
            tags = serf_payloads.decode_tags(message.meta)
            assert serf_payloads.decode_tags(serf_payloads.encode_tags(tags)) == tags
        elif isinstance(message, UserMessage):
            check_serf_message(serf_codec.decode(message.payload))


def check_serf_message(message: SerfMessage) -> None:
    """Check the round trip of a Serf message, and decode what it contains."""
    assert serf_codec.decode(serf_codec.encode(message)) == message
    if isinstance(message, Query):
        for one in message.filters:
            with suppress(WireError):
                filter_ = serf_payloads.decode_filter(one)
                assert serf_payloads.decode_filter(serf_payloads.encode_filter(filter_)) == filter_
    elif isinstance(message, Relay):
        with suppress(WireError):
            serf_codec.decode(message.inner)


def stream(data: bytes) -> None:
    """Any stream, in chunks of any size, decodes to a message, nothing yet or an error."""
    if len(data) < 2:
        return
    mode, size, data = data[0], data[1] or 65_536, data[2:]
    label = LABEL if mode & 1 else b""
    keyring = KEYS if mode & 2 else None
    codec = StreamCodec(
        keyring=keyring, label=label, verify_incoming=not mode & 16, compress=False, nonce=nonce
    )
    if mode & 4:
        data = codec.encode(data)
    message = None
    with suppress(WireError):
        message = feed(codec, data, size)
    if message is not None:
        check_message(message)


def feed(codec: StreamCodec, data: bytes, size: int = 65_536) -> Message | None:
    """Decode a stream; return None if it ends inside its message."""
    decoder = codec.decoder()
    message, _ = helpers.feed(decoder, data, size)
    assert message is not None or decoder.end().kind == "truncated"
    return message


def messages(data: bytes) -> None:
    """Any bytes decode to a Serf message, filter, tags or coordinate, or raise `WireError`."""
    with suppress(WireError):
        check_serf_message(serf_codec.decode(data))
    for decode in (
        serf_payloads.decode_filter,
        serf_payloads.decode_tags,
        serf_payloads.decode_coordinate,
    ):
        with suppress(WireError):
            decode(data)


# ------------------------------------------------------------------------------------------ state


def steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split bytes into steps: a kind (one byte), a length (two bytes) and so many bytes."""
    at = 0
    while at + 3 <= len(data):
        kind, length = struct.unpack_from(">BH", data, at)
        at += 3
        yield kind, data[at : at + length]
        at += length


def step(kind: int, data: bytes) -> bytes:
    return struct.pack(">BH", kind, len(data)) + data


PACKET, USER, EXCHANGE, TIME, RESPOND, TURN = range(6)


def state(data: bytes) -> None:
    """A node's state survives all messages, within its bounds.

    All that it accepts can be encoded for other members, for clients of both framings and for its
    snapshot. No message ends the node, except the vote that it has lost its name.
    """
    driver = StateDriver()
    for kind, body in steps(data):
        driver.do(kind % 6, body)
    driver.finish()


class StateDriver:
    """Passes input to the state of a node and checks its output, without tasks and network."""

    def __init__(self, limits: SerfOptions | None = None) -> None:
        self.now = 1000.0
        config = NodeConfig(name="us", tags={"role": "web"}, serf=limits or SerfOptions())
        self.state = ClusterState(
            config,
            Address("127.0.0.1", 7946),
            rng=random.Random(1),
            has_responder=lambda query: query.name != "ignored",
        )
        self.peer = Address("127.0.0.2", 7946)
        self.codec = StreamCodec(keyring=None, compress=False)
        self.snapshot = SnapshotState()
        self.pending: list[int] = []
        self.state.start(self.now, None)
        hello = Alive(
            1, "peer", bytes((127, 0, 0, 2)), 7946, serf_payloads.encode_tags({"a": "b"})
        )
        self.do(PACKET, swim_codec.encode(hello))

    def do(self, kind: int, data: bytes) -> None:
        state = self.state
        if kind == PACKET:
            state.handle_packets([(data, self.peer)], self.now)
        elif kind == USER:
            state.handle_user_message(data, self.peer, self.now, sealed=False)
        elif kind == EXCHANGE:
            self.exchange(data)
        elif kind == TIME:
            self.now += min(int.from_bytes(data[:4], "big") / 1000, 100_000.0)
            self.pass_time()
        elif kind == RESPOND and self.pending:
            with suppress(TrioserfError):
                state.serf.respond(self.pending.pop(), data, self.now)
        elif kind == TURN:
            self.run_loops(data)
        self.check_effects()

    def exchange(self, data: bytes) -> None:
        """Merge a push/pull; a node would log that it is rejected."""
        with suppress(ValueError):
            remote = feed(self.codec, data)
            if isinstance(remote, PushPull):
                self.state.merge(remote, self.now, ignore_events=bool(len(data) % 2))

    def pass_time(self) -> None:
        state = self.state
        state.expire(self.now)
        state.expire_suspicions(self.now)
        state.reap(self.now)
        state.serf.check_queues()
        assert state.next_deadline is None or state.next_deadline > self.now
        assert state.next_suspicion is None or state.next_suspicion > self.now

    def run_loops(self, data: bytes) -> None:
        """Do what the loops of a node do: gossip, probe; and send a user event."""
        state, now = self.state, self.now
        state.gossip(now)
        probe = state.detector.start_probe(now, lambda: None)
        if probe is not None:
            state.detector.send_indirect_pings(probe)
            if len(data) % 2:
                ack = swim_codec.encode(Ack(probe.seq_no, data))
                state.handle_packets([(ack, self.peer)], now)
            state.detector.conclude_probe(probe, now, tcp_acked=False)
        with suppress(TrioserfError):
            state.serf.user_event("ours", data[:100])

    def check_effects(self) -> None:
        state = self.state
        serf_state = state.serf
        state.pop_stream_messages()
        for sent, to in state.outbox.packets:
            assert len(sent) <= 65_507
            assert 0 <= to.port < 65_536
        state.outbox.packets.clear()
        for event in serf_state.events:
            self.check_event(event)
        serf_state.events.clear()
        serf_state.shutdown_orders.clear()

    def check_event(self, event: Event) -> None:
        """Encode an event for clients of both framings, and record it in the snapshot."""
        json.loads(encode_json(json_records.event(event, NOON, self.now)))
        msgpack.unpackb(pack_rpc(event_record(event)), unicode_errors="surrogateescape")
        self.snapshot.record(event)
        if event.kind == "query":
            self.pending.append(event.id)

    def finish(self) -> None:
        """Check the bounds, and that the whole state can be encoded."""
        state, options = self.state, self.state.config.serf
        self.do(TURN, b"")
        local = state.local_state(join=False)
        assert feed(self.codec, self.codec.encode_push_pull(local)) == local
        serf_codec.decode(local.user_state)
        for one in state.serf.members():
            encode_json(json_records.member(one))
        assert all(isinstance(value, int | str | float | bool) for value in state.stats().values())
        assert not parse(self.snapshot.compacted()).errors
        for kind, queue in state.serf.queues.items():
            assert len(queue) <= 2 * options.max_queue_depth, kind
        assert len(state.drops.by_peer) <= 1025


# ---------------------------------------------------------------------------------------- control


def control(data: bytes) -> None:
    """Any bytes on the control port are answered or end the connection; no resource leaks.

    The first byte is the size of chunks, the second selects whether a key is required.
    """
    if len(data) < 3:
        return
    size, locked, data = data[0] or 65_536, data[1] % 4 == 1, data[2:]
    trio.run(_converse, size, locked, data, clock=trio.testing.MockClock(autojump_threshold=0))


async def _converse(size: int, locked: bool, data: bytes) -> None:
    agent = FakeAgent()
    async with trio.open_nursery() as nursery:
        service = ServerContext(agent, "sesame" if locked else "", wall, Limits())
        server = Server(service, nursery)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.handle, far)
        nursery.start_soon(_send, near, data, size)
        while await near.receive_some(65_536):
            pass
        await trio.testing.wait_all_tasks_blocked()
        left = server.connections + server.unauthenticated + agent.node.subscriptions
        assert left + agent.logs.subscriptions == 0
        assert not any("internal error" in line.message for line in agent.logs.remembered)
        nursery.cancel_scope.cancel()


async def _send(stream: trio.abc.HalfCloseableStream, data: bytes, size: int) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for start in range(0, len(data), size):
            await stream.send_all(data[start : start + size])
        await stream.send_eof()


# ------------------------------------------------------------------------------------------ mDNS

SERVICE: Final = service_name("demo")
INSTANCE: Final = Instance(SERVICE, "ours", Address("10.0.0.1", 7946), "Serf 'demo' cluster")


def mdns(data: bytes) -> None:
    """Any multicast DNS message, query or answer, is answered or ignored."""
    for port in (40_000, 5353):
        with suppress(MdnsError):
            answer = INSTANCE.answer(data, port)
            assert answer is None or len(answer.data) <= 9000
    with suppress(MdnsError):
        assert all(0 < address.port < 65_536 for address in parse_answer(SERVICE, data))


# ------------------------------------------------------------------------------------------ files


def snapshot(data: bytes) -> None:
    """Any bytes parse as a snapshot; what is compacted of it parses to the same."""
    for rejoin in (False, True):
        replayed = parse(data, rejoin=rejoin)
        assert replayed.size == len(data)
        written = SnapshotState(replayed).compacted()
        again = parse(written)
        assert not again.errors
        assert again.alive == replayed.alive
        assert again.clocks == replayed.clocks


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "packet": packet,
    "stream": stream,
    "messages": messages,
    "state": state,
    "control": control,
    "mdns": mdns,
    "snapshot": snapshot,
}
